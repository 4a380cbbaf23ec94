"""Train from the command line: python -m anyres.training, alone or under `accelerate launch`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from accelerate import Accelerator

from anyres.data.store import Store
from anyres.params import Params
from anyres.training.run import InterruptedTraining, train

# The exit code of a process that SIGTERM ended, by convention of the shell.
TERMINATED = 143


def main(
    params: Annotated[Path, typer.Option(help="Where the hyper-parameters stand.")] = Path("params.yaml"),
    store: Annotated[Path, typer.Option(help="Prepared pictures.")] = Path("data/store"),
    out: Annotated[Path, typer.Option(help="Where generator, history and samples go.")] = Path("out/train"),
    runs: Annotated[Path, typer.Option(help="Where checkpoints are kept.")] = Path("out/runs"),
) -> None:
    """Train a generator, or go on with an interrupted training.

    Example: python -m anyres.training --store data/store --out out/train
    """
    try:
        section = Params.load(params).train
        pictures = Store.open(store)
        accelerator = Accelerator(mixed_precision=mixed_precision(section.precision))
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if accelerator.num_processes != world:
            raise ValueError(
                f"{accelerator.num_processes} processes take part where {world} were launched; see docs of accelerate launch"
            )
        train(section, pictures, out, runs, accelerator)
    except InterruptedTraining as stop:
        print(f"train: {stop}", file=sys.stderr)
        raise SystemExit(TERMINATED) from None
    except (ValueError, FileNotFoundError) as error:
        print(f"train: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def mixed_precision(precision: str) -> str:
    """What Accelerate calls a precision: `auto` takes bf16 where an accelerator computes in it."""
    import torch

    if precision == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return precision


if __name__ == "__main__":
    typer.run(main)

"""Commands behind the stages train and evaluate, alone or under `accelerate launch`, and the comparison of models."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from anyres.cli.options import app, numbers, one_line

# The exit code of a process that SIGTERM ended, by convention of the shell.
TERMINATED = 143

ParamsFile = Annotated[Path, typer.Option(help="Where the hyper-parameters stand.")]
StoreFolder = Annotated[Path, typer.Option(help="Prepared pictures.")]
TrainFolder = Annotated[Path, typer.Option(help="Where generator, history and samples go.")]


@app.command(epilog="Example: anyres train --store data/store --out out/train")
def train(
    params: ParamsFile = Path("params.yaml"),
    store: StoreFolder = Path("data/store"),
    out: TrainFolder = Path("out/train"),
    runs: Annotated[Path, typer.Option(help="Where checkpoints are real_cache.")] = Path("out/runs"),
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Pictures of one pass at most, on each process: less memory, the same training.")
    ] = None,
    ignore_code: Annotated[
        bool, typer.Option("--ignore-code", help="Resume a run with equal params and data although its code changed.")
    ] = False,
) -> None:
    """Train a generator, or go on with an interrupted training."""
    from anyres.data.store import Store
    from anyres.evaluation.monitor import Monitor
    from anyres.evaluation.parallel import ProcessGroup
    from anyres.params import Params
    from anyres.training.run import InterruptedTraining
    from anyres.training.run import train as train_on

    try:
        section = Params.load(params).train
        pictures = Store.open(store)
        accelerator = _accelerator(mixed_precision(section.precision))
        monitor = (
            Monitor(section, pictures, accelerator.device, ProcessGroup.of(accelerator)) if section.monitor.every_kimg else None
        )
        try:
            train_on(section, pictures, out, runs, accelerator, monitor, micro_batch, ignore_code)
        except InterruptedTraining:
            _part(accelerator)
            raise
        _part(accelerator)
    except InterruptedTraining as stop:
        typer.echo(f"train: {stop}", err=True)
        raise typer.Exit(TERMINATED) from None
    except (ValueError, FileNotFoundError) as error:
        typer.echo(f"train: {error}", err=True)
        raise typer.Exit(2) from None


@app.command(epilog="Example: anyres evaluate --trained out/train --out out/evaluation")
def evaluate(
    params: ParamsFile = Path("params.yaml"),
    store: StoreFolder = Path("data/store"),
    trained: Annotated[Path, typer.Option(help="What a training left.")] = Path("out/train"),
    out: Annotated[Path, typer.Option(help="Where numbers, tables and figures go.")] = Path("out/evaluation"),
    reals: Annotated[Path, typer.Option(help="Features of photographs, kept for later evaluations.")] = Path("out/runs/reals"),
    fake_cache: Annotated[
        Path, typer.Option(help="Features of generated pictures, until the evaluation is done: it can be interrupted.")
    ] = Path("out/runs/evaluation"),
) -> None:
    """Measure a trained generator: patches, sizes, scales, seams."""
    import shutil

    from anyres.data.store import Store
    from anyres.evaluation.evaluate import CacheFolders, Snapshots
    from anyres.evaluation.evaluate import evaluate as measure
    from anyres.evaluation.parallel import ProcessGroup
    from anyres.networks.saved import FIRST_STAGE, UNTRAINED, load_trained
    from anyres.params import Params

    try:
        values, pictures = Params.load(params), Store.open(store)
        accelerator = _accelerator("no")
        group = ProcessGroup.of(accelerator)
        device = accelerator.device
        snapshots = Snapshots(
            load_trained(trained).to(device),
            load_trained(trained, UNTRAINED).to(device),
            load_trained(trained, FIRST_STAGE).to(device) if (trained / FIRST_STAGE).exists() else None,
        )
        measure(values, snapshots, pictures, out, group, CacheFolders(reals, fake_cache))
    except (ValueError, FileNotFoundError) as error:
        typer.echo(f"evaluate: {error}", err=True)
        raise typer.Exit(2) from None
    accelerator.wait_for_everyone()
    if group.is_main:
        shutil.rmtree(fake_cache, ignore_errors=True)
    _part(accelerator)


@app.command(epilog="Example: anyres compare out/export/generator other/out/train --samples 200")
def compare(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Bundles, or folders of finished trainings.")],
    store: StoreFolder = Path("data/store"),
    out: Annotated[Path, typer.Option(help="Where compare.json and index.html go.")] = Path("out/compare"),
    params: Annotated[Path, typer.Option(help="Whose section evaluate says seed, sizes and counts.")] = Path("params.yaml"),
    samples: Annotated[int | None, typer.Option(help="Patches of each model, in place of evaluate.num_samples.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames a size, in place of evaluate.num_sweep_samples.")] = None,
    sizes: Annotated[str, typer.Option(help="Short sides with commas between, in place of evaluate.sizes.")] = "",
    zoom_max: Annotated[float | None, typer.Option(help="Largest zoom of the patches.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print compare.json in place of the table.")] = False,
) -> None:
    """Put any number of models side by side: one table and one page, all scored alike."""
    from pydantic import ValidationError

    from anyres.data.store import Store
    from anyres.evaluation import compare as comparison
    from anyres.params import Evaluate, Params, describe

    with one_line():
        values = Params.load(params).evaluate.model_dump()
        values |= {"num_samples": samples or values["num_samples"], "num_sweep_samples": frames or values["num_sweep_samples"]}
        if sizes:
            values["sizes"] = [int(size) for size in numbers("--sizes", sizes, ",")]
        try:
            settings = Evaluate.model_validate(values)
        except ValidationError as error:
            raise ValueError(describe(error)) from None
        found = comparison.compare(
            comparison.open_candidates(models), Store.open(store), settings, out, zoom_max, real_cache=out / "reals"
        )
    if as_json:
        typer.echo(json.dumps(found))
    else:
        comparison.print_table(found)
        typer.echo(f"{out / 'index.html'}: the page")


def mixed_precision(precision: str) -> str:
    """What Accelerate calls a precision: `auto` takes bf16 where an accelerator computes in it."""
    import torch

    if precision == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return precision


def _part(accelerator: Any) -> None:
    """Leave the group of processes together: one that ends while others still speak to it may take them down."""
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _accelerator(precision: str) -> Any:
    """The processes of this launch. Raises ValueError where fewer take part than were launched."""
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=precision)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != world:
        raise ValueError(
            f"{accelerator.num_processes} processes take part where {world} were launched; see docs of accelerate launch"
        )
    return accelerator

"""Commands of the stages train and evaluate, in one process or under `accelerate launch`, and the comparison of models."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from anyres.cli.options import app, one_line_errors, parse_numbers, with_groups

# The shell's exit code for a process that SIGTERM ended.
TERMINATED = 143

ParamsFile = Annotated[Path, typer.Option(help="The file of hyper-parameters.")]
StoreFolder = Annotated[Path, typer.Option(help="The folder of prepared pictures.")]
TrainFolder = Annotated[Path, typer.Option(help="The folder for generator, history and samples.")]


@app.command(epilog="Example: anyres train --store data/store --out out/train")
def train(
    params: ParamsFile = Path("params.yaml"),
    store: StoreFolder = Path("data/store"),
    out: TrainFolder = Path("out/train"),
    runs: Annotated[Path, typer.Option(help="The folder for checkpoints.")] = Path("out/runs"),
    micro_batch: Annotated[
        int | None,
        typer.Option(min=1, help="At most this many pictures per pass on each process; saves memory."),
    ] = None,
    ignore_code: Annotated[
        bool, typer.Option("--ignore-code", help="Resume a run with equal params and data although its code changed.")
    ] = False,
) -> None:
    """Train a generator, or resume an interrupted training."""
    from anyres.data.store import Store
    from anyres.params import Params
    from anyres.training.run import InterruptedTraining
    from anyres.training.run import train as train_on

    try:
        section = Params.load(params).train
        pictures = Store.open(store)
        accelerator = _accelerator(mixed_precision(section.precision))
        monitor = None
        if section.monitor.every_kimg:
            # Here: a training without a monitor starts 1.5 s sooner.
            from anyres.evaluation.monitor import Monitor
            from anyres.evaluation.parallel import ProcessGroup

            monitor = Monitor(section, pictures, accelerator.device, ProcessGroup.of(accelerator))
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
    trained: Annotated[Path, typer.Option(help="The folder of a finished training.")] = Path("out/train"),
    out: Annotated[Path, typer.Option(help="The folder for numbers, tables and figures.")] = Path("out/evaluation"),
    reals: Annotated[Path, typer.Option(help="A cache of features of photographs.")] = Path("out/runs/reals"),
    fake_cache: Annotated[
        Path, typer.Option(help="A cache of features of generated pictures; an interrupted evaluation resumes from it.")
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


@dataclass(frozen=True)
class MeasureOptions:
    """What a comparison measures, instead of the values of params.yaml."""

    samples: Annotated[int | None, typer.Option(help="Patches of each model, instead of evaluate.num_samples.")] = None
    frames: Annotated[int | None, typer.Option(help="Frames of each size, instead of evaluate.num_sweep_samples.")] = None
    sizes: Annotated[str, typer.Option(help="Short sides with commas between, instead of evaluate.sizes.")] = ""
    zoom_max: Annotated[float | None, typer.Option(help="Largest zoom of the patches.")] = None


@app.command(epilog="Example: anyres compare out/export/generator other/out/train --samples 200")
@with_groups
def compare(
    *,
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Bundles, or folders of finished trainings.")],
    store: StoreFolder = Path("data/store"),
    out: Annotated[Path, typer.Option(help="The folder for compare.json and index.html.")] = Path("out/compare"),
    params: Annotated[Path, typer.Option(help="The file whose section evaluate gives seed, sizes and counts.")] = Path(
        "params.yaml"
    ),
    measure: MeasureOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print compare.json instead of the table.")] = False,
) -> None:
    """Compare models with the same measurements: one table and one page."""
    from pydantic import ValidationError

    from anyres.data.store import Store
    from anyres.evaluation import compare as comparison
    from anyres.params import Evaluate, Params, describe

    with one_line_errors():
        values = Params.load(params).evaluate.model_dump()
        values["num_samples"] = measure.samples or values["num_samples"]
        values["num_sweep_samples"] = measure.frames or values["num_sweep_samples"]
        if measure.sizes:
            values["sizes"] = [int(size) for size in parse_numbers("--sizes", measure.sizes, ",")]
        try:
            settings = Evaluate.model_validate(values)
        except ValidationError as error:
            raise ValueError(describe(error)) from None
        result = comparison.compare(
            comparison.open_candidates(models), Store.open(store), settings, out, measure.zoom_max, real_cache=out / "reals"
        )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        comparison.print_table(result)
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

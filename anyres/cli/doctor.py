"""The command doctor: what this machine can do, and what is missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from anyres.cli.options import Json, app

# What a first run takes, environment and data included.
WANTED_DISK_GB = 12


@app.command(epilog="Example: anyres doctor --json")
def doctor(as_json: Json = False) -> None:
    """Say what this machine can do, and for what is missing where to get it. Ends with 1 where nothing could be drawn."""
    from rich.console import Console
    from rich.table import Table

    found = [_python(), _torch(), _accelerator(), _attention(), _memory(), _disk(), *_features(), *_tools()]
    if as_json:
        typer.echo(json.dumps([{"what": what, "state": state, "note": note} for what, state, note in found], indent=2))
    else:
        table = Table(show_header=False, box=None, pad_edge=False)
        marks = {"yes": "[green]yes[/green]", "no": "[yellow]no[/yellow]", "broken": "[red]broken[/red]"}
        for what, state, note in found:
            table.add_row(marks[state], what, note)
        Console().print(table)
    if any(state == "broken" for _, state, _ in found):
        raise typer.Exit(1)


Finding = tuple[str, str, str]


def _python() -> Finding:
    return "Python", "yes", f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _torch() -> Finding:
    try:
        import torch

        return "torch", "yes", f"{torch.__version__}, {torch.get_num_threads()} threads"
    except (ImportError, OSError) as error:
        return "torch", "broken", f"cannot be loaded ({error}); install requirements.lock"


def _accelerator() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return "GPU", "no", "none that torch can use; training and drawing run on the processor"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
    return "GPU", "yes", f"{', '.join(names)}; {bf16}"


def _attention() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return "xformers", "no", "its attention runs on GPUs only; torch's own stands in"
    there = find_spec("xformers") is not None
    return (
        "xformers",
        "yes" if there else "no",
        version("xformers") if there else "torch's own attention stands in; install xformers",
    )


def _memory() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return "processor and memory", "yes", f"{cores} cores, {total:.0f} GiB"


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    enough = free >= WANTED_DISK_GB
    note = f"{free:.0f} GB free here" + ("" if enough else f"; a first `make run` takes {WANTED_DISK_GB} GB")
    return "disk", "yes" if enough else "no", note


def _features() -> list[Finding]:
    """Feature spaces whose weights are there: nothing is fetched to find out."""
    from anyres.evaluation.features import SPACES, missing

    return [
        (f"metrics in {name}", "no" if (note := missing(name)) else "yes", note or space.distance_name)
        for name, space in SPACES.items()
    ]


def _tools() -> list[Finding]:
    packages = {
        "dvc": ("`dvc repro`: what is out of date", "pipelines"),
        "prefect": ("the pipeline as flows", "pipelines"),
        "mlflow": ("tracking and the registry", "pipelines"),
        "distributed": ("`anyres render --dask`: drawing on many machines", "dask"),
    }
    found: list[Finding] = []
    for name, (use, extra) in packages.items():
        try:
            found.append((name, "yes", f"{version(name)}; {use}"))
        except PackageNotFoundError:
            found.append((name, "no", f"{use}; install anyres[{extra}]"))
    programs: dict[str, tuple[Callable[[str], Any], str]] = {
        "git": (shutil.which, "which commit a model comes from"),
        "ffmpeg": (shutil.which, "`anyres zoom` as MP4; without it WebP"),
        "apt-get": (shutil.which, "the sets of Debian's packages; without it put the .deb files where the message says"),
    }
    for name, (look, use) in programs.items():
        found.append((name, "yes" if look(name) else "no", use))
    return found

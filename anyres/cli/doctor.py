"""The command doctor: what this machine can do, and what is missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import typer

from anyres.cli.options import Json, app

# What a first run needs, including environment and data.
NEEDED_DISK_GB = 12


@app.command(epilog="Example: anyres doctor --json")
def doctor(as_json: Json = False) -> None:
    """Show what this machine can do, what is missing, and where to get it. Exits with 1 if nothing can be drawn here."""
    from rich.console import Console
    from rich.table import Table

    findings = [_python(), _torch(), _accelerator(), _attention(), _memory(), _disk(), *_features(), *_tools()]
    if as_json:
        typer.echo(json.dumps([{"what": what, "state": state, "note": note} for what, state, note in findings], indent=2))
    else:
        table = Table(show_header=False, box=None, pad_edge=False)
        marks = {"yes": "[green]yes[/green]", "no": "[yellow]no[/yellow]", "broken": "[red]broken[/red]"}
        for what, state, note in findings:
            table.add_row(marks[state], what, note)
        Console().print(table)
    if any(state == "broken" for _, state, _ in findings):
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
        return "GPU", "no", "none that torch can use; training and drawing run on the CPU"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
    return "GPU", "yes", f"{', '.join(names)}; {bf16}"


def _attention() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return "xformers", "no", "its attention runs only on GPUs; torch's attention is used"
    if find_spec("xformers") is None:
        return "xformers", "no", "torch's attention is used; install xformers"
    return "xformers", "yes", version("xformers")


def _memory() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return "CPU and memory", "yes", f"{cores} cores, {total:.0f} GiB"


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    is_enough = free >= NEEDED_DISK_GB
    note = f"{free:.0f} GB free here" + ("" if is_enough else f"; a first `make run` needs {NEEDED_DISK_GB} GB")
    return "disk", "yes" if is_enough else "no", note


def _features() -> list[Finding]:
    """Feature spaces, and whether their weights are available. Downloads nothing."""
    from anyres.evaluation.features import SPACES, missing

    return [
        (f"metrics in {name}", "no" if (note := missing(name)) else "yes", note or space.distance_name)
        for name, space in SPACES.items()
    ]


def _tools() -> list[Finding]:
    packages = {
        "dvc": ("`dvc repro` runs the stages that are out of date", "pipelines"),
        "prefect": ("runs the pipeline as flows", "pipelines"),
        "mlflow": ("tracking and the registry", "pipelines"),
        "distributed": ("`anyres render --dask` draws on many machines", "dask"),
    }
    findings: list[Finding] = []
    for name, (use, extra) in packages.items():
        try:
            findings.append((name, "yes", f"{version(name)}; {use}"))
        except PackageNotFoundError:
            findings.append((name, "no", f"{use}; install anyres[{extra}]"))
    programs = {
        "git": "records which commit a model comes from",
        "ffmpeg": "`anyres zoom` writes MP4 with it; without it WebP",
        "apt-get": "downloads the data sets of Debian packages; without it put the .deb files where the message says",
    }
    return findings + [(name, "yes" if shutil.which(name) else "no", use) for name, use in programs.items()]

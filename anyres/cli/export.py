"""Commands that pack a model: export, for other programs, and bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from anyres.cli.options import Bundle, app, load_model, one_line_errors, with_groups


@app.command(epilog="Example: anyres export out/export/generator generator.onnx")
def export(
    model: Bundle,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write: .onnx for onnxruntime, or .pt2 for torch.")],
) -> None:
    """Write a model as one file that draws any window without anyres, and compare its pixels with the model's.

    Exits with 2 and prints one line if an argument is wrong.
    """
    with one_line_errors():
        from anyres.export.convert import export_to, format_of
        from anyres.export.traced import INPUTS, OUTPUTS

        format_of(out)
        exported = export_to(load_model(model), out)
        check = (
            "not checked, since onnxruntime is not installed (anyres[onnx])"
            if exported.difference is None
            else f"pixels within {exported.difference:.1e} of the model's"
        )
        io = f"{', '.join(INPUTS)} -> {', '.join(OUTPUTS)}"
        typer.echo(f"{out}: {exported.title}, {io}, {exported.num_bytes / 1e6:.1f} MB, {check}")


@dataclass(frozen=True)
class BundleOptions:
    """What a bundle says of its training, and how it is stored."""

    metrics: Annotated[Path | None, typer.Option(help="metrics.json of its evaluation, for the model card.")] = None
    credits_file: Annotated[
        Path | None, typer.Option("--credits", help="Credits of the photographs, Markdown, as the stage ingest writes them.")
    ] = None
    samples: Annotated[int, typer.Option(min=1, max=64, help="Scenes in the picture of the model card.")] = 16
    half: Annotated[bool, typer.Option("--half", help="Store kernels in half precision: files of half the size.")] = False


@app.command(epilog="Example: anyres bundle out/train shared/my-model --half")
@with_groups
def bundle(
    *,
    trained: Annotated[Path, typer.Argument(metavar="TRAINED", help="The folder of a finished training, out/train.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; it must not exist.")],
    options: BundleOptions,
) -> None:
    """Make a bundle of a finished training: weights, facts, samples and a model card in one folder.

    Exits with 2 and prints one line if an argument is wrong.
    """
    import json

    with one_line_errors():
        from anyres.export.bundle import write_bundle
        from anyres.files import new_folder
        from anyres.networks.saved import WEIGHTS, meta_of_training

        meta = meta_of_training(trained)
        if options.metrics is not None:
            try:
                meta["metrics"] = dict(json.loads(options.metrics.read_text(encoding="utf-8")))
            except (UnicodeDecodeError, json.JSONDecodeError, ValueError, TypeError):
                raise ValueError(f"--metrics {options.metrics}: not the metrics.json of an evaluation") from None
        with new_folder(out) as folder:
            model = write_bundle(folder, trained / WEIGHTS, meta, options.samples, options.credits_file, options.half)
        typer.echo(f"{out}: {model.meta['method']}, weights {model.meta['weights_sha256'][:12]}; `anyres view {out}` shows it")

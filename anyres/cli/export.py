"""The command that writes files for other programs: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anyres.cli.options import Bundle, app, load_model, one_line_errors


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

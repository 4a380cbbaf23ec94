"""The command that writes files for others' programs: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anyres.cli.options import Bundle, app, one_line, opened


@app.command(epilog="Example: anyres export out/export/generator generator.onnx")
def export(
    model: Bundle,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A .onnx for onnxruntime, or a .pt2 for torch without this code.")],
) -> None:
    """Write a model as one file that draws any window by itself, without this code, and check its pixels.

    Ends with 2 and one line where something does not fit.
    """
    with one_line():
        from anyres.export.convert import export_to, format_of
        from anyres.export.traced import INPUTS, OUTPUTS

        format_of(out)
        done = export_to(opened(model), out)
        checked = (
            "not checked, since onnxruntime is not installed (anyres[onnx])"
            if done.difference is None
            else f"pixels within {done.difference:.1e} of the model's"
        )
        typer.echo(f"{out}: {done.title}, {', '.join(INPUTS)} -> {', '.join(OUTPUTS)}, {done.num_bytes / 1e6:.1f} MB, {checked}")

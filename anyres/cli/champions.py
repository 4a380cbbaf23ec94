"""Commands about the champion of a registered model: promote, rollback."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from anyres.cli.options import Json, app, one_line_errors

ModelName = Annotated[str, typer.Option("--name", help="The registered model.")]
NAME = "anyres-generator"


@app.command(epilog="Example: anyres promote 2 --metric patch_fd")
def promote(
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="The version to promote.")],
    name: ModelName = NAME,
    metric: Annotated[
        str | None,
        typer.Option(help="A tag with a number to compare; smaller is better. By default the metric that the model declares."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote also a version that is worse or was not measured.")] = False,
    as_json: Json = False,
) -> None:
    """Make a version of a registered model its champion if it is no worse than the present champion, and print the comparison.

    The registry is the one of MLFLOW_TRACKING_URI or ANYRES_TRACKING_URI, else mlflow.db in the current folder. If the champion
    does not change, exits with 2 and prints one line.
    """
    from anyres.registry import client
    from anyres.registry.champion import ChampionUnchangedError

    with one_line_errors():
        try:
            move = client.promote(name, version, metric, force)
        except ChampionUnchangedError as error:
            raise ValueError(f"{error} (--force promotes it all the same)") from None
        _report(move, as_json)


@app.command(epilog="Example: anyres rollback --name anyres-generator")
def rollback(name: ModelName = NAME, as_json: Json = False) -> None:
    """Make the previous champion champion again. Each further call goes one champion back.

    The registry is the one of MLFLOW_TRACKING_URI or ANYRES_TRACKING_URI, else mlflow.db in the current folder. If there was no
    champion before, exits with 2 and prints one line.
    """
    from anyres.registry import client

    with one_line_errors():
        _report(client.rollback(name), as_json)


def _report(move: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(move) if as_json else move["said"])

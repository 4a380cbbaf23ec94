"""Commands about the champion of a registered model: promote, rollback."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from anyres.cli.options import Json, app, one_line

ModelName = Annotated[str, typer.Option("--name", help="The registered model.")]
NAME = "anyres-generator"


@app.command(epilog="Example: anyres promote 2 --metric patch_fd")
def promote(
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="Which version of it.")],
    name: ModelName = NAME,
    metric: Annotated[
        str | None, typer.Option(help="A tag with a number, smaller is better; by default the declared one.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also one that is worse, or was not measured.")] = False,
    as_json: Json = False,
) -> None:
    """Make a version of a registered model its champion, if it is no worse than the present one, and say what was compared.

    The registry is that of MLFLOW_TRACKING_URI or ANYRES_TRACKING_URI, else mlflow.db here. Ends with 2 and one line where it
    does not move.
    """
    from anyres.registry import client
    from anyres.registry.champion import ChampionUnchangedError

    with one_line():
        try:
            move = client.promote(name, version, metric, force)
        except ChampionUnchangedError as error:
            raise ValueError(f"{error} (--force promotes it all the same)") from None
        _say(move, as_json)


@app.command(epilog="Example: anyres rollback --name anyres-generator")
def rollback(name: ModelName = NAME, as_json: Json = False) -> None:
    """Make the champion before the present one champion again; once more, and the one before that.

    The registry is that of MLFLOW_TRACKING_URI or ANYRES_TRACKING_URI, else mlflow.db here. Ends with 2 and one line where there
    was none before.
    """
    from anyres.registry import client

    with one_line():
        _say(client.rollback(name), as_json)


def _say(moved: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(moved) if as_json else moved["said"])

"""The command that shows scenes in a browser: view."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from anyres.cli.options import BUNDLE, MODEL_HELP, app, one_line_errors, with_groups
from anyres.registry.champion import ALIAS
from anyres.registry.client import versions

# The packages of the extra `viewer`.
EXTRA = ("fastapi", "starlette", "uvicorn", "anyio", "prometheus_client")


@dataclass(frozen=True)
class ServerOptions:
    """Where the viewer listens, and who may open it."""

    host: Annotated[str, typer.Option(help="Address to listen on. Any address that other machines can reach needs a token.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free port.")] = 8000
    token: Annotated[
        str | None,
        typer.Option(envvar="ANYRES_VIEW_TOKEN", help="The token that opens the page; a random one where --host needs it."),
    ] = None


@app.command(epilog="Example: anyres view out/export/generator other/export/generator --port 0")
@with_groups
def view(
    *,
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL...", help=MODEL_HELP, show_default=BUNDLE)] = None,
    server: ServerOptions,
    device: Annotated[str, typer.Option(help="Device that draws: cpu, cuda, cuda:1.")] = "cpu",
    registry: Annotated[
        str | None, typer.Option(metavar="NAME", help="A registered model whose versions can be chosen in the page.")
    ] = None,
    cache: Annotated[Path, typer.Option(help="Folder of the tile cache.")] = Path(".anyres/cache/tiles"),
    cache_mb: Annotated[int, typer.Option("--cache-mb", min=1, max=1 << 20, help="Size of the tile cache, in MB.")] = 512,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    """Pan and zoom over the scenes of one or more models in a browser. Tiles are drawn on demand. Ctrl-C ends it.

    Exits with 2 and prints one line if an argument is wrong.
    """
    with one_line_errors():
        served_model, serve, registered_model = _viewer()
        registered = None
        if registry is not None:
            registered = registered_model(registry, partial(versions, registry), partial(_load_version, registry, device))
        sources = models or [BUNDLE if registered is None else _first_version(registry, registered.versions())]
        names = short_names(sources)
        served_models = [served_model(name, _load(source, device)) for name, source in zip(names, sources, strict=True)]

        def announce(address: str) -> None:
            typer.echo(f"view: {address} (Ctrl-C ends)")
            if open_page:
                typer.launch(address)

        serve(served_models, server.host, server.port, server.token, cache, cache_mb << 20, announce, registered)


def short_names(sources: list[str]) -> list[str]:
    """The end of each source, as short as keeps the names different. Raises ValueError for a source that is named twice."""
    if len(set(sources)) < len(sources):
        raise ValueError("a model is named twice; name each once")
    paths = [[name for name in source.replace("models:/", "").split("/") if name not in ("", ".")] for source in sources]
    depth = 1
    while len({tuple(path[-depth:]) for path in paths}) < len(paths) and depth < max(map(len, paths)):
        depth += 1
    return ["/".join(path[-depth:]) or "model" for path in paths]


def _load(source: str, device: str) -> Any:
    """Load a model on a device. Raises ValueError, one line, for a device that this machine lacks."""
    import torch

    import anyres

    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise ValueError(f"--device takes cpu, cuda or cuda:NUMBER, found {device!r}") from None
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {device}: this machine has {torch.cuda.device_count()} of them; see `anyres doctor`")
    return anyres.load(source, device)


def _load_version(name: str, device: str, version: str) -> Any:
    return _load(f"models:/{name}/{version}", device)


def _first_version(name: str | None, listed: list[dict[str, Any]]) -> str:
    """The version that the page opens with: the champion, or the newest of those `listed`."""
    first = next((version for version in listed if ALIAS in version["aliases"]), listed[0])
    return f"models:/{name}/{first['version']}"


def _viewer() -> tuple[Any, Any, Any]:
    """ServedModel, serve and RegisteredModel. Raises ValueError, one line, if a package that they need is missing."""
    try:
        from anyres.viewer.drawing import ServedModel
        from anyres.viewer.models import RegisteredModel
        from anyres.viewer.serve import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise ValueError(f"the viewer needs the package {error.name}; install anyres with its extra: anyres[viewer]") from None
    return ServedModel, serve, RegisteredModel

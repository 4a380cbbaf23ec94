"""The command that shows scenes in a browser: view."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from anyres.cli.options import BUNDLE, MODEL_HELP, app, one_line
from anyres.registry.champion import ALIAS
from anyres.registry.client import versions

# What the viewer needs beyond the library: the extra `viewer`.
EXTRA = ("fastapi", "starlette", "uvicorn", "anyio", "prometheus_client")


@app.command(epilog="Example: anyres view out/export/generator other/export/generator --port 0")
def view(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL...", help=MODEL_HELP, show_default=BUNDLE)] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; any but this machine's own asks for a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="ANYRES_VIEW_TOKEN", help="Who opens the page must know it; made where one is needed.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where it is drawn: cpu, cuda, cuda:1.")] = "cpu",
    registry: Annotated[
        str | None, typer.Option(metavar="NAME", help="A registered model whose versions may be chosen in the page.")
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where drawn tiles are kept.")] = Path(".anyres/cache/tiles"),
    cache_mb: Annotated[int, typer.Option("--cache-mb", min=1, max=1 << 20, help="How much of them, in MB.")] = 512,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    """Pan and zoom over the scenes of one or more models in a browser, drawn as they are looked at, until Ctrl-C.

    Ends with 2 and one line where something does not fit.
    """
    with one_line():
        served, serve, registered = _viewer()
        offered = (
            None if registry is None else registered(registry, partial(versions, registry), partial(_version, registry, device))
        )
        sources = models or [BUNDLE if offered is None else _champion(registry, offered.versions())]
        names = names_of(sources)
        served_models = [served(name, _on(source, device)) for name, source in zip(names, sources, strict=True)]

        def announce(address: str) -> None:
            typer.echo(f"view: {address} (Ctrl-C ends)")
            if open_page:
                typer.launch(address)

        serve(served_models, host, port, token, cache, cache_mb << 20, announce, offered)


def names_of(sources: list[str]) -> list[str]:
    """The end of each source, as much of it as tells them apart. Raises ValueError for one that is named twice."""
    if len(set(sources)) < len(sources):
        raise ValueError("a model is named twice; name each once")
    parts = [[part for part in source.replace("models:/", "").split("/") if part not in ("", ".")] for source in sources]
    depth = 1
    while len({tuple(part[-depth:]) for part in parts}) < len(parts) and depth < max(map(len, parts)):
        depth += 1
    return ["/".join(part[-depth:]) or "model" for part in parts]


def _on(source: str, device: str) -> Any:
    """A model on a device. Raises ValueError, one line, for one that this machine lacks."""
    import torch

    import anyres

    try:
        there = torch.device(device)
    except RuntimeError:
        raise ValueError(f"--device takes cpu, cuda or cuda:NUMBER, found {device!r}") from None
    if there.type == "cuda" and (there.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {device}: this machine has {torch.cuda.device_count()} of them; `anyres doctor` tells more")
    return anyres.load(source, device)


def _version(name: str, device: str, version: str) -> Any:
    return _on(f"models:/{name}/{version}", device)


def _champion(name: str | None, known: list[dict[str, Any]]) -> str:
    """The version that is shown first: the champion, or the newest of those `known`."""
    first = next((version for version in known if ALIAS in version["aliases"]), known[0])
    return f"models:/{name}/{first['version']}"


def _viewer() -> tuple[Any, Any, Any]:
    """The classes behind the page. Raises ValueError, one line, where what they need is not installed."""
    try:
        from anyres.viewer.drawing import ServedModel
        from anyres.viewer.models import RegisteredModel
        from anyres.viewer.serve import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise ValueError(f"the viewer needs the package {error.name}; install anyres with its extra: anyres[viewer]") from None
    return ServedModel, serve, RegisteredModel

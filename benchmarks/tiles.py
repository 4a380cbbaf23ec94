"""Tiles of the viewer: latency of single requests, and correctness under load.

    python benchmarks/tiles.py out/export/generator --seconds 60 --out tiles.json

Starts a real server on a free port of this machine. First, tiles are drawn and encoded without the server. Then come single
requests, for tiles that are not cached, and for the same tiles again. Then many clients send requests at the same time, for tiles
of their own and for those of others. Every answer must be a tile or a 503 with Retry-After. Some tiles are compared with a direct
render. Exits with 1 where one is wrong.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

import anyres
from anyres.synthesis.render import render
from anyres.synthesis.request import RenderRequest
from anyres.viewer.app import create_app
from anyres.viewer.drawing import ServedModel
from anyres.viewer.serve import make_server, open_socket
from anyres.viewer.tilegrid import Pyramid, TileNotFoundError

SINGLE = 60
CHECKED_SHARE = 0.1
PSI = 0.7


def main(
    bundle: Annotated[str, typer.Argument(help="A bundle folder, or a model that comes with anyres.")] = "out/export/generator",
    clients: Annotated[int, typer.Option(help="Clients at the same time.")] = 50,
    seconds: Annotated[float, typer.Option(help="How long they send requests.")] = 60.0,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Where the results go, as JSON.")] = None,
) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(threads)
    model = anyres.load(bundle)
    pyramid = Pyramid.of(model.geometry)
    with tempfile.TemporaryDirectory() as cache:
        listening = open_socket("127.0.0.1", 0)
        running = make_server(create_app([ServedModel("model", model)], Path(cache), 1 << 28))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not running.started:
                time.sleep(0.01)
            address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            results = asyncio.run(measure(address, pyramid, model, clients, seconds))
        finally:
            running.should_exit = True
            thread.join()
            listening.close()
    table = Table("", "requests", "p50, ms", "p95, ms", title=f"Tiles of {bundle}, {threads} threads")
    for name in ("direct", "cold", "cached"):
        row = results[name]
        table.add_row(name, str(row["requests"]), f"{row['p50_ms']:.1f}", f"{row['p95_ms']:.1f}")
    Console().print(table)
    load = results["crowd"]
    print(
        f"{clients} clients for {seconds:g} s: {load['tiles']} tiles, {load['busy']} times 503, {load['errors']} errors; "
        f"{load['checked']} compared with a render, {load['wrong']} wrong; {load['memory_mib']:.0f} MiB more than before"
    )
    if out is not None:
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if load["errors"] or load["wrong"]:
        raise typer.Exit(1)


async def measure(address: str, pyramid: Pyramid, model: Any, clients: int, seconds: float) -> dict[str, Any]:
    """Return all measurements of one server."""
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=httpx.Limits(max_connections=clients)) as client:
        name = (await client.get("/api/models")).json()["models"][0]["id"]
        places = [place(pyramid, random.Random(number)) for number in range(SINGLE)]
        # The first forward pass of a process is slower.
        await client.get(path(name, 10**6, *places[0]))
        direct, cold, cached = [], [], []
        for seed, where in enumerate(places):
            start = time.perf_counter()
            pixels = render(model.generator, RenderRequest(seed + 10**5, pyramid.tile_window(*where).window, PSI))
            Image.fromarray(pixels).save(io.BytesIO(), format="PNG")
            direct.append(1000 * (time.perf_counter() - start))
        for times in (cold, cached):
            for seed, where in enumerate(places):
                start = time.perf_counter()
                (await client.get(path(name, seed, *where))).raise_for_status()
                times.append(1000 * (time.perf_counter() - start))
        before, until = memory_mib(), time.monotonic() + seconds
        counts = dict.fromkeys(("tiles", "busy", "errors", "checked", "wrong"), 0)
        await asyncio.gather(*(visit(client, name, pyramid, model, until, number, counts) for number in range(clients)))
        counts |= {"memory_mib": memory_mib() - before}
    return {"direct": spread(direct), "cold": spread(cold), "cached": spread(cached), "crowd": counts}


async def visit(
    client: httpx.AsyncClient, name: str, pyramid: Pyramid, model: Any, until: float, number: int, counts: dict[str, float]
) -> None:
    """Send requests as one client: half of the tiles are those that others request too."""
    chance = random.Random(1000 + number)
    while time.monotonic() < until:
        seed = chance.randrange(4) if chance.random() < 0.5 else 100 + number
        where = place(pyramid, chance)
        try:
            answer = await client.get(path(name, seed, *where))
        except httpx.HTTPError as error:
            counts["errors"] += 1
            print(f"no answer: {error!r}")
            continue
        if answer.status_code == 200:
            counts["tiles"] += 1
            if chance.random() < CHECKED_SHARE:
                counts["checked"] += 1
                right = await asyncio.to_thread(agrees, answer.content, pyramid, model, seed, where)
                counts["wrong"] += not right
        elif answer.status_code == 503 and "retry-after" in answer.headers:
            counts["busy"] += 1
            await asyncio.sleep(min(float(answer.headers["retry-after"]), 2.0))
        else:
            counts["errors"] += 1
            print(f"{answer.status_code}: {answer.text[:200]}")


def agrees(png: bytes, pyramid: Pyramid, model: Any, seed: int, where: tuple[int, int, int]) -> bool:
    """Whether a tile equals a direct render, up to one grey level."""
    part = pyramid.tile_window(*where)
    height, width = part.window.size
    tile = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))[part.top : part.top + height, part.left : part.left + width]
    return int(np.abs(tile.astype(int) - render(model.generator, RenderRequest(seed, part.window, PSI))).max()) <= 1


def place(pyramid: Pyramid, chance: random.Random) -> tuple[int, int, int]:
    """Return a random tile that exists."""
    while True:
        level = chance.randrange(pyramid.levels)
        columns, rows = (min(count << level, 64) for count in (pyramid.columns, pyramid.rows))
        where = level, chance.randrange(columns) - columns // 2, chance.randrange(rows) - rows // 2
        try:
            pyramid.tile_window(*where)
        except TileNotFoundError:
            continue
        return where


def path(name: str, seed: int, level: int, x: int, y: int) -> str:
    """Return the address of a tile."""
    return f"/api/tile/{name}/{seed}/{level}/{x}_{y}.png?psi={PSI}"


def spread(times: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {"requests": len(times), "p50_ms": float(np.median(times)), "p95_ms": float(np.percentile(times, 95))}


def memory_mib() -> float:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)

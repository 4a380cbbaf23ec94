"""Commands that show one scene over scales: grid, zoom."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from anyres.cli.options import BUNDLE, PICTURES, Bundle, Json, Psi, Seed, Size, app, numbers, one_line, opened, sides, tell

# Endings of films; the last needs ffmpeg.
FILMS = (".webp", ".gif", ".mp4")
GAP_PX = 4
MAX_FRAMES = 5000


@app.command(epilog="Example: anyres grid --seeds 3,8 --sizes 64,128,256 --out grid.png")
def grid(
    model: Bundle = BUNDLE,
    seeds: Annotated[str, typer.Option(help="Scenes, a row each, with commas between.")] = "0,1,2",
    sizes: Annotated[str, typer.Option(help="Short sides in pixels, a column each, with commas between.")] = "64,128,256",
    psi: Psi = 0.7,
    out: Annotated[Path, typer.Option(help="A .png, .jpg or .webp file.")] = Path("grid.png"),
    as_json: Json = False,
) -> None:
    """Draw whole frames of some scenes at several sizes, all enlarged to the largest: what a scene gains with size."""
    import numpy as np
    from PIL import Image

    from anyres.files import atomic_file
    from anyres.plane.window import frame_window
    from anyres.progress import progress_bar
    from anyres.synthesis.render import render
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line():
        if out.suffix.lower() not in PICTURES:
            raise ValueError(f"{out}: not a kind of picture that is written here; end its name with .png, .jpg or .webp")
        loaded = opened(model)
        generator = loaded.generator
        chart = generator.geometry.chart
        aspect = chart.frame_aspect
        rows, columns = (
            [int(value) for value in numbers(name, text, ",")] for name, text in (("--seeds", seeds), ("--sizes", sizes))
        )
        if min(columns) < 1:
            raise ValueError(f"--sizes takes whole numbers of pixels from 1 on, found {sizes!r}")
        height, width = frame_window(aspect, max(columns), chart.short_side).size
        canvas = np.full((len(rows) * (height + GAP_PX) - GAP_PX, len(columns) * (width + GAP_PX) - GAP_PX, 3), 24, np.uint8)
        with progress_bar("draw", len(rows) * len(columns), "pictures") as advance:
            for row, seed in enumerate(rows):
                for column, size in enumerate(columns):
                    pixels = render(generator, RenderRequest(seed, frame_window(aspect, size, chart.short_side), psi))
                    large = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
                    top, left = row * (height + GAP_PX), column * (width + GAP_PX)
                    canvas[top : top + height, left : left + width] = np.asarray(large)
                    advance(1)
        with atomic_file(out) as stream:
            Image.fromarray(canvas).save(stream, format=PICTURES[out.suffix.lower()])
        facts = {"size": canvas.shape[:2], "seeds": rows, "sizes": columns, "psi": psi}
        tell(as_json, f"{out}: scenes {seeds} at {sizes} px", out, loaded, began, **facts)


@app.command(epilog="Example: anyres zoom --seed 3 --center 0.2,0.1 --to 16 --out zoom.webp")
def zoom(
    model: Bundle = BUNDLE,
    seed: Seed = 0,
    center: Annotated[str, typer.Option(help="x,y that the film ends at; the short side of a frame spans -1 to 1.")] = "0,0",
    to: Annotated[float, typer.Option(min=1.01, help="Zoom at the end; 1 is the whole frame.")] = 8.0,
    size: Size = "256x256",
    seconds: Annotated[float, typer.Option(min=0.1, help="How long it takes.")] = 6.0,
    fps: Annotated[int, typer.Option(min=1, max=120, help="Frames a second.")] = 24,
    psi: Psi = 0.7,
    out: Annotated[Path, typer.Option(help="A .webp or .gif file, or .mp4 where ffmpeg is installed.")] = Path("zoom.webp"),
    as_json: Json = False,
) -> None:
    """Film the way from a whole frame into a point of it, every frame drawn anew at its own scale."""
    from anyres.progress import progress_bar

    began = time.perf_counter()
    with one_line():
        if out.suffix.lower() not in FILMS:
            raise ValueError(f"{out}: not a kind of film that is written here; end its name with {', '.join(FILMS)}")
        height, width = sides("--size", size)
        x, y = numbers("--center", center, ",", 2)
        count = max(round(seconds * fps), 2)
        if count > MAX_FRAMES:
            raise ValueError(f"--seconds {seconds:g} at --fps {fps} are {count} frames; at most {MAX_FRAMES} are drawn")
        loaded = opened(model)
        generator = loaded.generator
        windows = list(_way(generator.geometry.chart, (x, y), to, (height, width), count))
        generator.geometry.chart.check(windows[0])
        generator.geometry.chart.check(windows[-1])
        with progress_bar("draw", count, "frames") as advance:
            frames = _drawn(generator, seed, windows, psi, advance)
            (_film_by_ffmpeg if out.suffix.lower() == ".mp4" else _film)(out, frames, fps, (height, width))
        words = f"{out}: {count} frames of {width} x {height} px, into x {x:g}, y {y:g} of scene {seed}, zoom {to:g}"
        facts = {"size": (height, width), "seed": seed, "center": (x, y), "zoom": to, "frames": count, "fps": fps, "psi": psi}
        tell(as_json, words, out, loaded, began, **facts)


def _way(chart: Any, target: tuple[float, float], to: float, size: tuple[int, int], count: int) -> Iterator[Any]:
    """Windows whose zoom grows evenly by factors; the point aimed at moves straight to the middle."""
    from anyres.plane.window import Window

    for number in range(count):
        zoom = to ** (number / (count - 1))
        period = chart.short_side / min(size) / zoom
        share = (1 - 1 / zoom) / (1 - 1 / to)
        # A window at the border of a frame moves inside.
        yield Window(chart.clamp((share * target[0], share * target[1]), period, size), period, size)


def _drawn(generator: Any, seed: int, windows: Iterable[Any], psi: float, advance: Any) -> Iterator[Any]:
    from anyres.synthesis.render import render
    from anyres.synthesis.request import RenderRequest

    for window in windows:
        yield render(generator, RenderRequest(seed, window, psi))
        advance(1)


def _film(out: Path, frames: Iterator[Any], fps: int, size: tuple[int, int]) -> None:
    """An animation that Pillow writes: the frames pass through one by one."""
    from PIL import Image

    from anyres.files import atomic_file

    pictures = (Image.fromarray(frame) for frame in frames)
    with atomic_file(out) as stream:
        first = next(pictures)
        options: dict[str, Any] = {"quality": 85, "method": 4} if out.suffix.lower() == ".webp" else {}
        first.save(
            stream,
            format=out.suffix[1:].upper(),
            save_all=True,
            append_images=pictures,
            duration=round(1000 / fps),
            loop=0,
            **options,
        )


def _film_by_ffmpeg(out: Path, frames: Iterator[Any], fps: int, size: tuple[int, int]) -> None:
    """An MP4 by the machine's own ffmpeg, fed with raw frames."""
    import shutil
    import subprocess
    import tempfile

    program = shutil.which("ffmpeg")
    if program is None:
        raise ValueError(f"{out}: MP4 needs the program ffmpeg, which is not installed; install it, or end the name with .webp")
    height, width = size
    if height % 2 or width % 2:
        raise ValueError(f"--size {height}x{width}: MP4 takes even sides")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        part = Path(folder) / out.name
        source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -".split()
        words = [program, "-v", "error", *source, "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(part)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            try:
                for frame in frames:
                    process.stdin.write(frame.tobytes())
                process.stdin.close()
            except BrokenPipeError:
                pass
            said = process.stderr.read().decode(errors="replace")
        if process.returncode:
            raise ValueError(f"{out}: ffmpeg failed ({' '.join(said.split())[:200]})")
        part.replace(out)

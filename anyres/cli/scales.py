"""Commands that show one scene over scales: grid, zoom."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from anyres.cli.options import (
    BUNDLE,
    PICTURES,
    Bundle,
    Json,
    Psi,
    Seed,
    Size,
    TileOptions,
    app,
    has_one_scale,
    load_model,
    one_line_errors,
    parse_numbers,
    parse_size,
    report,
    warn_beyond,
    with_groups,
)

# Suffixes of films; the last one needs ffmpeg.
FILMS = (".webp", ".gif", ".mp4")
GAP_PX = 4
MAX_FRAMES = 5000


@app.command(epilog="Example: anyres grid --seeds 3,8 --sizes 64,128,256 --out grid.png")
@with_groups
def grid(
    *,
    model: Bundle = BUNDLE,
    seeds: Annotated[str, typer.Option(help="Seeds of the scenes, one per row, with commas between.")] = "0,1,2",
    sizes: Annotated[str, typer.Option(help="Short sides in pixels, one per column, with commas between.")] = "64,128,256",
    psi: Psi = 0.7,
    tiles: TileOptions,
    out: Annotated[Path, typer.Option(help="The picture to write: .png, .jpg or .webp.")] = Path("grid.png"),
    as_json: Json = False,
) -> None:
    """Draw whole frames of several scenes at several sizes, all enlarged to the largest, to show what a scene gains with size."""
    import numpy as np
    from PIL import Image

    from anyres.files import atomic_file
    from anyres.plane.window import frame_window
    from anyres.progress import progress_bar
    from anyres.synthesis.render import render
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line_errors():
        if out.suffix.lower() not in PICTURES:
            raise ValueError(f"{out}: not a kind of picture that is written here; end its name with .png, .jpg or .webp")
        loaded = load_model(model)
        generator = loaded.generator
        chart = generator.geometry.chart
        aspect = chart.frame_aspect
        rows, columns = (
            [int(value) for value in parse_numbers(name, text, ",")] for name, text in (("--seeds", seeds), ("--sizes", sizes))
        )
        if min(columns) < 1:
            raise ValueError(f"--sizes takes whole numbers of pixels from 1 on, found {sizes!r}")
        tiled = tiles.of_request(loaded)
        frames = [frame_window(aspect, size, chart.short_side) for size in columns]
        height, width = frame_window(aspect, max(columns), chart.short_side).size
        canvas = np.full((len(rows) * (height + GAP_PX) - GAP_PX, len(columns) * (width + GAP_PX) - GAP_PX, 3), 24, np.uint8)
        with progress_bar("draw", len(rows) * len(columns), "pictures") as advance:
            for row, seed in enumerate(rows):
                for column, frame in enumerate(frames):
                    pixels = render(generator, RenderRequest(seed, frame, psi, **tiled))
                    large = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
                    top, left = row * (height + GAP_PX), column * (width + GAP_PX)
                    canvas[top : top + height, left : left + width] = np.asarray(large)
                    advance(1)
        with atomic_file(out) as stream:
            Image.fromarray(canvas).save(stream, format=PICTURES[out.suffix.lower()])
        warn_beyond(loaded, sorted(frames, key=lambda frame: -frame.period))
        facts = {"size": canvas.shape[:2], "seeds": rows, "sizes": columns, "psi": psi}
        report(as_json, f"{out}: scenes {seeds} at {sizes} px", out, loaded, began, **facts)


@dataclass(frozen=True)
class FilmOptions:
    """Where a film zooms to, its size and its speed."""

    center: Annotated[
        str, typer.Option(help="x,y of the point where the film ends. The short side of a frame spans -1 to 1.")
    ] = "0,0"
    to: Annotated[float, typer.Option(min=1.01, help="Zoom at the end; 1 is the whole frame.")] = 8.0
    size: Size = "256x256"
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the film.")] = 6.0
    fps: Annotated[int, typer.Option(min=1, max=120, help="Frames per second.")] = 24


@app.command(epilog="Example: anyres zoom --seed 3 --center 0.2,0.1 --to 16 --out zoom.webp")
@with_groups
def zoom(
    *,
    model: Bundle = BUNDLE,
    seed: Seed = 0,
    film: FilmOptions,
    tiles: TileOptions,
    psi: Psi = 0.7,
    out: Annotated[Path, typer.Option(help="The film to write: .webp or .gif, or .mp4 if ffmpeg is installed.")] = Path(
        "zoom.webp"
    ),
    as_json: Json = False,
) -> None:
    """Draw a film that zooms from a whole frame into a point. Every film frame is drawn at its own scale."""
    from anyres.progress import progress_bar
    from anyres.synthesis.request import RenderRequest

    began = time.perf_counter()
    with one_line_errors():
        if out.suffix.lower() not in FILMS:
            raise ValueError(f"{out}: not a kind of film that is written here; end its name with {', '.join(FILMS)}")
        height, width = parse_size("--size", film.size)
        x, y = parse_numbers("--center", film.center, ",", 2)
        count = max(round(film.seconds * film.fps), 2)
        if count > MAX_FRAMES:
            raise ValueError(f"--seconds {film.seconds:g} at --fps {film.fps} are {count} frames; at most {MAX_FRAMES} are drawn")
        loaded = load_model(model)
        generator = loaded.generator
        if has_one_scale(loaded.geometry):
            raise ValueError(f"{model} has one scale: a zoom into it would be a still; draw a picture with `anyres render`")
        windows = list(_zoom_windows(generator.geometry.chart, (x, y), film.to, (height, width), count))
        generator.geometry.chart.check(windows[0])
        generator.geometry.chart.check(windows[-1])
        tiled = tiles.of_request(loaded)
        with progress_bar("draw", count, "frames") as advance:
            requests = [RenderRequest(seed, window, psi, **tiled) for window in windows]
            frames = _draw_frames(generator, requests, advance)
            if out.suffix.lower() == ".mp4":
                _write_mp4(out, frames, film.fps, (height, width))
            else:
                _write_animation(out, frames, film.fps)
        warn_beyond(loaded, windows)
        message = f"{out}: {count} frames of {width} x {height} px, into x {x:g}, y {y:g} of scene {seed}, zoom {film.to:g}"
        facts = {"size": (height, width), "seed": seed, "center": (x, y), "zoom": film.to, "frames": count}
        report(as_json, message, out, loaded, began, **facts, fps=film.fps, psi=psi)


def _zoom_windows(chart: Any, target: tuple[float, float], to: float, size: tuple[int, int], count: int) -> Iterator[Any]:
    """Windows whose zoom grows by a constant factor, while the target moves straight to the middle."""
    from anyres.plane.window import Window

    for number in range(count):
        zoom = to ** (number / (count - 1))
        period = chart.short_side / min(size) / zoom
        share = (1 - 1 / zoom) / (1 - 1 / to)
        # A window at the border of a frame moves inside.
        yield Window(chart.clamp((share * target[0], share * target[1]), period, size), period, size)


def _draw_frames(generator: Any, requests: Iterable[Any], advance: Any) -> Iterator[Any]:
    from anyres.synthesis.render import render

    for request in requests:
        yield render(generator, request)
        advance(1)


def _write_animation(out: Path, frames: Iterator[Any], fps: int) -> None:
    """Write an animation with Pillow, one frame in memory at a time."""
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


def _write_mp4(out: Path, frames: Iterator[Any], fps: int, size: tuple[int, int]) -> None:
    """Write an MP4 with the ffmpeg of this machine, which reads raw frames from a pipe."""
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
        partial = Path(folder) / out.name
        source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -".split()
        command = [program, "-v", "error", *source, "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(partial)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            try:
                for frame in frames:
                    process.stdin.write(frame.tobytes())
                process.stdin.close()
            except BrokenPipeError:
                pass
            errors = process.stderr.read().decode(errors="replace")
        if process.returncode:
            raise ValueError(f"{out}: ffmpeg failed ({' '.join(errors.split())[:200]})")
        partial.replace(out)

"""The bundle: a folder with everything that is needed to draw from a generator. Loading it unpickles nothing.

generator.safetensors, generator.json, samples.png, README.md (model card), CREDITS.md if the pictures have credits.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from anyres.files import write_atomic
from anyres.networks.generator import Edit, Generator
from anyres.networks.saved import BUNDLE_FORMAT, META, WEIGHTS, load_bundle
from anyres.networks.scene import Scene
from anyres.networks.tensorfile import read_safetensors
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window, frame_window
from anyres.synthesis.latent import Latent
from anyres.synthesis.render import Drawing, draw_in_process, render
from anyres.synthesis.request import RenderRequest

SAMPLES = "samples.png"
CARD = "README.md"
CREDITS = "CREDITS.md"

# Entries of generator.json that picture files record.
RECORDED = ("method", "weights_sha256", "data_hash", "git_commit")
PSI = 0.7
SAMPLE_SHORT_PX = 128


class Model:
    """A generator ready to draw from. `meta` is generator.json: method, params, data hash, git commit, metrics."""

    def __init__(self, generator: Generator, meta: Mapping[str, Any]) -> None:
        self.generator = generator
        self.meta = meta

    @property
    def geometry(self) -> Geometry:
        return Geometry.from_json(self.meta["geometry"])

    def render(self, seed: int | Latent | Scene, window: Window, psi: float = PSI) -> np.ndarray:
        """Draw `window` of the picture that `seed` names: uint8 (h, w, 3), sRGB. psi 0 is the average, 1 no truncation."""
        return render(self.generator, RenderRequest(seed, window, psi))

    def render_to(
        self,
        path: str | Path,
        seed: int | Latent | Scene,
        window: Window,
        psi: float = PSI,
        tile: int = 512,
        edit: Edit | None = None,
        advance: Callable[[float], None] | None = None,
        dask: str | None = None,
    ) -> None:
        """Draw a window of any size into a .tif, .dzi, .png or .zarr; see `write`."""
        self.write(path, RenderRequest(seed, window, psi, tile, edit=edit), advance, dask=dask)

    def write(
        self,
        path: str | Path,
        request: RenderRequest,
        advance: Callable[[float], None] | None = None,
        resumed: Callable[[float], None] | None = None,
        dask: str | None = None,
    ) -> None:
        """Draw a request into a .tif, .dzi, .png or .zarr; see `anyres.synthesis.stream.render_to`.

        `dask` is the address of a Dask scheduler, tcp://host:8786, whose workers draw the tiles; this process writes the file.
        Errors of the workers: see `anyres.synthesis.dask_workers.drawing_on`.
        """
        # Import here: the libraries of file formats are not needed to draw in memory.
        from anyres.synthesis.stream import render_to

        about = {name: str(self.meta[name]) for name in RECORDED if name in self.meta}
        with self.drawing_on(dask) as draw:
            render_to(path, self.generator, request, about, advance, resumed, draw)

    def drawing_on(self, dask: str | None) -> AbstractContextManager[Drawing]:
        """Return the back end that draws from this model: the workers of a Dask scheduler, or this process for None."""
        if dask is None:
            return nullcontext(draw_in_process)
        from anyres.synthesis.dask_workers import drawing_on

        return drawing_on(dask, self.generator, self.meta["params"]["train"])


def load(source: str | Path, device: str = "cpu") -> Model:
    """Load a bundle: a folder, or the name of a model that comes with anyres, "continuum-deepsky".

    Raises ValueError, one line, if something is missing, of another format or inconsistent.
    """
    return Model(*load_bundle(source, device))


def write_bundle(
    folder: Path,
    weights: Path,
    meta: Mapping[str, Any],
    num_samples: int,
    credits: Path | None = None,
    half: bool = False,
) -> Model:
    """Write a bundle into the empty `folder` and return the model loaded from it. `half` stores kernels in half precision.

    `meta` needs method, params (all sections, resolved), geometry, data_hash, git_commit, nimg, metrics; JSON types.
    """
    if half:
        # Import here: reading a bundle does not need this package.
        from safetensors.torch import save

        write_atomic(folder / WEIGHTS, save({name: halved(name, tensor) for name, tensor in read_safetensors(weights).items()}))
    else:
        shutil.copyfile(weights, folder / WEIGHTS)
    complete = {"format": BUNDLE_FORMAT, **meta, "weights_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()}
    (folder / META).write_text(json.dumps(complete, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if credits is not None:
        shutil.copyfile(credits, folder / CREDITS)
    model = load(folder)
    sample_grid(model, num_samples).save(folder / SAMPLES, optimize=True)
    (folder / CARD).write_text(model_card(complete, credits is not None), encoding="utf-8")
    return model


def halved(name: str, tensor: Tensor) -> Tensor:
    """Convert kernels and matrices to half precision. Frequencies and other buffers need full precision at deep zooms."""
    return tensor.half() if name.endswith("weight") and tensor.ndim > 1 else tensor


def sample_grid(model: Model, num_samples: int) -> Image.Image:
    """Draw whole frames of seeds 0 to n - 1, truncated, row by row."""
    half_width, half_height = model.geometry.chart.half_extent
    window = frame_window(half_width / half_height, SAMPLE_SHORT_PX, 2 * min(half_width, half_height))
    columns = math.ceil(math.sqrt(num_samples))
    height, width = window.size
    grid = np.zeros((math.ceil(num_samples / columns) * height, columns * width, 3), np.uint8)
    for seed in range(num_samples):
        top, left = seed // columns * height, seed % columns * width
        grid[top : top + height, left : left + width] = model.render(seed, window)
    return Image.fromarray(grid)


def model_card(meta: Mapping[str, Any], has_credits: bool) -> str:
    """Return README.md of a bundle, in Markdown."""
    train = meta["params"]["train"]
    numbers = {name: value for name, value in sorted(meta["metrics"].items()) if isinstance(value, int | float)}
    table = "\n".join(f"| {name} | {value:.6g} |" for name, value in numbers.items())
    rights = (
        f"The pictures it learned from, with licence and author of each, are listed in {CREDITS}. Their licences may bind\n"
        "what you publish: give these credits beside published pictures."
        if has_credits
        else "The pictures it learned from came from a folder without credits: their rights are yours to know."
    )
    height, width = train["patch_px"]
    return f"""# Generator ({meta["method"]})

Draws pictures at any resolution and at any place of its canvas. Made by anyres.

![samples](samples.png)

```python
import anyres

model = anyres.load("FOLDER")
picture = model.render(seed=7, window=anyres.Window(center=(0.0, 0.0), period=2 / 256, size=(256, 256)))
```

- Trained on {meta["nimg"]} windows of {height} x {width} px, seed {train["seed"]}
- Data hash `{meta["data_hash"]}`
- Code at git commit `{meta["git_commit"]}`
- Weights SHA-256 `{meta["weights_sha256"]}`

## Measured

| quantity | value |
|---|---|
{table}

How each is measured, with sample counts and kernel, stands in the evaluation of the run.

## Rights

{rights}
"""

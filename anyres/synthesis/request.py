"""What to draw and how: the request that every renderer takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from anyres.networks.generator import SEED_LIMIT, Edit, Generator, StyleGenerator, device_of
from anyres.networks.scene import Scene
from anyres.plane.window import Window
from anyres.synthesis.latent import Latent

Stitch = Literal["grid", "overlap"]


@dataclass(frozen=True)
class RenderRequest:
    """One picture to draw.

    - `scene`: the seed of a random scene, a latent, or a scene of one picture.
    - `window`: the part of the plane, of any size.
    - `psi`: truncation of styles towards their mean, from 0 (the mean) to 2; 1 is none.
    - `tile`: largest side of a tile in pixels; where the network is wide, memory bounds it further.
    - `stitch`: how tiles meet. "grid" sets them side by side. "overlap" draws them larger by an eighth and fades each into
      the next (AnyRes-GAN, section 3.3). None is "grid" for exact generators, "overlap" for others.
    - `edit`: a change of the geometry; see `anyres.synthesis.edit`.

    Raises ValueError if the seed or psi is out of range.
    """

    scene: int | Latent | Scene
    window: Window
    psi: float = 1.0
    tile: int = 512
    stitch: Stitch | None = None
    edit: Edit | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.scene, Latent | Scene):
            check_seed(self.scene)
            # A NumPy integer must give the same identity as the Python integer.
            object.__setattr__(self, "scene", int(self.scene))
        if not 0.0 <= self.psi <= 2.0:
            raise ValueError(f"psi must be from 0 to 2, found {self.psi!r}")


def scene_of(generator: Generator, scene: int | Latent | Scene) -> Scene:
    """Return the scene that a seed or a latent names. Raises ValueError for a bad seed or a latent of another generator."""
    if isinstance(scene, Scene):
        check_seed(int(scene.seeds[0]))
        return scene
    if not isinstance(scene, Latent):
        check_seed(scene)
        return Scene.of([scene], generator.z_dim, device_of(generator))
    check_seed(scene.seed)
    if isinstance(generator, StyleGenerator):
        styles = (generator.num_ws, generator.w_mean.shape[-1])
        if scene.w.shape != styles:
            raise ValueError(f"the latent has styles {tuple(scene.w.shape)}, this generator takes {styles}: it is another one's")
    return scene.scene(generator.z_dim, device_of(generator))


def check_request(generator: Generator, request: RenderRequest) -> None:
    """Raise ValueError if the generator cannot draw the request: the latent, the window or the tile does not fit it."""
    scene_of(generator, request.scene)
    generator.geometry.chart.check(request.window)
    lattice = generator.geometry.lattice_px
    if request.tile < lattice:
        raise ValueError(f"tile must be at least the generator's lattice, {lattice} pixels, found {request.tile}")


def check_seed(seed: int) -> None:
    """Raise ValueError if a seed is not a whole number from 0 to 2^40 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"seed must be a whole number from 0 to 2^40 - 1, found {seed!r}")

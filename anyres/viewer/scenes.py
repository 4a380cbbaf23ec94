"""Scenes that are more than a seed: with edited geometry, painted with several styles, or fitted to a photograph."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anyres.export.bundle import Model
from anyres.networks.generator import SEED_LIMIT, Edit, Generator, StyleGenerator, device_of
from anyres.networks.scene import Scene
from anyres.synthesis import edit, fuse
from anyres.synthesis.latent import Latent
from anyres.synthesis.request import scene_of

# Scenes in memory; a page sends its scene again if it was dropped.
SCENES_LIMIT = 512
# Latents of photographs on disk.
LATENTS_LIMIT = 256
# How a photograph becomes a scene: the nearest styles of a generator of frames, or a part of an unbounded canvas.
FitMethod = Literal["project", "outpaint"]

SCENE_ID = re.compile(r"s[0-9a-f]{32}")
LATENT_ID = re.compile(r"[0-9a-f]{32}")

Number = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Point = tuple[Number, Number]
Factor = Annotated[float, Field(ge=0.05, le=20, allow_inf_nan=False)]
Tilt = Annotated[float, Field(ge=-0.9, le=0.9, allow_inf_nan=False)]
Radius = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT, strict=True)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Aspect(_Section):
    """Stretch the width by `factor` around `center`."""

    kind: Literal["aspect"]
    factor: Factor
    center: Point = (0.0, 0.0)

    def edit(self) -> Edit:
        return edit.aspect(self.factor, self.center)


class Magnify(_Section):
    """Enlarge by `factor` around `center`."""

    kind: Literal["magnify"]
    factor: Factor
    center: Point = (0.0, 0.0)

    def edit(self) -> Edit:
        return edit.magnify(self.factor, self.center)


class Turn(_Section):
    """Rotate clockwise around `center`, in degrees."""

    kind: Literal["turn"]
    degrees: Annotated[float, Field(ge=-360, le=360, allow_inf_nan=False)]
    center: Point = (0.0, 0.0)

    def edit(self) -> Edit:
        return edit.turn(self.degrees, self.center)


class Perspective(_Section):
    """Tilt backwards along x and y."""

    kind: Literal["perspective"]
    tilt: tuple[Tilt, Tilt]
    center: Point = (0.0, 0.0)

    def edit(self) -> Edit:
        return edit.perspective(*self.tilt, self.center)


class Pull(_Section):
    """Swell (power above 1) or pinch the picture within `radius` of a point."""

    kind: Literal["pull"]
    point: Point
    power: Factor
    radius: Radius

    def edit(self) -> Edit:
        return edit.pull(self.point, self.power, self.radius)


class Displace(_Section):
    """Move every point smoothly by about `strength` plane units."""

    kind: Literal["displace"]
    strength: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
    scale: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] = 0.5
    seed: Seed = 0

    def edit(self) -> Edit:
        return edit.displace(self.strength, self.scale, self.seed)


AnyEdit = Annotated[Aspect | Magnify | Turn | Perspective | Pull | Displace, Field(discriminator="kind")]


class Stroke(_Section):
    """The style of a seed within `radius` of a line."""

    seed: Seed
    points: Annotated[tuple[Point, ...], Field(min_length=1, max_length=256)]
    radius: Radius


class Recipe(_Section):
    """A scene: the fields and the style of `seed` or the `latent` of a photograph, styles painted over it, and edits.

    Edits apply to the picture in their order. `softness` is the share of a stroke's radius over which it fades.
    """

    seed: Seed = 0
    latent: Annotated[str, Field(pattern=f"^{LATENT_ID.pattern}$")] | None = None
    strokes: Annotated[tuple[Stroke, ...], Field(max_length=64)] = ()
    softness: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    edits: Annotated[tuple[AnyEdit, ...], Field(max_length=32)] = ()

    @property
    def id(self) -> str:
        """The id of the scene, a hash of its content: equal in every process."""
        return "s" + hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]


@dataclass(frozen=True)
class PreparedScene:
    """A scene that is ready to be drawn. `psi` is its own truncation; None takes the truncation of the request."""

    recipe: Recipe
    scene: Scene
    edit: Edit | None
    psi: float | None

    def __str__(self) -> str:
        return self.recipe.id

    def facts(self) -> dict[str, Any]:
        """The metadata of a picture of it; JSON types."""
        return {"Scene": self.recipe.model_dump(mode="json", exclude_defaults=True)}


class SceneStore:
    """The scenes that pages sent, by model and id. Evicts the least recently used. Not thread-safe."""

    def __init__(self, latents: LatentStore) -> None:
        self._latents = latents
        self._scenes: OrderedDict[tuple[str, str], PreparedScene] = OrderedDict()

    def put(self, model: Model, digest: str, recipe: Recipe) -> PreparedScene:
        """Prepare and store a scene of the model `digest`. Raises ValueError, one line, if the model cannot draw it."""
        cached = self.get(digest, recipe.id)
        if cached is not None:
            return cached
        scene = self._scenes[digest, recipe.id] = prepare_scene(model.generator, recipe, self._latents)
        while len(self._scenes) > SCENES_LIMIT:
            self._scenes.popitem(last=False)
        return scene

    def get(self, digest: str, scene_id: str) -> PreparedScene | None:
        """The scene of that id, or None if it was never stored or was evicted."""
        scene = self._scenes.get((digest, scene_id))
        if scene is not None:
            self._scenes.move_to_end((digest, scene_id))
        return scene


class LatentStore:
    """Latents of photographs as files under `root`, named by their hash. Evicts the least recently used."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, latent: Latent) -> str:
        """Store a latent and return its id."""
        self._root.mkdir(parents=True, exist_ok=True)
        raw = self._root / "latent.part"
        latent.save(raw)
        latent_id = hashlib.sha256(raw.read_bytes()).hexdigest()[:32]
        raw.replace(self._path(latent_id))
        stored = [path for path in self._root.glob("*.safetensors") if LATENT_ID.fullmatch(path.stem)]
        for path in sorted(stored, key=lambda path: path.stat().st_mtime_ns)[:-LATENTS_LIMIT]:
            path.unlink(missing_ok=True)
        return latent_id

    def get(self, latent_id: str) -> Latent:
        """The latent of that id. Raises ValueError, one line, if it was never stored or was evicted."""
        path = self._path(latent_id)
        if not path.is_file():
            raise ValueError("the photograph of this scene is not stored here any more; upload it again")
        path.touch()
        return Latent.load(path)

    def _path(self, latent_id: str) -> Path:
        assert LATENT_ID.fullmatch(latent_id)
        return self._root / f"{latent_id}.safetensors"


def prepare_scene(generator: Any, recipe: Recipe, latents: LatentStore) -> PreparedScene:
    """Prepare a scene for drawing. Raises ValueError, one line, if the generator cannot draw it."""
    psi = None
    if recipe.edits and not isinstance(generator, StyleGenerator):
        raise ValueError("this model cannot edit the geometry of its pictures")
    if recipe.latent is not None:
        if recipe.strokes:
            raise ValueError("styles cannot be painted over a photograph's scene; paint over a seed's")
        # A fitted latent is drawn as it is, without truncation.
        psi, scene = 1.0, scene_of(generator, latents.get(recipe.latent))
    elif recipe.strokes:
        scene = _painted(generator, recipe)
    else:
        scene = Scene.of([recipe.seed], generator.z_dim, device_of(generator))
    return PreparedScene(recipe, scene, edit.compose([step.edit() for step in recipe.edits]), psi)


def fit_method(generator: Generator) -> FitMethod | None:
    """How a generator fits photographs; None if it cannot."""
    if generator.draws_regions:
        return "outpaint"
    return "project" if isinstance(generator, StyleGenerator) else None


def _painted(generator: Generator, recipe: Recipe) -> Scene:
    if not generator.draws_regions:
        raise ValueError("this model draws one style per picture; use a model of infinity_gan for several")
    seeds = list(dict.fromkeys([recipe.seed, *(stroke.seed for stroke in recipe.strokes)]))
    shares = fuse.brush_shares(_strokes(recipe.strokes, seeds), len(seeds), recipe.softness)
    return fuse.fuse_styles(seeds, generator.z_dim, shares, device_of(generator))


def _strokes(strokes: Sequence[Stroke], seeds: list[int]) -> list[fuse.Stroke]:
    return [fuse.Stroke(seeds.index(stroke.seed), stroke.points, stroke.radius) for stroke in strokes]

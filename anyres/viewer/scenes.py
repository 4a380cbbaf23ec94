"""Scenes that are more than a seed: edited in their geometry, painted with several styles, or found from a photograph."""

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
from anyres.networks import InfinityGan
from anyres.networks.generator import SEED_LIMIT, Edit, StyleGenerator, device_of
from anyres.networks.scene import Scene
from anyres.synthesis import edit, fuse
from anyres.synthesis.latent import Latent
from anyres.synthesis.request import scene_of

# Scenes that are remembered; a page that comes back tells its own again.
REMEMBERED = 512
# Photographs whose scenes are kept on disk.
LATENTS_KEPT = 256
# What becomes of photographs: the nearest styles of a generator of frames, or a part of an unbounded canvas.
Way = Literal["project", "outpaint"]

ID = re.compile(r"s[0-9a-f]{32}")
LATENT = re.compile(r"[0-9a-f]{32}")

Number = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Point = tuple[Number, Number]
Factor = Annotated[float, Field(ge=0.05, le=20, allow_inf_nan=False)]
Tilt = Annotated[float, Field(ge=-0.9, le=0.9, allow_inf_nan=False)]
Radius = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT, strict=True)]


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Aspect(_Told):
    """So many times as wide about `center`."""

    kind: Literal["aspect"]
    factor: Factor
    center: Point = (0.0, 0.0)

    def edit(self) -> Edit:
        return edit.aspect(self.factor, self.center)


class Magnify(_Told):
    """So many times as large about `center`."""

    kind: Literal["magnify"]
    factor: Factor
    center: Point = (0.0, 0.0)

    def edit(self) -> Edit:
        return edit.magnify(self.factor, self.center)


class Turn(_Told):
    """Clockwise about `center`, in degrees."""

    kind: Literal["turn"]
    degrees: Annotated[float, Field(ge=-360, le=360, allow_inf_nan=False)]
    center: Point = (0.0, 0.0)

    def edit(self) -> Edit:
        return edit.turn(self.degrees, self.center)


class Perspective(_Told):
    """Leant back along x and y."""

    kind: Literal["perspective"]
    tilt: tuple[Tilt, Tilt]
    center: Point = (0.0, 0.0)

    def edit(self) -> Edit:
        return edit.perspective(*self.tilt, self.center)


class Pull(_Told):
    """Swollen (power above 1) or pinched within `radius` of a point."""

    kind: Literal["pull"]
    point: Point
    power: Factor
    radius: Radius

    def edit(self) -> Edit:
        return edit.pull(self.point, self.power, self.radius)


class Displace(_Told):
    """Every place moved by about `strength` plane units, smoothly."""

    kind: Literal["displace"]
    strength: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
    scale: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] = 0.5
    seed: Seed = 0

    def edit(self) -> Edit:
        return edit.displace(self.strength, self.scale, self.seed)


AnyEdit = Annotated[Aspect | Magnify | Turn | Perspective | Pull | Displace, Field(discriminator="kind")]


class Stroke(_Told):
    """The style of a seed within `radius` of a line."""

    seed: Seed
    points: Annotated[tuple[Point, ...], Field(min_length=1, max_length=256)]
    radius: Radius


class Recipe(_Told):
    """What a scene is made of: the fields and the style of `seed` or a photograph's `latent`, styles painted over it, and edits.

    Edits apply to the picture in their order. `softness` is the share of a stroke's radius over which it fades.
    """

    seed: Seed = 0
    latent: Annotated[str, Field(pattern=f"^{LATENT.pattern}$")] | None = None
    strokes: Annotated[tuple[Stroke, ...], Field(max_length=64)] = ()
    softness: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    edits: Annotated[tuple[AnyEdit, ...], Field(max_length=32)] = ()

    @property
    def id(self) -> str:
        """The name of the scene, the same everywhere."""
        return "s" + hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Subject:
    """A scene made ready to be drawn. `psi` is its own truncation, None where it takes the one that is asked for."""

    recipe: Recipe
    scene: Scene
    edit: Edit | None
    psi: float | None

    def __str__(self) -> str:
        return self.recipe.id

    def about(self) -> dict[str, Any]:
        """What a file says of it; JSON types."""
        return {"Scene": self.recipe.model_dump(mode="json", exclude_defaults=True)}


class Scenes:
    """The scenes that pages have told of lately, by model and name. For one thread."""

    def __init__(self, latents: Latents) -> None:
        self._latents = latents
        self._known: OrderedDict[tuple[str, str], Subject] = OrderedDict()

    def put(self, model: Model, digest: str, recipe: Recipe) -> Subject:
        """Remember a scene of the model `digest`. Raises ValueError, one line, where the model cannot draw it."""
        known = self.get(digest, recipe.id)
        if known is not None:
            return known
        subject = self._known[digest, recipe.id] = made(model, recipe, self._latents)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return subject

    def get(self, digest: str, name: str) -> Subject | None:
        """The scene of that name, or None where it was not told of, or long ago."""
        found = self._known.get((digest, name))
        if found is not None:
            self._known.move_to_end((digest, name))
        return found


class Latents:
    """Found scenes of photographs as files under `root`, named by what they hold; the longest unused go first."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, latent: Latent) -> str:
        """Keep a latent; return its name."""
        self._root.mkdir(parents=True, exist_ok=True)
        raw = self._root / "found.part"
        latent.save(raw)
        name = hashlib.sha256(raw.read_bytes()).hexdigest()[:32]
        raw.replace(self._path(name))
        kept = [path for path in self._root.glob("*.safetensors") if LATENT.fullmatch(path.stem)]
        for path in sorted(kept, key=lambda path: path.stat().st_mtime_ns)[:-LATENTS_KEPT]:
            path.unlink(missing_ok=True)
        return name

    def get(self, name: str) -> Latent:
        """Raises ValueError, one line, where it is not there (any more)."""
        path = self._path(name)
        if not path.is_file():
            raise ValueError("the photograph of this scene is not kept here any more; drop it again")
        path.touch()
        return Latent.load(path)

    def _path(self, name: str) -> Path:
        assert LATENT.fullmatch(name)
        return self._root / f"{name}.safetensors"


def made(model: Model, recipe: Recipe, latents: Latents) -> Subject:
    """A scene made ready. Raises ValueError, one line, where the model cannot draw it."""
    generator = model.generator
    psi = None
    if recipe.edits and not isinstance(generator, StyleGenerator):
        raise ValueError("this model takes no edits of its geometry")
    if recipe.latent is not None:
        if recipe.strokes:
            raise ValueError("a photograph's scene takes no painted styles; paint on a seed's")
        # Of a latent there is nothing to truncate: it is what it is.
        psi, scene = 1.0, scene_of(generator, latents.get(recipe.latent))
    elif recipe.strokes:
        scene = _painted(generator, recipe)
    else:
        scene = Scene.of([recipe.seed], generator.z_dim, device_of(generator))
    return Subject(recipe, scene, edit.compose([told.edit() for told in recipe.edits]), psi)


def takes(generator: Any) -> Way | None:
    """What becomes of photographs with a generator."""
    if isinstance(generator, InfinityGan):
        return "outpaint"
    return "project" if isinstance(generator, StyleGenerator) else None


def paints(model: Model) -> bool:
    """Whether a model draws several styles over one canvas."""
    return bool(getattr(model.generator, "draws_parts", False))


def _painted(generator: Any, recipe: Recipe) -> Scene:
    if not getattr(generator, "draws_parts", False):
        raise ValueError("this model draws one style a picture; infinity_gan draws several")
    seeds = list(dict.fromkeys([recipe.seed, *(stroke.seed for stroke in recipe.strokes)]))
    shares = fuse.brushed(_strokes(recipe.strokes, seeds), len(seeds), recipe.softness)
    return fuse.fused(seeds, generator.z_dim, shares, device_of(generator))


def _strokes(strokes: Sequence[Stroke], seeds: list[int]) -> list[fuse.Stroke]:
    return [fuse.Stroke(seeds.index(stroke.seed), stroke.points, stroke.radius) for stroke in strokes]

"""Typed, bounded sections of params.yaml: the only place where a hyper-parameter has a value."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

Byte = Annotated[int, Field(ge=0, le=255)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Side = Annotated[int, Field(ge=8, le=8192)]
Width = Annotated[int, Field(ge=1, le=4096)]

# The smallest picture of which the backbone lite0 has a map at every stage.
LITE0_PX = 32


class ParamsError(ValueError):
    """A value in params.yaml is wrong. The message is one line: file, key, what is wrong, what to do."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Licence = Literal[
    "cc0", "pdm", "by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd", "no-known-copyright", "us-government"
]  # fmt: skip


class Ingest(Section):
    source: Literal["packages", "folder", "urls", "flickr", "google", "huggingface"]
    set: Literal["deepsky", "photos", "pano"]
    folder: Annotated[str, Field(min_length=1)]
    list: Annotated[str, Field(min_length=1)]
    queries: tuple[Annotated[str, Field(min_length=1)], ...]
    licences: tuple[Licence, ...]
    dataset: str
    split: Annotated[str, Field(min_length=1)]
    column: Annotated[str, Field(min_length=1)]
    limit: Annotated[int, Field(ge=1)]
    max_mb: Annotated[float, Field(gt=0)]
    min_side_px: Annotated[int, Field(ge=8)]
    max_mpx: Annotated[float, Field(gt=0)]
    animated: Literal["refuse", "first_frame"]
    background: tuple[Byte, Byte, Byte]
    near_duplicates: Literal["refuse", "keep"]
    decode_s: Annotated[float, Field(gt=0)]
    decode_mb: Annotated[int, Field(ge=256)]
    shard_files: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _has_a_source(self) -> Ingest:
        if self.source in ("flickr", "google") and not self.queries:
            raise ValueError(f"queries is empty; name at least one to search {self.source} for")
        if self.source in ("flickr", "google") and not self.licences:
            raise ValueError("licences is empty; name those that you accept")
        if self.source == "huggingface" and not self.dataset:
            raise ValueError("dataset is empty; name one of huggingface.co, or a folder")
        return self


class Prepare(Section):
    tile_px: Annotated[int, Field(ge=16, le=4096, multiple_of=16)]
    codec: Literal["deflate", "jpeg"]
    jpeg_quality: Annotated[int, Field(ge=50, le=100)]


class ExactNetwork(Section):
    """Network of continuum: the pad-free trunk."""

    z_dim: Width
    w_dim: Width
    mapping_layers: Annotated[int, Field(ge=1, le=16)]
    stem_layers: Annotated[int, Field(ge=0, le=16)]
    channels: Annotated[tuple[Width, ...], Field(min_length=2, max_length=8)]
    octaves: Literal["auto"] | Annotated[int, Field(ge=1, le=24)]
    features_per_octave: Annotated[int, Field(ge=2, le=256, multiple_of=2)]
    # Missing in the params of models trained before they existed.
    noise: Literal["shared", "levels"] = "levels"
    noise_strength: Annotated[float, Field(ge=0, le=1)] = 0.0
    phases: Literal["scene", "common"] = "common"

    @property
    def cell_px(self) -> int:
        """Return the pixels of a cell of the coarsest level."""
        return 2 ** (len(self.channels) - 1)


class AliasFreeNetwork(Section):
    """Network of anyres_gan: the alias-free trunk."""

    z_dim: Width
    w_dim: Width
    mapping_layers: Annotated[int, Field(ge=1, le=16)]
    layers: Annotated[int, Field(ge=4, le=20)]
    channel_base: Annotated[int, Field(ge=64, le=2**20)]
    channel_max: Width
    input_octaves: Annotated[int, Field(ge=0, le=16)]
    output: Literal["linear", "tanh"]


class GridNetwork(Section):
    """Network of scaleparty, the pad-free trunk on plain coordinates, and of its baselines, which ignore `npad`."""

    z_dim: Width
    w_dim: Width
    mapping_layers: Annotated[int, Field(ge=1, le=16)]
    channels: Annotated[tuple[Width, ...], Field(min_length=2, max_length=8)]
    npad: Literal[3, 4]
    noise: Literal["grid_sample", "constant", "random"]
    noise_maps: Literal["level", "layer"]

    @property
    def cell_px(self) -> int:
        """Return the pixels of a cell of the coarsest level."""
        return 2 ** (len(self.channels) - 1)


class InfinityNetwork(Section):
    """Network of infinity_gan: a structure from local latents, and a texture on it."""

    z_dim: Width
    w_dim: Width
    mapping_layers: Annotated[int, Field(ge=1, le=16)]
    local_dim: Width
    structure_channels: Width
    structure_layers: Annotated[int, Field(ge=1, le=8)]
    structure_kernel: Literal[3, 5, 7]
    structure_z: Literal["normalized", "raw"]
    output: Literal["linear", "tanh"]
    rgb_doubling: Literal["smooth", "linear"]
    channels: Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)]

    @property
    def cell_px(self) -> int:
        """Return the pixels of a cell of the structure."""
        return 2 ** len(self.channels)


# Each network has one key that no other has.
KINDS = {
    "anyres_gan": (AliasFreeNetwork, "channel_base"),
    "scaleparty": (GridNetwork, "npad"),
    "infinity_gan": (InfinityNetwork, "local_dim"),
    "continuum": (ExactNetwork, "octaves"),
}


# Methods that take the network section of scaleparty.
BASELINES = ("ms_pie", "ms_pe", "cips", "stylegan2")


def _kind(network: Any) -> str:
    """Return the method whose network has the keys of a section."""
    for method, (section, key) in KINDS.items():
        if isinstance(network, section) or (isinstance(network, dict) and key in network):
            return method
    return "continuum"


Network = Annotated[
    Annotated[ExactNetwork, Tag("continuum")]
    | Annotated[AliasFreeNetwork, Tag("anyres_gan")]
    | Annotated[GridNetwork, Tag("scaleparty")]
    | Annotated[InfinityNetwork, Tag("infinity_gan")],
    Discriminator(_kind),
]


class DiscriminatorNetwork(Section):
    """The discriminator, which is the same for all methods."""

    channels: Annotated[tuple[Width, ...], Field(min_length=2, max_length=10)]
    attention_heads: Annotated[int, Field(ge=0, le=64)]
    pooled_px: Annotated[int, Field(ge=1, le=16)]
    downsample: Literal["average", "blur"]

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> DiscriminatorNetwork:
        if self.attention_heads and self.channels[-1] % self.attention_heads:
            raise ValueError(f"attention_heads {self.attention_heads} must divide the last of channels, {self.channels[-1]}")
        return self


class Projected(Section):
    """Discriminator heads on the features of a frozen network."""

    weight: Annotated[float, Field(ge=0)]
    taps: Annotated[tuple[Literal[2, 4, 8, 16, 32], ...], Field(min_length=1)]
    width: Annotated[int, Field(ge=1, le=1024)]
    lr: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def _taps_run_from_fine_to_coarse(self) -> Projected:
        if list(self.taps) != sorted(set(self.taps)):
            raise ValueError(f"taps {list(self.taps)} must run from fine to coarse, each once, like [4, 8, 16]")
        return self


class Loss(Section):
    name: Literal["relativistic", "non_saturating"]
    r1_gamma: Annotated[float, Field(ge=0)]
    r2_gamma: Annotated[float, Field(ge=0)]
    penalty_every: Annotated[int, Field(ge=1)]
    feature_matching: Annotated[float, Field(ge=0)]
    matching_features: Literal["discriminator", "lite0"]
    diversity: Annotated[float, Field(ge=0)]
    vertical: Annotated[float, Field(ge=0)]
    vertical_head: Literal["shared", "separate"]
    # Missing in the params of models trained before it existed.
    consistency: Annotated[float, Field(ge=0)] = 0.0
    path_length: Annotated[float, Field(ge=0)]
    path_norm: Literal["sum", "mean"]
    path_every: Annotated[int, Field(ge=1)]
    style_mixing: Probability
    # Missing in the params of models trained before it existed.
    projected: Projected = Projected(weight=0.0, taps=(4, 8, 16), width=64, lr=0.002)


class Stages(Section):
    """Two stages, whole frames and then patches with a teacher: anyres_gan's recipe, for any method."""

    global_kimg: Annotated[float, Field(ge=0)]
    global_share: Probability
    teacher: str
    teacher_weight: Annotated[float, Field(ge=0)]
    teacher_direction: Literal["inverse", "forward"]
    perceptual: Literal["lite0", "lpips", "none"]


class Pairs(Section):
    """Windows drawn at two sizes, for consistency over scales: ScaleParty's recipe, for any method."""

    ratio: Annotated[float, Field(gt=1, le=4)]
    share: Probability
    large_share: Probability
    cutmix: bool
    channelmix: bool
    mix_reals: bool
    l1: Annotated[float, Field(ge=0)]


class Optimizer(Section):
    g_lr: Annotated[float, Field(gt=0, le=1)]
    d_lr: Annotated[float, Field(gt=0, le=1)]
    beta1: Annotated[float, Field(ge=0, lt=1)]
    beta2: Annotated[float, Field(ge=0, lt=1)]
    ema_half_life_kimg: Annotated[float, Field(gt=0)]
    warmup_kimg: Annotated[float, Field(ge=0)]
    lazy_scaling: bool
    # Missing in the params of models trained before it existed.
    final_rate: Annotated[float, Field(gt=0, le=1)] = 1.0


class Monitor(Section):
    """A small evaluation during the training, on the running mean of the weights."""

    every_kimg: Annotated[float, Field(ge=0)]
    samples: Annotated[int, Field(ge=20)]
    patience: Annotated[int, Field(ge=0)]
    keep: Literal["best", "last"]


class Train(Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    method: Literal["continuum", "anyres_gan", "scaleparty", "infinity_gan", "ms_pie", "ms_pe", "cips", "stylegan2"]
    kimg: Annotated[float, Field(gt=0)]
    batch: Annotated[int, Field(ge=1)]
    precision: Literal["auto", "no", "bf16"]
    chart: Literal["frame", "plane", "cylinder"]
    fov: Annotated[float, Field(gt=0, le=360)]
    patch_px: tuple[Side, Side]
    zoom_max: Annotated[float, Field(ge=1, le=2**16)]
    period_law: Literal["log_uniform", "uniform_size", "uniform_extent", "fixed"]
    flip: Probability
    # Missing in the params of models trained before it existed.
    symmetry: Literal["square", "mirror"] = "mirror"
    network: Network
    discriminator: DiscriminatorNetwork
    stages: Stages
    pairs: Pairs
    loss: Loss
    optimizer: Optimizer
    monitor: Monitor
    report_every_kimg: Annotated[float, Field(gt=0)]
    sample_every_kimg: Annotated[float, Field(gt=0)]
    checkpoint_every_kimg: Annotated[float, Field(gt=0)]

    @property
    def two_sizes(self) -> bool:
        """Whether some windows are drawn at a second, larger size."""
        return self.pairs.share > 0 or self.pairs.large_share > 0

    @property
    def large_px(self) -> tuple[int, int]:
        """Height and width of a window drawn at the larger size."""
        height, width = (round(side * self.pairs.ratio) for side in self.patch_px)
        return height, width

    @property
    def patch_sizes(self) -> tuple[tuple[int, int], ...]:
        """Sizes that training draws, small to large."""
        return (self.patch_px, self.large_px) if self.two_sizes else (self.patch_px,)

    @property
    def finest_zoom(self) -> float:
        """Largest zoom that training draws at."""
        return self.zoom_max * (self.pairs.ratio if self.two_sizes else 1)

    @property
    def octaves(self) -> int:
        """Octave bands of continuum's input: `auto` takes those that are heard at the finest period of the training."""
        assert isinstance(self.network, ExactNetwork)
        if self.network.octaves != "auto":
            return self.network.octaves
        # Band k of waves begins at 2^(k-1) cycles over a short side. It is heard up to half of the rate of cells, which are
        # this many over a short side.
        cells = self.finest_zoom * min(self.patch_px) / self.network.cell_px
        return max(math.ceil(math.log2(cells) - 1e-9), 1)

    @model_validator(mode="after")
    def _fits_together(self) -> Train:
        kind = "scaleparty" if self.method in BASELINES else self.method
        if _kind(self.network) != kind:
            raise ValueError(
                f"network holds the keys of {_kind(self.network)}, method is {self.method}; type `anyres preset {kind}-small`"
            )
        if self.loss.diversity and self.method != "infinity_gan":
            raise ValueError(f"loss.diversity is of infinity_gan's local latents, {self.method} has none; set it to 0")
        if isinstance(self.network, AliasFreeNetwork):
            # The alias-free schedule starts at 16 samples for a patch.
            short = min(self.patch_px)
            if short & (short - 1) or short < 32 or max(self.patch_px) % (short // 16):
                raise ValueError(f"patch_px {self.patch_px} must have a power of two from 32 on as its short side")
            cell = short // 16
        elif isinstance(self.network, InfinityNetwork):
            # It draws whole cells and crops them, so any size is possible.
            cell = 1
        else:
            cell = self.network.cell_px
        if any(side % cell for side in self.patch_px):
            raise ValueError(f"patch_px {self.patch_px} must be multiples of {cell}, the pixels of a cell of the network")
        if self.two_sizes and any(
            large % cell or large != side * self.pairs.ratio for large, side in zip(self.large_px, self.patch_px, strict=True)
        ):
            raise ValueError(
                f"pairs.ratio {self.pairs.ratio:g} must make patches of {self.patch_px} multiples of {cell} pixels, "
                "those of a cell of the network"
            )
        if self.loss.consistency and any(side % (2 * cell) for size in self.patch_sizes for side in size):
            sizes = " and ".join(f"{height} x {width}" for height, width in self.patch_sizes)
            raise ValueError(
                f"loss.consistency draws patches of {sizes} at half their size too, which must be multiples of {cell} pixels, "
                "those of a cell of the network; set it to 0, or change patch_px or pairs.ratio"
            )
        if self.loss.feature_matching and self.loss.matching_features == "lite0" and min(self.patch_px) < LITE0_PX:
            raise ValueError(
                f"loss.matching_features lite0 takes patches from {LITE0_PX} pixels on, patch_px is {self.patch_px}; "
                "set it to discriminator"
            )
        coarsest = self.loss.projected.taps[-1]
        if self.loss.projected.weight and min(self.patch_px) < coarsest:
            raise ValueError(
                f"loss.projected.taps {coarsest} needs patches of {coarsest} pixels or more a side; "
                f"leave it out, or raise patch_px {self.patch_px}"
            )
        if self.symmetry == "square" and (self.chart == "cylinder" or self.patch_px[0] != self.patch_px[1]):
            raise ValueError("symmetry square turns pictures by 90 degrees: patch_px must be square and chart no cylinder")
        stages = self.stages
        if stages.teacher and (stages.global_kimg or not stages.teacher_weight):
            raise ValueError(
                f"stages.teacher {stages.teacher!r} takes the place of a first stage; "
                "set stages.global_kimg to 0 and stages.teacher_weight above 0, or leave stages.teacher empty"
            )
        if stages.teacher_weight and not stages.teacher and not 0 < stages.global_kimg < self.kimg:
            raise ValueError(
                f"stages.global_kimg {stages.global_kimg:g} must lie between 0 and kimg {self.kimg:g}: "
                "the teacher of the second stage is what the first one learns"
            )
        if self.monitor.patience and not self.monitor.every_kimg:
            raise ValueError("monitor.patience counts evaluations; set monitor.every_kimg above 0, or patience to 0")
        return self


class Evaluate(Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    features: Annotated[tuple[Literal["lite0", "lite1", "inception", "dinov2"], ...], Field(min_length=1)]
    num_samples: Annotated[int, Field(ge=8)]
    num_sweep_samples: Annotated[int, Field(ge=8)]
    sizes: Annotated[tuple[Side, ...], Field(min_length=1)]
    num_scenes: Annotated[int, Field(ge=1)]
    bootstrap: Annotated[int, Field(ge=2)]


class Export(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    metric: Literal["patch_kid", "patch_fd"]
    samples: Annotated[int, Field(ge=1, le=64)]
    weights: Literal["full", "half"]


class Params(Section):
    """All sections, one per stage."""

    ingest: Ingest
    prepare: Prepare
    train: Train
    evaluate: Evaluate
    export: Export

    @classmethod
    def load(cls, path: str | Path = "params.yaml") -> Params:
        """Read and check `path` (YAML 1.2).

        Raises ParamsError, one line, on a missing file, bad YAML, an unknown key, a wrong type or bound.
        """
        # Imported here: a consumer of an exported generator types its params without a YAML reader.
        from ruamel.yaml import YAML, YAMLError

        path = Path(path)
        try:
            values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ParamsError(f"{path}: no such file; run from the folder that holds params.yaml") from None
        except (YAMLError, UnicodeDecodeError) as error:
            raise ParamsError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise ParamsError(f"{path}: expected sections {', '.join(cls.model_fields)}, found {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ParamsError(f"{path}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """Put the problems of a validation error in one line: key, what is wrong, value, cure."""
    return "; ".join(_problem(item) for item in error.errors())


def _problem(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    match item["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; remove it or correct its spelling"
        case "missing":
            return f"{key}: missing; add it"
        case _:
            message = item["msg"].removeprefix("Value error, ")
            value = item["input"]
            suffix = "" if isinstance(value, dict) else f" (found {value!r})"
            return f"{key}: {message[0].lower() + message[1:]}{suffix}"

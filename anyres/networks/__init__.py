"""Networks. A generator is a module: forward(scene, windows) -> pictures in [-1, 1], plus its declared geometry."""

from __future__ import annotations

from collections.abc import Callable

from anyres.networks.anyres_gan import AnyresGan
from anyres.networks.baselines import Cips, MsPe, MsPie, SingleScale
from anyres.networks.continuum import Continuum
from anyres.networks.discriminator import Discriminator
from anyres.networks.generator import StyleGenerator
from anyres.networks.infinity_gan import InfinityGan
from anyres.networks.scaleparty import ScaleParty
from anyres.networks.scene import Scene
from anyres.params import Train

__all__ = [
    "AnyresGan",
    "Continuum",
    "Discriminator",
    "InfinityGan",
    "ScaleParty",
    "Scene",
    "StyleGenerator",
    "build_discriminator",
    "build_generator",
]

GENERATORS: dict[str, Callable[[Train, tuple[float, float]], StyleGenerator]] = {
    "continuum": Continuum,
    "anyres_gan": AnyresGan,
    "scaleparty": ScaleParty,
    "infinity_gan": InfinityGan,
    "ms_pie": MsPie,
    "ms_pe": MsPe,
    "cips": Cips,
    "stylegan2": SingleScale,
}


def build_generator(params: Train, half_extent: tuple[float, float] = (1.0, 1.0)) -> StyleGenerator:
    """Construct the generator of `params.method`; `half_extent` bounds the frame of its data."""
    return GENERATORS[params.method](params, half_extent)


def build_discriminator(params: Train) -> Discriminator:
    """Construct the discriminator that every method shares."""
    network = params.discriminator
    reads_height = params.loss.vertical > 0
    return Discriminator(
        network.channels,
        network.attention_heads,
        network.pooled_px,
        blurs=network.downsample == "blur",
        reads_height=reads_height,
        own_height_layers=params.loss.vertical_head == "separate",
    )

"""anyres_gan: counts of the paper, the first stage inside the second, a scale that is heard, and how far shifts commute."""

from __future__ import annotations

import math

import pytest
import torch

from anyres.networks import AnyresGan, Scene, build_discriminator
from anyres.params import Train
from anyres.plane.window import Window

PAPER = {
    "z_dim": 512,
    "w_dim": 512,
    "mapping_layers": 2,
    "layers": 14,
    "channel_base": 32768,
    "channel_max": 512,
    "input_octaves": 0,
    "output": "linear",
}
SMALL = {
    "z_dim": 16,
    "w_dim": 16,
    "mapping_layers": 2,
    "layers": 8,
    "channel_base": 512,
    "channel_max": 24,
    "input_octaves": 0,
    "output": "linear",
}
D = {"channels": (128, 256, 512, 512, 512, 512, 512), "attention_heads": 0, "pooled_px": 4, "downsample": "average"}


@pytest.fixture(scope="session")
def section(params):
    def make(network: dict, patch: tuple[int, int] = (32, 32), **changes) -> Train:
        values = params.train.model_dump() | {"method": "anyres_gan", "patch_px": patch, "zoom_max": 16.0, "batch": 8}
        return Train.model_validate(values | {"network": network, "discriminator": D} | changes)

    return make


@pytest.fixture
def generator(section) -> AnyresGan:
    torch.manual_seed(5)
    return AnyresGan(section(SMALL), (1.5, 1.0)).eval()


def at(zoom: float, center=(0.0, 0.0), size=(32, 32)) -> Window:
    return Window(center, 2 / 32 / zoom, size)


def draw(generator: AnyresGan, *windows: Window, seed: int = 1) -> torch.Tensor:
    with torch.no_grad():
        return generator(Scene.of([seed] * len(windows), generator.z_dim), list(windows))


def test_parameters_are_the_papers(section) -> None:
    paper = section(PAPER, (256, 256))
    generator = AnyresGan(paper)
    whole = sum(p.numel() for p in generator.parameters())
    added = sum(p.numel() for p in generator.scale_parameters())
    judge = sum(p.numel() for p in build_discriminator(paper).parameters())
    assert [round(count / 1e6, 2) for count in (whole - added, whole, judge)] == [28.47, 31.90, 28.86]


def test_without_scale_weights_it_is_the_first_stages_network_bit_for_bit(generator: AnyresGan) -> None:
    with_scale = draw(generator, at(1))
    generator.scale.forward = lambda zoom: torch.full((len(zoom), 16), 3.0)  # type: ignore[method-assign]
    assert torch.equal(draw(generator, at(1)), with_scale)


def test_the_embedding_tells_zooms_apart_and_is_heard(generator: AnyresGan) -> None:
    zooms = torch.tensor([1.0, 2.0, 4.0, 8.0])
    embedded = generator.scale(zooms)
    distances = torch.cdist(embedded, embedded) + torch.eye(4) * 9
    assert distances.min() > 0.05 * embedded.norm(dim=1).mean()
    # As after training: no zero weights any more. The same window, another embedding.
    with torch.no_grad():
        for layer in generator.layers:
            layer.scale_style.weight.normal_(std=0.3)
    one = draw(generator, at(2))
    scale = generator.scale.forward
    generator.scale.forward = lambda zoom: scale(2 * zoom)  # type: ignore[method-assign]
    assert (draw(generator, at(2)) - one).abs().mean() > 1e-3


def test_patch_coordinates_are_a_slice_of_the_whole_grid(generator: AnyresGan) -> None:
    """The input features of a tile equal those of the big canvas there, but for their margins."""
    whole = Window((0.1, -0.05), 2 / 32 / 3, (96, 64))
    with torch.no_grad():
        w = generator.styles(torch.randn(1, 16))
        generator.input.place.weight.normal_(std=0.2)
        features = generator.input(w, [whole])
        part = generator.input(w, [whole.crop(32, 16, (32, 32))])
    cell = generator.geometry.lattice_px
    rows, columns = 32 // cell, 16 // cell
    torch.testing.assert_close(part, features[:, :, rows : rows + 36, columns : columns + 36], atol=2e-5, rtol=1e-4)


def test_features_above_the_grids_nyquist_rate_are_silent(generator: AnyresGan) -> None:
    generator.input.frequencies.copy_(torch.full_like(generator.input.frequencies, 30.0))
    w = generator.styles(torch.randn(1, 16))
    assert generator.input(w, [at(1)]).abs().max() == 0
    assert generator.input(w, [at(8)]).abs().max() > 0


@pytest.mark.parametrize("size", [(32, 48), (64, 32), (30, 40)])
def test_any_canvas_is_drawn(generator: AnyresGan, size: tuple[int, int]) -> None:
    assert draw(generator, at(4, size=size)).shape == (1, 3, *size)
    with pytest.raises(ValueError, match="multiples of 2 pixels"):
        draw(generator, at(4, size=(31, 32)))


def test_a_tile_is_near_the_whole(generator: AnyresGan) -> None:
    """Not exact: the margins' zeros reach in. The interior agrees to a stated bound."""
    whole = at(4, size=(96, 96))
    big = draw(generator, whole)[0, :, 40:56, 40:56]
    tile = draw(generator, whole.crop(32, 32, (32, 32)))[0, :, 8:24, 8:24]
    error = 10 * math.log10((big - big.mean()).square().mean().item() / (big - tile).square().mean().item())
    assert error > 15


@pytest.mark.parametrize(("pixels", "least"), [(4.0, 45.0), (1.3, 30.0)])
def test_moving_the_window_moves_the_picture(section, pixels: float, least: float) -> None:
    """Equivariance to translation of an untrained network, interior, in decibels (Karras et al. 2021, equation 4).

    Whole pixels against the picture moved by as many, fractions against a band-limited shift of it.
    """
    torch.manual_seed(6)
    generator = AnyresGan(section(SMALL | {"layers": 14, "channel_base": 1024, "channel_max": 32}, (64, 64))).eval()
    size = (128, 128)
    still = Window((0.0, 0.0), 2 / 64, size)
    gone = Window((pixels * still.period, 0.0), 2 / 64, size)
    with torch.no_grad():
        a, b = generator(Scene.of([1, 1], 16), [still, gone]).double()
    spectrum = torch.fft.fft(a, dim=-1)
    turned = torch.fft.ifft(spectrum * torch.exp(2j * math.pi * torch.fft.fftfreq(128) * pixels), dim=-1).real
    moved = turned if pixels % 1 else torch.roll(a, -round(pixels), dims=-1)
    inside = (slice(None), slice(32, 96), slice(32, 96))
    difference = (moved - b)[inside].square().mean()
    # Against the range of the output, [-1, 1].
    decibels = 10 * math.log10(4 / difference.item())
    assert decibels > least


def test_a_ring_closes(section) -> None:
    torch.manual_seed(7)
    generator = AnyresGan(section(SMALL, chart="cylinder"), (1.0, 0.5)).eval()
    once, again = (Window((x, 0.0), 1 / 32, (32, 32)) for x in (0.3, 2.3))
    torch.testing.assert_close(draw(generator, once), draw(generator, again), atol=1e-5, rtol=0)
    assert (draw(generator, once) - draw(generator, Window((0.5, 0.0), 1 / 32, (32, 32)))).abs().mean() > 1e-3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"patch_px": (48, 48)}, "power of two"),
        ({"patch_px": (16, 16)}, "power of two from 32"),
        ({"method": "continuum"}, "holds the keys of anyres_gan, method is continuum"),
    ],
)
def test_params_that_do_not_fit_are_refused(section, changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        section(SMALL, **changes)

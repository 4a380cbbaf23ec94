from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from anyres.networks import Scene, build_discriminator, build_generator
from anyres.networks.continuum import LOWEST_CYCLES, OctaveFeatures, OctaveFields, ScaleEmbedding
from anyres.networks.discriminator import deviation
from anyres.networks.padfree import MARGIN_CELLS, NoiseInput, Trunk
from anyres.params import Train
from anyres.plane import fields
from anyres.plane.chart import Plane
from anyres.plane.window import Window

SEED = torch.tensor([5])


def loud(module: torch.nn.Module) -> torch.nn.Module:
    """Give every silent parameter a voice: zero noise strengths and biases would hide a broken seam."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.3, generator=generator)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def generator(tiny: Train) -> torch.nn.Module:
    torch.manual_seed(1)
    return loud(build_generator(tiny.model_copy(update={"chart": "plane"})))


def draw(generator, window: Window, seed: int = 7) -> torch.Tensor:
    return generator(Scene.of([seed], generator.z_dim), [window])[0]


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_a_tile_is_the_region_of_the_whole(tiny: Train, levels):
    channels = (16, 12, 8, 8, 6)[: levels + 1]
    torch.manual_seed(2)
    network = tiny.network.model_copy(update={"channels": channels})
    generator = loud(build_generator(tiny.model_copy(update={"network": network, "chart": "plane"})))
    cell = generator.geometry.lattice_px
    assert cell == 2**levels
    window = Window((0.137, -0.291), 2 / 150, (6 * cell, 9 * cell))
    whole = draw(generator, window)
    tiles = list(window.tiles(4 * cell, cell))
    # Any order: a tile knows no other.
    for top, left, part in sorted(tiles, key=lambda tile: hash((tile[0] * 31 + tile[1]) % 7)):
        region = whole[:, top : top + part.size[0], left : left + part.size[1]]
        assert (draw(generator, part) - region).abs().max() <= 1e-5 * max(1.0, whole.abs().max().item())
    assert whole.std() > 0.05


def test_a_shift_by_a_cell_shifts_the_picture_by_its_pixels(generator):
    cell = generator.geometry.lattice_px
    window = Window((0.31, 0.12), 2 / 64, (5 * cell, 7 * cell))
    shifted = Window((0.31 + 2 * cell * window.period, 0.12 + cell * window.period), window.period, window.size)
    a, b = draw(generator, window), draw(generator, shifted)
    assert (a[:, cell:, 2 * cell :] - b[:, :-cell, : -2 * cell]).abs().max() <= 1e-5
    assert (a - b).abs().mean() > 1e-2


def test_the_same_scene_and_window_give_the_same_pixels_beside_any_other(generator):
    windows = [Window((0.1 * i, 0.0), 2 / 32 / (1 + i), (16, 24)) for i in range(3)]
    scenes = Scene.of([4, 5, 6], generator.z_dim)
    together = generator(scenes, windows)
    for i, window in enumerate(windows):
        torch.testing.assert_close(together[i], draw(generator, window, 4 + i), atol=1e-5, rtol=0)


def test_far_from_the_origin_a_tile_is_still_exact(generator):
    period = 2 / 64
    far = Window((period * 1e9, -period * 1e9), period, (24, 32))
    whole = draw(generator, far)
    part = draw(generator, far.crop(8, 16, (16, 16)))
    assert (part - whole[:, 8:24, 16:32]).abs().max() <= 1e-4
    assert whole.std() > 0.05


def test_a_cylinder_closes(tiny: Train):
    torch.manual_seed(1)
    generator = loud(build_generator(tiny.model_copy(update={"chart": "cylinder"})))
    west, east = (draw(generator, Window((x, 0.1), 2 / 48, (16, 24))) for x in (-1.0, 1.0))
    torch.testing.assert_close(west, east, atol=2e-4, rtol=0)


def test_scale_is_silent_at_first_and_its_embedding_never_dies(tiny: Train):
    generator = build_generator(tiny)
    assert not generator.scale_style.weight.any()
    embedding = ScaleEmbedding(16.0, 10)
    rows = embedding(torch.tensor([1.0, 2.0, 4.0, 8.0]))
    for a, b in itertools.combinations(rows, 2):
        assert (a - b).abs().max() > 0.05


def test_after_a_change_the_embedding_alone_changes_the_picture(generator):
    window = Window((0.0, 0.0), 2 / 32, (16, 24))
    scene = Scene.of([1], generator.z_dim)
    w = generator.styles(scene.z)
    before = generator.synthesize(w, scene, [window])
    base, generator.base_period = generator.base_period, generator.base_period * 4
    after = generator.synthesize(w, scene, [window])
    generator.base_period = base
    assert (before - after).abs().mean() > 1e-3


def test_truncation_reaches_the_mean(generator):
    z = Scene.of([1, 2], generator.z_dim).z
    torch.testing.assert_close(generator.styles(z, psi=0.0), generator.w_mean.expand(2, -1))
    half = generator.styles(z, psi=0.5)
    torch.testing.assert_close(half, (generator.styles(z) + generator.w_mean) / 2)


def test_features_are_their_slow_definition():
    chart = Plane()
    features = OctaveFeatures(3, 4, chart)
    window = Window((0.7, -0.4), 0.21, (3, 5))
    out = features([window], SEED)[0]
    half = features.outputs // 2
    for k, (fx, fy) in enumerate(features.frequencies.tolist()):
        amplitude = min(max(2 - 4 * np.hypot(fx, fy) * window.period, 0), 1) * np.sqrt(2)
        for i, j in itertools.product(range(3), range(5)):
            x, y = window.coords()[i, j]
            assert out[k, i, j] == pytest.approx(amplitude * np.sin(2 * np.pi * (fx * x + fy * y)), abs=2e-6)
            assert out[half + k, i, j] == pytest.approx(amplitude * np.cos(2 * np.pi * (fx * x + fy * y)), abs=2e-6)


def test_no_feature_is_sampled_at_its_nyquist_rate_and_octaves_fade_in():
    features = OctaveFeatures(6, 8, Plane())
    magnitude = features.frequencies.norm(dim=1)
    bands = torch.log2(magnitude / (LOWEST_CYCLES / 2)).floor().long()
    assert bands.bincount().tolist() == [4] * 6
    energies = []
    for period in (0.5, 0.25, 0.125):
        out = features([Window((0.0, 0.0), period, (8, 12))], SEED)[0]
        amplitude = (out[: len(magnitude)].square() + out[len(magnitude) :].square()).mean(dim=(1, 2)).sqrt()
        assert not amplitude[magnitude >= 0.5 / period].any()
        energies.append(int((amplitude > 0).sum()))
    assert energies[0] < energies[1] < energies[2]


def test_fields_of_the_plane_are_their_slow_definition():
    """Cubic B-splines on the lattice of each band, in double loops; edited positions take the same values."""
    fields_ = OctaveFields(3, 2, Plane())
    window = Window((1e3 + 0.7, -0.4), 0.21, (3, 5))
    out = fields_([window], SEED)[0]
    spline = lambda t: (  # noqa: E731
        max(2 - abs(t), 0) ** 3 / 6 - 4 * max(1 - abs(t), 0) ** 3 / 6
    )
    for octave, channel, i, j in itertools.product(range(3), range(2), (0, 2), (0, 3)):
        side = 1.0 / 2**octave
        amplitude = min(max(2 - 2 * window.period / side, 0), 1)
        x, y = window.coords()[i, j] / side
        total = squares = 0.0
        for a, b in itertools.product(
            range(int(np.floor(y)) - 1, int(np.floor(y)) + 3), range(int(np.floor(x)) - 1, int(np.floor(x)) + 3)
        ):
            weight = spline(y - a) * spline(x - b)
            key = fields.key(SEED, (1 << 17) + 2 * octave + channel)
            total += weight * fields.normal_from_bits(fields.lattice_bits(key, torch.tensor([[b]]), torch.tensor([[a]]))).item()
            squares += weight**2
        assert out[2 * octave + channel, i, j] == pytest.approx(amplitude * total / np.sqrt(squares), abs=2e-5)
    moved = Window((0.0, 0.0), 0.21, (3, 5))
    edited = fields_([moved], SEED, lambda places: places + np.array([1e3 + 0.7, -0.4]))[0]
    torch.testing.assert_close(edited, out, atol=1e-5, rtol=0)


def test_bands_of_the_plane_fade_in_at_unit_variance():
    fields_ = OctaveFields(6, 8, Plane())
    spreads = []
    for period in (0.5, 0.125, 0.03):
        out = fields_([Window((50.0 * k, 7.0), period, (24, 40)) for k in range(30)], SEED.repeat(30))
        spread = out.reshape(30, 6, -1).permute(1, 0, 2).flatten(1).std(dim=1)
        for octave in range(6):
            assert spread[octave].item() == pytest.approx(min(max(2 - 2 * period * 2**octave, 0), 1), abs=0.08)
        spreads.append(int((spread > 0).sum()))
    assert spreads[0] < spreads[1] < spreads[2]


@pytest.mark.parametrize("middle", [0.0, 1e9], ids=["here", "1e9"])
def test_an_unbounded_plane_is_exact_far_out_and_never_repeats(generator, middle):
    period = 2 / 100
    whole = Window((4 * round(middle / 4) * period, 0.3 * period), period, (32, 48))
    picture = draw(generator, whole)
    tile = draw(generator, whole.crop(8, 16, (16, 24)))
    assert (tile - picture[:, 8:24, 16:40]).abs().max() <= (1e-5 if middle == 0 else 1e-4)
    elsewhere = draw(generator, Window((whole.center[0] + 64.0, whole.center[1]), period, whole.size))
    assert (elsewhere - picture).abs().mean() > 0.05
    # Other scales show the same place: brought down, the finer picture is near the coarser one's neighbourhood in features.
    coarse, fine = (generator.features([Window(whole.center, s, (4, 6))], SEED) for s in (0.5, 0.4999))
    torch.testing.assert_close(coarse, fine, atol=5e-3, rtol=0)


def test_margins_are_those_of_the_construction():
    trunk = Trunk(5, (8, 6, 4, 4), style_dim=3)
    cells = (3, 4)
    features = torch.randn(1, 5, cells[0] + 2 * MARGIN_CELLS, cells[1] + 2 * MARGIN_CELLS)
    window = Window((0.0, 0.0), 0.1, (cells[0] * 8, cells[1] * 8))
    out = trunk(features, torch.randn(1, 3), torch.tensor([1]), [window], Plane())
    assert out.shape == (1, 3, 24, 32)


def test_windows_off_the_lattice_are_refused(generator):
    with pytest.raises(ValueError, match=r"window size \(15, 24\) must be multiples of 4 pixels"):
        draw(generator, Window((0, 0), 0.1, (15, 24)))


def test_scenes_are_the_same_alone_and_in_company():
    assert torch.equal(Scene.of([3, 4], 6).z[1], Scene.of([4], 6).z[0])


@pytest.mark.parametrize("size", [(16, 24), (32, 16), (40, 56)])
def test_the_discriminator_takes_any_size(tiny: Train, size):
    logits = build_discriminator(tiny)(torch.randn(8, 3, *size))
    assert logits.shape == (8,)


def test_minibatch_deviation_is_that_of_each_group():
    x = torch.randn(8, 5, 2, 3)
    expected = torch.stack([part.var(dim=0, unbiased=False).add(1e-8).sqrt().mean() for part in x.split(4)])
    assert torch.allclose(deviation(x)[:, 0, 0, 0], expected.repeat_interleave(4))


@pytest.mark.parametrize("chart", ["frame", "plane"])
def test_beyond_the_trained_zoom_no_band_is_louder_and_the_style_stays(tiny: Train, chart: str) -> None:
    torch.manual_seed(1)
    generator = loud(build_generator(tiny.model_copy(update={"chart": chart})))
    finest = generator.geometry.periods[0]
    styles: list[torch.Tensor] = []
    generator.scale.register_forward_pre_hook(lambda _, zoom: styles.append(zoom[0]))
    levels = []
    for period in (finest, finest / 2, finest / 32):
        draw(generator, Window((0.1, 0.2), period, (16, 24)))
        # Over windows of one extent, so that both measure the same waves.
        size = round(finest / period) * 16
        grid = Window((0.1, 0.2), period * generator.geometry.lattice_px, (size, size))
        features = generator.features([grid], SEED)[0]
        levels.append(features.square().mean(dim=(1, 2)))
    assert styles[0] == styles[1] == styles[2]
    silent = levels[0] < 1e-8
    assert silent.equal(levels[2] < 1e-8)
    torch.testing.assert_close(levels[1], levels[2], atol=0.05, rtol=0.1)


def test_scenes_share_the_phases_of_coarse_bands_alone(tiny: Train) -> None:
    chart = build_generator(tiny).geometry.chart
    grid = Window((0.2, -0.1), 2 / 256, (8, 8))
    features = OctaveFeatures(4, 6, chart, scene_phases=True)
    first, second = features([grid, grid], torch.tensor([3, 4]))
    # Sines of all bands, then cosines: three of each a band.
    band = torch.arange(24) % 12 // 3
    same = (first == second).flatten(1).all(dim=1)
    assert same.tolist() == (band < 2).tolist()
    torch.testing.assert_close(first[:12].square() + first[12:].square(), second[:12].square() + second[12:].square())
    common = OctaveFeatures(4, 6, chart)
    assert torch.equal(*common([grid, grid], torch.tensor([3, 4])))


def test_an_octave_of_the_plane_has_one_noise_where_levels_share_it() -> None:
    windows = [Window((0.1, 0.2), 2 / 64, (16, 16))]
    chart = Plane()
    for shared in (True, False):
        trunk = Trunk(5, (8, 6, 4), style_dim=3, noise=NoiseInput(shared=shared, strength=0.1))
        # Level 1 at twice the rate has the period of level 2.
        doubled = [Window((0.1, 0.2), 2 / 32, (32, 32)), *windows]
        fine, coarse = (
            trunk._noise(2, SEED, [replace(doubled[0], size=(16, 16))], chart),
            trunk._noise(1, SEED, [replace(windows[0], size=(32, 32))], chart),
        )
        assert torch.equal(fine, coarse) == shared
        assert all(torch.all(layer.noise_strength == 0.1) for layer in (*trunk.ups, *trunk.convs, trunk.first))

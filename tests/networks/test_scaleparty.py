"""scaleparty: counts of the paper, exact tiles with four cells of margin and the predicted border with three, noise policies."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anyres.networks import ScaleParty, Scene, build_generator
from anyres.networks.layers import upsample
from anyres.networks.padfree import StyledConv
from anyres.params import Train
from anyres.plane import fields
from anyres.plane.window import Window

SMALL = {"z_dim": 8, "w_dim": 10, "mapping_layers": 2, "npad": 4, "noise": "grid_sample", "noise_maps": "level"}


@pytest.fixture(scope="session")
def section(params):
    def make(levels: int = 3, patch: tuple[int, int] | None = None, channels: tuple[int, ...] | None = None, **changes) -> Train:
        top = {key: changes.pop(key) for key in ("chart", "pairs", "fov", "zoom_max") if key in changes}
        network = SMALL | {"channels": channels or (10,) * (levels + 1)} | changes
        values = params.train.model_dump()
        values["loss"]["consistency"] = 0.0
        values["loss"]["projected"]["weight"] = 0.0
        values |= {"method": "scaleparty", "batch": 8, "patch_px": patch or (2 * 2**levels,) * 2}
        return Train.model_validate(values | {"network": network} | top)

    return make


def loud(generator: ScaleParty) -> ScaleParty:
    """With noise of every layer turned up, and encodings that are heard."""
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "noise_strength" in name:
                parameter.normal_(0, 0.3)
    return generator.eval().requires_grad_(False)


def draw(generator: ScaleParty, window: Window, seed: int = 3) -> torch.Tensor:
    return generator(Scene.of([seed], generator.z_dim), [window])[0]


@pytest.mark.parametrize(("channels", "millions"), [((512,) * 5 + (256, 128), 27.42), ((512,) * 4 + (256, 128), 21.91)])
def test_parameters_are_the_papers(section, channels: tuple[int, ...], millions: float) -> None:
    """27.4 M for FFHQ, 21.9 M for LSUN."""
    wide = {"z_dim": 512, "w_dim": 512, "mapping_layers": 8}
    generator = ScaleParty(section(len(channels) - 1, (256, 256), channels, **wide))
    assert sum(p.numel() for p in generator.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("levels", [3, 4, 5, 6])
def test_a_tile_is_the_same_part_of_the_whole(section, levels: int) -> None:
    torch.manual_seed(levels)
    generator = loud(ScaleParty(section(levels)))
    cell = 2**levels
    whole = Window((0.1, -0.2), 2 / 100, (3 * cell, 4 * cell))
    picture = draw(generator, whole)
    tile = draw(generator, whole.crop(cell, 2 * cell, (2 * cell, cell)))
    assert (tile - picture[:, cell : 3 * cell, 2 * cell : 3 * cell]).abs().max() <= 1e-5
    moved = draw(generator, whole.crop(cell, cell, whole.size))
    assert (moved[:, :-cell, :-cell] - picture[:, cell:, cell:]).abs().max() <= 1e-5
    assert picture.std() > 0.05
    assert generator.geometry.exact


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_three_cells_of_margin_spoil_the_predicted_border_and_no_more(section, levels: int) -> None:
    torch.manual_seed(levels)
    generator = loud(ScaleParty(section(levels, npad=3)))
    assert not generator.geometry.exact
    cell = 2**levels
    whole = Window((0.1, -0.2), 2 / 100, (6 * cell, 6 * cell))
    part = slice(cell, 5 * cell)
    error = (draw(generator, whole.crop(cell, cell, (4 * cell, 4 * cell))) - draw(generator, whole)[:, part, part]).abs().amax(0)
    reach = 2**levels - 3
    assert error[reach:-reach, reach:-reach].max() <= 2e-5
    assert min(error[reach - 1].max(), error[:, reach - 1].max()) > 1e-5
    assert error.max() > 1e-3


def test_noise_policies(section) -> None:
    """Which noise follows the plane, which the window, which nothing."""
    still, gone = Window((0.1, 0.0), 2 / 64, (16, 16)), Window((0.35, 0.0), 2 / 64, (16, 16))
    for policy, moves, differs in (("grid_sample", True, True), ("constant", False, False), ("random", True, True)):
        torch.manual_seed(1)
        generator = loud(ScaleParty(section(noise=policy)))
        noise = [
            generator.trunk._noise(3, torch.tensor([seed]), [window], generator.geometry.chart)
            for seed, window in ((1, still), (1, gone), (2, still))
        ]
        assert (not torch.equal(noise[0], noise[1])) == moves
        assert (not torch.equal(noise[0], noise[2])) == differs
        assert generator.geometry.exact == (policy == "grid_sample")
        again = generator.trunk._noise(3, torch.tensor([1]), [still], generator.geometry.chart)
        assert torch.equal(noise[0], again)
        big = generator.trunk._noise(3, torch.tensor([5]), [Window((0.0, 0.0), 0.01, (256, 256))], generator.geometry.chart)
        assert abs(big.std().item() - 1) < 0.02
        assert abs(big.mean().item()) < 0.02


@pytest.mark.parametrize("maps", ["level", "layer"])
def test_the_maps_of_noise_by_a_slow_trunk(section, maps: str) -> None:
    """Each layer by hand, with the map and the strength that it takes; published: a map and one strength for each layer."""
    torch.manual_seed(7)
    generator = loud(ScaleParty(section(levels=2, channels=(10, 9, 8), noise_maps=maps)))
    trunk, chart = generator.trunk, generator.geometry.chart
    window, scene = Window((0.1, -0.2), 2 / 12, (8, 12)), Scene.of([3], 8)
    w = generator.styles(scene.z)
    streams = iter(range(5)) if maps == "layer" else iter((0, 1, 1, 2, 2))
    strengths = [layer.noise_strength.shape for layer in (trunk.first, *trunk.ups, *trunk.convs)]
    assert strengths == ([(1,)] * 5 if maps == "layer" else [(10,), (9,), (8,), (9,), (8,)])

    def layer(x: torch.Tensor, styled: StyledConv, level: int) -> torch.Tensor:
        x = styled.conv.per_sample(x, w)
        # The map is that of the window, a pixel of the level apart, continued on all sides.
        grid = replace(window, period=window.period * 2 ** (2 - level), size=(x.shape[2], x.shape[3]))
        noise = fields.sample(scene.seeds, next(streams), [grid], chart)
        return F.leaky_relu(x + noise[:, None] * styled.noise_strength[:, None, None] + styled.bias[:, None, None], 0.2)

    cells = replace(window, period=window.period * 4, size=(2 + 8, 3 + 8))
    x = torch.from_numpy(cells.coords()).permute(2, 0, 1)[None].float()
    x = layer(x, trunk.first, 0)
    rgb = trunk.first_rgb.per_sample(x, w)
    for level, (up, conv, to_rgb) in enumerate(zip(trunk.ups, trunk.convs, trunk.to_rgb, strict=True), start=1):
        x = layer(layer(x, up, level), conv, level)
        rgb = to_rgb.per_sample(x, w) + upsample(rgb)[:, :, 2:-2, 2:-2]
    height, width = ((side - size) // 2 for side, size in zip(rgb.shape[2:], window.size, strict=True))
    by_hand = rgb[:, :, height : height + 8, width : width + 12]
    torch.testing.assert_close(generator(scene, [window]), by_hand, atol=1e-5, rtol=1e-5)


def test_a_style_for_each_layer(section) -> None:
    torch.manual_seed(2)
    generator = loud(ScaleParty(section()))
    window = Window((0.0, 0.0), 2 / 16, (16, 16))
    scene = Scene.of([3], 8)
    w = generator.styles(scene.z)
    same = generator.synthesize(w[:, None].repeat(1, generator.num_ws, 1), scene, [window])
    torch.testing.assert_close(same, generator.synthesize(w, scene, [window]))
    for layer in range(generator.num_ws):
        other = w[:, None].repeat(1, generator.num_ws, 1)
        other[:, layer] += 1.0
        assert (generator.synthesize(other, scene, [window]) - same).abs().max() > 1e-4, layer
    with pytest.raises(ValueError, match=rf"styles must be \(batch, w_dim\) or \(batch, {generator.num_ws}, w_dim\)"):
        generator.synthesize(w[:, None], scene, [window])


def test_positions_that_are_edited_are_drawn_where_they_lead(section) -> None:
    """An edit that moves everything by a cell draws the neighbour; one that stretches draws what the stretched window shows."""
    torch.manual_seed(4)
    generator = ScaleParty(section()).eval().requires_grad_(False)
    window = Window((0.0, 0.0), 2 / 32, (16, 24))
    scene = Scene.of([1], 8)
    moved = generator(scene, [window], edit=lambda places: places + np.array([0.5, -0.25]))
    torch.testing.assert_close(moved, generator(scene, [Window((0.5, -0.25), 2 / 32, (16, 24))]), atol=1e-5, rtol=0)
    same = generator(scene, [window], edit=lambda places: places)
    torch.testing.assert_close(same, generator(scene, [window]), atol=1e-6, rtol=0)


def test_a_ring_closes(section) -> None:
    torch.manual_seed(5)
    generator = loud(ScaleParty(section(chart="cylinder", fov=180.0)))
    pictures = [draw(generator, Window((x, 0.1), 1 / 32, (16, 24))) for x in (-1.0, 1.0)]
    torch.testing.assert_close(*pictures, atol=2e-4, rtol=0)


def test_sizes_of_pairs_are_declared(section) -> None:
    pairs = {"ratio": 1.5, "share": 0.2, "large_share": 0.5, "cutmix": True, "channelmix": True, "mix_reals": True, "l1": 0.0}
    generator = build_generator(section(pairs=pairs, zoom_max=5 / 3))
    assert generator.geometry.native_sizes == ((16, 16), (24, 24))
    finest, coarsest = generator.geometry.periods
    assert coarsest / finest == pytest.approx(2.5)
    for a, b in itertools.pairwise(generator.geometry.native_sizes):
        assert b[0] == 1.5 * a[0]
    with pytest.raises(ValueError, match=r"pairs\.ratio 1\.3 must make patches of \(16, 16\) multiples of 8 pixels"):
        section(pairs=pairs | {"ratio": 1.3})

"""infinity_gan: counts and sizes of the paper, exact tiles anywhere on the plane, lattice formulas against slow ones."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ruamel.yaml import YAML

from anyres.networks import InfinityGan, Scene, build_discriminator
from anyres.networks.infinity_gan import LOCAL, RGB_DOUBLING, Up, cells_for, output_px
from anyres.networks.layers import GAIN, Mixed, ModulatedConv
from anyres.networks.scene import Blend, Box, Pin, Region
from anyres.params import Train
from anyres.plane import fields
from anyres.plane.tiling import plan
from anyres.plane.window import Window

ROOT = Path(__file__).resolve().parents[2]
D = {"channels": (8, 12), "attention_heads": 0, "pooled_px": 2, "downsample": "average"}
SMALL = {
    "z_dim": 8,
    "w_dim": 10,
    "mapping_layers": 2,
    "local_dim": 5,
    "structure_channels": 12,
    "structure_layers": 2,
    "structure_kernel": 5,
    "structure_z": "normalized",
    "output": "tanh",
    "rgb_doubling": "smooth",
    "channels": (12, 10, 8, 6),
}
PAPER = {
    "z_dim": 512,
    "w_dim": 512,
    "mapping_layers": 8,
    "local_dim": 256,
    "structure_channels": 256,
    "structure_layers": 4,
    "structure_kernel": 7,
    "structure_z": "normalized",
    "output": "tanh",
    "rgb_doubling": "smooth",
    "channels": (512,) * 4,
}


@pytest.fixture(scope="session")
def section(params):
    def make(network: dict, patch: tuple[int, int] = (101, 101), **changes) -> Train:
        loss = params.train.loss.model_dump() | {"consistency": 0.0}
        values = params.train.model_dump() | {
            "loss": loss,
            "method": "infinity_gan",
            "patch_px": patch,
            "chart": "plane",
            "batch": 8,
        }
        values |= {"network": network, "discriminator": D, "zoom_max": 197 / 101, "period_law": "fixed"}
        return Train.model_validate(values | changes)

    return make


@pytest.fixture
def generator(section) -> InfinityGan:
    torch.manual_seed(5)
    return loud(InfinityGan(section(SMALL)))


def loud(generator: InfinityGan) -> InfinityGan:
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "strength" in name:
                parameter.normal_(0, 0.3)
    return generator.eval().requires_grad_(False)


def scene_of(generator: InfinityGan, *seeds: int) -> Scene:
    return Scene.of(seeds, generator.z_dim)


def two_styles(generator: InfinityGan) -> Blend:
    """Two scenes' styles, one fading into the other from x = -1 to 1."""

    def shares(places: np.ndarray) -> np.ndarray:
        right = np.clip((places[..., 0] + 1) / 2, 0, 1)
        return np.stack([1 - right, right], axis=-1)

    return Blend(Scene.of([11, 12], generator.z_dim).z, shares)


def test_parameters_are_the_papers(section) -> None:
    """13.5 M of the structure, 22.8 M of the texture and its mapping."""
    generator = InfinityGan(section(PAPER))
    counts = [
        sum(p.numel() for part in parts for p in part.parameters()) / 1e6
        for parts in ((generator.structure,), (generator.texture, generator.mapping))
    ]
    assert counts[0] == pytest.approx(13.5, abs=0.05)
    assert counts[1] == pytest.approx(22.8, abs=0.05)


def test_colours_are_doubled_as_published(section) -> None:
    """By hand: zeros between the pixels, then [1, 2, 1] / 2 along each axis; what the border would see of zeros is cut."""
    x = torch.randn(2, 3, 5, 7)
    spread = torch.zeros(2, 3, 9, 13)
    spread[:, :, ::2, ::2] = x
    taps = torch.tensor([0.5, 1.0, 0.5])
    by_hand = F.conv2d(F.pad(spread, (1, 1, 1, 1)).flatten(0, 1)[:, None], torch.outer(taps, taps)[None, None])
    published, smooth = RGB_DOUBLING["linear"](x), RGB_DOUBLING["smooth"](x)
    torch.testing.assert_close(published, by_hand[:, 0].unflatten(0, (2, 3)), atol=1e-6, rtol=0)
    # The smooth one filters the pixels that the published one keeps; both are linear between them.
    kept = torch.tensor([1.0, 6.0, 1.0]) / 8
    filtered = F.conv2d(x.flatten(0, 1)[:, None], torch.outer(kept, kept)[None, None])[:, 0].unflatten(0, (2, 3))
    torch.testing.assert_close(smooth[:, :, 2:-2:2, 2:-2:2], filtered, atol=1e-6, rtol=0)
    torch.testing.assert_close(published[:, :, ::2, ::2], x, atol=1e-6, rtol=0)


def test_the_options_of_the_published_generator_by_a_slow_one(section) -> None:
    """Textbook layers, colours of each level doubled by hand, a raw latent and no limit at the end."""
    torch.manual_seed(6)
    published = {"structure_z": "raw", "output": "linear", "rgb_doubling": "linear"}
    generator = InfinityGan(section(SMALL | published)).eval().requires_grad_(False)
    generator.standardize(torch.full((1, 3, 2, 2), 0.25))
    window = Window((0.3, -0.2), 2 / 197, (101, 101))
    scene = scene_of(generator, 4)
    scene = replace(scene, z=3 * scene.z)
    w, texture = generator.styles(scene.z), generator.texture
    x, place = generator.local(scene, [window]), generator.coordinates([window])
    for conv in generator.structure.convs:
        x = F.leaky_relu(conv.per_sample(torch.cat([x, place], dim=1), scene.z), 0.2)
        place = place[:, :, 2:-2, 2:-2]
    rgb = None
    for up, conv, to_rgb in zip(texture.ups, texture.convs, texture.to_rgb, strict=True):
        x = F.leaky_relu(conv.per_sample(F.leaky_relu(up(x, w), 0.2), w), 0.2)
        colour = to_rgb.per_sample(x, w)
        if rgb is not None:
            b, c, height, width = rgb.shape
            doubled = torch.zeros(b, c, 2 * height - 1, 2 * width - 1)
            doubled[:, :, ::2, ::2] = rgb
            doubled[:, :, 1::2] = (doubled[:, :, :-1:2] + doubled[:, :, 2::2]) / 2
            doubled[:, :, :, 1::2] = (doubled[:, :, :, :-1:2] + doubled[:, :, :, 2::2]) / 2
            colour = colour + doubled[:, :, 2:-2, 2:-2]
        rgb = colour
    assert rgb is not None
    torch.testing.assert_close(generator(scene, [window]), rgb + 0.25, atol=1e-4, rtol=1e-4)
    assert rgb.abs().max() > 1
    # Each of the three changes the picture.
    for key, other in (("structure_z", "normalized"), ("output", "tanh"), ("rgb_doubling", "smooth")):
        changed = InfinityGan(section(SMALL | published | {key: other})).eval().requires_grad_(False)
        changed.load_state_dict(generator.state_dict())
        assert (changed(scene, [window]) - rgb).abs().mean() > 0.05 * rgb.std()


def test_the_discriminator_of_the_preset_reads_all_of_its_last_map(params) -> None:
    """101 pixels halve to a map of 3 x 3, which is flattened as it is: 4608 inputs, for logit and height each."""
    values = YAML(typ="safe", pure=True).load((ROOT / "anyres/presets/infinity_gan-101.yaml").read_text(encoding="utf-8"))[
        "train"
    ]
    dumped = params.train.model_dump()
    merged = {
        key: dumped[key] | value if isinstance(value, dict) and key != "network" else value for key, value in values.items()
    }
    d = build_discriminator(Train.model_validate(dumped | merged)).requires_grad_(False)
    pictures = torch.randn(4, 3, 101, 101)
    logits, heights = d.forward_heads(pictures)
    x = d.features(pictures)[-1]
    assert x.shape == (4, 512, 3, 3)
    assert d.hidden.weight.shape == (512, 4608)
    spread = (x.var(dim=0, unbiased=False) + 1e-8).sqrt().mean().expand(4, 1, 3, 3)
    x = F.leaky_relu(d.conv(torch.cat([x, spread], dim=1)), 0.2).flatten(1)
    logit = d.logit(F.leaky_relu(d.hidden(x), 0.2))[:, 0]
    height = d.height(F.leaky_relu(d.height_hidden(x), 0.2))[:, 0]
    torch.testing.assert_close(logits, logit, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(heights, height, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(d.forward_pairs([pictures, pictures])[1][1], height, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("blocks", "pixels"), [(4, 101), (5, 197), (6, 389), (7, 773), (8, 1541)])
def test_eleven_cells_become_the_sizes_of_the_paper(section, blocks: int, pixels: int) -> None:
    assert output_px(11, blocks) == pixels
    assert cells_for(pixels, blocks) == 11
    assert cells_for(pixels + 1, blocks) == 12
    # By the layers themselves: doubling takes three samples, a convolution two.
    side = 11
    for _ in range(blocks):
        side = (2 * side + 1) - 2 - 2 - 2
    assert side == pixels


@pytest.mark.parametrize("blocks", [4, 5, 6])
def test_a_network_of_any_depth_draws_what_it_declares(section, blocks: int) -> None:
    torch.manual_seed(blocks)
    generator = loud(InfinityGan(section(SMALL | {"channels": (6,) * blocks})))
    size = output_px(11, blocks)
    assert generator(scene_of(generator, 1), [Window((0.0, 0.0), 0.01, (size, 101))]).shape == (1, 3, size, 101)
    assert generator.geometry.lattice_px == 2**blocks


@pytest.mark.parametrize("middle", [0.0, 1e9, -(2.0**39)], ids=["here", "1e9", "2^39"])
def test_a_tile_is_the_same_part_of_the_whole(generator: InfinityGan, middle: float) -> None:
    """On the lattice of 16 pixels, wherever: at 10^9 and 2^39 pixels from the origin too, where a period is no power of two."""
    period = 2 / 197
    whole = Window((period * (16 * round(middle / 16) + 48), period * 40), period, (112, 96))
    assert all(index % 16 == 0 for index in whole.phase()[0])
    picture = generator(scene_of(generator, 3), [whole])[0]
    assert picture.std() > 0.1
    for top, left, size in ((16, 32, (48, 64)), (64, 0, (41, 29)), (0, 80, (112, 16))):
        tile = generator(scene_of(generator, 3), [whole.crop(top, left, size)])[0]
        assert (tile - picture[:, top : top + size[0], left : left + size[1]]).abs().max() <= 1e-5


def test_other_places_other_scenes_and_other_noise_show_other_pictures(generator: InfinityGan) -> None:
    window = Window((0.0, 0.0), 2 / 197, (48, 48))
    one = generator(scene_of(generator, 3), [window])
    assert (generator(scene_of(generator, 4), [window]) - one).abs().mean() > 1e-2
    for cells in (1, 2, 2**30):
        moved = Window((window.period * 16 * cells, 0.0), window.period, window.size)
        assert (generator(scene_of(generator, 3), [moved]) - one).abs().mean() > 1e-2


def test_tiles_of_one_picture_share_the_structures_map(generator: InfinityGan, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Window((0.0, 0.0), 2 / 197, (96, 128))
    scene = scene_of(generator, 3)
    picture = generator(scene, [whole])[0]
    tiles = [(top, left) for top in (0, 32, 64) for left in (0, 32, 64, 96)]
    maps: list[int] = []
    drawn = generator._map
    monkeypatch.setattr(
        generator, "_map", lambda scene, windows, edit=None: (maps.append(len(windows)), drawn(scene, windows, edit))[1]
    )
    together = generator(scene.repeated(12), [whole.crop(*at, (32, 32)) for at in tiles])
    assert maps == [1]
    for tile, (top, left) in zip(together, tiles, strict=True):
        assert (tile - picture[:, top : top + 32, left : left + 32]).abs().max() <= 1e-5
    # Tiles of two pictures, or off each other's lattice, do not.
    maps.clear()
    generator(scene_of(generator, 3, 4), [whole.crop(0, 0, (32, 32))] * 2)
    generator(scene.repeated(2), [whole.crop(0, 0, (32, 32)), whole.crop(0, 8, (32, 32))])
    assert maps == [2, 2]


def test_a_picture_takes_no_more_tiles_than_it_needs() -> None:
    """1024 x 1024 in steps of the 96 pixels that 101 hold on the lattice: 121 tiles, where the authors' release draws 169."""
    assert output_px(cells_for(96, 4), 4) == 101
    assert len(plan((1024, 1024), 96, 16)) == 121


def test_coordinates_are_the_papers(generator: InfinityGan) -> None:
    """tanh(0.3 i), cos and sin of j / 22.1, at the middles of cells of 16 pixels that lie about the window's middle."""
    period = 2 / 197
    window = Window((16 * period * 300.5, 16 * period * 2.5), period, (101, 101))
    found = generator.coordinates([window])[0]
    rows, columns = found.shape[1:]
    assert (rows, columns) == (19, 19)
    for i in range(rows):
        for j in range(columns):
            y, x = 2.5 + i - (rows - 1) / 2, 300.5 + j - (columns - 1) / 2
            expected = (math.tanh(0.3 * y), math.cos(2 * math.pi * x / 139), math.sin(2 * math.pi * x / 139))
            np.testing.assert_allclose(found[:, i, j], expected, atol=1e-5)
    assert 139 / (2 * math.pi) == pytest.approx(22.1, abs=0.03)


def test_local_latents_are_a_function_of_the_cell(generator: InfinityGan) -> None:
    """The slow way: one cell by itself, by its index on the plane."""
    period = 2 / 197
    window = Window((period * 1000.0, period * -500.0), period, (40, 24))
    local = generator.local(scene_of(generator, 7), [window])[0]
    (left, top), halo = window.phase()[0], generator.structure.halo
    for i, j, channel in ((0, 0, 0), (2, 5, 1), (9, 3, 4)):
        column, row = left // 16 - halo + j, top // 16 - halo + i
        keys = fields.key(torch.tensor([7]), (1 << 16) + channel)
        alone = fields.normal_from_bits(fields.lattice_bits(keys, torch.tensor([[column]]), torch.tensor([[row]])))
        assert local[channel, i, j] == alone[0, 0, 0]
    many = fields.cells(torch.tensor([1, 2]), 5, 16, *(torch.arange(start, start + 60).expand(2, -1) for start in (0, 7)))
    assert abs(many.mean().item()) < 0.01
    assert abs(many.std().item() - 1) < 0.01
    pairs = torch.corrcoef(many.transpose(0, 1).flatten(1)) - torch.eye(16)
    assert pairs.abs().max() < 0.06


def test_doubling_without_padding_against_its_plain_form() -> None:
    """Zeros between samples, a dense convolution, a blur; only whole windows kept."""
    torch.manual_seed(1)
    up = Up(5, 4, 6)
    x, w = torch.randn(2, 5, 7, 9), torch.randn(2, 6)
    style, weight = up.style(w), up.weight * up.scale
    spread = torch.zeros(2, 5, 13, 17)
    spread[:, :, ::2, ::2] = x * style[:, :, None, None]
    plain = F.conv2d(F.pad(spread, (2, 2, 2, 2)), weight.transpose(0, 1).flip(2, 3))[:, :, 1:-1, 1:-1]
    blur = torch.tensor([1.0, 2.0, 1.0]) / 2
    plain = F.conv2d(plain, (blur[:, None] * blur).expand(4, 1, 3, 3), groups=4)
    squares = torch.stack([(weight * style[i, :, None, None, None]).square().sum(dim=(0, 2, 3)) for i in range(2)])
    plain = plain * (GAIN * torch.rsqrt(squares + 1e-8))[:, :, None, None]
    out = up(x, w)
    assert out.shape == (2, 4, 11, 15)
    torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-4)


def test_mixed_styles_modulate_and_demodulate_at_their_own_place() -> None:
    """One style all over is that style; two are, pixel by pixel, what a convolution of that pixel's style gives."""
    torch.manual_seed(2)
    conv = ModulatedConv(4, 3, 5)
    x, styles = torch.randn(1, 4, 6, 8), torch.randn(2, 5)
    alone = torch.ones(1, 1, 6, 8)
    torch.testing.assert_close(conv(x, Mixed(styles[:1], alone, alone[:, :, 1:-1, 1:-1])), conv(x, styles[:1]))
    shares = torch.rand(1, 2, 6, 8).softmax(dim=1)
    mixed = conv(x, Mixed(styles, shares, shares[:, :, 1:-1, 1:-1]))
    for i, j in ((0, 0), (2, 4), (3, 5)):
        around = x[:, :, i : i + 3, j : j + 3]
        weight = conv.weight * conv.scale
        scale = torch.einsum("khw,ki->ihw", shares[0, :, i : i + 3, j : j + 3], conv.style(styles))
        own = scale[:, 1, 1]
        expected = (weight * scale * around).sum(dim=(1, 2, 3))
        expected = expected * GAIN * torch.rsqrt((weight * own[:, None, None]).square().sum(dim=(1, 2, 3)) + 1e-8)
        torch.testing.assert_close(mixed[0, :, i, j], expected, atol=1e-5, rtol=1e-4)


def test_a_blend_is_exact_in_tiles_and_each_style_at_its_end(generator: InfinityGan) -> None:
    blend = two_styles(generator)
    scene = replace(scene_of(generator, 3), blend=blend)
    whole = Window((0.0, 0.0), 2 / 200, (64, 96))
    picture = generator(scene, [whole])[0]
    for top, left, size in ((16, 32, (32, 48)), (32, 0, (17, 96))):
        tile = generator(scene, [whole.crop(top, left, size)])[0]
        assert (tile - picture[:, top : top + size[0], left : left + size[1]]).abs().max() <= 1e-5
    far = Window((-16.0, 0.0), 2 / 200, (48, 48))
    first = Scene(blend.z[:1], scene.seeds)
    torch.testing.assert_close(generator(scene, [far]), generator(first, [far]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", ["structure", "texture"])
def test_a_region_is_drawn_anew_and_the_rest_stays(generator: InfinityGan, part: str) -> None:
    window = Window((0.0, 0.0), 2 / 200, (208, 208))
    still = generator(scene_of(generator, 3), [window])[0]
    box = (-0.2, -0.2, 0.2, 0.2)
    scene = replace(scene_of(generator, 3), regions=(Region(box, 99, part),))
    change = (generator(scene, [window])[0] - still).abs().amax(dim=0)
    # 104 ± 20 pixels, and as far as the layers reach.
    reach = 20 + (generator.geometry.halo_px + 16 if part == "structure" else 80)
    assert change[84:124, 84:124].mean() > 1e-2
    assert change[: max(104 - reach, 0)].sum() == 0
    tile = generator(scene, [window.crop(80, 96, (64, 64))])[0]
    assert (tile - generator(scene, [window])[0, :, 80:144, 96:160]).abs().max() <= 1e-5


def test_pinned_values_take_the_place_of_fields(generator: InfinityGan) -> None:
    window = Window((0.0, 0.0), 2 / 200, (64, 48))
    scene = scene_of(generator, 3)
    local = generator.local(scene, [window])
    at = generator.first_cell(window)
    halo = generator.structure.halo
    origin = (at[1] - halo + 2, at[0] - halo + 1)
    values = torch.full((5, 3, 4), 7.0)
    pinned = replace(scene, pin=Pin(window.period, (Box(LOCAL, *origin, values),)))
    found = generator.local(pinned, [window])
    assert (found[0, :, 2:5, 1:5] == 7).all()
    found[0, :, 2:5, 1:5] = local[0, :, 2:5, 1:5]
    assert torch.equal(found, local)
    whole = generator(pinned, [window])[0]
    tile = generator(pinned, [window.crop(16, 16, (32, 32))])[0]
    assert (tile - whole[:, 16:48, 16:48]).abs().max() <= 1e-5
    with pytest.raises(ValueError, match=r"found at a period of 0\.01, the window has 0\.02"):
        generator(pinned, [Window((0.0, 0.0), 2 / 100, (32, 32))])


def test_a_ring_closes(section) -> None:
    torch.manual_seed(6)
    generator = loud(InfinityGan(section(SMALL, chart="cylinder", fov=180.0)))
    period = 2 / (16 * 20)
    once, again = (Window((x, 0.1), period, (48, 64)) for x in (-1.0, 1.0))
    scene = scene_of(generator, 3)
    torch.testing.assert_close(generator(scene, [once]), generator(scene, [again]), atol=1e-5, rtol=0)
    assert (generator(scene, [once]) - generator(scene, [Window((0.0, 0.1), period, (48, 64))])).abs().mean() > 1e-2


def test_the_diversity_loss_is_the_l1_ratio_and_falls_where_local_latents_are_heard(generator: InfinityGan) -> None:
    scene, windows = scene_of(generator, 1, 2, 3, 4), [Window((0.1 * i, 0.0), 2 / 200, (32, 32)) for i in range(4)]
    value = generator.diversity(scene, windows)
    other = replace(scene, seeds=fields.mix(fields.key(scene.seeds, -8)))
    latents = (generator.local(scene, windows) - generator.local(other, windows)).abs().mean()
    maps = (generator.map_of(scene, windows) - generator.map_of(other, windows)).abs().mean()
    assert value.item() == pytest.approx((latents / maps).item(), rel=1e-3)
    with torch.no_grad():
        generator.structure.convs[0].weight[:, :5] *= 0.01
    assert generator.diversity(scene, windows) > 3 * value


def test_the_discriminator_reads_heights(section) -> None:
    torch.manual_seed(3)
    loss = section(SMALL).loss.model_dump() | {"vertical": 1.0, "diversity": 1.0}
    judge = build_discriminator(section(SMALL, loss=loss))
    logits, heights = judge.forward_heads(torch.randn(8, 3, 101, 101))
    assert logits.shape == heights.shape == (8,)
    assert build_discriminator(section(SMALL)).forward_heads(torch.randn(8, 3, 32, 32))[1] is None


def test_params_that_do_not_fit_are_refused(section, params) -> None:
    loss = params.train.loss.model_dump() | {"diversity": 1.0}
    with pytest.raises(ValueError, match=r"loss\.diversity is of infinity_gan's local latents, continuum has none"):
        Train.model_validate(params.train.model_dump() | {"loss": loss})


def test_others_refuse_what_only_it_draws(params) -> None:
    from anyres.networks import build_generator

    generator = build_generator(params.train)
    scene = replace(Scene.of([1], generator.z_dim), regions=(Region((0, 0, 1, 1), 5, "texture"),))
    with pytest.raises(ValueError, match="Continuum draws one style and one seed a picture; infinity_gan draws several"):
        generator(scene, [Window((0.0, 0.0), 2 / 32, (32, 32))])

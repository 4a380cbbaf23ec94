"""The unbounded canvas: fused styles, and photographs that go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyres.evaluation.measures import draw_tiled
from anyres.networks import InfinityGan, Scene, build_generator
from anyres.networks.scene import Region
from anyres.plane.window import Window
from anyres.synthesis.fuse import fuse_styles, mask_shares, nearest_shares
from anyres.synthesis.latent import Latent
from anyres.synthesis.outpaint import blend_scenes, extend_canvas, fidelity, fit, place_photo, seam_rank, side_by_side
from anyres.synthesis.render import align, render
from anyres.synthesis.request import RenderRequest
from tests.export.bundles import INFINITY_GAN, tiny_params


def built(**train: Any) -> Any:
    torch.manual_seed(4)
    return build_generator(tiny_params(**train).train, (1.5, 1.0)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def generator() -> InfinityGan:
    found = built(**INFINITY_GAN)
    for name, parameter in found.named_parameters():
        if "strength" in name:
            parameter.normal_(0, 0.3)
    return found


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    import skimage.data

    return skimage.data.hubble_deep_field()[100:200, 100:220]


# ---- several styles


def test_nearest_centres_share_the_plane_and_sum_to_one() -> None:
    shares = nearest_shares([(-1.0, 0.0), (1.0, 0.0), (0.0, 5.0)], 0.1)
    places = np.array([[[-1.0, 0.0], [0.0, 0.0], [1.0, 0.2]], [[0.0, 5.0], [1e12, 0.0], [-3.0, -1.0]]])
    found = shares(places)
    np.testing.assert_allclose(found.sum(axis=-1), 1)
    np.testing.assert_allclose(found[0, 1, :2], 0.5, atol=1e-6)
    for (i, j), who in (((0, 0), 0), ((0, 2), 1), ((1, 0), 2), ((1, 1), 1), ((1, 2), 0)):
        assert found[i, j, who] > 0.99
    for centers, softness, says in (([(0, 0)], 1, "two or more centres"), ([(0, 0), (1, 0)], 0, "softness must be above 0")):
        with pytest.raises(ValueError, match=says):
            nearest_shares(centers, softness)


def test_a_painted_mask_lies_over_its_window() -> None:
    window = Window((3.0, -1.0), 0.1, (20, 40))
    mask = np.zeros((10, 20), np.uint8)
    mask[:, 10:], mask[5:, :10] = 1, 2
    found = mask_shares(mask, window, 3, 0.5)(window.coords())
    np.testing.assert_allclose(found.sum(axis=-1), 1)
    for (row, column), who in (((2, 2), 0), ((10, 35), 1), ((17, 3), 2)):
        assert found[row, column, who] > 0.99
    assert 0.1 < found[2, 20, 0] < 0.9
    for bad, count, says in (
        (np.zeros((10, 30), np.uint8), 3, "the mask has 30 x 10 pixels, the picture 40 x 20: not of one shape"),
        (mask, 2, "the mask names style 2, there are 0 to 1"),
        (np.zeros((4, 4, 3), np.uint8), 2, "one number a pixel"),
    ):
        with pytest.raises(ValueError, match=says):
            mask_shares(bad, window, count)


@pytest.mark.parametrize("kind", ["centres", "mask"])
def test_a_fused_picture_is_exact_in_tiles_and_shows_its_styles(generator: InfinityGan, kind: str) -> None:
    window = Window((0.0, 0.0), 1 / 32, (40, 96))
    mask = (np.arange(48) // 24).astype(np.uint8)[None].repeat(20, axis=0)
    shares = nearest_shares([(-1.5, 0), (1.5, 0)], 0.2) if kind == "centres" else mask_shares(mask, window, 2)
    scene = fuse_styles([5, 6], generator.z_dim, shares)
    whole = render(generator, RenderRequest(scene, window, tile=512)).astype(int)
    exact = draw_tiled(generator, scene, window, 512)[0]
    for tile in (8, 24):
        assert np.abs(draw_tiled(generator, scene, window, tile)[0] - exact).max() <= 1e-5
    part = render(generator, RenderRequest(scene, window.crop(7, 11, (20, 50)))).astype(int)
    assert np.abs(part - whole[7:27, 11:61]).max() <= 1
    alone = [
        render(generator, RenderRequest(replace(Scene.of([5], generator.z_dim), z=scene.blend.z[k : k + 1]), window)).astype(int)
        for k in (0, 1)
    ]
    assert np.abs(whole[:, :8] - alone[0][:, :8]).mean() < 0.2 * np.abs(alone[0] - alone[1]).mean()
    assert np.abs(whole[:, -8:] - alone[1][:, -8:]).mean() < 0.2 * np.abs(alone[0] - alone[1]).mean()


# ---- photographs


def test_a_photograph_goes_on_beyond_its_border(generator: InfinityGan, photo: np.ndarray) -> None:
    target, canvas = extend_canvas(place_photo(photo, generator, 40), 2.0, "right")
    assert (target.window.size, canvas.size) == ((40, 48), (40, 96))
    assert target.window.origin == pytest.approx(canvas.origin)
    short, longer = (fit(generator, target, steps, seed=3, perceptual=False) for steps in (2, 150))
    drawn = render(generator, RenderRequest(longer, canvas))
    near = [fidelity(render(generator, RenderRequest(latent, canvas))[:, :48], target) for latent in (short, longer)]
    assert near[1] > near[0] + 3
    # Of an untrained generator.
    assert near[1] > 20
    # Noise of pixels beyond the border stays the seed's own: what nothing tells about is not quietened.
    drawn_from, _, left = align(target.window, generator.geometry.lattice_px)
    own = generator.fields_of(Scene.of([3], generator.z_dim), drawn_from).boxes[-1].values
    last = longer.pin.boxes[-1]
    assert last.name == "noise5"
    assert own.shape[2] > left + 48
    assert torch.equal(last.values[:, :, left + 48 :], own[:, :, left + 48 :])
    assert (last.values - own)[:, :40, left : left + 48].abs().mean() > 1e-3
    # What lies far beyond is the seed's own, with the styles that were found.
    far = Window((40.0, 0.0), canvas.period, (16, 24))
    plain = replace(longer.scene(generator.z_dim), pin=None)
    assert np.array_equal(render(generator, RenderRequest(longer, far)), render(generator, RenderRequest(plain, far)))
    assert 0 <= seam_rank(drawn, 48) <= 1
    assert seam_rank(np.repeat(np.arange(8)[None, :, None] // 4, 3, axis=2) * np.ones((5, 1, 1)), 4) == 1


def test_a_fit_that_is_stopped_goes_on_to_the_same_latent(generator: InfinityGan, photo: np.ndarray, tmp_path: Path) -> None:
    target = place_photo(photo, generator, 32)
    through = fit(generator, target, 110, perceptual=False)
    count: list[float] = []

    def stop(amount: float) -> None:
        count.append(amount)
        if len(count) == 105:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(generator, target, 110, perceptual=False, work=tmp_path / "work", advance=stop)
    told: list[float] = []
    again = fit(generator, target, 110, perceptual=False, work=tmp_path / "work", advance=told.append)
    assert told[0] == 100
    assert sum(told) == 110
    assert not (tmp_path / "work").exists()
    again.save(tmp_path / "latent.safetensors")
    read = Latent.load(tmp_path / "latent.safetensors")
    assert torch.equal(read.w, through.w)
    assert torch.equal(read.z, through.z)
    assert [box[:3] for box in read.pin.boxes] == [box[:3] for box in through.pin.boxes]
    assert np.array_equal(
        render(generator, RenderRequest(read, target.window)), render(generator, RenderRequest(through, target.window))
    )


def test_two_photographs_on_one_canvas(generator: InfinityGan, photo: np.ndarray) -> None:
    a, b, canvas = side_by_side(place_photo(photo, generator, 32), place_photo(photo[:, ::-1], generator, 32), 1.5)
    assert canvas.size == (32, 38 + 57 + 38)
    found = [fit(generator, part, 120, seed=1, perceptual=False) for part in (a, b)]
    scene = blend_scenes(*found, (a.window.bounds[2], b.window.bounds[0]))
    drawn = render(generator, RenderRequest(scene, canvas))
    assert fidelity(drawn[:, :38], a) > 20
    assert fidelity(drawn[:, -38:], b) > 20
    assert np.abs(render(generator, RenderRequest(scene, canvas, tile=16)).astype(int) - drawn).max() <= 1
    with pytest.raises(ValueError, match=r"blending takes two latents of `anyres outpaint`"):
        blend_scenes(found[0], Latent(found[0].w), (0.0, 1.0))


def test_what_cannot_be_placed_is_refused(generator: InfinityGan, photo: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the photograph has 90 x 15 pixels, less than the generator's patch of 16 a side"):
        place_photo(np.zeros((15, 90, 3), np.uint8), generator, 16)
    with pytest.raises(
        ValueError, match="size 200 must lie between the generator's patch, 16, and the photograph's short side, 100"
    ):
        place_photo(photo, generator, 200)
    with pytest.raises(ValueError, match="1 to 64 times as wide"):
        extend_canvas(place_photo(photo, generator, 32), 0.5, "right")
    with pytest.raises(ValueError, match="beyond the 2\\^40 of an unbounded plane"):
        render(generator, RenderRequest(3, Window((2.0**40, 0.0), 1 / 32, (16, 16))))


def test_a_region_drawn_anew_from_an_api_call(generator: InfinityGan) -> None:
    window = Window((0.0, 0.0), 1 / 32, (64, 64))
    scene = replace(Scene.of([3], generator.z_dim), regions=(Region((-0.2, -0.2, 0.2, 0.2), 8, "texture"),))
    change = np.abs(
        render(generator, RenderRequest(scene, window)).astype(int) - render(generator, RenderRequest(3, window))
    ).max(axis=2)
    assert change[28:36, 28:36].mean() > 1
    assert change[:8].max() == 0

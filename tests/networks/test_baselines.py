"""Baselines: what each can and cannot do, as their papers say."""

from __future__ import annotations

import pytest
import torch

from anyres.networks import Scene, StyleGenerator, build_generator
from anyres.params import Params, Train
from anyres.plane.window import Window
from tests.export.bundles import GRID_NETWORK

NETWORK = GRID_NETWORK | {"w_dim": 10, "mapping_layers": 2, "channels": (12, 10, 8)}
METHODS = ("ms_pie", "ms_pe", "cips", "stylegan2")
FRAME = Window((0.0, 0.0), 2 / 16, (16, 16))


@pytest.fixture
def build(params: Params):
    def make(method: str) -> StyleGenerator:
        torch.manual_seed(3)
        values = params.train.model_dump() | {"method": method, "patch_px": (16, 16), "batch": 8, "network": NETWORK}
        generator = build_generator(Train.model_validate(values))
        with torch.no_grad():
            for name, parameter in generator.named_parameters():
                if "noise_strength" in name:
                    parameter.normal_(0, 0.3)
        return generator.eval()

    return make


@pytest.mark.parametrize("method", METHODS)
def test_any_window_is_drawn_and_every_parameter_learns(build, method: str) -> None:
    generator = build(method)
    for window in (FRAME, Window((0.1, 0.0), 2 / 48, (16, 24)), FRAME.resized((24, 24))):
        pictures = generator(Scene.of([1, 2], 8), [window] * 2)
        assert pictures.shape == (2, 3, *window.size)
        assert torch.isfinite(pictures).all()
        assert (pictures[0] - pictures[1]).abs().max() > 1e-3
    generator(Scene.of([1, 2], 8), [FRAME.resized((24, 24))] * 2).square().sum().backward()
    silent = {name for name, parameter in generator.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    # Of ms_pie's larger convolutions the noise is not used.
    assert not {name for name in silent if not ("noise_strength" in name and method in ("ms_pie", "cips"))}
    w = generator.styles(Scene.of([1], 8).z)[:, None].repeat(1, generator.num_ws, 1)
    same = generator.synthesize(w, Scene.of([1], 8), [FRAME])
    torch.testing.assert_close(same, generator(Scene.of([1], 8), [FRAME]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_only_pixels_by_themselves_make_exact_tiles(build, method: str) -> None:
    generator = build(method)
    whole = Window((0.0, 0.0), 2 / 32, (32, 32))
    scene = Scene.of([5], 8)
    with torch.no_grad():
        tile = generator(scene, [whole.crop(8, 16, (16, 16))])[0]
        error = (tile - generator(scene, [whole])[0, :, 8:24, 16:32]).abs().max()
    assert (error < 1e-5) == (method in ("cips", "stylegan2"))
    assert generator.geometry.exact == (method == "cips")


def test_one_scale_is_one_picture_enlarged(build) -> None:
    """However large it is drawn, brought down again it is the small picture."""
    generator = build("stylegan2")
    scene = Scene.of([4], 8)
    with torch.no_grad():
        small, large = generator(scene, [FRAME]), generator(scene, [FRAME.resized((64, 64))])
    down = torch.nn.functional.interpolate(large, size=(16, 16), mode="bilinear", antialias=True)
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    assert (down - small)[inside].abs().mean() < 0.2 * small.std()


def test_patches_of_one_period_go_on_fully_convolutionally(params: Params) -> None:
    """No place and no frame: a canvas twice as wide repeats the constant, and zeros stand at its far ends alone."""
    torch.manual_seed(3)
    values = params.train.model_dump() | {"method": "stylegan2", "patch_px": (16, 16), "batch": 8, "network": NETWORK}
    generator = build_generator(Train.model_validate(values | {"period_law": "fixed", "zoom_max": 2.0})).eval()
    assert generator.geometry.periods == (1 / 16, 1 / 16)
    scene = Scene.of([5], 8)
    with torch.no_grad():
        one = generator(scene, [Window((0.0, 0.0), 1 / 16, (16, 16))])
        moved = generator(scene, [Window((7.0, 3.0), 1 / 16, (16, 16))])
        wide = generator(scene, [Window((0.0, 0.0), 1 / 16, (16, 48))])
    assert torch.equal(one, moved)
    assert wide.shape == (1, 3, 16, 48)
    change = (wide[:, :, :, :16] - one).abs().mean(dim=(0, 1, 2))
    assert change[:2].mean() < 0.1 * change[12:].mean()


def test_a_network_of_another_method_is_refused(params: Params) -> None:
    values = params.train.model_dump() | {"method": "cips"}
    with pytest.raises(ValueError, match="holds the keys of continuum, method is cips; type `anyres preset scaleparty-small`"):
        Train.model_validate(values)

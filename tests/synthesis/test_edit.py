"""Edits move what is drawn as they say, and keep tiles exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyres.networks import build_generator
from anyres.params import Train
from anyres.plane.window import Window
from anyres.synthesis import edit
from anyres.synthesis.latent import Latent
from anyres.synthesis.render import render, render_tiles
from anyres.synthesis.request import RenderRequest

PLACES = Window((0.0, 0.0), 2 / 64, (64, 64)).coords()


def marks(places: np.ndarray, *points: tuple[float, float]) -> Any:
    """A picture (64, 64) with a bright spot at each point of the plane, drawn at edited places."""
    return sum(np.exp(-((places - np.array(point)) ** 2).sum(axis=-1) / 0.002) for point in points)


def found(picture: np.ndarray) -> tuple[float, float]:
    """Where the spot stands in the picture, plane units."""
    weights = picture / picture.sum()
    return float((weights * PLACES[..., 0]).sum()), float((weights * PLACES[..., 1]).sum())


@pytest.mark.parametrize(
    ("change", "at", "lands"),
    [
        (edit.aspect(2.0), (0.3, 0.2), (0.6, 0.2)),
        (edit.aspect(2.0, center=(0.3, 0.0)), (0.3, 0.2), (0.3, 0.2)),
        (edit.magnify(1.5), (0.4, -0.2), (0.6, -0.3)),
        (edit.magnify(0.5), (0.4, -0.2), (0.2, -0.1)),
        (edit.turn(90.0), (0.5, 0.0), (0.0, 0.5)),
        (edit.pull((0.0, 0.0), 2.0), (0.25, 0.0), (0.5, 0.0)),
        (edit.pull((0.0, 0.0), 0.5), (0.5, 0.0), (0.25, 0.0)),
        (edit.pull((0.0, 0.0), 2.0, radius=0.4), (0.5, 0.0), (0.5, 0.0)),
        (edit.perspective(0.0, 0.0), (0.5, 0.3), (0.5, 0.3)),
        # s / (1 - 0.5 s) = 0.5 at s = 0.4: what leans away comes nearer to the middle.
        (edit.perspective(0.5, 0.0), (0.5, 0.0), (0.4, 0.0)),
        (edit.displace(0.0), (0.2, 0.1), (0.2, 0.1)),
    ],
)
def test_a_spot_lands_where_the_edit_says(change, at, lands) -> None:
    assert found(marks(change(PLACES), at)) == pytest.approx(lands, abs=0.02)


def test_edits_compose_in_the_order_they_are_named() -> None:
    """First turned, then stretched along x; the other way round the spot stays on the axis."""
    both = edit.compose([edit.turn(90.0), edit.aspect(2.0)])
    assert both is not None
    assert found(marks(both(PLACES), (0.4, 0.3))) == pytest.approx((-0.6, 0.4), abs=0.02)
    assert edit.compose([]) is None


def test_displacement_is_smooth_seeded_and_as_strong_as_said() -> None:
    moved = edit.displace(0.05, scale=0.5, seed=3)(PLACES) - PLACES
    assert np.std(moved) == pytest.approx(0.05, rel=0.4)
    assert np.abs(np.diff(moved, axis=0)).max() < 0.05
    np.testing.assert_array_equal(edit.displace(0.05, scale=0.5, seed=3)(PLACES) - PLACES, moved)
    assert np.abs(edit.displace(0.05, scale=0.5, seed=4)(PLACES) - PLACES - moved).max() > 0.01


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: edit.aspect(0.0), "aspect must be above 0, found 0.0"),
        (lambda: edit.magnify(float("nan")), "magnify must be above 0"),
        (lambda: edit.pull((0, 0), -1.0), "pull must be above 0"),
        (lambda: edit.perspective(1.0, 0.0), "tilts must lie within ±0.9"),
        (lambda: edit.turn(float("inf")), "turn must be a finite number"),
    ],
)
def test_edits_that_make_no_sense_are_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@pytest.fixture(scope="module")
def generator(tiny: Train) -> torch.nn.Module:
    torch.manual_seed(4)
    return build_generator(tiny, (1.5, 1.0)).eval().requires_grad_(False)


def test_an_edited_picture_is_exact_in_tiles_and_may_leave_the_frame(generator) -> None:
    window = Window((0.0, 0.0), 2 / 64, (64, 96))
    change = edit.compose([edit.magnify(0.6), edit.displace(0.05)])

    def drawn(tile: int) -> torch.Tensor:
        out = torch.empty(3, 64, 96)
        for at, pixels in render_tiles(generator, RenderRequest(5, window, tile=tile, edit=change)):
            out[:, at.top : at.top + at.size[0], at.left : at.left + at.size[1]] = pixels
        return out

    whole = drawn(512)
    torch.testing.assert_close(drawn(16), whole, atol=1e-5, rtol=0)
    plain = render(generator, RenderRequest(5, window))
    edited = render(generator, RenderRequest(5, window, edit=change))
    assert np.abs(edited.astype(int) - plain).mean() > 1
    np.testing.assert_array_equal(render(generator, RenderRequest(5, window, edit=lambda places: places)), plain)


def test_a_latent_is_a_scene_in_a_file(generator, tmp_path: Path) -> None:
    window = Window((0.1, 0.0), 2 / 64, (40, 40))
    w = generator.styles(torch.randn(1, generator.z_dim))
    latent = Latent(w.repeat(generator.num_ws, 1), seed=7)
    latent.save(tmp_path / "scene.safetensors")
    again = Latent.load(tmp_path / "scene.safetensors")
    assert again.seed == 7
    np.testing.assert_array_equal(
        render(generator, RenderRequest(again, window)), render(generator, RenderRequest(latent, window))
    )
    assert (
        np.abs(render(generator, RenderRequest(again, window)).astype(int) - render(generator, RenderRequest(7, window))).max()
        > 1
    )
    with pytest.raises(ValueError, match=r"styles \(2, 10\), this generator takes .*: it is another one's"):
        render(generator, RenderRequest(Latent(torch.zeros(2, 10)), window))
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name in ("broken.safetensors", "none.safetensors"):
        with pytest.raises(ValueError, match=r"no latent .*make one with `anyres invert`"):
            Latent.load(tmp_path / name)

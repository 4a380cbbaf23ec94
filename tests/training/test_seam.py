"""Windows across the border of two frames."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from anyres.networks import Scene, build_generator
from anyres.params import Train
from anyres.plane.window import Window
from anyres.training import loop
from anyres.training.seam import draw_seam_patches
from anyres.training.state import TrainState


class Waves(torch.nn.Module):
    """A function of the plane and the scene; remembers which windows were asked for."""

    def forward(self, scene: Scene, windows: list[Window]) -> torch.Tensor:
        self.asked = windows
        coords = torch.from_numpy(np.stack([window.coords() for window in windows])).float()
        waves = torch.sin(9 * coords[..., 0] + 5 * coords[..., 1] + scene.z[:, 0, None, None])
        return waves[:, None].expand(-1, 3, -1, -1)


def test_a_window_across_two_frames_shows_what_it_should() -> None:
    g = Waves()
    scene = Scene.of(range(40), 4)
    windows = [Window((0.01 * n, -0.2), 0.01 / (1 + n % 3), (16, 24)) for n in range(40)]
    across = draw_seam_patches(g, scene, windows)
    frames = g.asked
    torch.testing.assert_close(across, g(scene, windows), atol=1e-4, rtol=0)
    cuts = []
    for window, left, right in zip(windows, frames[:40], frames[40:], strict=True):
        assert left.bounds[2] == pytest.approx(right.bounds[0])
        cuts.append(round((window.bounds[0] - left.bounds[0]) / window.period))
    assert 0 <= min(cuts) < 4
    assert 20 <= max(cuts) < 24
    assert len(set(cuts)) > 10
    # The border's place belongs to the scene.
    torch.testing.assert_close(draw_seam_patches(g, scene, windows), across, atol=0, rtol=0)


@pytest.mark.parametrize(("chart", "exact", "frames"), [("cylinder", True, 1), ("frame", False, 1), ("cylinder", False, 2)])
def test_a_ring_of_a_generator_with_borders_is_trained_across_them(
    tiny: Train, monkeypatch: pytest.MonkeyPatch, chart: str, exact: bool, frames: int
) -> None:
    params = Train.model_validate(tiny.model_dump() | {"chart": chart, "kimg": 0.016})
    state = TrainState.fresh(params, (1.0, 0.5), torch.device("cpu"))
    geometry = state.g.geometry
    state.g.geometry = replace(geometry, exact=exact)
    asked = []
    state.g.register_forward_pre_hook(lambda module, args: asked.append(len(args[1])))
    batch = torch.zeros(params.batch, 3, 16, 24), [Window((0.2, 0.0), 1 / 32, (16, 24))] * params.batch
    list(loop.training_loop(state, params, [batch] * 4, Accelerator(cpu=True)))
    assert asked == [frames * params.batch] * 2


@pytest.mark.parametrize("chart", ["frame", "cylinder"])
def test_training_on_a_ring_moves_the_weights(tiny: Train, chart: str) -> None:
    params = Train.model_validate(tiny.model_dump() | {"chart": chart, "fov": 60.0, "kimg": 0.016})
    state = TrainState.fresh(params, (1.0, 0.5), torch.device("cpu"))
    before = build_generator(params, (1.0, 0.5)).state_dict()
    batch = torch.rand(params.batch, 3, 16, 24), [Window((0.2, 0.0), 1 / 96, (16, 24))] * params.batch
    reports = list(loop.training_loop(state, params, [batch] * 2, Accelerator(cpu=True)))
    assert len(reports) == 2
    assert all(math.isfinite(value) for report in reports for value in report.values.values())
    assert before.keys() == state.g.state_dict().keys()

"""The loss that holds a scene together over scales."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import Tensor, nn

from anyres.networks import Scene
from anyres.params import Train
from anyres.plane.window import Window
from anyres.training.loop import training_loop
from anyres.training.reduce import identity
from anyres.training.state import TrainState
from anyres.training.steps import Step, always, scale_consistency_loss

COARSEST = 2 / 16


class Waves(nn.Module):
    """Draws a wave over the plane that every scale shows alike, and `false` more at every halving of the period."""

    def __init__(self, false: float):
        super().__init__()
        self.geometry = SimpleNamespace(periods=(COARSEST / 16, COARSEST))
        self.false = nn.Parameter(torch.tensor(false))

    def forward(self, scene: Scene, windows: list[Window]) -> Tensor:
        pictures = []
        for window in windows:
            x, y = (torch.from_numpy(axis).float() for axis in window.axes())
            wave = torch.cos(1.5 * x)[None, :] * torch.sin(1.1 * y)[:, None]
            pictures.append((wave + self.false * torch.log2(torch.tensor(COARSEST / window.period))).expand(3, -1, -1))
        return torch.stack(pictures)


def measured(false: float, periods: list[float]) -> Tensor:
    g = Waves(false)
    windows = [Window((0.1, -0.2), period, (16, 24)) for period in periods]
    scene = Scene.of(range(len(windows)), 4)
    state: Any = SimpleNamespace(g=g)
    params: Any = None
    step = Step(state, params, Accelerator(cpu=True), [], always([]))
    return scale_consistency_loss(step, g(scene, windows), scene, windows, identity)


def test_a_scene_that_looks_alike_at_all_scales_costs_nothing() -> None:
    # Lanczos is no perfect filter near the border of a window.
    assert measured(0.0, [COARSEST / 2, COARSEST / 5]) < 5e-3


def test_what_an_octave_changes_is_what_it_costs() -> None:
    assert measured(0.25, [COARSEST / 2, COARSEST / 5]).item() == pytest.approx(0.25, abs=5e-3)


def test_windows_within_an_octave_of_the_coarsest_scale_are_left_alone() -> None:
    # Half the resolution of these is no scale that was ever judged.
    nothing = measured(0.25, [COARSEST, COARSEST / 1.9])
    assert nothing.item() == 0
    mixed = measured(0.25, [COARSEST, COARSEST / 4])
    assert mixed.item() == pytest.approx(0.25, abs=5e-3)


def test_training_with_it_brings_scales_together(tiny: Train) -> None:
    """Against an otherwise equal training, after a few steps."""
    found = []
    for weight in (0.0, 20.0):
        values = tiny.model_dump()
        values["loss"]["consistency"] = weight
        values |= {"patch_px": (16, 16), "zoom_max": 8.0, "kimg": 0.32, "batch": 8}
        params = Train.model_validate(values)
        state = TrainState.fresh(params, (1.0, 1.0), torch.device("cpu"))
        torch.manual_seed(0)
        real = torch.rand(8, 3, 16, 16) * 2 - 1
        windows = [Window((0.0, 0.0), 2 / 16 / 2 ** (n % 4), (16, 16)) for n in range(8)]
        accelerator = Accelerator(cpu=True)
        reports = list(training_loop(state, params, [(real, windows)] * 40, accelerator))
        assert ("loss/consistency" in reports[-1].values) == (weight > 0)
        scene = Scene.of(range(8), state.g.z_dim)
        step = Step(state, params, accelerator, [], always([]))
        with torch.no_grad():
            found.append(scale_consistency_loss(step, state.g(scene, windows), scene, windows, identity).item())
    assert found[1] < 0.7 * found[0]


def test_patches_that_cannot_be_halved_are_refused(tiny: Train) -> None:
    values = tiny.model_dump()
    values["loss"]["consistency"] = 1.0
    values["patch_px"] = (20, 24)
    with pytest.raises(ValidationError, match=r"loss\.consistency draws patches of 20 x 24 at half their size"):
        Train.model_validate(values)

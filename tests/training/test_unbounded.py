"""What InfinityGAN adds to training: local latents that must be heard, and heights that the discriminator reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from anyres.data.store import Store
from anyres.params import Train
from anyres.plane.window import Window
from anyres.training.loop import training_loop
from anyres.training.run import train
from anyres.training.state import TrainState
from tests.export.bundles import INFINITY_GAN


def section(tiny: Train, diversity: float = 1.0, vertical: float = 1.0) -> Train:
    values = tiny.model_dump() | INFINITY_GAN | {"kimg": 0.064}
    values["loss"] |= {"diversity": diversity, "vertical": vertical, "path_length": 2.0, "style_mixing": 0.5}
    return Train.model_validate(values)


def batch(params: Train, height: float) -> tuple[torch.Tensor, list[Window]]:
    torch.manual_seed(0)
    windows = [Window((0.1 * n, height), 1 / 16, (16, 16)) for n in range(params.batch)]
    return torch.rand(params.batch, 3, 16, 16) * 2 - 1, windows


def run(params: Train, batches: list) -> tuple[TrainState, list[dict[str, float]]]:
    state = TrainState.fresh(params, (1.5, 1.0), torch.device("cpu"))
    return state, [
        {name: value.item() for name, value in report.values.items()}
        for report in training_loop(state, params, batches, Accelerator(cpu=True))
    ]


@pytest.mark.parametrize(("diversity", "vertical"), [(1.0, 0.0), (0.0, 2.0), (0.0, 0.0)])
def test_losses_are_there_where_they_weigh(tiny: Train, diversity: float, vertical: float) -> None:
    params = section(tiny, diversity, vertical)
    state, (report,) = run(params, [batch(params, 0.3)])
    assert ("loss/diversity" in report) == (diversity > 0)
    assert ("loss/height" in report) == ("loss/d_height" in report) == (vertical > 0)
    assert (state.d.height is not None) == (vertical > 0)


def test_heights_are_learned_on_real_and_fake_pictures_alike(tiny: Train) -> None:
    """All windows at one height: what the discriminator reads goes there, and its label follows the windows."""
    params = section(tiny, vertical=5.0).model_copy(update={"kimg": 0.8})
    state, reports = run(params, [batch(params, 0.7)] * 60)
    real, _ = batch(params, 0.7)
    with torch.no_grad():
        heights = state.d.forward_heads(real)[1]
    assert (heights - 0.7).abs().mean() < 0.2
    assert reports[-1]["loss/d_height"] < 0.5 * reports[0]["loss/d_height"]


def test_local_latents_become_louder_under_the_diversity_loss(tiny: Train) -> None:
    found = {}
    for weight in (0.0, 20.0):
        params = section(tiny, diversity=weight, vertical=0.0).model_copy(update={"kimg": 0.4})
        state, _ = run(params, [batch(params, 0.0)] * 40)
        from anyres.training.loop import fake_scene

        scene = fake_scene(params, 10_000, Accelerator(cpu=True), state.g)
        found[weight] = state.g.diversity(scene, batch(params, 0.0)[1]).item()
    assert found[20.0] < 0.9 * found[0.0]


def test_a_whole_training_runs_on_patches_of_one_scale(tiny: Train, store: Store, tmp_path: Path) -> None:
    train(section(tiny), store, tmp_path / "out", tmp_path / "runs", Accelerator(cpu=True))
    assert (tmp_path / "out" / "generator.safetensors").exists()

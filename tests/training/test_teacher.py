"""The teacher's lesson: patches brought to its picture, batched, and the stages of a training."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from anyres.networks import AnyresGan, Scene
from anyres.networks.warp import warp
from anyres.params import Train
from anyres.plane.window import Window
from anyres.training.loop import training_loop
from anyres.training.state import TrainState
from anyres.training.teacher import Teacher, around
from tests.export.bundles import ANYRES_GAN

BASE = Window((0.0, 0.0), 2 / 32, (32, 32))


def pattern(window: Window) -> torch.Tensor:
    """Waves of at most two fifths of the base grid's Nyquist rate, as plane functions: (3, h, w)."""
    rng = np.random.default_rng(0)
    coords = window.coords()
    total = np.zeros((3, *window.size))
    for _ in range(8):
        frequency = rng.uniform(-1, 1, 2) * 0.2 / BASE.period
        phase = rng.uniform(0, 2 * np.pi, 3)
        total += np.cos(2 * np.pi * coords @ frequency + phase[:, None, None]) / 8
    return torch.from_numpy(total).float()


def windows(count: int = 6) -> list[Window]:
    """Patches of 32 pixels at zooms 1, 2, 4 and 8, anywhere in the frame."""
    rng = np.random.default_rng(1)
    found = []
    for zoom in (1.0, 2.0, 4.0, 8.0):
        for _ in range(count):
            slack = 1 - 1 / zoom
            found.append(Window((rng.uniform(-slack, slack), rng.uniform(-slack, slack)), BASE.period / zoom, (32, 32)))
    return found


def test_a_band_limited_pattern_comes_back_within_the_mask() -> None:
    """At least 35 dB at every zoom, a batch of all of them at once."""
    drawn = windows()
    fake = torch.stack([pattern(window) for window in drawn])
    rows, columns, mask = warp([BASE] * len(drawn), drawn, "cpu")
    brought = torch.einsum("bij,bcjk,blk->bcil", rows, fake, columns)
    truth = pattern(BASE)
    for zoom in (1, 2, 4, 8):
        which = [index for index, window in enumerate(drawn) if round(window.zoom(BASE.period)) == zoom]
        error = ((brought[which] - truth).square() * mask[which]).sum() / (3 * mask[which].sum())
        assert 10 * math.log10(4 / max(error.item(), 1e-12)) >= 35
        covered = mask[which].sum(dim=(1, 2, 3))
        assert covered.min() >= (32 / zoom - 2) ** 2
        assert covered.max() <= (32 / zoom + 1) ** 2
        assert torch.isfinite(brought[which]).all()


def test_nothing_folds_back() -> None:
    """A pattern above the base grid's Nyquist rate vanishes, where picking every eighth pixel would keep it."""
    fine = Window((0.0, 0.0), BASE.period / 8, (32, 32))
    x = fine.axes()[0]
    wave = torch.from_numpy(np.cos(2 * np.pi * x * 0.8 / BASE.period)).float().expand(1, 3, 32, 32)
    rows, columns, mask = warp([BASE], [Window((0.0, 0.0), BASE.period / 8, (32, 32))], "cpu")
    brought = torch.einsum("bij,bcjk,blk->bcil", rows, wave, columns)
    assert (brought.abs() * mask).max() < 0.3


def test_the_frame_around_a_window_holds_it() -> None:
    assert around(Window((0.3, -0.2), 0.01, (32, 32)), BASE) == BASE
    wide = around(Window((1.4, 0.0), 0.01, (32, 32)), BASE)
    assert wide.center[1] == 0
    assert wide.bounds[2] == pytest.approx(1.4 + 0.16)


class Drawn(torch.nn.Module):
    """A generator that draws the pattern, as a teacher that knows it."""

    def forward(self, scene: Scene, windows: list[Window]) -> torch.Tensor:
        return torch.stack([pattern(window) for window in windows])


@pytest.mark.parametrize("direction", ["inverse", "forward"])
@pytest.mark.parametrize("perceptual", ["none", "lite0"])
def test_the_lesson_is_small_for_the_truth_and_large_for_another_picture(direction: str, perceptual: str) -> None:
    drawn = windows(2)
    teacher = Teacher(Drawn(), BASE, direction, perceptual)
    scene = Scene.of(range(len(drawn)), 4)
    truth = torch.stack([pattern(window) for window in drawn]).requires_grad_()
    good = teacher(truth, scene, drawn)
    bad = teacher(truth.detach().flip(-1), scene, drawn)
    assert good < 0.2 * bad
    good.backward()
    assert truth.grad is not None
    assert torch.isfinite(truth.grad).all()


class Channels(torch.nn.Module):
    """Features of one and of two by two pixels, their channel weights one."""

    channel_weights = (torch.ones(1),) * 2

    def maps(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        return [pictures, torch.nn.functional.avg_pool2d(pictures, 2)]


def slow(fake: torch.Tensor, drawn: list[Window], zoom: int) -> float:
    """The law of one sample by boxes: the mean over the pixels that the patch covers, of the patch averaged to them."""
    size = BASE.size[0] // zoom
    top, left = (round((drawn[0].bounds[edge] + 1) / BASE.period) for edge in (1, 0))
    truth = pattern(BASE)[:, top : top + size, left : left + size]
    rows, columns, _ = warp([BASE], drawn, "cpu")
    patch = (rows[0] @ fake @ columns[0].T)[:, top : top + size, left : left + size]
    total = (patch - truth).abs().mean().item()
    for cells in (1, 2):
        a, b = (x.reshape(3, size // cells, cells, size // cells, cells).mean((2, 4)).double() for x in (patch, truth))
        a, b = (x / (x.square().sum(0) + 1e-8).sqrt() for x in (a, b))
        total += (a - b).square().sum(0).mean().item()
    return total


def on_the_grid() -> list[Window]:
    """A patch at each of zooms 1, 2, 4 and 8 whose edges are edges of pairs of pixels of the base."""
    return [Window((1 / zoom - 1 + 4 * BASE.period * (zoom > 1),) * 2, BASE.period / zoom, (32, 32)) for zoom in (1, 2, 4, 8)]


def test_each_sample_has_its_own_masked_mean() -> None:
    """L1 and features of a batch against boxes cut sample by sample, and the same from parts of the batch."""
    drawn = on_the_grid()
    fake = torch.stack([pattern(window) for window in drawn]) + 0.2 * torch.randn(4, 3, 32, 32)
    teacher = Teacher(Drawn(), BASE, "inverse", "none")
    teacher.features = Channels()
    scene = Scene.of(range(4), 4)
    found = teacher(fake, scene, drawn)
    by_hand = [slow(fake[i], drawn[i : i + 1], zoom) for i, zoom in enumerate((1, 2, 4, 8))]
    assert found.item() == pytest.approx(sum(by_hand) / 4, rel=1e-4)
    parts = [teacher(fake[i : i + 2], scene.part(i, i + 2), drawn[i : i + 2]) for i in (0, 2)]
    torch.testing.assert_close(torch.stack(parts).mean(), found)


@pytest.mark.parametrize("features", [False, True])
def test_equal_errors_weigh_alike_at_every_zoom(features: bool) -> None:
    """One ratio over the batch gave them .75, .19, .05 and .01 of the gradient."""
    drawn = on_the_grid()
    error = torch.full((4, 1, 1, 1), 0.1, requires_grad=True)
    flat = torch.nn.Module()
    flat.forward = lambda scene, windows: torch.full((len(windows), 3, 32, 32), 0.25)  # type: ignore[method-assign]
    teacher = Teacher(flat, BASE, "inverse", "none")  # type: ignore[arg-type]
    teacher.features = Channels() if features else None
    tint = torch.tensor([1.0, 0.5, 0.0])[:, None, None]
    teacher(0.25 + error * tint * torch.ones(4, 3, 32, 32), Scene.of(range(4), 4), drawn).backward()
    assert error.grad is not None
    shares = error.grad.flatten() / error.grad.sum()
    assert shares.tolist() == pytest.approx([0.25] * 4, rel=0.02)


@pytest.fixture
def staged(tiny: Train) -> Train:
    values = tiny.model_dump()
    values["stages"] |= {"global_kimg": 0.032, "global_share": 0.5, "teacher_weight": 5.0}
    return Train.model_validate(values)


def batches(params: Train):
    while True:
        pictures = torch.linspace(-1, 1, params.batch * 3 * 16 * 24).reshape(params.batch, 3, 16, 24)
        yield pictures, [Window((0.0, 0.0), 1 / 16, (16, 24))] * params.batch


def test_the_second_stage_keeps_the_networks_and_starts_adam_anew(staged: Train, tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    state = TrainState.fresh(staged, (2.0, 1.0), torch.device("cpu"))
    steps = []
    for report in training_loop(state, staged, batches(staged), accelerator):
        steps.append((report.nimg, "loss/teacher" in report.values))
        if report.nimg == 32:
            first = {name: value.clone() for name, value in state.g_ema.state_dict().items()}
            state.save(tmp_path / "half.safetensors")
        if report.nimg == 40:
            (count,) = {int(entry["step"]) for entry in state.g_opt.state.values()}
            assert count == 1
    assert steps == [(8, False), (16, False), (24, False), (32, False), *((n, True) for n in range(40, 81, 8))]
    assert state.teacher is not None
    assert all(torch.equal(value, first[name]) for name, value in state.teacher.state_dict().items())

    # From the end of the first stage, and from within the second, the same comes out.
    state.save(tmp_path / "end.safetensors")
    for name in ("half", "end"):
        again = TrainState.fresh(staged, (2.0, 1.0), torch.device("cpu"))
        again.load(tmp_path / f"{name}.safetensors")
        list(training_loop(again, staged, batches(staged), accelerator))
        for key, value in state.g.state_dict().items():
            assert torch.equal(again.g.state_dict()[key], value)


def test_a_teacher_needs_a_first_stage(tiny: Train) -> None:
    values = tiny.model_dump()
    values["stages"] |= {"teacher_weight": 5.0}
    with pytest.raises(ValueError, match=r"stages\.global_kimg 0 must lie between 0 and kimg"):
        Train.model_validate(values)


def test_after_two_stages_the_scale_alone_changes_the_picture(tiny: Train) -> None:
    """In the first stage nothing hears the scale; what the second learns of it shows in the picture."""
    values = tiny.model_dump() | ANYRES_GAN | {"kimg": 0.064, "zoom_max": 8.0}
    values["stages"] |= {"global_kimg": 0.024, "global_share": 0.25, "teacher_weight": 5.0}
    params = Train.model_validate(values)
    state = TrainState.fresh(params, (1.0, 1.0), torch.device("cpu"), torch.rand(8, 3, 32, 32) - 0.5)

    def scaled(zoom: float) -> torch.Tensor:
        g = state.g_ema
        assert isinstance(g, AnyresGan)
        heard = g.scale.forward
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr(g.scale, "forward", lambda zooms: heard(torch.full_like(zooms, zoom)))
            return g(Scene.of([3], g.z_dim), [BASE])

    def pairs():
        rng = np.random.default_rng(0)
        while True:
            drawn = [windows(1)[n] for n in rng.integers(0, 4, params.batch)]
            yield torch.stack([pattern(window) for window in drawn]), drawn

    differences = []
    for report in training_loop(state, params, pairs(), Accelerator(cpu=True)):
        if report.nimg in (24, 64):
            differences.append((scaled(1.0) - scaled(8.0)).abs().max().item())
    assert differences[0] == 0
    assert differences[1] > 1e-4

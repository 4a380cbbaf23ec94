"""Projection of a picture that the generator can draw: found, resumed, and with several sizes at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from anyres.networks import Scene, build_generator
from anyres.params import Train
from anyres.plane.window import Window
from anyres.synthesis.invert import Target, invert, mean_style, psnr, targets


@pytest.fixture(scope="module")
def generator(tiny: Train):
    torch.manual_seed(4)
    return build_generator(tiny, (1.5, 1.0)).eval().requires_grad_(False)


def target(generator, size: int, seed: int = 11) -> Target:
    """What the generator draws of a scene, as if it were a photograph."""
    window = Window((0.0, 0.0), 2 / size, (size, size))
    with torch.no_grad():
        return Target(generator(Scene.of([seed], generator.z_dim), [window])[0], window)


def test_a_picture_of_the_generator_is_found_again(generator) -> None:
    goal = target(generator, 32)
    begin, spread = mean_style(generator)
    assert begin.shape == (10,)
    assert spread > 0
    short, longer = (invert(generator, [goal], steps=steps, perceptual=0.0) for steps in (2, 150))
    assert longer.w.shape == (generator.num_ws, 10)
    assert psnr(generator, longer, goal) > psnr(generator, short, goal) + 6
    assert psnr(generator, longer, goal) > 22


def test_an_interrupted_projection_goes_on_to_the_same_latent(generator, tmp_path: Path) -> None:
    goals = [target(generator, 24), target(generator, 32)]
    through = invert(generator, goals, steps=220, perceptual=0.0)
    work, count = tmp_path / "work.safetensors", []

    def stop(amount: float) -> None:
        count.append(amount)
        if len(count) == 130:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        invert(generator, goals, steps=220, perceptual=0.0, work=work, advance=stop)
    assert work.exists()
    told = []
    again = invert(generator, goals, steps=220, perceptual=0.0, work=work, advance=told.append)
    assert torch.equal(again.w, through.w)
    assert told[0] == 100
    assert sum(told) == 220
    assert not work.exists()
    # A file of something else is no reason to go wrong.
    work.write_bytes(b"?")
    assert torch.equal(
        invert(generator, goals, steps=3, perceptual=0.0, work=work).w, invert(generator, goals, steps=3, perceptual=0.0).w
    )


def test_features_take_part(generator) -> None:
    goal = target(generator, 32)
    plain, felt = (invert(generator, [goal], steps=12, perceptual=weight) for weight in (0.0, 1.0))
    assert not torch.equal(plain.w, felt.w)
    assert torch.isfinite(felt.w).all()


def test_a_photograph_of_any_shape_is_wanted_at_several_sizes(generator) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    found = targets(photo, generator, [24, 48])
    assert [tuple(part.pixels.shape) for part in found] == [(3, 24, 36), (3, 48, 72)]
    assert all(part.window.size == tuple(part.pixels.shape[1:]) for part in found)
    assert found[0].pixels.min() >= -1
    for size in (2, 61):
        with pytest.raises(ValueError, match=f"size {size} must lie between a cell, 4, and the photograph's short side, 60"):
            targets(photo, generator, [size])
    with pytest.raises(ValueError, match="outside the frame"):
        targets(np.zeros((30, 90, 3), np.uint8), generator, [24])

"""The whole evaluation on real photographs and a generator of known behaviour."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from anyres.data.store import Store
from anyres.evaluation import samples
from anyres.evaluation.distances import kid
from anyres.evaluation.evaluate import Snapshots, evaluate
from anyres.evaluation.features import FeatureSpace
from anyres.params import Params
from anyres.plane.resample import render_real
from anyres.plane.window import Window, frame_window

from .ripples import EVALUATE, Evaluated, Ripples


@pytest.fixture(scope="module")
def space() -> FeatureSpace:
    return FeatureSpace("lite0")


def test_features_take_any_size_of_bytes_only(space: FeatureSpace) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 20, 36, 3), dtype=np.uint8)
    features = space(pictures)
    assert features.shape == (3, space.dim)
    assert features.dtype == np.float64
    assert space.name == "lite0@128"
    np.testing.assert_allclose(space(pictures[1:2]), features[1:2], atol=1e-5)
    with pytest.raises(ValueError, match="uint8 pictures"):
        space(pictures.astype(np.float32))


def test_kid_grows_with_every_degradation(space: FeatureSpace) -> None:
    sky = skimage.data.hubble_deep_field()
    crops = np.stack([sky[top : top + 36, left : left + 44] for top in range(20, 820, 60) for left in range(20, 920, 90)])
    real, other = space(crops[::2]), crops[1::2].astype(np.float32)
    blurred = [gaussian_filter(other, (0, sigma, sigma, 0)) for sigma in (0, 0.6, 1.2, 2.4)]
    scores = [kid(space(pictures.round().astype(np.uint8)), real) for pictures in blurred]
    assert scores == sorted(scores)
    assert scores[-1] > 10 * abs(scores[0])


def test_every_number_is_there_and_finite(evaluated: Evaluated) -> None:
    metrics = evaluated.metrics
    assert metrics == json.loads((evaluated.folder / "evaluation" / "metrics.json").read_text())
    numbers = {key: value for key, value in metrics.items() if key != "protocol"}
    assert all(math.isfinite(value) for value in numbers.values())
    for key in ("patch_kid", "patch_kid_init", "patch_kid_fixed", "patch_kid_reals", "patch_fd", "patch_recall", "seam/max"):
        assert key in numbers
    assert numbers["patch_kid_low"] < numbers["patch_kid"] < numbers["patch_kid_high"]
    assert numbers["patch_kid_ratio"] == pytest.approx(numbers["patch_kid"] / numbers["patch_kid_init"])


def test_numbers_say_what_is_so(evaluated: Evaluated) -> None:
    metrics = evaluated.metrics
    # Photographs are nearer to photographs than stripes are, and faint stripes nearer than garish ones.
    assert abs(metrics["patch_kid_reals"]) < 0.1 * metrics["patch_kid"]
    assert metrics["patch_kid_ratio"] < 1
    # Stripes are a function of the plane: the same at all scales, in any tiles, wherever the window begins.
    assert metrics["self_ssim/min"] > 0.98
    assert metrics["seam/max"] < 1e-5
    assert metrics["equivariance/integer_db"] > 90


def test_protocol_stands_beside_the_numbers(evaluated: Evaluated) -> None:
    protocol = evaluated.metrics["protocol"]
    assert protocol["features"] == "lite0@128"
    assert protocol["reals_kernel"] == "lanczos3"
    assert protocol["data_hash"] == evaluated.store.hash
    assert protocol["num_samples"] == EVALUATE["num_samples"]
    assert len(protocol["weights_hash"]) == 64
    assert protocol["fd_biased"]


def test_tables_and_figures(evaluated: Evaluated) -> None:
    folder = evaluated.folder / "evaluation"
    with (folder / "plots" / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["size"] for row in rows] == ["24", "40", "64"]
    # The finest period of training is that of frames of 48 px.
    assert [row["trained"] for row in rows] == ["True", "True", "False"]
    # Only pictures that are large enough count as reals: of 64 px there are too few to score.
    assert [row["reals"] for row in rows] == ["30", "30", "10"]
    assert rows[2]["fd"] == ""
    assert "sweep/64/fd" not in evaluated.metrics
    for name in ("sweep", "octaves", "self_ssim"):
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert picture.width > 300
    cost = json.loads((folder / "cost.json").read_text())
    assert 0 < cost["host_gib"] < 64
    assert cost["seconds"] > 0


def test_equal_seeds_give_equal_files(params: Params, store: Store, tmp_path: Path) -> None:
    small = params.evaluate.model_copy(update={"num_samples": 20, "num_sweep_samples": 20, "sizes": (24, 32), "bootstrap": 2})
    for run, seed in (("one", 1), ("two", 1), ("three", 2)):
        again = params.model_copy(update={"evaluate": small.model_copy(update={"seed": seed})})
        evaluate(again, Snapshots(Ripples(0.4), Ripples(6.0)), store, tmp_path / run)
    names = ["metrics.json", *(f"plots/{name}.csv" for name in ("sweep", "octaves", "self_ssim")), "figures/sweep.png"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert (tmp_path / "one" / "metrics.json").read_bytes() != (tmp_path / "three" / "metrics.json").read_bytes()


def test_weights_that_are_not_finite_are_named(params: Params, store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trained generator: weights hold NaN or infinite values \\(first in strength\\)"):
        evaluate(params, Snapshots(Ripples(math.nan), Ripples(6.0)), store, tmp_path / "out")
    with pytest.raises(ValueError, match="untrained generator"):
        evaluate(params, Snapshots(Ripples(0.4), Ripples(math.inf)), store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sizes_below_the_window_of_ssim_are_refused(params: Params, store: Store, tmp_path: Path) -> None:
    tiny = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"sizes": (32, 8)})})
    with pytest.raises(ValueError, match=r"evaluate\.sizes: SelfSSIM needs 11 pixels or more, found 8"):
        evaluate(tiny, Snapshots(Ripples(0.4), Ripples(6.0)), store, tmp_path / "out")


def test_fakes_stand_at_the_windows_of_the_reals() -> None:
    generator, windows = Ripples(1.0), [Window((0.3 * k - 0.4, 0.1 * k), 2 / (30 + k), (16, 20)) for k in range(3)]
    seeds = samples.scene_seeds(5, "patches", 3)
    fakes = samples.fakes(generator, seeds, windows).pixels()
    # The baseline sees the same place of the same scene: stripes are smooth enough to survive 16 px.
    fixed = samples.upsampled_baseline(generator, seeds, windows, 16).pixels()
    assert fakes.shape == fixed.shape == (3, 16, 20, 3)
    inner = np.abs(fakes.astype(float) - fixed)[:, 2:-2, 2:-2]
    assert inner.max() < 6
    assert np.abs(fakes[0].astype(float) - fakes[1]).max() > 30


def test_scenes_differ_by_stream_and_seed() -> None:
    seeds = samples.scene_seeds(1, "patches", 500)
    assert seeds == samples.scene_seeds(1, "patches", 500)
    assert not set(seeds) & set(samples.scene_seeds(1, "frames", 500))
    assert not set(seeds) & set(samples.scene_seeds(2, "patches", 500))


def test_real_frames_are_square_about_the_centre(store: Store) -> None:
    indices = samples.choose_frames(store, 40, 100, seed=0)
    assert len(indices) == 30
    assert len(samples.choose_frames(store, 40, 7, seed=0)) == 7
    frames = samples.real_frames(store, indices[:2], 40).pixels()
    expected = np.clip(np.rint(store.read(indices[1], frame_window(1.0, 40))), 0, 255)
    assert frames.shape == (2, 40, 40, 3)
    np.testing.assert_array_equal(frames[1], expected)


def test_patches_of_metrics_are_none_of_training(params: Params, store: Store) -> None:
    from anyres.data.patches import PatchLaw, PatchSampler

    train = params.train
    law = PatchLaw(train.patch_px, train.zoom_max, train.period_law, train.flip)
    training = PatchSampler(store, law, params.evaluate.seed)
    metric = samples.sampler_of(train, store, params.evaluate.seed)
    assert {training.draw(n).window for n in range(50)}.isdisjoint(metric.draw(n).window for n in range(50))


def test_torch_state_is_left_alone(params: Params) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    samples.fakes(Ripples(1.0), [1, 2], [frame_window(1.0, 16)] * 2).pixels()
    assert torch.equal(before, torch.get_rng_state())


def test_scale_inv_is_a_larger_canvas_brought_down() -> None:
    base = Window((0.0, 0.0), 1 / 8, (16, 16))
    found = samples.scale_inv(Ripples(1.0), [1, 2], base, 3).pixels()
    assert found.shape == (2, 16, 16, 3)
    canvas = samples.fakes(Ripples(1.0), [1, 2], [Window((0.0, 0.0), 1 / 8, (48, 48))] * 2).pixels()
    expected = np.clip(np.rint(render_real(canvas[1], frame_window(1.0, 16))), 0, 255)
    assert np.array_equal(found[1], expected)
    once = samples.scale_inv(Ripples(1.0), [1], base, 1).pixels()
    assert np.array_equal(once, samples.fakes(Ripples(1.0), [1], [base]).pixels())

"""SelfSSIM, seams and shifts: against scikit-image, and on planted faults."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from skimage.metrics import structural_similarity

from anyres.evaluation.consistency import Seams, fractional_psnr, mean_seams, resized, seam_error, self_ssim, shift_psnr, ssim
from anyres.plane.resample import render_real
from anyres.plane.window import frame_window


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return skimage.data.astronaut()[:192, 100:292]


def test_ssim_agrees_with_scikit_image() -> None:
    picture = skimage.data.cat()[40:101, 30:127]
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 20, picture.shape), 0, 255)
    expected = structural_similarity(
        picture.astype(float),
        noisy,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert ssim(picture, noisy) == pytest.approx(expected, abs=1e-6)


def test_ssim_refuses_what_its_window_does_not_fit() -> None:
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(np.zeros((10, 40, 3)), np.zeros((10, 40, 3)))


def test_resizing_keeps_means_and_downwards_is_render_real(photograph: np.ndarray) -> None:
    np.testing.assert_array_equal(resized(photograph, 48), render_real(photograph, frame_window(1.0, 48)))
    small = resized(photograph, 48)
    assert resized(small, 120).shape == (120, 120, 3)
    assert resized(small, 120).mean() == pytest.approx(small.mean(), abs=0.5)


def test_one_photograph_at_all_sizes_agrees_with_itself(photograph: np.ndarray) -> None:
    sizes = (32, 48, 96)
    matrix = self_ssim([[resized(photograph, size) for size in sizes]])
    np.testing.assert_allclose(np.diag(matrix), 1)
    # Downwards only the order of filters differs; upwards detail is missing.
    assert matrix[0, 1:].min() > 0.97
    assert matrix[2, 0] < matrix[2, 1] < 0.97


def test_other_pictures_do_not_agree(photograph: np.ndarray) -> None:
    other = skimage.data.coffee()[100:292, 200:392]
    mixed = [resized(photograph, 32), resized(other, 64)]
    assert self_ssim([mixed])[0, 1] < 0.5


def test_a_planted_seam_is_found(photograph: np.ndarray) -> None:
    whole = photograph[:96, :140] / 127.5 - 1
    clean = seam_error(whole, whole, rows=[64], columns=[64, 128])
    assert (clean.max, clean.mean) == (0, 0)
    assert clean.gradient_ratio == 1
    tiled = whole.copy()
    tiled[:, 64:] += 0.25
    seams = seam_error(tiled, whole, rows=[64], columns=[64, 128])
    assert seams.max == pytest.approx(0.25)
    assert seams.mean == pytest.approx(0.25 * 76 / 140)
    assert seams.gradient_ratio > 1.5 * clean.gradient_ratio


def test_the_step_ratio_is_that_of_two_pictures_by_hand(photograph: np.ndarray) -> None:
    """Mean steps at the lines and elsewhere, pixel by pixel; the content under the lines drops out."""
    whole = photograph[:40, :50] / 127.5 - 1
    # The scene itself has an edge where a tile begins.
    whole[:, 20:] += 0.5
    tiled = whole.copy()
    tiled[:, 20:] += 0.25

    def ratio(picture: np.ndarray) -> float:
        at, elsewhere = [], []
        for x in range(1, 50):
            step = np.mean([abs(picture[y, x, c] - picture[y, x - 1, c]) for y in range(40) for c in range(3)])
            (at if x == 20 else elsewhere).append(step)
        for y in range(1, 40):
            step = np.mean([abs(picture[y, x, c] - picture[y - 1, x, c]) for x in range(50) for c in range(3)])
            (at if y == 32 else elsewhere).append(step)
        return float(np.mean(at) / np.mean(elsewhere))

    found = seam_error(tiled, whole, rows=[32], columns=[20]).gradient_ratio
    assert found == pytest.approx(ratio(tiled) / ratio(whole))
    scenes = [Seams(0.1, 0.01, 0.5), Seams(0.3, 0.03, 1.5)]
    assert mean_seams(scenes) == Seams(0.3, 0.02, 1.0)


def test_a_seam_needs_two_tiles() -> None:
    with pytest.raises(ValueError, match="two tiles"):
        seam_error(np.zeros((9, 12, 3)), np.zeros((9, 12, 3)), rows=[], columns=[])


def test_shifts_are_told_apart_from_their_transpose(photograph: np.ndarray) -> None:
    plane = photograph / 127.5 - 1
    still, moved = plane[10:70, 20:100], plane[13:73, 25:105]
    assert shift_psnr(moved, still, right=5, down=3) == float("inf")
    assert shift_psnr(moved, still, right=3, down=5) < 40
    # 10 log10(4 / 0.01^2): a constant error of 0.01 in a range of 2.
    assert shift_psnr(moved + 0.01, still, right=5, down=3) == pytest.approx(10 * np.log10(4 / 1e-4), abs=1e-6)


def test_a_shift_by_parts_of_a_pixel_is_known_of_what_is_band_limited() -> None:
    """Waves far below Nyquist's rate move as sinc interpolation says; ones that stand still do not."""

    def waves(right: float, down: float) -> np.ndarray:
        rows, columns = np.mgrid[:96, :80].astype(float)
        x, y = columns + right, rows + down
        one = np.sin(0.4 * x + 0.2 * y) * np.exp(-(((x - 40) / 20) ** 2) - ((y - 48) / 20) ** 2)
        return np.repeat(one[:, :, None], 3, axis=2)

    assert fractional_psnr(waves(0.4, -0.3), waves(0, 0), 0.4, -0.3) > 60
    assert fractional_psnr(waves(0, 0), waves(0, 0), 0.4, -0.3) < 35
    assert fractional_psnr(waves(0.4, -0.3), waves(0, 0), -0.4, 0.3) < 35

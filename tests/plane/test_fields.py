from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from anyres.plane import fields
from anyres.plane.chart import Cylinder, Plane
from anyres.plane.window import Window

PLANE = Plane()


def splitmix64(x: int) -> int:
    """The finaliser in Python's own integers: an independent reference."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def test_mix_is_the_finaliser_of_splitmix64():
    values = [0, 1, 2**63 - 1, -1, -(2**63), 123456789, -987654321987]
    expected = [splitmix64(value % 2**64) for value in values]
    assert [value % 2**64 for value in fields.mix(torch.tensor(values)).tolist()] == expected


@pytest.mark.parametrize("corner", [0, 10**9, -(2**40)])
def test_lattice_normals_are_normal_and_uncorrelated(corner):
    index = torch.arange(corner, corner + 400)
    bits = fields.lattice_bits(fields.key(torch.tensor([5]), 2), index[None, :], index[None, :300] + 7)
    values = fields.normal_from_bits(bits)[0].double().numpy()
    assert values.shape == (300, 400)
    # Fixed bits: these are the p-values of one sample of 120,000, not of a lottery.
    assert stats.kstest(values.ravel(), "norm").pvalue > 0.01
    bound = 4 / np.sqrt(values.size)
    for dy, dx in [(0, 1), (1, 0), (1, 1), (3, 2)]:
        a, b = values[: 300 - dy, : 400 - dx], values[dy:, dx:]
        assert abs((a * b).mean()) < bound


def test_bits_are_uniform_in_every_byte():
    index = torch.arange(512)
    bits = fields.lattice_bits(fields.key(torch.tensor([0]), 0), index[None], index[None])
    for shift in range(0, 64, 8):
        counts = np.bincount(((bits >> shift) & 0xFF).flatten().numpy(), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-3


def test_seeds_and_streams_are_independent():
    index = torch.arange(200)[None]
    draw = {
        (seed, stream): fields.normal_from_bits(fields.lattice_bits(fields.key(torch.tensor([seed]), stream), index, index))
        for seed in (0, 1)
        for stream in (0, 1)
    }
    keys = list(draw)
    for i, a in enumerate(keys):
        for b in keys[i + 1 :]:
            assert abs((draw[a] * draw[b]).mean()) < 4 / 200


def test_a_tile_of_a_field_is_the_region_of_the_whole():
    window = Window((12.3, -4.5), 0.037, (40, 52))
    seeds = torch.tensor([9])
    whole = fields.sample(seeds, 1, [window], PLANE)
    part = fields.sample(seeds, 1, [window.crop(11, 7, (13, 21))], PLANE)
    assert torch.allclose(part, whole[:, 11:24, 7:28], atol=1e-6)


@pytest.mark.parametrize("period", [0.5, 0.31, 0.7071, 0.251])
def test_variance_is_restored_at_every_period(period):
    sample = fields.sample(torch.arange(40), 3, [Window((0.4, 0.8), period, (41, 57))] * 40, PLANE)
    assert sample.var().item() == pytest.approx(1.0, abs=0.03)
    assert sample.mean().item() == pytest.approx(0.0, abs=0.03)


def test_a_scene_seen_at_another_scale_keeps_its_field():
    seeds = torch.arange(64)
    near = fields.sample(seeds, 0, [Window((0.0, 0.0), 2 / 64, (64, 64))] * 64, PLANE)
    again = fields.sample(seeds, 0, [Window((0.0, 0.0), 2 / 60, (60, 60))] * 64, PLANE)
    other = fields.sample(seeds + 1000, 0, [Window((0.0, 0.0), 2 / 60, (60, 60))] * 64, PLANE)
    resized = torch.nn.functional.interpolate(near[:, None], size=(60, 60), mode="bilinear", antialias=True)[:, 0]

    def correlation(a, b):
        return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()

    assert correlation(resized, again) > 0.7
    assert abs(correlation(resized, other)) < 0.02


def test_a_field_is_continuous_across_an_octave():
    seeds = torch.arange(8)
    below = fields.sample(seeds, 0, [Window((0.0, 0.0), 0.25 * (1 - 1e-7), (20, 30))] * 8, PLANE)
    above = fields.sample(seeds, 0, [Window((0.0, 0.0), 0.25 * (1 + 1e-7), (20, 30))] * 8, PLANE)
    assert (below - above).abs().max() < 1e-4


def test_a_cylinder_closes():
    chart = Cylinder()
    seeds = torch.tensor([3])
    left = fields.sample(seeds, 0, [Window((-1.0, 0.0), 2 / 48, (16, 24))], chart)
    right = fields.sample(seeds, 0, [Window((1.0, 0.0), 2 / 48, (16, 24))], chart)
    assert torch.allclose(left, right, atol=1e-5)


def test_latents_are_the_same_whatever_is_drawn_beside_them():
    together = fields.latent([3, 4, 5], 7)
    assert torch.equal(together[1], fields.latent([4], 7)[0])
    assert stats.kstest(fields.latent(range(500), 64).flatten().numpy(), "norm").pvalue > 0.01


def test_windows_of_several_sizes_are_refused():
    with pytest.raises(ValueError, match="must have one size"):
        fields.sample(torch.arange(2), 0, [Window((0, 0), 1, (2, 3)), Window((0, 0), 1, (3, 2))], PLANE)


def test_streams_are_distinct_and_keep_their_numbers():
    """A new number for a stream would change every scene."""
    numbers = [int(stream) for stream in fields.Stream]
    assert len(fields.Stream.__members__) == len(set(numbers)) == len(numbers)
    named = {stream.name: int(stream) for stream in fields.Stream}
    assert (named["LATENT"], named["FREQUENCIES"], named["NOISE"]) == (-1, -2, 0)
    assert (named["SEAM_CUT"], named["PATCH_MIX"], named["PATH_LENGTH"]) == (-3, -4, -5)
    assert (named["MIXED_LAYER"], named["MIXED_LATENT"], named["DIVERSITY"]) == (-6, -7, -8)
    assert (named["LOCAL"], named["OCTAVES"]) == (2**16, 2**17)

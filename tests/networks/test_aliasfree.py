"""The alias-free trunk: filters as designed, the fast form equal to the plain one, and what the paper promises of shifts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F

from anyres.networks.aliasfree import GAIN, LRELU_UPSAMPLING, AliasFreeConv, Plan, filtered_lrelu, lowpass, plan, reference

LAYERS = {resolution: plan(resolution, 14, 16 * resolution, 8)[:-1] for resolution in (32, 64, 256)}
EVERY = [
    pytest.param(layer, id=f"{resolution}-{index}") for resolution in LAYERS for index, layer in enumerate(LAYERS[resolution])
]


def entering(layer: Plan, batch: int = 2, extra: int = 0) -> torch.Tensor:
    """Noise of the size that a layer's convolution leaves, for a canvas `extra` of its cells wider than high."""
    side = layer.in_rate + 2 * layer.in_margin + layer.kernel - 1
    return torch.randn(batch, 3, side, side + extra * layer.in_rate // 16, dtype=torch.float64)


def test_the_schedule_is_the_papers() -> None:
    """Table of StyleGAN3-T at 256 pixels: sizes, rates, cutoffs and widths."""
    layers = plan(256, 14, 32768, 512)
    assert [layer.outputs for layer in layers] == [512] * 9 + [362, 256, 181, 128, 128, 3]
    assert [layer.out_rate for layer in layers] == [16] * 3 + [32] * 2 + [64] * 2 + [128] * 3 + [256] * 5
    sizes = [layer.out_rate + 2 * layer.out_margin for layer in layers]
    assert sizes == [36] * 3 + [52] * 2 + [84] * 2 + [148] * 3 + [276] * 3 + [256] * 2
    cutoffs = [layer.out_cutoff for layer in layers]
    np.testing.assert_allclose(cutoffs[:13], [2 * 2 ** (index / 2) for index in range(13)], rtol=1e-12)
    assert cutoffs[12:] == [128, 128, 128]


@pytest.mark.parametrize("layer", EVERY)
def test_filters_are_scipys(layer: Plan) -> None:
    for taps, cutoff, half_width in (
        (layer.up_filter, layer.in_cutoff, layer.in_half_width),
        (layer.down_filter, layer.out_cutoff, layer.out_half_width),
    ):
        expected = scipy.signal.firwin(len(taps), cutoff, width=2 * half_width, fs=layer.rate)
        np.testing.assert_allclose(taps, expected, atol=1e-12)
    assert lowpass(1, 3.0, 1.0, 16.0).tolist() == [1.0]


@pytest.mark.parametrize("layer", EVERY)
def test_filters_pass_what_they_should_and_stop_the_rest(layer: Plan) -> None:
    """In decibels: about 0 up to half of the cutoff, a soft edge there (six samples a side are few), -24 from the stopband on."""
    for taps, cutoff, half_width in (
        (layer.up_filter, layer.in_cutoff, layer.in_half_width),
        (layer.down_filter, layer.out_cutoff, layer.out_half_width),
    ):
        frequencies, response = scipy.signal.freqz(taps, worN=4096, fs=layer.rate)
        decibels = 20 * np.log10(np.abs(response) + 1e-12)
        assert np.abs(decibels[frequencies <= cutoff / 2]).max() < 1.3
        assert -7 < np.interp(cutoff, frequencies, decibels) < -2
        assert decibels[frequencies >= cutoff + half_width].max() < -24


@pytest.mark.parametrize("layer", [layer for layer in EVERY if not layer.id.startswith("256")])
@pytest.mark.parametrize("extra", [0, 3])
def test_the_fast_form_equals_the_plain_one(layer: Plan, extra: int) -> None:
    torch.manual_seed(0)
    x = entering(layer, extra=extra).requires_grad_()
    fast, plain = filtered_lrelu(x, layer), reference(x, layer)
    side = layer.out_rate + 2 * layer.out_margin
    assert fast.shape == (2, 3, side, side + extra * layer.out_rate // 16)
    torch.testing.assert_close(fast, plain, atol=1e-10, rtol=1e-10)
    direction = torch.randn_like(fast)
    (g_fast,) = torch.autograd.grad(fast, x, direction)
    (g_plain,) = torch.autograd.grad(plain, x, direction)
    torch.testing.assert_close(g_fast, g_plain, atol=1e-10, rtol=1e-10)


def test_gradients_of_gradients_are_right() -> None:
    torch.manual_seed(1)
    layer = LAYERS[32][3]
    assert layer.up == 2 * layer.down or layer.up == layer.down
    # Not much more than the filters' taps: what is checked grows with the square of the pixels.
    for layer, channels, side in ((LAYERS[32][0], 2, 8), (next(item for item in LAYERS[64] if item.up == 4), 1, 13)):
        x = torch.randn(1, channels, side + 1, side, dtype=torch.float64, requires_grad=True)
        assert filtered_lrelu(x, layer).numel() >= 8
        assert torch.autograd.gradcheck(lambda x, layer=layer: filtered_lrelu(x, layer), x)
        assert torch.autograd.gradgradcheck(lambda x, layer=layer: filtered_lrelu(x, layer), x)


@pytest.mark.parametrize("index", [0, 3, 13])
def test_a_layer_equals_its_textbook_form(index: int) -> None:
    torch.manual_seed(2)
    layer = plan(64, 14, 1024, 8)[index]
    module = AliasFreeConv(layer, 6)
    with torch.no_grad():
        module.bias.normal_()
        module.scale_style.weight.normal_()
        module.magnitude.fill_(1.7)
    side = layer.in_rate + 2 * layer.in_margin
    x, w, scale = torch.randn(3, layer.inputs, side, side), torch.randn(3, 6), torch.randn(3, 6)
    torch.testing.assert_close(module(x, w, scale), module.plain(x, w, scale), atol=2e-5, rtol=1e-4)
    assert not torch.equal(module(x, w, scale), module(x, w, None))


def test_outputs_keep_unit_power_and_the_mean_power_is_followed() -> None:
    torch.manual_seed(3)
    layer = plan(64, 14, 4096, 64)[1]
    module = AliasFreeConv(layer, 6)
    # Constant over space: nothing for the filters to take away.
    x = 5 * torch.randn(8, layer.inputs, 1, 1).expand(-1, -1, 36, 36)
    for _ in range(200):
        module.follow(x.square().mean(), beta=0.9)
    out = module(x, torch.randn(8, 6), None)
    assert module.magnitude.item() == pytest.approx(x.square().mean().item(), rel=1e-3)
    assert 0.5 < out[:, :, 12:24, 12:24].square().mean().item() < 2
    before = module.magnitude.clone()
    module(x, torch.randn(8, 6), None)
    assert torch.equal(module.magnitude, before)


def test_the_nonlinearity_commutes_with_fractional_shifts() -> None:
    """What the filters are for: a band-limited signal moved by a fraction of a pixel comes out moved by as much.

    Beside it leaky ReLU at the low rate, whose harmonics fold back.
    """
    torch.manual_seed(4)
    layer = next(item for item in LAYERS[64] if item.up == LRELU_UPSAMPLING and item.out_cutoff < item.out_rate / 3)
    n = 96
    t = torch.arange(n, dtype=torch.float64)
    waves = [(torch.rand(2) * 2 * layer.in_cutoff / layer.in_rate * 0.7, torch.rand(1) * 6.28, torch.randn(1)) for _ in range(12)]

    def drawn(shift: float) -> torch.Tensor:
        total = torch.zeros(n, n, dtype=torch.float64)
        for (fy, fx), phase, amount in waves:
            total += amount * torch.cos(math.pi * (fy * t[:, None] + fx * (t[None, :] - shift)) + phase)
        return total[None, None]

    def moved(y: torch.Tensor, shift: float) -> torch.Tensor:
        spectrum = torch.fft.fft(y, dim=-1)
        return torch.fft.ifft(spectrum * torch.exp(-2j * math.pi * torch.fft.fftfreq(y.shape[-1]) * shift), dim=-1).real

    def decibel(operation) -> float:
        still, gone = operation(drawn(0.0)), operation(drawn(0.37))
        window = torch.hann_window(still.shape[-1], dtype=torch.float64)
        difference = (moved(still * window, 0.37) - gone * window)[..., 24:-24, 24:-24]
        return 10 * math.log10((gone[..., 24:-24, 24:-24].square().mean() / difference.square().mean()).item())

    filtered = decibel(lambda x: filtered_lrelu(x, layer))
    naive = decibel(lambda x: GAIN * F.leaky_relu(x, 0.2))
    assert filtered > naive + 6
    assert filtered > 30

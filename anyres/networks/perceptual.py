"""Perceptual distance of pictures: frozen features and how far they are apart.

LPIPS (Zhang et al., CVPR 2018, equation 1), or the same on EfficientNet-Lite0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anyres.networks.backbones import Lite0, Vgg16, lite0, lpips_vgg16
from anyres.networks.warp import masked_mean
from anyres.plane.shapes import Float


def perceptual_features(name: str) -> Lite0 | Vgg16 | None:
    """The network whose feature maps are compared, or None for "none". Raises ValueError where its weights are not at hand."""
    match name:
        case "lite0":
            return lite0()
        case "lpips":
            return lpips_vgg16()
    return None


def perceptual(
    features: Lite0 | Vgg16,
    pictures: Float[Tensor, "b 3 h w"],
    others: Float[Tensor, "b 3 h w"],
    mask: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared distance of feature maps of unit length, summed over the network's stages.

    LPIPS (Zhang et al., CVPR 2018, equation 1) where the features have its channel weights; the like of it where they are one.
    With a `mask`, each sample's mean is taken under its mask, averaged to the cells of each map.
    """
    total = pictures.new_zeros(())
    for index, (a, b) in enumerate(zip(features.maps(pictures), features.maps(others), strict=True)):
        distance = (unit(a) - unit(b)).square()
        distance = (distance * features.channel_weights[index].to(a.device)[:, None, None]).sum(dim=1, keepdim=True)
        total = total + (
            distance.mean() if mask is None else masked_mean(distance, F.adaptive_avg_pool2d(mask, (a.shape[2], a.shape[3])))
        )
    return total


def unit(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Scale every position's channels (b, c, h, w) to unit length."""
    return x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + 1e-8)

"""Adversarial losses and gradient penalties: functions of logits and pictures.

Non-saturating logistic loss: Goodfellow et al., NeurIPS 2014. Relativistic pairing: Jolicoeur-Martineau, ICLR 2019,
in the form of R3GAN (Huang et al., NeurIPS 2024, equation 2). R1 and R2: Mescheder et al., ICML 2018, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anyres.plane.shapes import Float
from anyres.training.reduce import Mean, identity

# (logits of real, logits of fake), both (b,) -> the loss of one player, scalar.
PairLoss = Callable[[Tensor, Tensor], Tensor]
# Pictures (b, 3, h, w) in [-1, 1] -> feature maps (b, c, h, w), from fine to coarse.
Maps = Callable[[Tensor], list[Tensor]]


def relativistic_d(real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    return F.softplus(-(real - fake)).mean()


def relativistic_g(real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    return F.softplus(-(fake - real)).mean()


def non_saturating_d(real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def non_saturating_g(real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """`real` is not used: all losses have one signature."""
    return F.softplus(-fake).mean()


LOSSES: dict[str, tuple[PairLoss, PairLoss]] = {
    "relativistic": (relativistic_d, relativistic_g),
    "non_saturating": (non_saturating_d, non_saturating_g),
}


def gradient_penalties(
    pictures: Sequence[Float[Tensor, "_ ..."]], logits: Sequence[Float[Tensor, " _"]]
) -> list[Float[Tensor, ""]]:
    """Return the mean squared norm of the gradient of each `logits` (b,) by its `pictures` (b, ...): R1 of real, R2 of fake ones.

    Differentiable; one backward pass for all. Logits must depend on their own pictures only. The loss term is gamma / 2 times
    a penalty.
    """
    total = torch.stack([logit.sum() for logit in logits]).sum()
    gradients = torch.autograd.grad(total, list(pictures), create_graph=True)
    return [gradient.square().flatten(1).sum(dim=1).mean() for gradient in gradients]


def feature_matching(
    maps: Maps, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"], mean: Mean = identity
) -> Float[Tensor, ""]:
    """Return the mean L1 distance between the mean features of real and of fake pictures (b, 3, h, w) at the same windows.

    Salimans et al., NeurIPS 2016, section 3.1, averaged over the feature maps of `maps`: the blocks of the discriminator, or the
    stages of a frozen backbone. With frozen parameters, only `fake` gets gradients.
    """
    with torch.no_grad():
        of_real = maps(real)
    of_fake = maps(fake)
    gaps = [a.float().mean(dim=0) - b.float().mean(dim=0) for a, b in zip(of_fake, of_real, strict=True)]
    return torch.stack([mean(gap).abs().mean() for gap in gaps]).mean()

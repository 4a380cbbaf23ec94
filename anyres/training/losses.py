"""Adversarial losses and gradient penalties, as functions of logits and pictures.

Non-saturating logistic loss: Goodfellow et al., NeurIPS 2014. Relativistic pairing: Jolicoeur-Martineau, ICLR 2019,
in the form of R3GAN (Huang et al., NeurIPS 2024, equation 2). R1 and R2: Mescheder et al., ICML 2018, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anyres.networks.discriminator import Discriminator
from anyres.training.reduce import Mean, identity

# (logits of real, logits of fake), both (b,) -> the loss of one player, scalar.
PairLoss = Callable[[Tensor, Tensor], Tensor]


def relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-(real - fake)).mean()


def relativistic_g(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-(fake - real)).mean()


def non_saturating_d(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def non_saturating_g(real: Tensor, fake: Tensor) -> Tensor:
    """`real` plays no part; it is there so that both losses are called alike."""
    return F.softplus(-fake).mean()


LOSSES: dict[str, tuple[PairLoss, PairLoss]] = {
    "relativistic": (relativistic_d, relativistic_g),
    "non_saturating": (non_saturating_d, non_saturating_g),
}


def gradient_penalties(pictures: Sequence[Tensor], logits: Sequence[Tensor]) -> list[Tensor]:
    """Mean squared norm of the gradient of `logits`, (b,) each, by their `pictures`, (b, ...) each: R1 of real, R2 of fake ones.

    Differentiable, of all in one backward pass; logits depend on their own pictures alone. A loss term is gamma / 2 times one.
    """
    total = torch.stack([logit.sum() for logit in logits]).sum()
    gradients = torch.autograd.grad(total, list(pictures), create_graph=True)
    return [gradient.square().flatten(1).sum(dim=1).mean() for gradient in gradients]


def feature_matching(d: Discriminator, real: Tensor, fake: Tensor, mean: Mean = identity) -> Tensor:
    """Mean L1 distance between the mean features of real and fake pictures (b, 3, h, w) at the same windows, over `d`'s blocks.

    Salimans et al., NeurIPS 2016, section 3.1, on every block. Gradients reach `fake` alone where `d`'s parameters are frozen.
    """
    with torch.no_grad():
        wanted = d.features(real)
    found = d.features(fake)
    gaps = [a.float().mean(dim=0) - b.float().mean(dim=0) for a, b in zip(found, wanted, strict=True)]
    return torch.stack([mean(gap).abs().mean() for gap in gaps]).mean()

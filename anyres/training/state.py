"""What a checkpoint holds: networks, optimizers and the count of images seen. One safetensors file, nothing pickled."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from anyres.files import write_atomic
from anyres.identity import digest
from anyres.networks import Discriminator, StyleGenerator, build_discriminator, build_generator
from anyres.networks.projected import ProjectedHeads
from anyres.params import Train

FORMAT = "anyres-train-state-2"


class DamagedCheckpointError(ValueError):
    """A checkpoint is not what was saved: a disk or a copy has damaged it."""


class FirstStage(NamedTuple):
    """What a finished training leaves to a second stage: its generator, and the tensors of its discriminator if there are any."""

    generator: StyleGenerator
    discriminator: dict[str, Tensor] | None


@dataclass
class TrainState:
    """Everything that training changes. `nimg` is the clock: images seen, over all processes together."""

    g: StyleGenerator
    d: Discriminator
    g_ema: StyleGenerator
    g_opt: Optimizer
    d_opt: Optimizer
    nimg: int = 0
    teacher: StyleGenerator | None = None  # of the second stage: a generator, frozen
    projected: ProjectedHeads | None = None
    projected_opt: Optimizer | None = None
    path_mean: Tensor = field(default_factory=lambda: torch.zeros(()))  # of path lengths, running

    @classmethod
    def fresh(
        cls,
        params: Train,
        half_extent: tuple[float, float],
        device: torch.device,
        reals: Tensor | None = None,
        first: FirstStage | None = None,
    ) -> TrainState:
        """Build networks from `params.seed` alone, the same on every process and whatever was drawn before.

        Colours and contrast of `reals`, pictures (n, 3, h, w) in [-1, 1], set them up. `first` is what an earlier training of
        the same params has learnt.
        """
        with torch.random.fork_rng():
            torch.manual_seed(params.seed)
            g, d = build_generator(params, half_extent), build_discriminator(params)
        if reals is not None:
            for network in (g, d):
                network.standardize(reals)
        if first is not None:
            g.load_state_dict(first.generator.state_dict())
            if first.discriminator is not None:
                d.load_state_dict(first.discriminator)
        g_ema = build_generator(params, half_extent)
        g_ema.load_state_dict(g.state_dict())
        g, d, g_ema = g.to(device), d.to(device), g_ema.to(device).eval().requires_grad_(False)
        state = cls(g, d, g_ema, *optimizers(params, g, d))
        if params.loss.projected.weight:
            settings = params.loss.projected
            with torch.random.fork_rng():
                torch.manual_seed(params.seed)
                state.projected = ProjectedHeads(settings.taps, settings.width).to(device)
            state.projected_opt = Adam(
                state.projected.heads.parameters(), lr=settings.lr, betas=(0.0, params.optimizer.beta2), eps=1e-8, fused=True
            )
        state.start_stage(params)
        return state

    def start_stage(self, params: Train) -> None:
        """Make ready for the stage that `nimg` lies in; on entering the second one, keep its teacher and reset Adam."""
        second = self.nimg >= params.stages.global_kimg * 1000
        for parameter in getattr(self.g, "scale_parameters", list)():
            # Whole frames have one scale: there is nothing to learn of it.
            parameter.requires_grad_(second)
        if second and params.stages.teacher_weight and self.teacher is None:
            self.teacher = copy.deepcopy(self.g_ema).eval().requires_grad_(False)
            self.g_opt, self.d_opt = optimizers(params, self.g, self.d)

    def save(self, path: Path, **meta: object) -> None:
        """Write to `path`, whole or not at all, with a hash of all tensors."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors()}
        metadata = {"format": FORMAT, "nimg": str(self.nimg), "meta": json.dumps(meta), "sha256": _hash(tensors)}
        write_atomic(path, save(tensors, metadata=metadata))

    def load(self, path: Path) -> dict[str, Any]:
        """Fill this state from a file of `save` and return its `meta`.

        Raises DamagedCheckpointError where the file is not what was saved, ValueError where it is of another version; one line
        each, and the state stays as it is.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise DamagedCheckpointError(f"{path}: not a checkpoint ({error}); remove it to start again") from None
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path}: not a checkpoint of this version ({metadata.get('format')}); remove it to start again")
        if metadata.get("sha256") != _hash(tensors):
            raise DamagedCheckpointError(f"{path}: its tensors are not those that were saved; remove it to start again")
        if self.teacher is None and any(key.startswith("teacher.") for key in tensors):
            self.teacher = copy.deepcopy(self.g_ema)
        for name, module in self._modules():
            part = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            module.load_state_dict(part)
        for name, optimizer, module in self._optimizers():
            for index, parameter in enumerate(module.parameters()):
                prefix = f"{name}.{index}."
                moments = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                if moments:
                    optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in moments.items()}
        self.path_mean = tensors["path_mean"]
        self.nimg = int(metadata["nimg"])
        return json.loads(metadata["meta"])

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        yield from (("g", self.g), ("d", self.d), ("g_ema", self.g_ema))
        if self.teacher is not None:
            yield "teacher", self.teacher
        if self.projected is not None:
            yield "projected", self.projected.heads

    def _optimizers(self) -> Iterator[tuple[str, Optimizer, nn.Module]]:
        yield from (("g_opt", self.g_opt, self.g), ("d_opt", self.d_opt, self.d))
        if self.projected is not None and self.projected_opt is not None:
            yield "projected_opt", self.projected_opt, self.projected.heads

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield "path_mean", self.path_mean
        for name, module in self._modules():
            for key, value in module.state_dict().items():
                yield f"{name}.{key}", value
        for name, optimizer, module in self._optimizers():
            for index, parameter in enumerate(module.parameters()):
                for key, value in optimizer.state.get(parameter, {}).items():
                    yield f"{name}.{index}.{key}", value


def _hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names and values, whatever their order."""
    return digest(dict(sorted(tensors.items())))


class AdamSettings(NamedTuple):
    """Rate and betas of one optimizer."""

    lr: float
    betas: tuple[float, float]


def adam_settings(params: Train) -> tuple[AdamSettings, AdamSettings]:
    """Return the settings of generator and discriminator.

    With `lazy_scaling`, a player whose penalty comes once in k steps takes c = k / (k + 1) of its rate, and its betas to the
    power of c (Karras et al., CVPR 2020, appendix B).
    """
    loss, optimizer = params.loss, params.optimizer
    intervals = (loss.path_every if loss.path_length else None, loss.penalty_every if loss.r1_gamma or loss.r2_gamma else None)
    settings = []
    for lr, every in zip((optimizer.g_lr, optimizer.d_lr), intervals, strict=True):
        c = every / (every + 1) if every is not None and optimizer.lazy_scaling else 1.0
        settings.append(AdamSettings(lr * c, (optimizer.beta1**c, optimizer.beta2**c)))
    return settings[0], settings[1]


def optimizers(params: Train, g: nn.Module, d: nn.Module) -> tuple[Optimizer, Optimizer]:
    """Adam for both networks, all parameters in one pass."""
    g_opt, d_opt = (
        Adam(network.parameters(), lr=lr, betas=betas, eps=1e-8, fused=True)
        for network, (lr, betas) in zip((g, d), adam_settings(params), strict=True)
    )
    return g_opt, d_opt

"""Tiny real bundles: untrained generators of the default method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from anyres.export.bundle import write_bundle
from anyres.identity import Fingerprint
from anyres.networks import build_generator
from anyres.params import Params

ROOT = Path(__file__).resolve().parents[2]
HALF_EXTENT = (1.5, 1.0)
TINY_DISCRIMINATOR = {"channels": (6, 8), "attention_heads": 0, "pooled_px": 2, "downsample": "average"}

# A small generator of AnyRes-GAN, as changes of the section train.
ANYRES_GAN: dict[str, Any] = {
    "method": "anyres_gan",
    "patch_px": (32, 32),
    "network": {
        "z_dim": 8,
        "w_dim": 12,
        "mapping_layers": 1,
        "layers": 6,
        "channel_base": 128,
        "channel_max": 10,
        "input_octaves": 1,
        "output": "tanh",
    },
    "discriminator": TINY_DISCRIMINATOR,
}

# A small one of InfinityGAN: cells of 8 pixels.
INFINITY_GAN: dict[str, Any] = {
    "method": "infinity_gan",
    "chart": "plane",
    "patch_px": (16, 16),
    "zoom_max": 2.0,
    "period_law": "fixed",
    "network": {
        "z_dim": 8,
        "w_dim": 12,
        "mapping_layers": 1,
        "local_dim": 4,
        "structure_channels": 8,
        "structure_layers": 1,
        "structure_kernel": 3,
        "structure_z": "normalized",
        "output": "tanh",
        "rgb_doubling": "smooth",
        "channels": (8, 6, 6),
    },
    "discriminator": TINY_DISCRIMINATOR,
}

# Levels of convolutions on a grid of pixels: scaleparty and its baselines, which share this section.
GRID_NETWORK: dict[str, Any] = {
    "z_dim": 8,
    "w_dim": 12,
    "mapping_layers": 1,
    "channels": (10, 8, 6),
    "npad": 4,
    "noise": "grid_sample",
    "noise_maps": "level",
}


def tiny_params(**train: Any) -> Params:
    values = Params.load(ROOT / "params.yaml").model_dump()
    values["train"]["network"] |= {"z_dim": 8, "w_dim": 12, "mapping_layers": 1, "channels": (10, 8, 6), "noise_strength": 0.0}
    values["train"]["discriminator"]["channels"] = (6, 8)
    values["train"]["patch_px"] = (16, 24)
    values["train"] |= train
    values["export"]["samples"] = 3
    return Params.model_validate(values)


def make_bundle(folder: Path, seed: int, patch_kid: float, half_extent: tuple[float, float] = HALF_EXTENT, **train: Any) -> Path:
    """Write a bundle of the untrained generator of `seed`, as if it had been measured with `patch_kid`."""
    params = tiny_params(**train)
    torch.manual_seed(seed)
    generator = build_generator(params.train, half_extent)
    weights = folder.with_name(f"{folder.name}.safetensors")
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in generator.state_dict().items()}, weights)
    credits = folder.with_name("credits.md")
    credits.write_text("# Credits\n\nA star, by nobody, CC0\n", encoding="utf-8")
    fingerprint = Fingerprint.of(params.train, "d" * 64)
    meta = {
        "fingerprint": fingerprint.name,
        "code": fingerprint.code_hash,
        "code_changed": [],
        "method": params.train.method,
        "params": params.model_dump(mode="json"),
        "geometry": generator.geometry.to_json(),
        "data_hash": "d" * 64,
        "git_commit": "c" * 40,
        "nimg": 64,
        "metrics": {"patch_kid": patch_kid, "patch_fd": 3.0},
    }
    write_bundle(folder, weights, meta, params.export.samples, credits)
    return folder

"""Tiny real bundles: untrained generators of the default method."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from anyres.export.bundle import write_bundle
from anyres.networks import build_generator
from anyres.params import Params

ROOT = Path(__file__).resolve().parents[2]
HALF_EXTENT = (1.5, 1.0)


def tiny_params() -> Params:
    values = Params.load(ROOT / "params.yaml").model_dump()
    network = {"z_dim": 8, "w_dim": 12, "mapping_layers": 1, "channels": (10, 8, 6), "d_channels": (6, 8)}
    values["train"]["network"] |= network
    values["train"]["patch_px"] = (16, 24)
    values["export"]["samples"] = 3
    return Params.model_validate(values)


def make_bundle(folder: Path, seed: int, patch_kid: float) -> Path:
    """Write a bundle of the untrained generator of `seed`, as if it had been measured with `patch_kid`."""
    params = tiny_params()
    torch.manual_seed(seed)
    generator = build_generator(params.train, HALF_EXTENT)
    weights = folder.with_name(f"{folder.name}.safetensors")
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in generator.state_dict().items()}, weights)
    credits = folder.with_name("credits.md")
    credits.write_text("# Credits\n\nA star, by nobody, CC0\n", encoding="utf-8")
    meta = {
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

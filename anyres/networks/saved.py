"""Trained generators from files: the one place that builds a generator and loads its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from anyres.networks import StyleGenerator, build_generator
from anyres.networks.shipped import locate
from anyres.networks.tensorfile import read_safetensors
from anyres.params import Train, describe
from anyres.plane.geometry import Geometry

# Files of a finished training.
WEIGHTS = "generator.safetensors"
UNTRAINED = "generator_init.safetensors"
FIRST_STAGE = "generator_first.safetensors"  # only after a training with two stages
# Of the step that the kept generator comes from; a later training can go on with it.
DISCRIMINATOR = "discriminator.safetensors"
RECORD = "train.json"
# The description of a bundle, beside its WEIGHTS.
META = "generator.json"
BUNDLE_FORMAT = 1


def restore(
    params: Train, half_extent: tuple[float, float], weights: Mapping[str, Tensor], device: str | torch.device = "cpu"
) -> StyleGenerator:
    """Build the generator of `params` with these weights, in eval mode and with frozen parameters.

    Raises RuntimeError if names or shapes of the weights do not fit.
    """
    generator = build_generator(params, half_extent)
    generator.load_state_dict(weights, strict=True)
    return generator.to(device).eval().requires_grad_(False)


def load_trained(folder: Path, weights: str = WEIGHTS, device: str | torch.device = "cpu") -> StyleGenerator:
    """Load a generator from the `folder` of a finished training."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    half_width, half_height = record["half_extent"]
    params = Train.model_validate(record["params"])
    return restore(params, (half_width, half_height), read_safetensors(folder / weights), device)


def load_bundle(source: str | Path, device: str | torch.device = "cpu") -> tuple[StyleGenerator, dict[str, Any]]:
    """Load the generator of a bundle and the content of its generator.json. `source` is a folder or the name of a shipped model.

    Raises ValueError, one line, if something is missing, of another format or inconsistent.
    """
    folder = locate(source)
    for name in (META, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: no {name} in it; this is no complete bundle, export it again")
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        version = meta["format"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{folder / META}: not the description of a bundle; export it again") from None
    if version != BUNDLE_FORMAT:
        raise ValueError(
            f"{folder / META}: bundle format {version!r}, this version of anyres reads {BUNDLE_FORMAT}; "
            "update anyres or export again"
        )
    geometry = Geometry.from_json(meta["geometry"])
    try:
        params = Train.model_validate(meta["params"]["train"])
    except ValidationError as error:
        raise ValueError(f"{folder / META}: written by another version of anyres ({describe(error)}); export it again") from None
    weights = read_safetensors(folder / WEIGHTS)
    try:
        return restore(params, geometry.chart.half_extent, weights, device), meta
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder}: {WEIGHTS} does not fit {META}: {reason}") from None

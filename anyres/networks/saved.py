"""Trained generators from files: the one place that builds a generator and loads its weights."""

from __future__ import annotations

import hashlib
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


# Values of train.json that a bundle repeats.
META_KEYS = ("data_hash", "geometry", "method", "fingerprint", "code", "code_changed")


def meta_of_training(folder: Path) -> dict[str, Any]:
    """Return what a bundle of the `folder` of a finished training says of it: generator.json without weights and metrics.

    Raises ValueError, one line, where the training is not finished.
    """
    for name in (RECORD, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: no {name} in it; this is no finished training, name its folder out/train")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        meta = {key: record[key] for key in META_KEYS} | {"nimg": record["kept_nimg"], "params": {"train": record["params"]}}
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{folder / RECORD}: not the record of a training of this version; train it again") from None
    return meta | {"metrics": {}, "git_commit": "not recorded"}


def load_bundle(source: str | Path, device: str | torch.device = "cpu") -> tuple[StyleGenerator, dict[str, Any]]:
    """Load the generator of a bundle and the content of its generator.json.

    `source` is a folder, that of a finished training too, or the name of a shipped model. Raises ValueError, one line, if
    something is missing, of another format or inconsistent.
    """
    folder = locate(source)
    if (folder / RECORD).is_file() and not (folder / META).is_file():
        meta = meta_of_training(folder)
        weights_sha256 = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        meta |= {"format": BUNDLE_FORMAT, "weights_sha256": weights_sha256}
        return _restored(folder, meta, RECORD, device), meta
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
    return _restored(folder, meta, META, device), meta


def _restored(folder: Path, meta: Mapping[str, Any], described: str, device: str | torch.device) -> StyleGenerator:
    """Build the generator of `folder`. Raises ValueError, one line, where its file `described` does not fit its weights."""
    again = "export it" if described == META else "train it"
    geometry = Geometry.from_json(meta["geometry"])
    try:
        params = Train.model_validate(meta["params"]["train"])
    except ValidationError as error:
        raise ValueError(
            f"{folder / described}: written by another version of anyres ({describe(error)}); {again} again"
        ) from None
    weights = read_safetensors(folder / WEIGHTS)
    try:
        return restore(params, geometry.chart.half_extent, weights, device)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder}: {WEIGHTS} does not fit {described}: {reason}") from None

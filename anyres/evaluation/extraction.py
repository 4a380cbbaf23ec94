"""From samples to features: drawn chunk by chunk, shared among processes, kept on disk under all that determines them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyres.evaluation.features import FeatureSpace
from anyres.evaluation.parallel import ProcessGroup, over_chunks
from anyres.evaluation.samples import Advance, Samples, ignore
from anyres.files import write_atomic
from anyres.identity import code_version


class FeatureCache:
    """Features on disk, a file a set, named by the hash of its key: what has another key is never taken for it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.used: set[Path] = set()

    def get(self, key: dict[str, Any]) -> np.ndarray | None:
        """What was kept under `key`, float64, or None; a file that cannot be read counts as none."""
        path = self._path(key)
        self.used.add(path)
        try:
            return np.load(path, allow_pickle=False).astype(np.float64)
        except (OSError, ValueError, EOFError):
            return None

    def put(self, key: dict[str, Any], features: np.ndarray) -> None:
        """Keep features; they came from float32, so no digit is lost."""
        stream = io.BytesIO()
        np.save(stream, features.astype(np.float32), allow_pickle=False)
        write_atomic(self._path(key), stream.getvalue())

    def prune(self) -> None:
        """Drop what nobody asked for since this cache was opened."""
        for path in self.folder.glob("*.npy"):
            if path not in self.used:
                path.unlink(missing_ok=True)

    def _path(self, key: dict[str, Any]) -> Path:
        return self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}.npy"


class Extractor:
    """Features of samples in one or several spaces.

    `kept` takes those of reals, for later evaluations too; `fake_cache` those of fakes, from which an interrupted one goes on.
    """

    def __init__(
        self,
        spaces: Sequence[FeatureSpace],
        group: ProcessGroup | None = None,
        real_cache: FeatureCache | None = None,
        fake_cache: FeatureCache | None = None,
    ):
        self.spaces, self.group, self.real_cache, self.fake_cache = tuple(spaces), group or ProcessGroup(), real_cache, fake_cache

    def __call__(self, samples: Samples, advance: Advance = ignore) -> list[np.ndarray]:
        """Features float64 (count, dim), one array a space; every sample is drawn once. `advance` counts samples."""
        cache = self.real_cache if samples.lasting else self.fake_cache
        keys = [
            {**samples.key, "features": space.name, "kernel": space.kernel, "code": code_version(__name__)}
            for space in self.spaces
        ]
        # Where processes see different disks, the leading one's counts.
        reads = cache is not None and self.group.is_main
        known: list[np.ndarray | None] = [cache.get(key) if cache is not None and reads else None for key in keys]
        found = self.group.broadcast(known)
        missing = [place for place, features in enumerate(found) if features is None]
        if missing:
            for place, features in zip(missing, self._extract(samples, missing, advance), strict=True):
                found[place] = features
                if cache is not None and self.group.is_main:
                    cache.put(keys[place], features)
        else:
            advance(samples.count)
        return [features for features in found if features is not None]

    def _extract(self, samples: Samples, places: list[int], advance: Advance) -> list[np.ndarray]:
        def work(part: slice) -> list[np.ndarray]:
            pixels = samples.read(part)
            features = [self.spaces[place](pixels).astype(np.float32) for place in places]
            advance(len(pixels) * self.group.size)
            return features

        on_accelerator = next((d for d in (samples.device, self.spaces[0].device) if d.type != "cpu"), torch.device("cpu"))
        chunks = self.group.gathered(over_chunks(work, self.group.share(samples.chunks), on_accelerator))
        return [np.concatenate(parts).astype(np.float64) for parts in zip(*chunks, strict=True)]

"""From samples to features: computed in chunks, distributed over processes, cached on disk by everything that determines them."""

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
from anyres.evaluation.parallel import ProcessGroup, map_chunks
from anyres.evaluation.samples import Advance, Samples, ignore
from anyres.files import write_atomic
from anyres.identity import code_version


class FeatureCache:
    """Features on disk, one file for each set, named by the hash of its key."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.used: set[Path] = set()

    def get(self, key: dict[str, Any]) -> np.ndarray | None:
        """Return the features of `key`, float64, or None where there is no readable file."""
        path = self._path(key)
        self.used.add(path)
        try:
            return np.load(path, allow_pickle=False).astype(np.float64)
        except (OSError, ValueError, EOFError):
            return None

    def put(self, key: dict[str, Any], features: np.ndarray) -> None:
        """Write features as float32, which they were computed in: no digit is lost."""
        stream = io.BytesIO()
        np.save(stream, features.astype(np.float32), allow_pickle=False)
        write_atomic(self._path(key), stream.getvalue())

    def prune(self) -> None:
        """Delete the files that were not read since this cache was opened."""
        for path in self.folder.glob("*.npy"):
            if path not in self.used:
                path.unlink(missing_ok=True)

    def _path(self, key: dict[str, Any]) -> Path:
        return self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}.npy"


class Extractor:
    """Features of samples in one or several spaces.

    `real_cache` holds those of reals, for later evaluations too; `fake_cache` those of fakes, from which an interrupted
    evaluation resumes.
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
        """Return features float64 (count, dim), one array for each space. Draws every sample once; `advance` counts samples."""
        cache = self.real_cache if samples.is_real else self.fake_cache
        keys = [
            {**samples.key, "features": space.name, "kernel": space.kernel, "code": code_version(__name__)}
            for space in self.spaces
        ]
        # Processes may see different disks: the cache of the main process decides.
        cached: list[np.ndarray | None] = [cache.get(key) if cache is not None and self.group.is_main else None for key in keys]
        of_spaces = self.group.broadcast(cached)
        missing = [index for index, features in enumerate(of_spaces) if features is None]
        if missing:
            for index, features in zip(missing, self._extract(samples, missing, advance), strict=True):
                of_spaces[index] = features
                if cache is not None and self.group.is_main:
                    cache.put(keys[index], features)
        else:
            advance(samples.count)
        return [features for features in of_spaces if features is not None]

    def _extract(self, samples: Samples, spaces: list[int], advance: Advance) -> list[np.ndarray]:
        def work(chunk: slice) -> list[np.ndarray]:
            pixels = samples.read(chunk)
            features = [self.spaces[index](pixels).astype(np.float32) for index in spaces]
            advance(len(pixels) * self.group.size)
            return features

        device = next((d for d in (samples.device, self.spaces[0].device) if d.type != "cpu"), torch.device("cpu"))
        results = self.group.gather(map_chunks(work, self.group.share(samples.chunks), device))
        return [np.concatenate(of_space).astype(np.float64) for of_space in zip(*results, strict=True)]

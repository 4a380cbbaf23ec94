"""The models on show: those of the start, and versions of a registered model as they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from anyres.export.bundle import Model
from anyres.viewer.drawing import ServedModel

# Versions of the registry that are in memory at once, beside the models of the start.
VERSIONS_LIMIT = 4


@dataclass(frozen=True)
class Registry:
    """A registered model: `versions` tells of what there is, newest first, as JSON types with "version"; `load` opens one."""

    name: str
    versions: Callable[[], list[dict[str, Any]]]
    load: Callable[[str], Model]


class Gallery:
    """Models by id. For any thread; what blocks is to be called on one of its own."""

    def __init__(self, served_models: Sequence[ServedModel], registry: Registry | None = None) -> None:
        self._first = list(served_models)
        self._versions: dict[str, ServedModel] = {}
        self._registry = registry
        self._lock = threading.Lock()

    @property
    def served_models(self) -> list[ServedModel]:
        return [*self._first, *self._versions.values()]

    @property
    def registry(self) -> str | None:
        """Name of the registered model whose versions may be asked for."""
        return None if self._registry is None else self._registry.name

    def get(self, name: str) -> ServedModel | None:
        """The model of that id, or None where it is not on show (any more)."""
        return next((served for served in self.served_models if served.id == name), None)

    def versions(self) -> list[dict[str, Any]]:
        """What the registry holds. Raises ValueError, one line, where it cannot be asked."""
        return [] if self._registry is None else self._registry.versions()

    def open(self, version: str) -> ServedModel:
        """Put a version on show; the one that came first goes where there are too many. Raises ValueError for none."""
        if self._registry is None:
            raise ValueError("no registry is on show; start the viewer with --registry NAME")
        with self._lock:
            if version not in self._versions:
                # Only what the registry tells of is asked for: a version is no path and no address.
                if version not in [str(known["version"]) for known in self._registry.versions()]:
                    raise ValueError(f"{self._registry.name} has no version {version}")
                served = ServedModel(f"{self._registry.name} {version}", self._registry.load(version))
                kept = list(self._versions.items())[1 - VERSIONS_LIMIT :]
                self._versions = {**dict(kept), version: served}
            return self._versions[version]

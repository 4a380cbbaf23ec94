"""The models that the viewer serves: those of the start, and versions of a registered model on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from anyres.export.bundle import Model
from anyres.viewer.drawing import ServedModel

# Versions from the registry that are in memory at once, beside the models of the start.
VERSIONS_LIMIT = 4


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model. `versions` lists its versions, newest first, as JSON types with "version"; `load` opens one."""

    name: str
    versions: Callable[[], list[dict[str, Any]]]
    load: Callable[[str], Model]


class ServedModels:
    """Models by id. Thread-safe; `versions` and `load_version` block."""

    def __init__(self, initial: Sequence[ServedModel], registered: RegisteredModel | None = None) -> None:
        self._initial = list(initial)
        self._loaded: dict[str, ServedModel] = {}
        self._registered = registered
        self._lock = threading.Lock()

    @property
    def all(self) -> list[ServedModel]:
        return [*self._initial, *self._loaded.values()]

    @property
    def registry(self) -> str | None:
        """Name of the registered model whose versions can be loaded."""
        return None if self._registered is None else self._registered.name

    def get(self, model_id: str) -> ServedModel | None:
        """The model of that id, or None if it is not served (any more)."""
        return next((served for served in self.all if served.id == model_id), None)

    def versions(self) -> list[dict[str, Any]]:
        """The versions in the registry. Raises ValueError, one line, if it cannot be read."""
        return [] if self._registered is None else self._registered.versions()

    def load_version(self, version: str) -> ServedModel:
        """Serve a version; beyond VERSIONS_LIMIT the oldest one is dropped. Raises ValueError if there is no such version."""
        if self._registered is None:
            raise ValueError("the viewer has no registry; start it with --registry NAME")
        with self._lock:
            if version not in self._loaded:
                # Load only versions that the registry lists: a version must not act as a path or an address.
                if version not in [str(listed["version"]) for listed in self._registered.versions()]:
                    raise ValueError(f"{self._registered.name} has no version {version}")
                served = ServedModel(f"{self._registered.name} {version}", self._registered.load(version))
                recent = list(self._loaded.items())[1 - VERSIONS_LIMIT :]
                self._loaded = {**dict(recent), version: served}
            return self._loaded[version]

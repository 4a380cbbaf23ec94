"""A bundle for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.bundles import make_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle folder, written once."""
    return make_bundle(tmp_path_factory.mktemp("export") / "generator", seed=0, patch_kid=0.25)

"""Models that come with a clone of anyres: bundles in its folder models, named by their folders."""

from __future__ import annotations

from pathlib import Path

# Beside the package; a wheel has no models.
MODELS = Path(__file__).parents[2] / "models"


def shipped() -> dict[str, Path]:
    """Map the names of the shipped models to the folders of their bundles."""
    return {meta.parent.name: meta.parent for meta in sorted(MODELS.glob("*/generator.json"))}


def locate(source: str | Path) -> Path:
    """Return the folder `source`, or else the bundle of the shipped model of that name. Raises ValueError for neither."""
    folder, models = Path(source), shipped()
    if folder.is_dir():
        return folder
    if str(source) in models:
        return models[str(source)]
    names = f", or name a model that comes with anyres: {', '.join(models)}" if models else ""
    raise ValueError(f"{source}: no such bundle folder; export one with `dvc repro`, correct the path{names}")

"""Models that come with a clone of anyres: bundles in its folder models, known by the names of theirs."""

from __future__ import annotations

from pathlib import Path

# Beside the package: a wheel has none.
PLACE = Path(__file__).parents[2] / "models"


def shipped() -> dict[str, Path]:
    """Names of the models that are here -> the folders of their bundles."""
    return {meta.parent.name: meta.parent for meta in sorted(PLACE.glob("*/generator.json"))}


def located(source: str | Path) -> Path:
    """The folder that `source` is a path of, or else the bundle of the shipped model of that name.

    Raises ValueError, one line, where it is neither.
    """
    folder, known = Path(source), shipped()
    if folder.is_dir():
        return folder
    if str(source) in known:
        return known[str(source)]
    names = f", or name a model that comes with anyres: {', '.join(known)}" if known else ""
    raise ValueError(f"{source}: no such bundle folder; export one with `dvc repro`, correct the path{names}")

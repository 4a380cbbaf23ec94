"""Models that come with anyres: bundles in the folder models, known by the names of theirs."""

from __future__ import annotations

from pathlib import Path

# In a clone beside the package, in an installed wheel inside of it.
PLACES = (Path(__file__).parents[1] / "models", Path(__file__).parents[2] / "models")


def shipped() -> dict[str, Path]:
    """Names of the models that are here -> the folders of their bundles."""
    return {meta.parent.name: meta.parent for place in PLACES for meta in sorted(place.glob("*/generator.json"))}


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

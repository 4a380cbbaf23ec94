"""What a training leaves on disk for others to follow: reports by nimg, sample pictures, and its identity."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from anyres.params import Params


def fingerprint(params: Params, data_hash: str) -> str:
    """Name the training that these params and this data determine: 16 hexadecimal digits."""
    identity = {"train": params.train.model_dump(mode="json"), "data": data_hash}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def read_reports(path: Path) -> list[dict[str, Any]]:
    """Whole lines of history.jsonl; a line that is being written now, and a file that is not there yet, are no error."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines() if line.strip()]


def sample_pictures(folder: Path) -> list[tuple[int, Path]]:
    """Sample grids as (nimg, path), from names that count thousands of images: samples/000008.png."""
    return sorted((int(path.stem) * 1000, path) for path in folder.glob("*.png") if path.stem.isdigit())

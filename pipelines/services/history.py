"""Reading what a training writes: reports by nimg and sample pictures. And the commit of the code."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

# `git_commit` appends DIRTY if tracked files differ from the commit, and returns UNKNOWN outside git.
DIRTY, UNKNOWN = "-dirty", "unknown"


def read_reports(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of history.jsonl. An incomplete last line is ignored; a missing file gives an empty list."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in complete.splitlines() if line.strip()]


def sample_pictures(folder: Path) -> list[tuple[int, Path]]:
    """Return the sample grids as (nimg, path), sorted. File names count thousands of images: samples/000008.png."""
    return sorted((int(path.stem) * 1000, path) for path in folder.glob("*.png") if path.stem.isdigit())


def git_commit() -> str:
    """Return the current commit, with `-dirty` if tracked files differ from it; `unknown` outside git."""
    try:
        commit = _git("rev-parse", "HEAD")
        # dvc.lock and params.yaml change from run to run and are not code. The params are recorded beside the commit.
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock", ":!params.yaml")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return f"{commit}{DIRTY}" if changed else commit


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()

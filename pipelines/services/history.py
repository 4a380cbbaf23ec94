"""What a training leaves for others to follow: its identity, reports by nimg, sample pictures, the code's revision."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

# What `git_commit` says of a commit that tracked files differ from, and where there is none.
DIRTY, UNKNOWN = "-dirty", "unknown"


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


def git_commit() -> str:
    """The commit that is checked out, `-dirty` where tracked files differ from it, `unknown` outside git."""
    try:
        commit = _git("rev-parse", "HEAD")
        # The lock and the params change from run to run and say nothing about the code; params are recorded beside it.
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock", ":!params.yaml")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return f"{commit}{DIRTY}" if changed else commit


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()

"""The code that each stage depends on: the deps of dvc.yaml. `python -m pipelines.dependencies` updates them.

A stage depends on its own file and on every module of anyres that its work imports, directly or through others. What only
decides when and where a stage runs (the rest of pipelines/) is no dependency: no result changes with it.
"""

from __future__ import annotations

import ast
import io
import sys
from pathlib import Path

from ruamel.yaml import YAML

from anyres.files import write_atomic
from anyres.identity import ROOT, TRAINING, closure, module_file

# Where the work of a stage begins. Train and evaluate start a command in a process of its own.
ENTRIES = {
    "ingest": ("pipelines.ingest",),
    "prepare": ("pipelines.prepare",),
    "train": ("pipelines.train", "anyres.cli.stages:train", *TRAINING),
    "evaluate": ("pipelines.evaluate", "anyres.cli.stages:evaluate"),
    "export": ("pipelines.export",),
}
CODE = ("anyres/", "pipelines/")
# A folder is named as a whole when at least this share of its code counts.
WHOLE_FOLDER_SHARE = 2 / 3


def code_of(stage: str) -> list[str]:
    """Return what a stage depends on, as sorted paths: files, and whole folders where most of their code counts."""
    files = {module_file(module) for module in closure(*ENTRIES[stage]) if module != "pipelines"}
    return sorted(path.relative_to(ROOT).as_posix() for path in _with_folders({file for file in files if _has_code(file)}))


def write(path: Path) -> bool:
    """Bring the deps of every stage in `path` up to date; return whether anything changed."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 130, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    before = path.read_text(encoding="utf-8")
    content = yaml.load(before)
    for name, stage in content["stages"].items():
        others = [dep for dep in stage["deps"] if not dep.startswith(CODE)]
        stage["deps"] = [*code_of(name), *others]
    stream = io.StringIO()
    yaml.dump(content, stream)
    write_atomic(path, stream.getvalue().encode())
    return stream.getvalue() != before


def _has_code(file: Path) -> bool:
    """Whether a module holds more than a docstring."""
    return len(ast.parse(file.read_text(encoding="utf-8")).body) > 1


def _with_folders(files: set[Path]) -> set[Path]:
    """Put a folder in the place of its files when most of its code is among them."""
    paths = set(files)
    for folder in {file.parent for file in files if file.parent not in (ROOT / "anyres", ROOT / "pipelines")}:
        code = {file for file in folder.glob("*.py") if _has_code(file)}
        if len(code & files) > 1 and len(code & files) >= WHOLE_FOLDER_SHARE * len(code):
            paths = (paths - code) | {folder}
    return {path for path in paths if not paths & set(path.parents)}


if __name__ == "__main__":
    print("dvc.yaml: " + ("deps updated" if write(ROOT / "dvc.yaml") else "deps are up to date"))
    sys.exit(0)

"""dvc.yaml agrees with params.yaml, with the stage modules, and with the rules for clusters."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from anyres.identity import closure, module_file
from anyres.params import Params
from pipelines import stage
from pipelines.dependencies import ENTRIES, code_of, write
from pipelines.environment import Environment
from pipelines.flow import topological_order

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def test_stages_are_sections_are_modules(stages: dict[str, Any]) -> None:
    assert list(stages) == list(Params.model_fields)
    for name, values in stages.items():
        assert values["params"] == [name]
        assert values["cmd"] == f"python -m pipelines.{name}"
        assert (ROOT / "pipelines" / f"{name}.py").is_file()


@functools.cache
def imported(name: str) -> tuple[Path, ...]:
    """The files with code in a stage's import closure."""
    files = (module_file(module) for module in closure(*ENTRIES[name]))
    return tuple(file.relative_to(ROOT) for file in files if len(ast.parse(file.read_text(encoding="utf-8")).body) > 1)


def uncovered(name: str, deps: list[str]) -> list[str]:
    """The files of a stage's import closure that no dep holds."""
    paths = {Path(dep) for dep in deps}
    return [str(file) for file in imported(name) if not paths & {file, *file.parents}]


def test_stages_depend_on_all_code_that_they_import(stages: dict[str, Any], tmp_path: Path) -> None:
    for name, values in stages.items():
        assert uncovered(name, values["deps"]) == []
        code = [dep for dep in values["deps"] if dep.startswith(("anyres/", "pipelines/"))]
        assert code == code_of(name), f"run `make deps`: {name}"
        for dep in code:
            assert (ROOT / dep).exists(), dep
            # Each of them is needed: without it something is missing.
            assert uncovered(name, [other for other in values["deps"] if other != dep]), dep
    # The templates of the report are no code.
    assert "anyres/evaluation" in stages["evaluate"]["deps"]
    copy = tmp_path / "dvc.yaml"
    copy.write_bytes((ROOT / "dvc.yaml").read_bytes())
    assert not write(copy)


def test_outputs_can_be_shared_and_stand_where_the_stages_look(stages: dict[str, Any]) -> None:
    outs = [out for values in stages.values() for out in values["outs"]]
    # A mapping would carry persist or cache: false, with which a cluster finds nothing.
    assert all(isinstance(out, str) for out in outs)
    assert not any("always_changed" in values for values in stages.values())
    places = [stage.INGESTED, stage.STORE, stage.TRAINED, stage.EVALUATION, stage.REPORT, stage.BUNDLE]
    assert outs == [str(place) for place in places]
    runs = str(Environment().runs_dir)
    assert not any(runs.startswith(out) or out.startswith(runs) for out in outs)


def test_evaluation_does_not_reach_training(stages: dict[str, Any]) -> None:
    behind = {"out/evaluation", "out/report"}
    assert behind & set(stages["export"]["deps"])
    for name in ("ingest", "prepare", "train"):
        assert not behind & set(stages[name]["deps"])


def test_order_puts_needs_first() -> None:
    needs = {"d": ["b", "c"], "c": ["a"], "b": ["a"], "a": []}
    assert topological_order(needs) == ["a", "b", "c", "d"]

"""dvc.yaml agrees with params.yaml, with the stage modules, and with the rules for clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from anyres.params import Params
from pipelines import stage
from pipelines.environment import Environment
from pipelines.flow import in_order

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


def test_code_that_stages_name_exists(stages: dict[str, Any]) -> None:
    for values in stages.values():
        for dep in values["deps"]:
            if dep.startswith(("anyres/", "pipelines/")):
                assert (ROOT / dep).exists(), dep


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
    assert in_order(needs) == ["a", "b", "c", "d"]

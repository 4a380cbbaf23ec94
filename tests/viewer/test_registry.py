"""Versions of a registered model, chosen in the page."""
# ruff: noqa: TID251 - fills a store

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from typer.testing import CliRunner

import anyres
from anyres.cli import app
from anyres.registry.client import versions
from anyres.viewer.drawing import ServedModel
from anyres.viewer.models import VERSIONS_LIMIT, RegisteredModel, ServedModels
from tests.export.bundles import make_bundle
from tests.viewer.browsing import keep, link, settle, until
from tests.viewer.servers import ask, send, serving

pytestmark = pytest.mark.filterwarnings("ignore")
os.environ.update({"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"})
NAME = "anyres-generator"


@pytest.fixture
def registry(empty_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegisteredModel]:
    """A store with three versions of a model, of which the second is champion."""
    import mlflow

    store = f"sqlite:///{shutil.copy(empty_registry, tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    # What other tests of this process left.
    mlflow.set_registry_uri("")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    client = mlflow.MlflowClient()
    client.create_registered_model(NAME)
    for seed in range(3):
        bundle = make_bundle(tmp_path / f"v{seed}" / "generator", seed, 0.5 / (1 + seed))
        client.create_model_version(NAME, bundle.as_uri(), tags={"patch_kid": str(0.5 / (1 + seed))})
    client.set_registered_model_alias(NAME, "champion", "2")
    yield RegisteredModel(NAME, partial(versions, NAME), lambda version: anyres.load(f"models:/{NAME}/{version}"))
    mlflow.set_tracking_uri(before)


def test_a_version_is_chosen_in_the_page(page: Page, frame: ServedModel, registry: RegisteredModel, tmp_path: Path):
    with serving([frame], tmp_path / "cache", registry=registry) as address:
        page.goto(address)
        settle(page)
        group = page.locator("#model optgroup")
        expect(group).to_have_attribute("label", f"Registry: {NAME}")
        assert group.locator("option").all_text_contents() == [
            "version 3 (patch_kid 0.1667)",
            "version 2 (champion, patch_kid 0.25)",
            "version 1 (patch_kid 0.5)",
        ]
        page.select_option("#model", "version:2")
        until(page, lambda view: view["model"].startswith(f"{NAME}-2-"))
        keep(page, "registry")
        assert page.title() == f"{NAME} 2, seed 0 · anyres"
        assert group.locator("option").count() == 2
        there = page.url
    # A server that was started again does not have it yet: the address is enough.
    with serving([frame], tmp_path / "cache", registry=registry) as address:
        page.goto(f"{address}/#{there.partition('#')[2]}")
        settle(page)
        assert link(page)["model"].startswith(f"{NAME}-2-")
        assert page.title() == f"{NAME} 2, seed 0 · anyres"


def test_only_what_the_registry_tells_of_is_opened(frame: ServedModel, registry: RegisteredModel, tmp_path: Path):
    with serving([frame], tmp_path / "cache", registry=registry) as address:
        status, _, body = ask(address, "/api/registry")
        assert (status, [version["version"] for version in json.loads(body)["versions"]]) == (200, ["3", "2", "1"])
        for version, refused in (("4", "no version 4"), ("0", ""), ("champion", ""), ("..%2f1", ""), ("1e0", "")):
            status, _, body = send(address, f"/api/registry/{version}", b"")
            assert status in (404, 422), body
            assert refused in body.decode()
        status, _, body = send(address, "/api/registry/1", b"")
        assert (status, json.loads(body)["name"]) == (200, f"{NAME} 1")
    with serving([frame], tmp_path / "cache") as address:
        assert json.loads(ask(address, "/api/registry")[2]) == {"name": None, "versions": []}
        assert send(address, "/api/registry/1", b"")[0] == 422


def test_few_versions_are_in_memory_at_once(frame: ServedModel):
    known = [{"version": str(number)} for number in range(1, 9)]
    served_models = ServedModels([frame], RegisteredModel("many", lambda: known, lambda version: frame.model))
    names = [served_models.load_version(str(number)).name for number in range(1, 9)]
    assert names == [f"many {number}" for number in range(1, 9)]
    assert [served.name for served in served_models.all] == ["frame", *names[-VERSIONS_LIMIT:]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--registry", "nobody"], "nobody"),
        (["{b}", "--device", "toaster"], "--device takes cpu, cuda"),
        (["{b}", "--device", "cuda:99"], "--device cuda:99: this machine has"),
    ],
)
def test_what_is_not_there_ends_in_one_line(
    frame_bundle: Path, registry: RegisteredModel, tmp_path: Path, words: list[str], said: str
):
    given = [word.replace("{b}", str(frame_bundle)) for word in words]
    run = CliRunner().invoke(app, ["view", "--cache", str(tmp_path), *given])
    assert run.exit_code == 2
    assert said in run.stderr
    assert run.stderr.count("\n") == 1

"""What the help of a command says for example is typed in, word by word."""
# ruff: noqa: TID251 - fills a registry

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
import skimage.data
import torch
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

from anyres.cli import app
from anyres.data.intake import intake
from anyres.data.pyramid import prepare
from anyres.data.sources import Access
from anyres.data.sources.folder import records
from anyres.networks import build_generator
from anyres.params import Params, Train
from anyres.registry.champion import promote
from anyres.training.best import write_weights
from tests.conftest import TINY_DISCRIMINATOR, TINY_NETWORK
from tests.export.bundles import INFINITY_GAN, make_bundle, tiny_params

# MLflow's store is read: what its libraries deprecate is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {
    command.name or command.callback.__name__: (command.epilog or "")  # type: ignore[union-attr]
    for command in app.registered_commands
}
# As small as the methods allow: examples draw long films and take hundreds of steps.
FRAME: dict[str, Any] = {"network": tiny_params().train.network.model_dump() | {"stem_layers": 1, "channels": (8, 6)}}
PLANE = INFINITY_GAN | {"zoom_max": 1.0, "network": INFINITY_GAN["network"] | {"channels": (8,)}}
# What a command needs of its model.
ENDLESS = {"fuse", "outpaint", "blend"}
ROUND = {"panorama"}
# It serves until it is stopped: tests/viewer starts it. The other's example is the guide's too: tests/export types that in.
ELSEWHERE = {"view", "export"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that examples name, small: pictures, params, models of each kind, trainings."""
    shelf = tmp_path_factory.mktemp("shelf")
    sky = skimage.data.hubble_deep_field()
    (shelf / "in").mkdir()
    for index in range(24):
        top, left = index // 6 * 140, index % 6 * 150
        Image.fromarray(sky[top : top + 110, left : left + 130]).save(shelf / "in" / f"{index}.png")
    for name, left in (("photo", 0), ("left", 200), ("right", 400)):
        Image.fromarray(sky[100:196, left : left + 96]).save(shelf / f"{name}.jpg")
    params = Params.load(ROOT / "params.yaml")
    intake(records(shelf / "in"), params.ingest, Access(shelf / "cache"), shelf / "data/ingested", progress=False)
    prepare(shelf / "data/ingested", params.prepare, shelf / "data/store", progress=False)
    values = params.model_dump(mode="json")
    values["train"] |= {"patch_px": [16, 24], "batch": 8, "kimg": 0.032, "zoom_max": 4.0}
    values["train"]["network"] |= TINY_NETWORK
    values["train"]["discriminator"] = TINY_DISCRIMINATOR
    values["train"]["monitor"]["samples"] = 20
    values["evaluate"] |= {"num_samples": 40, "num_sweep_samples": 24, "sizes": [24, 32], "num_scenes": 2, "bootstrap": 3}
    train = Train.model_validate(values["train"])
    values = json.loads(json.dumps(values, default=list))
    YAML(typ="safe", pure=True).dump(values, shelf / "params.yaml")
    for place in ("out/train", "other/out/train"):
        (shelf / place).mkdir(parents=True)
        torch.manual_seed(len(place))
        for name in ("generator", "generator_init"):
            write_weights(generator := build_generator(train, (1.5, 1.0)), shelf / place / f"{name}.safetensors")
        record = {"params": train.model_dump(mode="json"), "half_extent": (1.5, 1.0), "nimg": 0, "kept_nimg": 0}
        record |= {"geometry": generator.geometry.to_json(), "method": train.method, "data_hash": "d" * 64}
        record |= {"fingerprint": "f" * 16, "code": "c" * 64, "code_changed": []}
        (shelf / place / "train.json").write_text(json.dumps(record))
    make_bundle(shelf / "frame", 1, 0.5, **FRAME)
    make_bundle(shelf / "ring", 1, 0.5, (1.0, 0.5), chart="cylinder", fov=180.0, **FRAME)
    make_bundle(shelf / "endless", 1, 0.5, **PLANE)
    make_registry(shelf / "mlflow.db")
    return shelf


def make_registry(path: Path) -> None:
    """A store with three versions of a model that were champion one after the other; the second is good on another metric."""
    client = mlflow.MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}")
    client.create_registered_model("anyres-generator")
    for version in ("1", "2", "3"):
        tags = {"patch_kid": str(1 / int(version)), "patch_fd": "3.0"}
        client.create_model_version("anyres-generator", "s3://nowhere/generator", tags=tags)
        promote(client, "anyres-generator", version, "patch_kid")


def test_every_command_has_an_example() -> None:
    assert EXAMPLES
    for name, epilog in EXAMPLES.items():
        assert epilog.startswith(f"Example: anyres {name}"), name


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - ELSEWHERE))
def test_examples_do_what_they_say(name: str, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What other tests of this process have left there.
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(variable, raising=False)
    mlflow.set_registry_uri("")
    for item in ("params.yaml", "photo.jpg", "left.jpg", "right.jpg", "mlflow.db"):
        shutil.copy(shelf / item, item)
    kind = "endless" if name in ENDLESS else "ring" if name in ROUND else "frame"
    for source, place in (
        (kind, "out/export/generator"),
        ("data", "data"),
        ("other/out/train", "other/out/train"),
        *([] if name == "train" else [("out/train", "out/train")]),
    ):
        shutil.copytree(shelf / source, place)
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    for words in EXAMPLES[name].removeprefix("Example: ").split(";"):
        program, *options = shlex.split(words)
        assert program == "anyres"
        done: Any = CliRunner().invoke(app, options, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        if "--out" in options:
            assert Path(options[options.index("--out") + 1]).exists()
    if name not in ("info", "doctor", "models"):
        assert {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()} != before

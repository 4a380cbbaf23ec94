"""The repository agrees with itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

import anyres
from anyres.params import Params, ParamsError

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("anyres", "pipelines", "tests", "docs", "infra")


def leaves(section: BaseModel, prefix: str = "") -> list[str]:
    out = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        out += leaves(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else [f"{prefix}{name}"]
    return out


def test_every_value_of_params_is_read_somewhere(params: Params):
    code = "\n".join(
        path.read_text()
        for folder in ("anyres", "pipelines")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "params.py"
    )
    unread = [leaf for leaf in leaves(params) if not re.search(rf"\.{leaf.rsplit('.')[-1]}\b", code)]
    assert unread == []


def test_sections_stages_and_files_carry_one_name():
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(stages) == list(Params.model_fields)
    for name, stage in stages.items():
        assert stage["cmd"] == f"python -m pipelines.{name}"
        # Whole sections: a key added later is never forgotten.
        assert stage["params"] == [name]
        assert (ROOT / "pipelines" / f"{name}.py").is_file()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kimg:", "kimgs:", r"train\.kimg: missing; add it; train\.kimgs: unknown key"),
        ("batch: 32", "batch: many", r"train\.batch: .*valid integer.*\(found 'many'\)"),
        ("flip: 0.5", "flip: 1.5", r"train\.flip: .*less than or equal to 1.*\(found 1\.5\)"),
        ("patch_px: [32, 32]", "patch_px: [32, 30]", r"train: patch_px \(32, 30\) must be multiples of 8"),
        (" attention_heads: 4", " attention_heads: 3", r"train\.discriminator: attention_heads 3 must divide the last of .*128"),
        ("ingest:", "ingest: [", "not readable as YAML"),
    ],
)
def test_a_wrong_value_gives_one_line_that_names_it(tmp_path, old, new, message):
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ParamsError, match=message) as caught:
        Params.load(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ParamsError, match=r"params\.yaml: no such file; run from the folder that holds"):
        Params.load(tmp_path / "params.yaml")


def test_yaml_is_read_as_version_1_2(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    text, count = re.subn(r"\bg_lr: \S+", "g_lr: 1e-3", text)
    assert count == 1
    (tmp_path / "params.yaml").write_text(text)
    assert Params.load(tmp_path / "params.yaml").train.optimizer.g_lr == 0.001


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["torch", "timm", "xformers", "mlflow", "prefect", "dvc", "matplotlib", "accelerate"]
    script = f"import sys, anyres, anyres.params; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_versions_agree():
    assert f'version = "{anyres.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {anyres.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_lock_pins_by_hash_and_names_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    pins = re.findall(r"^(\S+)==\S+.*\\$", lock, re.MULTILINE)
    assert len(pins) > 100
    declared = re.findall(r'^    "([A-Za-z0-9_.-]+)', (ROOT / "pyproject.toml").read_text().split("[tool.hatch")[0], re.MULTILINE)
    normal = [{re.sub(r"[-_.]+", "-", name.lower()) for name in names} for names in (declared, pins)]
    assert normal[0] <= normal[1]


def test_no_room_holds_a_picture_a_weight_or_a_pickle():
    forbidden = {".png", ".jpg", ".jpeg", ".tif", ".safetensors", ".pt", ".pth", ".pkl", ".ckpt", ".deb"}
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()]
    assert len(files) > 100
    assert [path for path in files if path.suffix.lower() in forbidden] == []


def test_every_command_of_the_readme_exists():
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"^\s*make ([a-z-]+)", readme, re.MULTILINE))
    assert used
    assert used <= targets

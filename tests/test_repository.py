"""The repository agrees with itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import anyres
from anyres.params import Params, ParamsError
from tests.reads import SECTIONS, all_reads, fields, parse, unread

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("anyres", "pipelines", "tests", "docs", "infra")


def test_every_value_of_params_is_read_somewhere():
    reads = all_reads(parse(ROOT, "anyres", "pipelines"))
    assert len(reads) > 300
    assert unread(reads) == []


CODE = """
from dataclasses import dataclass
from anyres import params as values
from anyres.params import ExactNetwork, Loss, Params, Train

@dataclass
class Step:
    params: Train

class Other:
    folder: str

class Trainer(Step):
    def __init__(self, loss: Loss, other: Other):
        self.loss, self.number = loss, loss.{0}
        other.folder, other.source

    def run(self):
        return [self.loss.{1} for _ in range(3)] + [self.params.optimizer.{2}]

def section(path) -> Train:
    return Params.load(path).train

def found(steps: list[Step], pairs: tuple[int, values.Evaluate], stages=None):
    network, monitor = section("").network, steps[0].params.monitor
    assert isinstance(network, ExactNetwork)
    seed, settings = pairs
    f"{{settings.{3}}}", network.{4}, network.channels, stages.teacher
    for step in sorted(steps, key=lambda step: step.number):
        (lambda: step.params.{5})()
    with open(monitor.{6}) as file:
        return file.folder, section("").finest_zoom
"""


def test_a_read_counts_for_the_section_that_it_is_made_on():
    """Whatever holds the section; not where something else has a value of that name."""
    places = "r1_gamma", "r2_gamma", "g_lr", "seed", "octaves", "batch", "keep"
    sections = "Loss", "Loss", "Optimizer", "Evaluate", "ExactNetwork", "Train", "Monitor"
    wanted = {f"{section}.{place}" for section, place in zip(sections, places, strict=True)}
    # Through a property.
    wanted |= {"ExactNetwork.channels", "Train.zoom_max", "Pairs.ratio", "Pairs.share", "Pairs.large_share"}
    wanted |= {f"Train.{name}" for name in ("optimizer", "network", "monitor", "pairs")} | {"Params.train"}
    known = parse(ROOT, "anyres")["anyres.params"]

    def read(*names: str) -> set[str]:
        missing = unread(all_reads({"anyres.params": known, "code": ast.parse(CODE.format(*names))}))
        return {f"{name.rpartition('.')[2]}.{field}" for name in SECTIONS for field in fields(name)} - set(missing)

    assert read(*places) == wanted
    for section, place in zip(sections, places, strict=True):
        assert read(*(name if name != place else "model_config" for name in places)) == wanted - {f"{section}.{place}"}


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
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, groups = table["project"], table["dependency-groups"]
    lines = [
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *groups.values(),
        table["build-system"]["requires"],
    ]
    declared = re.findall(r"^[A-Za-z0-9_.-]+", "\n".join(line for requirements in lines for line in requirements), re.MULTILINE)
    assert len(declared) > 50
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

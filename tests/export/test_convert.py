"""Files for programs without this code: any window of any size, drawn by onnxruntime or torch alone, as the library draws it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import anyres
from anyres.cli import app
from anyres.export import convert
from anyres.export.convert import TOLERANCE, export_to
from anyres.export.traced import TracedRenderer, example
from anyres.networks import build_generator
from anyres.plane.geometry import Geometry
from anyres.plane.window import Window
from anyres.synthesis.render import render_tiles
from anyres.synthesis.request import RenderRequest
from tests.export.bundles import ANYRES_GAN, GRID_NETWORK, HALF_EXTENT, INFINITY_GAN, make_bundle, tiny_params

ROOT = Path(__file__).resolve().parents[2]
# Seed, window, truncation: sizes that are multiples of nothing, deep zooms, the smallest of pictures.
ASKED = [
    (0, Window((0.0, 0.0), 2 / 64, (64, 96)), 1.0),
    (7, Window((0.37, -0.21), 2 / 77.7, (33, 47)), 0.7),
    (2**39 + 5, Window((-0.8, 0.1), 2 / 3000, (1, 5)), 0.0),
    (12, Window((0.5, 0.5), 2.0**-13, (61, 30)), 1.3),
]
FAR = [(5, Window((12345.6, -98765.4), 2 / 50, (40, 31)), 0.7), (5, Window((1e7, -2e8), 2 / 64, (17, 31)), 0.7)]

# A graph takes seconds by the layer: one of these is as good as three.
KINDS: dict[str, dict[str, Any]] = {
    "continuum": {"network": tiny_params().train.network.model_dump() | {"stem_layers": 1, "channels": (8, 6)}},
    "anyres_gan": ANYRES_GAN | {"network": ANYRES_GAN["network"] | {"layers": 4}},
    "infinity_gan": INFINITY_GAN | {"network": INFINITY_GAN["network"] | {"channels": (8,)}},
}

ON_GRIDS = {
    f"{method}{'-fixed' if law == 'fixed' else ''}-{noise}": {
        "method": method,
        "period_law": law,
        "zoom_max": 2.0,
        "network": GRID_NETWORK | {"noise": noise},
    }
    for method, law, noise in [
        ("scaleparty", "log_uniform", "grid_sample"),
        ("scaleparty", "log_uniform", "constant"),
        ("ms_pie", "log_uniform", "grid_sample"),
        ("ms_pe", "log_uniform", "grid_sample"),
        ("cips", "log_uniform", "grid_sample"),
        ("stylegan2", "log_uniform", "grid_sample"),
        ("stylegan2", "fixed", "grid_sample"),
    ]
}
ON_CHARTS = {
    f"{name}-{chart}": train | {"chart": chart} | ({"fov": 180.0} if chart == "cylinder" else {})
    for name, train in [("continuum", {}), ("anyres_gan", ANYRES_GAN), ("infinity_gan", INFINITY_GAN)]
    for chart in ("frame", "plane", "cylinder")
}
EVERY = ON_GRIDS | ON_CHARTS


@pytest.fixture(scope="module", params=KINDS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp(request.param) / "generator", 4, 0.25, **KINDS[request.param])


def expected(generator: Any, seed: int, window: Window, psi: float) -> np.ndarray:
    """float32 (3, h, w) in about [-1, 1]."""
    ((_, pixels),) = render_tiles(generator, RenderRequest(seed, window, psi))
    return pixels.numpy()


def loud(generator: Any) -> Any:
    """With noise and scale heard, which training starts without."""
    torch.manual_seed(5)
    for name, parameter in generator.named_parameters():
        if "strength" in name or "scale" in name:
            parameter.normal_(0, 0.3)
    return generator


def asked(geometry: Geometry) -> list[tuple[int, Window, float]]:
    return [*ASKED, *(FAR if geometry.chart.name == "plane" else [])]


@pytest.mark.parametrize("name", EVERY)
def test_windows_of_tensors_draw_what_windows_of_numbers_draw(name: str):
    """Every method on every chart, before there is a graph: what is recorded is the same picture."""
    torch.manual_seed(3)
    generator = loud(build_generator(tiny_params(**EVERY[name]).train, HALF_EXTENT).eval().requires_grad_(False))
    drawn = TracedRenderer(generator)
    for seed, window, psi in asked(generator.geometry):
        picture, values = drawn(*example(seed, window, psi))
        assert picture.shape == (*window.size, 3)
        assert (values[0] - torch.from_numpy(expected(generator, seed, window, psi))).abs().max() <= 1e-5, (seed, window, psi)


@pytest.mark.timeout(600)
def test_onnxruntime_draws_what_the_library_draws(bundle: Path, tmp_path: Path):
    model = anyres.load(bundle)
    loud(model.generator)
    path = tmp_path / "generator.onnx"
    done = export_to(model, path)
    assert done.difference is not None
    assert done.difference <= TOLERANCE
    assert done.num_bytes == path.stat().st_size
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert [(part.domain, part.version) for part in file.opset_import] == [("", 18)]
    told = {entry.key: entry.value for entry in file.metadata_props}
    assert told["weights_sha256"] == model.meta["weights_sha256"]
    assert told["method"] == model.meta["method"]
    # Nothing of this machine.
    assert b"/anyres/" not in path.read_bytes()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for seed, window, psi in asked(model.geometry):
        inputs = {
            "seed": np.int64(seed),
            "center": np.array(window.center),
            "period": np.float64(window.period),
            "size": np.array(window.size),
            "psi": np.float64(psi),
        }
        picture, values = session.run(["picture", "values"], {name: np.asarray(value) for name, value in inputs.items()})
        assert np.abs(values[0] - expected(model.generator, seed, window, psi)).max() <= TOLERANCE, (seed, window, psi)
        assert np.abs(picture.astype(int) - model.render(seed, window, psi)).max() <= 1


ALONE = """
import json, sys
import torch
asked = json.loads(sys.argv[2])
draw = torch.export.load(sys.argv[1]).module()
for index, (seed, center, period, size, psi) in enumerate(asked):
    real = [torch.tensor(value, dtype=torch.float64) for value in (center, period, psi)]
    picture, values = draw(torch.tensor(seed), real[0], real[1], torch.tensor(size), real[2])
    torch.save(values[0].detach(), f"{sys.argv[3]}/{index}.pt")
try:
    import anyres
except ModuleNotFoundError:
    print("alone")
"""


# What is recorded is the same for both kinds of file: the method with the most in it stands for all.
@pytest.mark.parametrize("bundle", ["continuum"], indirect=True)
@pytest.mark.timeout(600)
def test_torch_alone_draws_from_an_archive(bundle: Path, tmp_path: Path):
    model = anyres.load(bundle)
    loud(model.generator)
    export_to(model, tmp_path / "generator.pt2")
    with zipfile.ZipFile(tmp_path / "generator.pt2") as file:
        assert not [name for name in file.namelist() if pickled(file.read(name)[:2])]
        about = json.loads(next(file.read(name) for name in file.namelist() if name.endswith("about.json")))
    assert about["weights_sha256"] == model.meta["weights_sha256"]
    # Nothing of this machine.
    assert b"/anyres/" not in (tmp_path / "generator.pt2").read_bytes()
    windows = [(seed, window.center, window.period, window.size, psi) for seed, window, psi in asked(model.geometry)]
    # In no folder of this repository, and without what is installed from it.
    hidden = "import sys\nsys.meta_path = [f for f in sys.meta_path if 'editable' not in type(f).__module__.lower()]\n"
    hidden += "import os\nsys.path = [p for p in sys.path if not os.path.isdir(os.path.join(p, 'anyres'))]\n"
    words = [sys.executable, "-I", "-W", "ignore", "-c", hidden + ALONE]
    given = [str(tmp_path / "generator.pt2"), json.dumps(windows), str(tmp_path)]
    run = subprocess.run([*words, *given], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "alone\n"
    for index, (seed, window, psi) in enumerate(asked(model.geometry)):
        found = torch.load(tmp_path / f"{index}.pt", weights_only=True).numpy()
        assert np.abs(found - expected(model.generator, seed, window, psi)).max() <= 1e-5


def pickled(head: bytes) -> bool:
    """Whether a file that begins so is one of pickle's, or a zip archive, which torch.save makes."""
    return (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05") or head == b"PK"


def test_a_file_that_draws_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = anyres.load(make_bundle(tmp_path / "generator", 4, 0.25, **ANYRES_GAN))
    ones = np.ones((3, 37, 45), np.float32)
    wrong = convert.FORMATS[".pt2"]._replace(content=lambda generator, about: b"", draw=lambda *_: ones)
    monkeypatch.setitem(convert.FORMATS, ".pt2", wrong)
    with pytest.raises(ValueError, match="its pixels differ by"):
        export_to(model, tmp_path / "wrong.pt2")
    assert not (tmp_path / "wrong.pt2").exists()


def test_another_suffix_and_a_graph_that_cannot_be_are_one_line(tmp_path: Path):
    bundle = make_bundle(tmp_path / "generator", 4, 0.25)
    run = CliRunner().invoke(app, ["export", str(bundle), str(tmp_path / "generator.tflite")])
    assert (run.exit_code, run.stderr.count("\n")) == (2, 1)
    assert "end its name with .onnx or .pt2" in run.stderr
    network = {"channels": (10, 8, 6), "npad": 4, "noise": "random", "noise_maps": "level"}
    grid = {"z_dim": 8, "w_dim": 12, "mapping_layers": 1}
    random = make_bundle(tmp_path / "random", 4, 0.25, method="scaleparty", network=network | grid)
    run = CliRunner().invoke(app, ["export", str(random), str(tmp_path / "generator.pt2")])
    assert (run.exit_code, run.stderr.count("\n")) == (2, 1)
    assert "noise of policy random" in run.stderr


@pytest.mark.timeout(600)
def test_the_lines_of_the_guide_draw_a_picture(tmp_path: Path):
    """What docs/using.md and the help of the command say, word by word."""
    text = (ROOT / "docs/using.md").read_text(encoding="utf-8")
    section = text.partition("## Exchange formats")[2].partition("\n## ")[0]
    (command,) = re.findall(r"^    (anyres export \S+ generator\.onnx)", section, re.MULTILINE)
    # The example of the command's help, which tests/test_examples.py leaves to this test.
    assert f"Example: {command}" in {known.epilog for known in app.registered_commands}
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    make_bundle(tmp_path / "out/export/generator", 4, 0.25, **EVERY["cips-grid_sample"])
    words = [sys.executable, "-m", *command.split()]
    run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(
        r"generator\.onnx: ONNX, opset 18, seed, center, period, size, psi -> picture, values, [\d.]+ MB, "
        r"pixels within \S+ of the model's\n",
        run.stdout,
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (384, 256)
        assert np.asarray(picture).std() > 1

"""The losses of the first steps of each method against golden.json: a change of a loss, a network or a seed changes them.

`python benchmarks/compare_loss.py . --write tests/training/golden.json` writes the file again. It holds more steps than these
tests train: `compare_loss.py` compares two checkouts over all of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from accelerate import Accelerator

from anyres.data.store import Store
from anyres.params import Train
from anyres.training.losses import LOSSES
from anyres.training.run import train
from benchmarks import compare_loss

ROOT = Path(__file__).resolve().parents[2]
GOLDEN: dict[str, list[dict[str, float]]] = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
# Tolerances (relative, absolute) of the first step and of the later ones, for other machines. SSE4 kernels in place of AVX-512
# change a value of the first step by at most 3.5e-4 of itself, and one of the later steps by at most 1.1e-3 times (1 + its size):
# Adam's first steps amplify rounding. The tolerances are about eight times as large.
FIRST, LATER = (3e-3, 1e-5), (1e-2, 8e-3)
STEPS = 3


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(compare_loss.make_store(tmp_path_factory.mktemp("golden")))


def trace(name: str, photographs: Store, folder: Path, num_steps: int) -> list[dict[str, float]]:
    """Train the first steps of a case; return the values of each."""
    params = Train.model_validate(compare_loss.section(ROOT, name, num_steps)["train"])
    train(params, photographs, folder / "out", folder / "runs", Accelerator(cpu=True))
    return compare_loss.losses(folder / "out" / "history.jsonl")


def assert_golden(values: list[dict[str, float]], name: str) -> None:
    for step, (line, golden) in enumerate(zip(values, GOLDEN[name], strict=False), start=1):
        relative, absolute = FIRST if step == 1 else LATER
        assert line == pytest.approx(golden, rel=relative, abs=absolute), f"{name}, step {step}"


def test_every_case_has_its_losses() -> None:
    assert list(GOLDEN) == list(compare_loss.CASES)
    measured = {key for lines in GOLDEN.values() for line in lines for key in line}
    # Every loss that a training can report.
    assert measured == {
        "nimg",
        "logits/real",
        "logits/fake",
        *(f"loss/{key}" for key in ("d", "g", "d_height", "height", "matching", "teacher", "consistency", "diversity", "pair")),
        *(f"loss/{key}" for key in ("d_projected", "projected")),
        *(f"penalty/{key}" for key in ("r1", "r2", "path")),
    }


@pytest.mark.parametrize("name", compare_loss.CASES)
def test_the_first_losses_are_those_of_before(name: str, photographs: Store, tmp_path: Path) -> None:
    values = trace(name, photographs, tmp_path, STEPS)
    assert len(values) == STEPS
    assert_golden(values, name)


def test_a_loss_that_is_wrong_by_one_per_cent_is_found(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    d_loss, g_loss = LOSSES["relativistic"]
    monkeypatch.setitem(LOSSES, "relativistic", (d_loss, lambda real, fake: 1.01 * g_loss(real, fake)))
    values = trace("continuum on the cylinder", photographs, tmp_path, 1)
    with pytest.raises(AssertionError, match="continuum on the cylinder, step 1"):
        assert_golden(values, "continuum on the cylinder")

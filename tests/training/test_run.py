"""Training end to end on real pictures of the plane: resume, signals, processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from ruamel.yaml import YAML
from safetensors.torch import load_file
from typer.testing import CliRunner

from anyres.cli import app
from anyres.data.store import Store
from anyres.identity import find_run
from anyres.networks.saved import load_trained
from anyres.params import Params, Train
from anyres.training.loop import ema_beta, ema_update
from anyres.training.run import DivergenceError, Run, first_stage, train
from anyres.training.state import TrainState

ROOT = Path(__file__).resolve().parents[2]


def cpu() -> Accelerator:
    return Accelerator(cpu=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "generator.safetensors")


def discriminator(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "discriminator.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def write_params(path: Path, section: Train) -> None:
    values = Params.load(ROOT / "params.yaml").model_dump(mode="json")
    values["train"] = section.model_dump(mode="json")
    with path.open("w") as file:
        YAML(typ="safe", pure=True).dump(values, file)


def words(work: Path, store: Store) -> list[str]:
    places = {"params": work / "params.yaml", "store": store.path, "out": work / "out", "runs": work / "runs"}
    return ["train", *(word for key, value in places.items() for word in (f"--{key}", str(value)))]


def command(work: Path, store: Store) -> list[str]:
    return [sys.executable, "-m", "anyres", *words(work, store)]


def run_here(work: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in this process, which has loaded all that it needs."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    done = CliRunner().invoke(app, words(work, store), catch_exceptions=False)
    assert done.exit_code == 0, done.output


ENVIRON = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, tiny: Train, store: Store) -> Path:
    work = tmp_path_factory.mktemp("uninterrupted")
    write_params(work / "params.yaml", tiny)
    subprocess.run(command(work, store), check=True, cwd=work, env=ENVIRON)
    return work


def test_leaves_what_others_read(uninterrupted: Path, tiny: Train):
    out = uninterrupted / "out"
    record = json.loads((out / "train.json").read_text())
    assert record["nimg"] == 80
    assert record["params"] == tiny.model_dump(mode="json")
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["nimg"] for line in lines] == [16, 32, 48, 64, 80]
    assert {"loss/d", "loss/g", "logits/real", "logits/fake", "penalty/r1", "perf/img_per_s"} <= lines[0].keys()
    assert (out / "samples" / "000000.png").is_file()
    generator = load_trained(out)
    assert generator.geometry.native_sizes == ((16, 24),)
    assert not equal(weights(out), load_file(out / "generator_init.safetensors"))


def test_two_runs_of_one_seed_are_equal(uninterrupted: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "params.yaml").write_bytes((uninterrupted / "params.yaml").read_bytes())
    run_here(tmp_path, store, monkeypatch)
    assert equal(weights(uninterrupted / "out"), weights(tmp_path / "out"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    number, uninterrupted: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "params.yaml").write_bytes((uninterrupted / "params.yaml").read_bytes())
    process = subprocess.Popen(command(tmp_path, store), cwd=tmp_path, env=ENVIRON)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(number)
    assert process.wait(60) == (-number if number == signal.SIGKILL else 143)
    assert not (tmp_path / "out" / "generator.safetensors").exists()
    run_here(tmp_path, store, monkeypatch)
    assert equal(weights(uninterrupted / "out"), weights(tmp_path / "out"))
    nimg = [json.loads(line)["nimg"] for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert nimg == sorted(set(nimg))
    assert nimg[-1] == 80


def test_two_processes_train_as_one(uninterrupted: Path, tmp_path: Path, store: Store):
    (tmp_path / "params.yaml").write_bytes((uninterrupted / "params.yaml").read_bytes())
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launched = [sys.executable, "-m", *launch.split(), "--main_process_port", "0", "-m", *command(tmp_path, store)[2:]]
    subprocess.run(launched, check=True, cwd=tmp_path, env=ENVIRON)
    one, two = weights(uninterrupted / "out"), weights(tmp_path / "out")
    # Sums of gradients are taken in another order, and Adam divides small ones by their size.
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=5e-3, rtol=5e-3, msg=name)
    assert json.loads((tmp_path / "out" / "train.json").read_text())["num_processes"] == 2


def test_a_loss_that_is_no_number_ends_the_run_with_a_cure(tiny: Train, store: Store, tmp_path: Path):
    wild = tiny.model_copy(update={"optimizer": tiny.optimizer.model_copy(update={"g_lr": 1e30, "d_lr": 1e30})})
    with pytest.raises(DivergenceError, match=r"training diverged at .* lower train.optimizer.g_lr"):
        train(wild, store, tmp_path / "out", tmp_path / "runs", cpu())


def test_a_broken_checkpoint_is_named(tiny: Train, tmp_path: Path):
    state = TrainState.fresh(tiny, (1.0, 1.0), torch.device("cpu"))
    (tmp_path / "bad.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"bad.safetensors: not a checkpoint .* remove it to start again"):
        state.load(tmp_path / "bad.safetensors")


def test_patches_larger_than_every_picture_are_refused_before_training(tiny: Train, store: Store, tmp_path: Path):
    with pytest.raises(ValueError, match="none of 3 pictures holds a patch of 512x512 pixels"):
        train(tiny.model_copy(update={"patch_px": (512, 512)}), store, tmp_path / "out", tmp_path / "runs", cpu())
    assert not (tmp_path / "out").exists()


def test_it_learns(tiny: Train, store: Store, tmp_path: Path):
    """The mean colour and spread of fakes come near those of the pictures within 2,000 images."""
    longer = tiny.model_copy(
        update={"kimg": 2.0, "sample_every_kimg": 10.0, "checkpoint_every_kimg": 10.0, "report_every_kimg": 1.0}
    )
    train(longer, store, tmp_path / "out", tmp_path / "runs", cpu())
    from anyres.data.patches import PatchLaw, PatchSampler
    from anyres.synthesis.render import render_many

    law = PatchLaw(longer.patch_px, longer.zoom_max, longer.period_law, longer.flip)
    sampler = PatchSampler(store, law, seed=5)
    real, windows = sampler.batch(0, 64)

    def distance(weights: str) -> float:
        fake = render_many(load_trained(tmp_path / "out", weights), range(64), windows)
        return abs(fake.mean() / 255 - real.mean() / 255) + abs(fake.std() / 255 - real.std() / 255)

    assert distance("generator.safetensors") < 0.5 * distance("generator_init.safetensors")


def test_the_moving_average_of_equal_updates_has_its_closed_form(tiny: Train):
    target, source = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    start, goal = target.weight.detach().clone(), source.weight.detach().clone()
    with torch.no_grad():
        for _ in range(5):
            ema_update(target, source, 0.75)
    torch.testing.assert_close(target.weight.detach(), goal + 0.75**5 * (start - goal))
    half_life = tiny.optimizer.ema_half_life_kimg * 1000
    steps = half_life / tiny.batch
    assert ema_beta(tiny, 10**9) ** steps == pytest.approx(0.5)
    assert ema_beta(tiny, 0) == 0.0


def test_a_zoom_that_no_picture_reaches_is_refused(tiny: Train, store: Store, tmp_path: Path) -> None:
    params = tiny.model_copy(update={"zoom_max": 16.0})
    with pytest.raises(
        ValueError, match=r"train\.zoom_max: 16 is more than the largest picture of the data allows; lower it to 10 "
    ):
        train(params, store, tmp_path / "out", tmp_path / "runs", cpu())
    assert not (tmp_path / "out").exists()


def with_stages(params: Train, **stages: object) -> Train:
    values = params.model_dump()
    values["stages"] |= stages
    return Train.model_validate(values)


def test_a_training_of_before_takes_the_place_of_a_first_stage(
    tiny: Train, store: Store, uninterrupted: Path, tmp_path: Path
) -> None:
    folder = uninterrupted / "out"
    params = with_stages(tiny, teacher=str(folder), teacher_weight=5.0).model_copy(update={"kimg": 0.016})
    train(params, store, tmp_path / "out", tmp_path / "runs", cpu())
    # It starts where the other ended, and keeps that as its teacher.
    before = load_file(folder / "generator.safetensors")
    assert not equal(weights(tmp_path / "out"), before)
    (state,) = (tmp_path / "runs").glob("*/*16.safetensors")
    kept = {key.removeprefix("teacher."): value for key, value in load_file(state).items() if key.startswith("teacher.")}
    assert equal(kept, before)
    history = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert all("loss/teacher" in line for line in history)


def test_a_second_stage_goes_on_with_the_discriminator(
    tiny: Train, store: Store, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one of the other training's last checkpoint; a new one, and a line, where it does not fit or is not there."""
    folder = uninterrupted / "out"
    (last,) = uninterrupted.glob("runs/*/*80.safetensors")
    saved = {key.removeprefix("d."): value for key, value in load_file(last).items() if key.startswith("d.")}
    assert equal(discriminator(folder), saved)
    params = with_stages(tiny, teacher=str(folder), teacher_weight=5.0).model_copy(update={"kimg": 0.016})
    run = Run(params, store, tmp_path / "out", find_run(tmp_path / "runs", params, store.hash, False), cpu())
    assert equal(dict(run.state.d.state_dict()), saved)
    assert not run.state.d_opt.state
    assert capsys.readouterr().err == ""

    other = params.model_copy(update={"discriminator": params.discriminator.model_copy(update={"downsample": "blur"})})
    (tmp_path / "older").mkdir()
    for name in ("train.json", "generator.safetensors"):
        (tmp_path / "older" / name).write_bytes((folder / name).read_bytes())
    older = with_stages(params, teacher=str(tmp_path / "older"))
    for changed in (other, older):
        run = Run(changed, store, tmp_path / "out", find_run(tmp_path / "runs", changed, store.hash, False), cpu())
        assert not equal(dict(run.state.d.state_dict()), saved)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("has no discriminator that fits train.discriminator; a new one starts")

    record = json.loads((folder / "train.json").read_text())
    del record["params"]["discriminator"]["downsample"]
    (tmp_path / "older" / "train.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"older is of another version of anyres \(discriminator\.downsample: missing; add it\)"):
        first_stage(older, tmp_path / "older")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"patch_px": (32, 48)}, r"another train\.patch_px: \(16, 24\) is not \(32, 48\)"),
        ({"chart": "plane"}, r"another train\.chart: frame is not plane"),
        ({"wider": True}, r"another train\.network; make them equal"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    tiny: Train, store: Store, uninterrupted: Path, tmp_path: Path, changes: dict, says: str
) -> None:
    folder = uninterrupted / "out"
    params = with_stages(tiny, teacher=str(folder), teacher_weight=5.0)
    if changes.pop("wider", False):
        changes["network"] = params.network.model_copy(update={"w_dim": 20})
    with pytest.raises(ValueError, match=says):
        train(params.model_copy(update=changes), store, tmp_path / "out", tmp_path / "runs", cpu())
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_is_not_there_is_refused(tiny: Train, store: Store, tmp_path: Path) -> None:
    params = with_stages(tiny, teacher=str(tmp_path / "nothing"), teacher_weight=5.0)
    with pytest.raises(ValueError, match=r"stages\.teacher: .*nothing holds no train\.json; name the folder"):
        train(params, store, tmp_path / "out", tmp_path / "runs", cpu())
    with pytest.raises(ValueError, match="takes the place of a first stage"):
        with_stages(tiny, teacher="out/train", teacher_weight=5.0, global_kimg=0.02)


def test_perceptual_weights_that_are_not_there_are_named_before_training(
    tiny: Train, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    params = with_stages(tiny, global_kimg=0.04, teacher_weight=5.0, perceptual="lpips")
    with pytest.raises(ValueError, match=r"vgg16-397923af\.pth: no such file; put torchvision's VGG-16 there, or set .*lite0"):
        train(params, store, tmp_path / "out", tmp_path / "runs", cpu())


class Watched:
    """A monitor that says what it is told to, one number an evaluation."""

    def __init__(self, *values: float):
        self.values = list(values)

    def __call__(self, generator: torch.nn.Module) -> dict[str, float]:
        assert not generator.training
        return {"monitor/patch_kid": self.values.pop(0)}


def watched(tiny: Train, **changes: object) -> Train:
    monitor = {"every_kimg": 0.016, "samples": 20, "patience": 0, "keep": "best"} | changes
    return Train.model_validate(tiny.model_dump() | {"monitor": monitor})


def test_the_best_generator_on_the_way_is_kept(tiny: Train, store: Store, tmp_path: Path):
    params = watched(tiny)
    train(params, store, tmp_path / "out", tmp_path / "runs", cpu(), Watched(3, 1, 2, 2, 4))
    record = json.loads((tmp_path / "out" / "train.json").read_text())
    assert (record["nimg"], record["kept_nimg"], record["stopped_early"]) == (80, 32, False)
    lines = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert [(line["nimg"], line["monitor/patch_kid"]) for line in lines if "monitor/patch_kid" in line] == [
        (16, 3), (32, 1), (48, 2), (64, 2), (80, 4),
    ]  # fmt: skip
    # A training of that length alone ends with the same weights.
    short = Train.model_validate(watched(tiny).model_dump() | {"kimg": 0.032})
    train(short, store, tmp_path / "short", tmp_path / "runs", cpu(), Watched(3, 1))
    assert equal(weights(tmp_path / "out"), weights(tmp_path / "short"))
    assert equal(discriminator(tmp_path / "out"), discriminator(tmp_path / "short"))
    last = watched(tiny, keep="last")
    train(last, store, tmp_path / "last", tmp_path / "runs", cpu(), Watched(3, 1, 2, 2, 4))
    assert not equal(weights(tmp_path / "out"), weights(tmp_path / "last"))
    assert not equal(discriminator(tmp_path / "out"), discriminator(tmp_path / "last"))


def test_patience_ends_a_training_and_a_second_call_does_not_go_on(tiny: Train, store: Store, tmp_path: Path):
    params = watched(tiny, patience=2)
    train(params, store, tmp_path / "out", tmp_path / "runs", cpu(), Watched(1, 2, 2))
    record = json.loads((tmp_path / "out" / "train.json").read_text())
    assert (record["nimg"], record["kept_nimg"], record["stopped_early"]) == (48, 16, True)
    train(params, store, tmp_path / "again", tmp_path / "runs", cpu(), Watched())
    assert equal(weights(tmp_path / "out"), weights(tmp_path / "again"))
    assert json.loads((tmp_path / "again" / "train.json").read_text())["kept_nimg"] == 16


def test_patience_without_evaluations_is_refused(tiny: Train):
    with pytest.raises(ValueError, match=r"monitor\.patience counts evaluations"):
        watched(tiny, every_kimg=0.0, patience=3)

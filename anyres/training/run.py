"""A training run on disk: resume, reports, sample pictures, checkpoints, and the generator that comes out."""

from __future__ import annotations

import contextlib
import io
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from pydantic import ValidationError

from anyres.data.patches import BatchSource, PatchLaw, PatchSampler, Prefetch, TwoSizeSampler
from anyres.data.store import Store
from anyres.files import write_atomic
from anyres.identity import RUN_RECORD, RunFolder, find_run
from anyres.networks import Scene
from anyres.networks.perceptual import perceptual_features
from anyres.networks.pixels import from_uint8, to_uint8
from anyres.networks.saved import DISCRIMINATOR, FIRST_STAGE, RECORD, UNTRAINED, WEIGHTS, load_trained
from anyres.networks.tensorfile import read_safetensors
from anyres.params import Train, describe
from anyres.plane.chart import chart_of
from anyres.plane.window import Window
from anyres.progress import progress_bar
from anyres.training.best import BestCheckpoint, Monitor, write_weights
from anyres.training.loop import Report, matching_backbone, training_loop
from anyres.training.microbatch import RealBatch, RealBatchPair, pass_size
from anyres.training.state import DamagedCheckpointError, FirstStage, TrainState

# Checkpoints on disk: the newest one and the one before it.
NUM_CHECKPOINTS = 2
# Patches whose mean and spread set up the networks.
STANDARD_PATCHES = 256
SAMPLE_SCENES = 8
SAMPLE_ZOOMS = (1, 2, 4, 8)


class DivergenceError(ValueError):
    """A loss is not finite."""


class InterruptedTraining(Exception):  # noqa: N818 - no error
    """Training was asked to stop, and wrote a checkpoint first."""


def train(
    params: Train,
    store: Store,
    out: Path,
    runs: Path,
    accelerator: Accelerator,
    monitor: Monitor | None = None,
    micro_batch: int | None = None,
    ignore_code: bool = False,
) -> None:
    """Train on the pictures of `store`, or resume the interrupted run with equal settings and code.

    `monitor` measures the running mean of the weights at the intervals of `params.monitor`. The best generator by MONITORED is
    kept, and training stops where patience ends. Fills `out` (generator.safetensors, discriminator.safetensors,
    generator_init.safetensors, generator_first.safetensors after two stages, train.json, history.jsonl, samples/) and keeps
    checkpoints below `runs`, in a folder named after settings and code. Where only the code changed since a run, one line on
    stderr says so, and training starts again; with `ignore_code` it resumes that run. The number of processes and `micro_batch`,
    the most pictures in one pass, change memory and time, not the training: a resumed run may use others.

    Raises ValueError, one line, for params that do not fit data or machine; DivergenceError where a loss is not finite; and
    InterruptedTraining after a SIGTERM or SIGINT, once its checkpoint is written.
    """
    pass_size(params.batch, accelerator.num_processes, micro_batch)
    folder = find_run(runs, params, store.hash, ignore_code)
    if folder.message and accelerator.is_main_process:
        print(f"train: {folder.message}", file=sys.stderr, flush=True)
    run = Run(params, store, out, folder, accelerator, monitor, micro_batch)
    with _stop_signals() as stopped:
        run.start()
        run.follow(stopped)
    run.finish()


class Run:
    """One training and its files. Only the main process writes."""

    def __init__(
        self,
        params: Train,
        store: Store,
        out: Path,
        run: RunFolder,
        accelerator: Accelerator,
        monitor: Monitor | None = None,
        micro_batch: int | None = None,
    ):
        self.micro_batch = micro_batch
        self.params, self.store, self.out, self.accelerator = params, store, out, accelerator
        self.folder, self.fingerprint, self.changed_files = run.path, run.fingerprint, run.changed
        self.best = BestCheckpoint(monitor if params.monitor.every_kimg else None, params.monitor.patience, run.path, accelerator)
        self.chart = chart_of(params.chart, fov=params.fov)
        law = PatchLaw(
            params.patch_px,
            params.zoom_max,
            params.period_law,
            params.flip,
            whole_until=round(params.stages.global_kimg * 1000),
            whole_share=params.stages.global_share,
            reach=params.pairs.ratio if params.two_sizes else 1.0,
            square=params.symmetry == "square",
        )
        self.sampler = PatchSampler(store, law, params.seed, self.chart)
        self.batches: BatchSource = self.sampler
        if params.two_sizes:
            pairs, begins = params.pairs, round(params.stages.global_kimg * 1000)
            self.batches = TwoSizeSampler(self.sampler, params.batch, params.large_px, pairs.share, pairs.large_share, begins)
        half_extent = self.sampler.half_extent
        reached = self.sampler.base / min(self.chart.native_period(store.frame(i).size) for i in self.sampler.usable)
        if reached < params.zoom_max * (1 - 1e-6):
            raise ValueError(
                f"params.yaml: train.zoom_max: {params.zoom_max:g} is more than the largest picture of the data allows; "
                f"lower it to {math.floor(reached * 100) / 100:g} or add larger pictures"
            )
        if params.stages.teacher_weight:
            perceptual_features(params.stages.perceptual)
        matching_backbone(params)
        first = first_stage(params, Path(params.stages.teacher)) if params.stages.teacher else None
        if first is not None and first.discriminator is None and accelerator.is_main_process:
            print(
                f"train: {params.stages.teacher} has no discriminator that fits train.discriminator; a new one starts",
                file=sys.stderr,
                flush=True,
            )
        self.reals = from_uint8(self.sampler.batch(0, STANDARD_PATCHES)[0])
        self.state = TrainState.fresh(params, half_extent, accelerator.device, self.reals, first)
        self.writes = accelerator.is_main_process
        self.seconds = 0.0
        self.interval: dict[str, list[torch.Tensor]] = {}

    def start(self) -> None:
        """Load the newest checkpoint, drop the reports made after it, and write the untrained generator."""
        self._load_checkpoint()
        if self.writes:
            self._write_record()
            self._restore()
        self.best.read_history(self.folder / "history.jsonl")
        if self.writes:
            untrained = TrainState.fresh(self.params, self._half_extent, torch.device("cpu"), self.reals).g
            write_weights(untrained, self.out / UNTRAINED)
            if self.state.nimg == 0:
                self._sample()

    def follow(self, stopped: threading.Event) -> None:
        """Train to the end, reporting, sampling and saving at the intervals of the params."""
        params, state = self.params, self.state
        local = params.batch // self.accelerator.num_processes
        total = round(params.kimg * 1000)
        began = last = time.monotonic()
        before, last_nimg = self.seconds, state.nimg
        title = f"train {params.method}"
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        with (
            Prefetch(self.batches, state.nimg, local, rank, world) as reader,
            progress_bar(title, total, "img", visible=self.writes) as advance,
        ):
            advance(state.nimg)
            # Patience may have run out just before an interruption.
            steps = training_loop(state, params, self._batches(reader), self.accelerator, self.micro_batch)
            for report in () if self.best.is_exhausted else steps:
                advance(params.batch)
                self._collect(report)
                measures = self.best.monitor is not None and (
                    _crosses(report.nimg, params.batch, params.monitor.every_kimg) or report.nimg >= total
                )
                if measures or _crosses(report.nimg, params.batch, params.report_every_kimg) or report.nimg >= total:
                    now = time.monotonic()
                    speed = (report.nimg - last_nimg) / (now - last)
                    monitored = self.best.measure(state.g_ema, state.d, report.nimg) if measures else {}
                    self._report(report.nimg, monitored, speed, before + time.monotonic() - began)
                    last, last_nimg = time.monotonic(), report.nimg
                if self.writes and _crosses(report.nimg, params.batch, params.sample_every_kimg):
                    self._sample()
                if _crosses(report.nimg, params.batch, params.checkpoint_every_kimg) or self._all_stop(stopped):
                    self.seconds = before + time.monotonic() - began
                    self._checkpoint()
                    if self._all_stop(stopped):
                        raise InterruptedTraining(f"stopped at {report.nimg} images; its checkpoint is in {self.folder}")
                if measures and self.best.is_exhausted:
                    break
        self.seconds = before + time.monotonic() - began

    def finish(self) -> None:
        """Write the generator that is evaluated and exported, and train.json."""
        if not self.writes:
            return
        self._checkpoint()
        self._sample()
        best = self.best.checkpoint() if self.params.monitor.keep == "best" else None
        if best is None:
            write_weights(self.state.g_ema, self.out / WEIGHTS)
            write_weights(self.state.d, self.out / DISCRIMINATOR)
        else:
            for name, path in zip((WEIGHTS, DISCRIMINATOR), best[1:], strict=True):
                write_atomic(self.out / name, path.read_bytes())
        if self.state.teacher is not None:
            write_weights(self.state.teacher, self.out / FIRST_STAGE)
        record = {
            "method": self.params.method,
            "params": self.params.model_dump(mode="json"),
            "geometry": self.state.g_ema.geometry.to_json(),
            "half_extent": self._half_extent,
            "data_hash": self.store.hash,
            "fingerprint": self.folder.name,
            "settings": self.fingerprint.settings,
            "code": self.fingerprint.code_hash,
            "code_changed": list(self.changed_files),
            "nimg": self.state.nimg,
            "kept_nimg": self.state.nimg if best is None else best[0],
            "stopped_early": self.best.is_exhausted,
            "monitor_seconds": round(self.best.seconds, 1),
            "pictures": len(self.sampler.usable),
            "pictures_skipped": self.sampler.skipped,
            "parameters": {
                "g": sum(p.numel() for p in self.state.g.parameters()),
                "d": sum(p.numel() for p in self.state.d.parameters()),
            },
            "seconds": round(self.seconds, 1),
            "img_per_s": round(self.state.nimg / self.seconds, 1) if self.seconds else None,
            "device": str(self.accelerator.device),
            "num_processes": self.accelerator.num_processes,
            "torch": torch.__version__,
        }
        write_atomic(self.out / RECORD, f"{json.dumps(record, indent=2)}\n".encode())

    @property
    def _half_extent(self) -> tuple[float, float]:
        return self.state.g.geometry.chart.half_extent

    def _batches(self, reader: Prefetch) -> Iterator[RealBatch | RealBatchPair]:
        device = self.accelerator.device
        for batch in reader:
            first, second = batch
            if isinstance(first, tuple):
                yield tuple((from_uint8(pixels, device), windows) for pixels, windows in (first, second))  # type: ignore[misc]
            else:
                yield from_uint8(first, device), second  # type: ignore[misc]

    def _collect(self, report: Report) -> None:
        for name, value in report.values.items():
            self.interval.setdefault(name, []).append(value)

    def _report(self, nimg: int, monitored: dict[str, float], img_per_s: float, seconds: float) -> None:
        """Append one line to the history: means over the interval, and the numbers of the monitor."""
        means = {name: torch.stack(parts).mean() for name, parts in self.interval.items()}
        values = {name: float(self.accelerator.reduce(mean, reduction="mean")) for name, mean in means.items()}  # type: ignore[arg-type]
        self.interval = {}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            cure = "lower train.optimizer.g_lr and d_lr or raise train.loss.r1_gamma"
            raise DivergenceError(f"training diverged at {nimg} images ({', '.join(bad)} not finite); {cure}")
        if not self.writes:
            return
        line: dict[str, Any] = {"nimg": nimg, **values, **monitored, "perf/img_per_s": img_per_s, "perf/seconds": seconds}
        for folder in (self.folder, self.out):
            with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line)}\n")

    @torch.inference_mode()
    def _sample(self) -> None:
        """Write a grid of the same scenes at growing zoom, one row a zoom."""
        g, size = self.state.g_ema, self.params.patch_px
        scene = Scene.of(range(SAMPLE_SCENES), self.params.network.z_dim, self.accelerator.device)
        rows = []
        for zoom in SAMPLE_ZOOMS:
            if zoom <= self.params.zoom_max:
                # Off the centre, where a zoom shows the texture of an object rather than its core.
                unit = self.chart.short_side / 2
                center = (0.0, 0.0) if zoom == 1 else (0.12 * unit, -0.08 * unit)
                window = Window(center, 2 * unit / min(size) / zoom, size)
                rows.append(np.concatenate(list(to_uint8(g(scene, [window] * SAMPLE_SCENES))), axis=1))
        buffer = io.BytesIO()
        Image.fromarray(np.concatenate(rows)).save(buffer, format="png")
        for folder in (self.folder, self.out):
            write_atomic(folder / "samples" / f"{self.state.nimg // 1000:06d}.png", buffer.getvalue())

    def _checkpoint(self) -> None:
        """Save the whole state, then delete older checkpoints."""
        if not self.writes:
            return
        self.state.save(self.folder / f"{self.state.nimg:012d}.safetensors", seconds=self.seconds)
        for old in sorted(self.folder.glob("*.safetensors"))[:-NUM_CHECKPOINTS]:
            old.unlink()

    def _all_stop(self, stopped: threading.Event) -> bool:
        """Whether any process was asked to stop: all leave at the same step."""
        if self.accelerator.num_processes == 1:
            return stopped.is_set()
        flag = torch.tensor([int(stopped.is_set())], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum").item())  # type: ignore[union-attr]

    def _load_checkpoint(self) -> None:
        """Load the newest sound checkpoint; one line on stderr names each damaged one, which is set aside."""
        damaged: list[Path] = []
        for path in sorted(self.folder.glob("*.safetensors"), reverse=True):
            try:
                self.seconds = float(self.state.load(path).get("seconds", 0.0))
                break
            except DamagedCheckpointError as error:
                damaged.append(path)
                if self.writes:
                    print(f"train: {error}; using the checkpoint before it", file=sys.stderr, flush=True)
        # Every process reads the same files; they are set aside when all have.
        self.accelerator.wait_for_everyone()
        for path in damaged if self.writes else ():
            path.rename(path.with_suffix(".damaged"))

    def _write_record(self) -> None:
        """Note settings and code of the run, once: a resumed run keeps the code that it began with."""
        record = self.folder / RUN_RECORD
        if not record.exists():
            values = {"settings": self.fingerprint.settings, "code": dict(self.fingerprint.code)}
            write_atomic(record, f"{json.dumps(values, indent=2)}\n".encode())

    def _restore(self) -> None:
        """Cut history and samples back to the checkpoint. The run folder holds them too, because `out` may have been emptied."""
        for folder in (self.folder, self.out):
            (folder / "samples").mkdir(parents=True, exist_ok=True)
        for partial in self.folder.glob(".*"):
            partial.unlink()
        history = self.folder / "history.jsonl"
        lines = history.read_text(encoding="utf-8").splitlines(keepends=True) if history.exists() else []
        # A kill may have cut the last line short.
        history_text = "".join(line for line in lines if line.endswith("\n") and json.loads(line)["nimg"] <= self.state.nimg)
        for sample in (self.folder / "samples").glob("*.png"):
            if int(sample.stem) * 1000 > self.state.nimg:
                sample.unlink()
            else:
                write_atomic(self.out / "samples" / sample.name, sample.read_bytes())
        for folder in (self.folder, self.out):
            write_atomic(folder / "history.jsonl", history_text.encode())


def first_stage(params: Train, folder: Path) -> FirstStage:
    """Load the networks of a finished training that `params` can go on from. Raises ValueError, one line, where they cannot.

    The discriminator is None where `folder` holds none, or one of other params.
    """
    if not (folder / RECORD).is_file():
        raise ValueError(
            f"params.yaml: train.stages.teacher: {folder} holds no train.json; name the folder of a finished training"
        )
    try:
        teacher = Train.model_validate(json.loads((folder / RECORD).read_text(encoding="utf-8"))["params"])
    except ValidationError as error:
        raise ValueError(
            f"params.yaml: train.stages.teacher: {folder} is of another version of anyres ({describe(error)}); train it again"
        ) from None
    for key in ("method", "patch_px", "chart", "fov", "network"):
        other, own = getattr(teacher, key), getattr(params, key)
        if other != own:
            values = "" if key == "network" else f": {other} is not {own}"
            raise ValueError(
                f"params.yaml: train.stages.teacher: {folder} was trained with another train.{key}{values}; make them equal"
            )
    fits = teacher.discriminator == params.discriminator and bool(teacher.loss.vertical) == bool(params.loss.vertical)
    path = folder / DISCRIMINATOR
    return FirstStage(load_trained(folder), read_safetensors(path) if fits and path.is_file() else None)


def _crosses(nimg: int, step: int, every_kimg: float) -> bool:
    """Whether the step that ended at `nimg` passed a multiple of `every_kimg` thousand images."""
    every = every_kimg * 1000
    return math.floor(nimg / every) > math.floor((nimg - step) / every)


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn SIGTERM and SIGINT into an event; a second one ends the process as usual."""
    stopped = threading.Event()
    previous: dict[int, Any] = {}

    def stop(number: int, _frame: object) -> None:
        stopped.set()
        signal.signal(number, previous[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        previous[number] = signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

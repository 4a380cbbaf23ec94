"""Watching a training: what its small evaluations measured, the best generator so far, and when patience ends."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors.torch import save

from anyres.files import write_atomic

# What generators are chosen by: smaller is better.
MONITORED = "monitor/patch_kid"
# Measures a generator while it is trained; every process calls it, and all get the same numbers.
Monitor = Callable[[torch.nn.Module], dict[str, float]]


class BestCheckpoint:
    """The evaluations of one run, by images seen; the main process keeps the best generator in `folder`/best."""

    def __init__(self, monitor: Monitor | None, patience: int, folder: Path, accelerator: Accelerator):
        self.monitor, self.patience, self.folder, self.accelerator = monitor, patience, folder, accelerator
        self.measured: dict[int, float] = {}
        self.seconds = 0.0

    def recall(self, history: Path) -> None:
        """Take up what stands in the main process's history, which ends where the training goes on."""
        found: dict[int, float] = {}
        if self.accelerator.is_main_process and history.exists():
            lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
            found = {line["nimg"]: line[MONITORED] for line in lines if MONITORED in line}
        self.measured = broadcast_object_list([found])[0] if self.accelerator.num_processes > 1 else found

    def measure(self, generator: torch.nn.Module, nimg: int) -> dict[str, float]:
        """Ask the monitor, and keep the generator where none was better."""
        assert self.monitor is not None
        start = time.monotonic()
        values = self.monitor(generator)
        value = values[MONITORED]
        if self.accelerator.is_main_process and value < min(self.measured.values(), default=math.inf):
            path = self._path(nimg)
            write_generator(generator, path)
            for old in path.parent.glob("*.safetensors"):
                if old != path:
                    old.unlink()
        self.measured[nimg] = value
        self.seconds += time.monotonic() - start
        return values

    @property
    def exhausted(self) -> bool:
        """Whether the last evaluations, as many as patience counts, were all no better than the best before them."""
        if not self.patience or not self.measured:
            return False
        return sum(nimg > self._best for nimg in self.measured) >= self.patience

    def kept(self) -> tuple[int, Path] | None:
        """Images seen by the best generator, and where it lies; None where none was measured."""
        if not self.measured or not self._path(self._best).exists():
            return None
        return self._best, self._path(self._best)

    @property
    def _best(self) -> int:
        return min(self.measured, key=self.measured.__getitem__)

    def _path(self, nimg: int) -> Path:
        return self.folder / "best" / f"{nimg:012d}.safetensors"


def write_generator(generator: torch.nn.Module, path: Path) -> None:
    """Write the weights of a generator as safetensors, atomically."""
    write_atomic(path, save({name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}))

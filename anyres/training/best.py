"""The best generator of a training so far, by the small evaluations of its monitor, and when patience runs out."""

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

# The metric by which the best generator is chosen: smaller is better.
MONITORED = "monitor/patch_kid"
# Measures a generator during training. Every process calls it and gets the same numbers.
Monitor = Callable[[torch.nn.Module], dict[str, float]]


class BestCheckpoint:
    """The evaluations of one run, by images seen; the main process keeps the best generator in `folder`/best."""

    def __init__(self, monitor: Monitor | None, patience: int, folder: Path, accelerator: Accelerator):
        self.monitor, self.patience, self.folder, self.accelerator = monitor, patience, folder, accelerator
        self.measured: dict[int, float] = {}
        self.seconds = 0.0

    def read_history(self, history: Path) -> None:
        """Read earlier evaluations from the main process's history, which ends where the training resumes."""
        measured: dict[int, float] = {}
        if self.accelerator.is_main_process and history.exists():
            lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
            measured = {line["nimg"]: line[MONITORED] for line in lines if MONITORED in line}
        self.measured = broadcast_object_list([measured])[0] if self.accelerator.num_processes > 1 else measured

    def measure(self, generator: torch.nn.Module, discriminator: torch.nn.Module, nimg: int) -> dict[str, float]:
        """Run the monitor; save the generator, and the discriminator of the same step, if it is the best so far."""
        assert self.monitor is not None
        start = time.monotonic()
        values = self.monitor(generator)
        value = values[MONITORED]
        if self.accelerator.is_main_process and value < min(self.measured.values(), default=math.inf):
            paths = self._paths(nimg)
            for network, path in zip((generator, discriminator), paths, strict=True):
                write_weights(network, path)
            for old in paths[0].parent.glob("*.safetensors"):
                if old not in paths:
                    old.unlink()
        self.measured[nimg] = value
        self.seconds += time.monotonic() - start
        return values

    @property
    def is_exhausted(self) -> bool:
        """Whether the last evaluations, as many as patience counts, were all no better than the best before them."""
        if not self.patience or not self.measured:
            return False
        return sum(nimg > self._best for nimg in self.measured) >= self.patience

    def checkpoint(self) -> tuple[int, Path, Path] | None:
        """Images seen by the best generator, its file and that of its discriminator; None if none was measured."""
        if not self.measured or not all(path.exists() for path in self._paths(self._best)):
            return None
        return self._best, *self._paths(self._best)

    @property
    def _best(self) -> int:
        return min(self.measured, key=self.measured.__getitem__)

    def _paths(self, nimg: int) -> tuple[Path, Path]:
        folder = self.folder / "best"
        return folder / f"{nimg:012d}.safetensors", folder / f"{nimg:012d}-discriminator.safetensors"


def write_weights(network: torch.nn.Module, path: Path) -> None:
    """Write the weights of a network as safetensors, atomically."""
    write_atomic(path, save({name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}))

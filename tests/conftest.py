"""Small real parts that several rooms test with."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from anyres.params import Params, Train

ROOT = Path(__file__).resolve().parent.parent
# One thread a worker: results do not depend on the machine, and workers do not fight.
torch.set_num_threads(1)
# A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and stops with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY_NETWORK = {
    "z_dim": 12,
    "w_dim": 10,
    "stem_layers": 1,
    "channels": (16, 12, 8),
    "octaves": 4,
    "features_per_octave": 6,
}
TINY_DISCRIMINATOR = {"channels": (8, 12, 16), "attention_heads": 2, "pooled_px": 2}


@pytest.fixture(scope="session")
def params() -> Params:
    """The shipped params.yaml."""
    return Params.load(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def tiny(params: Params) -> Train:
    """A training section whose networks take milliseconds; patches are 16 x 24."""
    values = params.train.model_dump()
    values["network"] |= TINY_NETWORK
    values["discriminator"] = TINY_DISCRIMINATOR
    values |= {"patch_px": (16, 24), "batch": 8, "kimg": 0.08, "zoom_max": 4.0}
    values |= {"report_every_kimg": 0.016, "sample_every_kimg": 0.04, "checkpoint_every_kimg": 0.032}
    values["loss"] |= {"penalty_every": 2, "consistency": 0.0}
    return Train.model_validate(values)

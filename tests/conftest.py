"""Small real parts that several rooms test with."""

from __future__ import annotations

import signal
import warnings
from pathlib import Path

import pytest
import torch

from tests import shapecheck

shapecheck.install()

from anyres.params import Params, Train  # noqa: E402 - after the hook

ROOT = Path(__file__).resolve().parent.parent
# One thread a worker: results do not depend on the machine, and workers do not fight.
torch.set_num_threads(1)
# A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and stops with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The files that take longest, longest first: begun in this order, they leave no worker alone with one of them at the end.
LONG = (
    "training/test_processes.py",
    "pipelines/test_end_to_end.py",
    "export/test_convert.py",
    "test_examples.py",
    "viewer/test_tools.py",
    "synthesis/test_dask.py",
    "pipelines/test_shards.py",
    "training/test_run.py",
    "evaluation/test_extraction.py",
    "synthesis/test_stream.py",
    "viewer/test_page.py",
    "registry/test_champion.py",
    "evaluation/test_methods.py",
    "viewer/test_photographs.py",
    "evaluation/test_benchmark_metrics.py",
    "viewer/test_hostile.py",
    "data/test_store.py",
    "data/test_intake.py",
    "pipelines/test_registration.py",
    "viewer/test_schema.py",
    "evaluation/test_compare.py",
    "test_cli.py",
)

TINY_NETWORK = {
    "z_dim": 12,
    "w_dim": 10,
    "stem_layers": 1,
    "channels": (16, 12, 8),
    "octaves": 4,
    "features_per_octave": 6,
}
TINY_DISCRIMINATOR = {"channels": (8, 12, 16), "attention_heads": 2, "pooled_px": 2, "downsample": "average"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {ROOT / "tests" / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(LONG)))


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
    values["loss"]["projected"]["weight"] = 0.0
    values["optimizer"]["final_rate"] = 1.0
    values["monitor"] |= {"samples": 20}
    return Train.model_validate(values)


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store of MLflow's with nothing in it, to be copied: its tables take two seconds."""
    from mlflow import MlflowClient  # noqa: TID251 - makes a store

    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_registered_models()
    return path

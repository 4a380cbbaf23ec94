"""Facts of this machine, from ANYRES_* variables. A value that changes a result stands in params.yaml instead."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "ANYRES_"
# Variables of the library's own commands, which are none of the pipelines' business.
ELSEWHERE = ("ANYRES_VIEW_TOKEN",)
Folder = Annotated[Path, AfterValidator(Path.expanduser)]

# Each tool has its own switch; MLflow accepts only the literal `true` for DO_NOT_TRACK.
QUIET = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


class EnvironmentVariableError(ValueError):
    """An ANYRES_* variable is wrong; the message is one line that names the variable and the cure."""


class Environment(BaseSettings):
    """Machine facts.

    tracking_uri: MLflow's store. artifact_root: where a local store keeps its files; a server has its own.
    runs_dir: checkpoints and kept features; working copies that share it go on with each other's trainings.
    dvc_cache, dvc_remote: where DVC keeps outputs on this machine, and for all: a folder, or s3://bucket/prefix.
    cache_dir: downloads. num_processes: training processes; unset, one a GPU, or one a core where there is none.
    accelerate_config: a file of `accelerate config`, used in place of num_processes. device: cpu keeps training off
    an accelerator. micro_batch: pictures of one training pass at most, on each process; unset, its share of the batch.
    ignore_code: resume a training with equal params and data although its code changed.
    num_workers: processes that take pictures in and prepare them; unset, one a core. dask_address: a Dask scheduler
    whose workers do it instead. scratch: where workers put finished shards; an object store where they share no disk.
    requests_per_second: to one host, over all workers of this machine. flickr_key, google_key, google_engine: services.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    tracking_uri: Annotated[str, Field(min_length=1)] = "sqlite:///mlflow.db"
    artifact_root: Folder = Path("mlartifacts")
    cache_dir: Folder = Path(".anyres/cache")
    runs_dir: Folder = Path("out/runs")
    dvc_cache: Folder | None = None
    dvc_remote: Annotated[str, Field(min_length=1)] | None = None
    num_processes: Annotated[int, Field(ge=1, le=1024)] | None = None
    accelerate_config: Path | None = None
    micro_batch: Annotated[int, Field(ge=1, le=65536)] | None = None
    ignore_code: bool = False
    device: Literal["auto", "cpu"] = "auto"
    num_workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    dask_address: Annotated[str, Field(pattern=r"^(tcp|tls|ucx)://")] | None = None
    scratch: Annotated[str, Field(min_length=1)] = ".anyres/scratch"
    requests_per_second: Annotated[float, Field(gt=0)] = 8.0
    flickr_key: str = ""
    google_key: str = ""
    google_engine: str = ""

    @classmethod
    def read(cls) -> Environment:
        """Read os.environ; raise EnvironmentVariableError, one line, on an unknown name, a wrong type or bound."""
        known = {PREFIX + name.upper(): name for name in cls.model_fields}
        # pydantic-settings ignores prefixed variables that match no field.
        unknown = sorted(
            name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in (*known, *ELSEWHERE)
        )
        if unknown:
            raise EnvironmentVariableError(f"{unknown[0]}: unknown variable; unset it or use one of {', '.join(sorted(known))}")
        try:
            environment = cls()
        except ValidationError as error:
            item = error.errors()[0]
            variable = PREFIX + str(item["loc"][0]).upper().removeprefix(PREFIX)
            message = item["msg"][0].lower() + item["msg"][1:]
            raise EnvironmentVariableError(f"{variable}: {message} (found {item['input']!r}); correct or unset it") from None
        config = environment.accelerate_config
        if config is not None and not config.is_file():
            raise EnvironmentVariableError(f"{PREFIX}ACCELERATE_CONFIG: no such file: {config}; correct or unset it")
        return environment

    @property
    def scratch_address(self) -> str:
        """This working copy's part of `scratch`, as every worker understands it: an address, or an absolute path."""
        root = self.scratch.rstrip("/") if "://" in self.scratch else str(Path(self.scratch).resolve())
        return f"{root}/{working_copy()}"

    @property
    def work(self) -> Path:
        """This working copy's folder for files that grow, on the disk of whichever machine a worker is on."""
        return self.cache_dir.resolve() / "work" / working_copy()


def working_copy() -> str:
    """Name this working copy among all that share a cache or a scratch: 12 hexadecimal digits."""
    return hashlib.sha256(f"{socket.gethostname()}:{Path.cwd()}".encode()).hexdigest()[:12]


def silence_telemetry(environ: MutableMapping[str, str] = os.environ) -> None:
    """Switch off the usage reports of Prefect, MLflow and DVC; call before they are imported."""
    environ.update(QUIET)


def interpreter_path() -> str:
    """PATH with this interpreter's folder first, so that `python` in dvc.yaml is the one that runs now."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

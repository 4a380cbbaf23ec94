"""Facts of this machine, from ANYRES_* variables. Values that change a result are in params.yaml instead."""

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
# Variables of the library's commands, which the pipelines ignore.
OTHER_VARIABLES = ("ANYRES_VIEW_TOKEN",)
Folder = Annotated[Path, AfterValidator(Path.expanduser)]

# Each tool has its own switch; MLflow accepts only the literal `true` for DO_NOT_TRACK.
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


class EnvironmentVariableError(ValueError):
    """An ANYRES_* variable is wrong; the message is one line that names the variable and says what to do."""


class Environment(BaseSettings):
    """Facts of this machine.

    tracking_uri: MLflow's store.
    artifact_root: the folder for artifacts of a local store; a server has its own.
    cache_dir: downloads.
    runs_dir: checkpoints and cached features. Working copies that share it resume each other's trainings.
    dvc_cache: DVC's cache on this machine.
    dvc_remote: DVC's remote, a folder or s3://bucket/prefix.
    num_processes: training processes. Default: one per GPU, or one per core without a GPU.
    accelerate_config: a file of `accelerate config`, used in place of num_processes.
    micro_batch: the largest number of pictures in one training pass of a process. Default: the process's share of the batch.
    ignore_code: resume a training with equal params and data although its code changed.
    device: `cpu` to use no accelerator.
    num_workers: processes that ingest and prepare pictures. Default: one per core.
    dask_address: a Dask scheduler whose workers ingest and prepare instead.
    scratch: where workers put finished shards. Use an object store if the workers share no disk.
    requests_per_second: requests to one host, over all workers of this machine.
    flickr_key, google_key, google_engine: credentials of these services.
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
        """Read os.environ; raise EnvironmentVariableError for an unknown name, a wrong type or a value out of bounds."""
        fields = {PREFIX + name.upper(): name for name in cls.model_fields}
        # pydantic-settings ignores prefixed variables that match no field.
        unknown = sorted(
            name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in (*fields, *OTHER_VARIABLES)
        )
        if unknown:
            raise EnvironmentVariableError(f"{unknown[0]}: unknown variable; unset it or use one of {', '.join(sorted(fields))}")
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
        """This working copy's folder in `scratch`, valid on every worker: a URL or an absolute path."""
        root = self.scratch.rstrip("/") if "://" in self.scratch else str(Path(self.scratch).resolve())
        return f"{root}/{working_copy()}"

    @property
    def work_folder(self) -> Path:
        """This working copy's folder for unfinished files, on the local disk of a worker."""
        return self.cache_dir.resolve() / "work" / working_copy()


def working_copy() -> str:
    """Return the name of this working copy in a shared cache or scratch: 12 hexadecimal digits."""
    return hashlib.sha256(f"{socket.gethostname()}:{Path.cwd()}".encode()).hexdigest()[:12]


def silence_telemetry(environ: MutableMapping[str, str] = os.environ) -> None:
    """Switch off the usage reports of Prefect, MLflow and DVC. Call it before they are imported."""
    environ.update(TELEMETRY_OFF)


def interpreter_path() -> str:
    """Return PATH with this interpreter's folder first, so that `python` in dvc.yaml is this interpreter."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

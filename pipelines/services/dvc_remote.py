"""DVC's cache and remote, where the environment names them. `python -m pipelines.services.dvc_remote push` or `pull`.

A remote that is missing, refuses or does not answer costs seconds and gives one line; outputs stay in the cache.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipelines.environment import Environment, EnvironmentVariableError, interpreter_path, silence_telemetry
from pipelines.process.supervise import end_on_signals, supervised_process

NAME = "anyres"
# A server that is away is found out in seconds, twice.
CONNECT_S = 4
ATTEMPTS = 2


class RemoteError(RuntimeError):
    """The remote cannot be used; the message is one line with the cure. `retryable`: another attempt may go well."""

    def __init__(self, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.retryable)


def configure(environment: Environment) -> None:
    """Write ANYRES_DVC_CACHE and ANYRES_DVC_REMOTE into .dvc/config.local, for plain `dvc` commands too.

    What is not set stays as it is. Raises RemoteError where DVC refuses the values.
    """
    if environment.dvc_cache is None and environment.dvc_remote is None:
        return
    from dvc.config import Config
    from dvc.exceptions import DvcException

    try:
        with Config.from_cwd().edit("local") as edited:
            values: dict[str, Any] = edited  # type: ignore[assignment]
            if environment.dvc_cache is not None:
                values["cache"]["dir"] = str(environment.dvc_cache.resolve())
            if environment.dvc_remote is not None:
                url = environment.dvc_remote
                known = values["remote"].get(NAME, {})
                waits = {"connect_timeout": CONNECT_S} if url.startswith("s3://") else {}
                values["remote"][NAME] = {**known, "url": url if "://" in url else str(Path(url).resolve()), **waits}
                values["core"]["remote"] = NAME
    except DvcException as error:
        raise RemoteError(
            f"ANYRES_DVC_CACHE, ANYRES_DVC_REMOTE: {' '.join(str(error).split())}; correct or unset them"
        ) from error


def check(environment: Environment) -> None:
    """Raise RemoteError, within seconds, where an s3:// remote does not answer, has no such bucket or refuses us."""
    url = environment.dvc_remote or ""
    if not url.startswith("s3://"):
        return
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import Session

    bucket = url.removeprefix("s3://").split("/")[0]
    where = f"remote {url}" + (f" at {os.environ['AWS_ENDPOINT_URL']}" if os.environ.get("AWS_ENDPOINT_URL") else "")
    patience = Config(connect_timeout=CONNECT_S, read_timeout=CONNECT_S, retries={"total_max_attempts": ATTEMPTS})
    try:
        Session().create_client("s3", config=patience, region_name=os.environ.get("AWS_DEFAULT_REGION")).head_bucket(
            Bucket=bucket
        )
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        reason = {
            403: "access refused; correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or their rights",
            404: f"no bucket {bucket}; create it, or correct ANYRES_DVC_REMOTE",
        }.get(status, " ".join(str(error).split()))
        raise RemoteError(f"{where}: {reason}", retryable=status >= 500) from error
    except (BotoCoreError, ValueError) as error:
        away = "Credentials" not in type(error).__name__
        cure = "start it, or correct AWS_ENDPOINT_URL" if away else "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise RemoteError(f"{where}: {' '.join(str(error).split())}; {cure}", retryable=away) from error


def push(environment: Environment) -> str:
    """Send outputs and the cache of runs to the remote; return DVC's last word. Raises RemoteError."""
    check(environment)
    return _dvc(environment, "push", "--run-cache")


def pull(environment: Environment) -> str:
    """Bring what has been made for these params and this data from the remote; make nothing. Raises RemoteError."""
    check(environment)
    return _dvc(environment, "pull", "--run-cache", "--allow-missing")


def _dvc(environment: Environment, *words: str) -> str:
    """Run DVC; return its last line, or raise RemoteError with what it says is wrong."""
    environ = {**os.environ, "PATH": interpreter_path()}
    with tempfile.TemporaryFile() as said:
        with supervised_process(
            [sys.executable, "-m", "dvc", *words], environ, stdout=said.fileno(), stderr=said.fileno()
        ) as process:
            code = process.wait()
        said.seek(0)
        lines = [line.strip() for line in said.read().decode(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    if code:
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
        where = f"remote {environment.dvc_remote}" if environment.dvc_remote else "remote"
        kept = "; outputs stay in the cache, `make push` sends them later" if words[0] == "push" else ""
        raise RemoteError(f"{where}: {' '.join(' '.join(errors).split())[:300]}{kept}", retryable=True)
    return lines[-1] if lines else "done"


def main(words: list[str]) -> int:
    """`push` or `pull`; returns the exit code."""
    verbs = {"push": push, "pull": pull}
    if len(words) != 1 or words[0] not in verbs:
        print("usage: python -m pipelines.services.dvc_remote push|pull", file=sys.stderr)
        return 2
    silence_telemetry()
    end_on_signals()
    try:
        environment = Environment.read()
        configure(environment)
        print(f"{words[0]}: {verbs[words[0]](environment)}")
    except (EnvironmentVariableError, RemoteError) as error:
        print(f"{words[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

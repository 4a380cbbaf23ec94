"""`python -m pipelines.services.dvc_remote push` or `pull`: DVC's cache and remote, as the environment sets them.

A remote that is missing, refuses access or does not answer gives one line within seconds; outputs stay in the cache.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from pipelines.environment import Environment, EnvironmentVariableError, interpreter_path, silence_telemetry
from pipelines.process.supervise import end_on_signals, supervised_process

NAME = "anyres"
# An unreachable server is detected within seconds, even after a second attempt.
CONNECT_TIMEOUT_S = 4
ATTEMPTS = 2


class RemoteError(RuntimeError):
    """The remote cannot be used; the message is one line that says what to do. `retryable`: a retry may succeed."""

    def __init__(self, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.retryable)


def configure(environment: Environment) -> None:
    """Write ANYRES_DVC_CACHE and ANYRES_DVC_REMOTE to .dvc/config.local, so that plain `dvc` commands use them too.

    A variable that is not set changes nothing. Raises RemoteError if DVC refuses the values.
    """
    if environment.dvc_cache is None and environment.dvc_remote is None:
        return
    from dvc.config import Config
    from dvc.exceptions import DvcException

    try:
        with Config.from_cwd().edit("local") as edited:
            # DVC annotates the sections as `object`.
            values = cast(dict[str, Any], edited)
            if environment.dvc_cache is not None:
                values["cache"]["dir"] = str(environment.dvc_cache.resolve())
            if environment.dvc_remote is not None:
                url = environment.dvc_remote
                options = values["remote"].get(NAME, {})
                timeouts = {"connect_timeout": CONNECT_TIMEOUT_S} if url.startswith("s3://") else {}
                values["remote"][NAME] = {**options, "url": url if "://" in url else str(Path(url).resolve()), **timeouts}
                values["core"]["remote"] = NAME
    except DvcException as error:
        raise RemoteError(
            f"ANYRES_DVC_CACHE, ANYRES_DVC_REMOTE: {' '.join(str(error).split())}; correct or unset them"
        ) from error


def check(environment: Environment) -> None:
    """Raise RemoteError, within seconds, if an s3:// remote does not answer, lacks the bucket or refuses access."""
    url = environment.dvc_remote or ""
    if not url.startswith("s3://"):
        return
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import Session

    bucket = url.removeprefix("s3://").split("/")[0]
    location = f"remote {url}" + (f" at {os.environ['AWS_ENDPOINT_URL']}" if os.environ.get("AWS_ENDPOINT_URL") else "")
    limits = Config(connect_timeout=CONNECT_TIMEOUT_S, read_timeout=CONNECT_TIMEOUT_S, retries={"total_max_attempts": ATTEMPTS})
    try:
        Session().create_client("s3", config=limits, region_name=os.environ.get("AWS_DEFAULT_REGION")).head_bucket(Bucket=bucket)
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        reason = {
            403: "access refused; correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or their rights",
            404: f"no bucket {bucket}; create it, or correct ANYRES_DVC_REMOTE",
        }.get(status, " ".join(str(error).split()))
        raise RemoteError(f"{location}: {reason}", retryable=status >= 500) from error
    except (BotoCoreError, ValueError) as error:
        is_unreachable = "Credentials" not in type(error).__name__
        advice = "start it, or correct AWS_ENDPOINT_URL" if is_unreachable else "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise RemoteError(f"{location}: {' '.join(str(error).split())}; {advice}", retryable=is_unreachable) from error


def push(environment: Environment) -> str:
    """Send outputs and the run cache to the remote; return DVC's last line. Raises RemoteError."""
    check(environment)
    return _dvc(environment, "push", "--run-cache")


def pull(environment: Environment) -> str:
    """Fetch the outputs for these params and this data from the remote; run no stage. Raises RemoteError."""
    check(environment)
    return _dvc(environment, "pull", "--run-cache", "--allow-missing")


def _dvc(environment: Environment, *arguments: str) -> str:
    """Run DVC; return its last line, or raise RemoteError with its error message."""
    environ = {**os.environ, "PATH": interpreter_path()}
    with tempfile.TemporaryFile() as output:
        with supervised_process(
            [sys.executable, "-m", "dvc", *arguments], environ, stdout=output.fileno(), stderr=output.fileno()
        ) as process:
            code = process.wait()
        output.seek(0)
        lines = [line.strip() for line in output.read().decode(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    if code:
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
        location = f"remote {environment.dvc_remote}" if environment.dvc_remote else "remote"
        hint = "; outputs stay in the cache, `make push` sends them later" if arguments[0] == "push" else ""
        raise RemoteError(f"{location}: {' '.join(' '.join(errors).split())[:300]}{hint}", retryable=True)
    return lines[-1] if lines else "done"


def main(arguments: list[str]) -> int:
    """Run the command `push` or `pull`; return the exit code."""
    commands = {"push": push, "pull": pull}
    if len(arguments) != 1 or arguments[0] not in commands:
        print("usage: python -m pipelines.services.dvc_remote push|pull", file=sys.stderr)
        return 2
    silence_telemetry()
    end_on_signals()
    try:
        environment = Environment.read()
        configure(environment)
        print(f"{arguments[0]}: {commands[arguments[0]](environment)}")
    except (EnvironmentVariableError, RemoteError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

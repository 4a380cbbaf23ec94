"""Run a command under a supervisor, so that it cannot outlive its owner, however the owner ends.

The owner holds the write end of a pipe. The supervisor, a small process in its own session, holds the read end and starts
the command in another session. The pipe closes when the owner closes it, returns, or is killed. Then the supervisor sends
SIGTERM to the command's process group, waits for the grace period, and sends SIGKILL. The supervisor must be a separate
process: a process killed with SIGKILL can clean up nothing, and PR_SET_PDEATHSIG exists only on Linux and follows threads.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

GRACE_S = 20.0
# After a signal and the end of all supervised processes, this process exits after this time: Prefect waits long for a dead API.
EXIT_DELAY_S = 5.0

_supervised: set[subprocess.Popen[bytes]] = set()
# Set when a signal ends this process. From then on, a supervised process ends because of that signal.
_ending = threading.Event()


def start_supervised(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    grace_s: float = GRACE_S,
    stdout: int | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` under a supervisor and return the supervisor's process.

    The command ends when that process' input is closed, at the latest when this process ends. Its input is empty. It writes
    to `stdout` and `stderr`, by default to those of this process. The return code is the command's, 128 + n for signal n.
    """
    return subprocess.Popen(
        [sys.executable, "-P", __file__, str(grace_s), *command],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env=env,
        start_new_session=True,
    )


@contextlib.contextmanager
def supervised_process(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    grace_s: float = GRACE_S,
    stdout: int | None = None,
    stderr: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start `command` as `start_supervised` does, and end it at the end of this block or when a signal ends this process."""
    process = start_supervised(command, env, grace_s, stdout, stderr)
    _supervised.add(process)
    try:
        yield process
    finally:
        release(process)
        try:
            process.wait(grace_s + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _supervised.discard(process)


class StderrTee:
    """Copies a command's standard error to that of this process, and keeps its last line.

    On a terminal it copies nothing, because the command's progress bars need the terminal itself. Start the command with
    `stderr`, then call `listen`.
    """

    def __init__(self) -> None:
        self.stderr = None if sys.stderr.isatty() else subprocess.PIPE
        self.line = ""
        self._thread: threading.Thread | None = None

    def listen(self, process: subprocess.Popen[bytes]) -> None:
        """Copy in a thread, until the command closes its standard error."""
        if process.stderr is not None:
            self._thread = threading.Thread(target=self._copy, args=(process.stderr,), daemon=True)
            self._thread.start()

    def last_line(self) -> str:
        """The last line of a command that has ended."""
        if self._thread is not None:
            self._thread.join(1.0)
        return self.line

    def _copy(self, stream: IO[bytes]) -> None:
        with stream:
            for data in stream:
                text = data.decode(errors="replace")
                sys.stderr.write(text)
                sys.stderr.flush()
                self.line = text.replace("\r", "\n").strip().rpartition("\n")[2] or self.line


def release(process: subprocess.Popen[bytes]) -> None:
    """End a supervised process, without waiting for it."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()


def release_all() -> None:
    """End all supervised processes, without waiting for them: threads may be waiting already."""
    for process in list(_supervised):
        release(process)


def is_ending() -> bool:
    """Whether a signal ended a block of `releasing_on_signals`."""
    return _ending.is_set()


@contextlib.contextmanager
def releasing_on_signals() -> Iterator[None]:
    """End all supervised processes if a signal ends this block, also those that other threads wait for.

    For flows, which Prefect's own handler of SIGTERM must interrupt: with another handler, Prefect takes a cancelled run for
    a crashed one.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException:
        _ending.set()
        release_all()
        raise


def end_on_signals() -> None:
    """Make SIGTERM exit with 143 and Ctrl-C raise KeyboardInterrupt. Both end all supervised processes first.

    Call it from the main thread. Prefect sets its own handlers around a flow: call this inside the flow again.
    """

    def end(signum: int, frame: object) -> None:
        release_all()
        threading.Thread(target=_exit_after_all, args=(128 + signum,), daemon=True).start()
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _exit_after_all(code: int) -> None:
    for process in list(_supervised):
        process.wait()
    time.sleep(EXIT_DELAY_S)
    os._exit(code)


def supervise(grace_s: float, command: Sequence[str]) -> int:
    """The supervisor's main function: run `command` until it ends or this process' input closes.

    Returns its code, 128 + n for signal n.
    """
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    ending = threading.Event()

    def wait_for_end_of_input() -> None:
        while os.read(0, 1):
            pass
        ending.set()

    signal.signal(signal.SIGTERM, lambda signum, frame: ending.set())
    threading.Thread(target=wait_for_end_of_input, daemon=True).start()
    while child.poll() is None and not ending.is_set():
        ending.wait(0.05)
    # Also after a command that ended by itself, because processes that it started may still run.
    _end_group(child, grace_s)
    code = child.wait()
    return code if code >= 0 else 128 - code


def _end_group(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """Send SIGTERM to the child's group; after the grace period, send SIGKILL to it and to descendants that left the group."""
    import psutil

    def is_alive(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def members() -> list[psutil.Process]:
        group: list[psutil.Process] = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getpgid(process.pid) == child.pid:
                    group.append(process)
        return group

    def descendants() -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(child.pid).children(recursive=True)
        return []

    processes = [*members(), *(descendants() if child.poll() is None else [])]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and (child.poll() is None or any(is_alive(process) for process in processes)):
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    sys.exit(supervise(float(sys.argv[1]), sys.argv[2:]))

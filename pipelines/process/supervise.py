"""Run a command that cannot outlive its owner, however the owner ends.

The owner holds the write end of a pipe; a small process in a session of its own holds the read end and starts the
command in yet another. When the pipe closes (the owner closed it, returned, or was killed with SIGKILL), the
command's whole group is told to end, given its grace, then killed. A process of its own, because a process that
is killed with SIGKILL can clean up nothing, and PR_SET_PDEATHSIG exists on Linux only and follows threads.
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
# From a signal, with every supervised_process command ended, to the end of this process: Prefect waits long for an API that died.
LAST_WORDS_S = 5.0

_held: set[subprocess.Popen[bytes]] = set()
# Set once this process was told to end: nothing that it started ended by itself from then on.
_ending = threading.Event()


def leash(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    grace_s: float = GRACE_S,
    stdout: int | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command`, which ends when the returned process' input is closed, at the latest with this process.

    Its standard streams are ours where none is given, except for an empty input; the return code is the command's,
    128 + n for signal n.
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
    """Start `command` as `leash` does; it has ended when this block has, and a signal to us ends it."""
    process = leash(command, env, grace_s, stdout, stderr)
    _held.add(process)
    try:
        yield process
    finally:
        release(process)
        try:
            process.wait(grace_s + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _held.discard(process)


class StderrTee:
    """Passes on what a command says on its standard error, and remembers the last line of it.

    On a terminal it does not listen: progress bars want one. Start the command with `stderr`, then `listen`.
    """

    def __init__(self) -> None:
        self.stderr = None if sys.stderr.isatty() else subprocess.PIPE
        self.line = ""
        self._thread: threading.Thread | None = None

    def listen(self, process: subprocess.Popen[bytes]) -> None:
        """Listen until the command closes its standard error."""
        if process.stderr is not None:
            self._thread = threading.Thread(target=self._pass_on, args=(process.stderr,), daemon=True)
            self._thread.start()

    def last(self) -> str:
        """The last line of a command that has ended."""
        if self._thread is not None:
            self._thread.join(1.0)
        return self.line

    def _pass_on(self, stream: IO[bytes]) -> None:
        with stream:
            for words in stream:
                sys.stderr.write(words.decode(errors="replace"))
                sys.stderr.flush()
                self.line = words.decode(errors="replace").replace("\r", "\n").strip().rpartition("\n")[2] or self.line


def release(process: subprocess.Popen[bytes]) -> None:
    """Tell a supervised_process command to end, without waiting for it."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()


def release_all() -> None:
    """Tell every supervised_process command of this process to end: for signal handlers, since threads may be waiting."""
    for process in list(_held):
        release(process)


def is_ending() -> bool:
    """Whether this process was told to end, inside a block of `releasing`."""
    return _ending.is_set()


@contextlib.contextmanager
def releasing() -> Iterator[None]:
    """Release every supervised_process command when a signal ends this block: those that other threads wait for too.

    For flows that Prefect's own handler of SIGTERM interrupts: where another one stands, a cancelled run passes for a
    crashed one.
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
    """Make SIGTERM exit with 143 and Ctrl-C with KeyboardInterrupt, each releasing every supervised_process command first.

    For the main thread. Prefect sets handlers of its own around a flow: call this inside the flow again.
    """

    def end(signum: int, frame: object) -> None:
        release_all()
        threading.Thread(target=_exit_at_last, args=(128 + signum,), daemon=True).start()
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _exit_at_last(code: int) -> None:
    for process in list(_held):
        process.wait()
    time.sleep(LAST_WORDS_S)
    os._exit(code)


def hold(grace_s: float, command: Sequence[str]) -> int:
    """The leash itself: run `command` until it ends or our input closes; return its code, 128 + n for signal n."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    ending = threading.Event()

    def watch() -> None:
        while os.read(0, 1):
            pass
        ending.set()

    signal.signal(signal.SIGTERM, lambda signum, frame: ending.set())
    threading.Thread(target=watch, daemon=True).start()
    while child.poll() is None and not ending.is_set():
        ending.wait(0.05)
    # Also after a command that ended by itself: what it started and left behind ends with it.
    _end_group(child, grace_s)
    code = child.wait()
    return code if code >= 0 else 128 - code


def _end_group(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM to the child's group; after the grace SIGKILL to it and to descendants that left the group."""
    import psutil

    def alive(one: psutil.Process) -> bool:
        try:
            return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def members() -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for one in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getpgid(one.pid) == child.pid:
                    found.append(one)
        return found

    def strays() -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(child.pid).children(recursive=True)
        return []

    processes = [*members(), *(strays() if child.poll() is None else [])]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and (child.poll() is None or any(alive(one) for one in processes)):
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


if __name__ == "__main__":
    sys.exit(hold(float(sys.argv[1]), sys.argv[2:]))

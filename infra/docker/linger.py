"""The first process of a container: run a command, forward signals to it, and wait until all its descendants have ended.

When the first process of a container ends, the kernel kills all others. Prefect's worker ends within two seconds of SIGTERM and
kills its flow runs. Their training then detects that its owner has ended, and writes a checkpoint
(pipelines/process/supervise.py). This process waits for that. It replaces an init: it also reaps orphaned processes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

# Counted from the end of the command. Shorter than the time from SIGTERM to SIGKILL in compose.yaml and the manifests.
WAIT_S = 60
PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    """Run `command`; return its code, 128 + n for signal n, once its last descendant has ended or WAIT_S is over."""
    # The first process of a container adopts all orphans. Elsewhere, this call makes it adopt its own.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, frame: child.send_signal(received))

    def time_out(received: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, time_out)
    code = 1
    try:
        while True:
            ended, status = os.wait()
            if ended == child.pid:
                code = os.waitstatus_to_exitcode(status)
                child.returncode = code
                signal.alarm(WAIT_S)
    except ChildProcessError:
        signal.alarm(0)
    except TimeoutError:
        print(f"linger: some processes are still running {WAIT_S} s after {command[0]} ended", file=sys.stderr)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

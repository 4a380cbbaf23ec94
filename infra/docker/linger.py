"""The first process of a container: runs a command, and stays until everyone that it left behind has ended too.

A container dies with its first process, and with it, by SIGKILL, all others. But Prefect's worker ends within two seconds of
SIGTERM and kills its flow runs, whose training then learns that its owner is gone and writes a checkpoint
(pipelines/process/supervise.py).
It is given the time for that here. Takes the place of an init: signals are passed on, and orphans are waited for.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

# From the end of the command on. Shorter than the time that compose.yaml and the manifests give from SIGTERM to SIGKILL.
WAIT_S = 60
PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    """Run `command`; return its code, 128 + n for signal n, once its last descendant has ended or WAIT_S is over."""
    # The first process of a container gets all orphans as it is; elsewhere it asks for those of its own.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, frame: child.send_signal(received))

    def enough(received: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, enough)
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
        print(f"linger: some processes are still there {WAIT_S} s after {command[0]} has ended", file=sys.stderr)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

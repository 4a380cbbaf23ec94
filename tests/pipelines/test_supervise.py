"""Supervised commands with real processes and real signals: no process outlives its owner."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.process.locks import LockedError, locked
from pipelines.process.supervise import StderrTee, supervised_process

ROOT = Path(__file__).resolve().parents[2]

# A command with a child in its group and one in a session of its own; it says their ids.
FAMILY = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
with open(sys.argv[1] + ".part", "w") as file:
    file.write(" ".join(str(pid) for pid in [os.getpid(), *(child.pid for child in children)]))
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(60)
"""
OWNER = """
import sys
from pipelines.process.supervise import end_on_signals, supervised_process
end_on_signals()
with supervised_process([sys.executable, "-c", sys.argv[1], sys.argv[2]], grace_s=1.0) as process:
    process.wait()
"""


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def wait_for(path: Path) -> list[int]:
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return [int(pid) for pid in path.read_text(encoding="utf-8").split()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1), (signal.SIGKILL, -9)])
def test_no_process_outlives_a_signalled_owner(tmp_path: Path, number: signal.Signals, code: int) -> None:
    said = tmp_path / "pids"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, FAMILY, str(said)], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    )
    pids = wait_for(said)
    assert len(alive(pids)) == 3
    owner.send_signal(number)
    ended = owner.wait(timeout=10)
    # Python tells an interrupt that nobody caught by ending itself with the signal.
    assert ended == code or (number == signal.SIGINT and ended == -signal.SIGINT)
    deadline = time.monotonic() + 5
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(pids) == []


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    said = tmp_path / "pids"
    leave = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); open(sys.argv[1], 'w').write(str(p.pid))"
    with supervised_process([sys.executable, "-c", leave, str(said)], grace_s=1.0) as process:
        assert process.wait(timeout=10) == 0
    assert alive(wait_for(said)) == []


@pytest.mark.parametrize(("code", "seen"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_return_codes_pass_through(code: str, seen: int) -> None:
    with supervised_process([sys.executable, "-c", code]) as process:
        assert process.wait(timeout=10) == seen


def test_lock_is_for_one_and_names_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    imports = "import time\nfrom pipelines.process.locks import locked"
    hold = f"{imports}\nwith locked('train', 0):\n    print(flush=True)\n    time.sleep(60)"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold], stdout=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}, start_new_session=True
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(LockedError, match=rf"train is already running here \(process {holder.pid}\)"), locked("train", 0.2):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with locked("train", 2.0):
        pass


def test_last_words_are_passed_on_and_remembered(capfd: pytest.CaptureFixture[str]) -> None:
    tee = StderrTee()
    say = "import sys; print('first', file=sys.stderr); print('half\\rtrain: wrong', file=sys.stderr); raise SystemExit(2)"
    with supervised_process([sys.executable, "-c", say], stderr=tee.stderr) as process:
        tee.listen(process)
        assert process.wait(timeout=10) == 2
    assert tee.last_line() == "train: wrong"
    assert "first\n" in capfd.readouterr().err

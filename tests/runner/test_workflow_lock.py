"""One workflow at a time on a scan; the lock of a killed one is gone."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ferminet_core.errors import LockedError
from ferminet_core.runner.workflow_lock import hold
from ferminet_core.storage import lease

HOLD = """
import pathlib, signal, sys
from ferminet_core.runner.workflow_lock import hold
hold(pathlib.Path(sys.argv[1]), print)
print("held", flush=True)
signal.pause()
"""


def unexpected(line: str) -> None:
    pytest.fail(line)


def test_a_scan_is_held_until_the_process_ends(tmp_path: Path) -> None:
    scan, other = tmp_path / "results" / "h2", tmp_path / "results" / "h2-smoke"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(scan)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"held by process {child.pid} on .*; end it, wait"):
            hold(scan, unexpected)
        hold(other, unexpected)
    finally:
        child.kill()
        child.communicate()
    hold(scan, unexpected)


def held_elsewhere(scan: Path) -> Path:
    """The record of a workflow on another machine, whose clock is an hour behind."""
    path = scan / ".workflow" / "lock.json"
    path.parent.mkdir(parents=True)
    holder = {"token": "1", "host": "n7", "machine": "other", "pid": 12, "ticks": 3}
    path.write_text(json.dumps(holder))
    stamp = path.stat().st_mtime - 3600
    os.utime(path, (stamp, stamp))
    return path


def test_a_workflow_on_another_machine_is_found_by_its_signs_of_life(tmp_path: Path) -> None:
    path = held_elsewhere(tmp_path)
    told: list[str] = []
    end = threading.Event()

    def renew() -> None:
        stamp = path.stat().st_mtime
        while not end.wait(0.05):
            stamp += 10
            os.utime(path, (stamp, stamp))

    def tell(line: str) -> None:
        told.append(line)
        threading.Thread(target=renew).start()

    with pytest.raises(LockedError, match="held by process 12 on n7, "):
        hold(tmp_path, tell)
    end.set()
    (line,) = told
    assert "whether process 12 on n7, " in line


def test_a_dead_workflow_on_another_machine_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRY_S", 0.3)
    path = held_elsewhere(tmp_path)
    hold(tmp_path, lambda line: None)
    assert json.loads(path.read_text())["pid"] == os.getpid()

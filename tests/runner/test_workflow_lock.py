"""One workflow at a time on a scan; the lock of a killed one is gone."""

import subprocess
import sys
from pathlib import Path

import pytest

from ferminet_core.errors import LockedError
from ferminet_core.runner.workflow_lock import hold

HOLD = """
import pathlib, signal, sys
from ferminet_core.runner.workflow_lock import hold
hold(pathlib.Path(sys.argv[1]))
print("held", flush=True)
signal.pause()
"""


def test_a_scan_is_held_until_the_process_ends(tmp_path: Path) -> None:
    scan, other = tmp_path / "results" / "h2", tmp_path / "results" / "h2-smoke"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(scan)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"works on this scan .process {child.pid} on "):
            hold(scan)
        hold(other)
    finally:
        child.kill()
        child.communicate()
    hold(scan)

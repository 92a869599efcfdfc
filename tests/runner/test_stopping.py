"""Signals and wall time: heard at once, even while the main thread is busy in compiled code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ferminet_core.errors import InputError
from ferminet_core.runner import stopping
from ferminet_core.runner.stopping import (
    Stop,
    flux_seconds_left,
    parse_wall_time,
    seconds_left,
    slurm_seconds_left,
    torque_seconds_left,
)

PRELUDE = """
import os, signal, sys, time
from ferminet_core.runner.stopping import Stop

def busy(millions):
    # One call that does not come back to Python's bytecodes, as a compilation does not: about half
    # a second for each million.
    import hashlib
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(millions * 1e6))

with Stop() as stop:
    stop.on_abandon = lambda reason: print("abandoned:", reason, flush=True)
    print("ready", flush=True)
"""


def started(code: str) -> subprocess.Popen[str]:
    indented = "".join(f"    {line}\n" for line in code.strip().splitlines())
    child = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + indented], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_seen_at_the_end_of_a_block(number: signal.Signals) -> None:
    child = started(
        """
while True:
    stop.block_done()
    if stop.due():
        print(stop.due(), flush=True)
        break
    time.sleep(0.05)  # a block's work
"""
    )
    child.send_signal(number)
    out, _ = child.communicate(timeout=10)
    assert (out, child.returncode) == (f"received {number.name}\n", 0)


def test_a_long_call_with_nothing_unsaved_is_abandoned() -> None:
    child = started("stop.saved(0.1)\nbusy(300)")
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    out, _ = child.communicate(timeout=30)
    assert (out, child.returncode) == ("abandoned: received SIGTERM\n", 85)
    assert time.monotonic() - began < stopping.PATIENCE_S + 5


def test_unsaved_work_is_waited_for_until_a_second_signal() -> None:
    child = started("stop.block_done()\nbusy(300)")
    child.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(stopping.PATIENCE_S + 1.5)
    child.send_signal(signal.SIGTERM)
    out, _ = child.communicate(timeout=10)
    assert (out, child.returncode) == ("abandoned: received SIGTERM again\n", 85)


def test_a_burst_of_signals_is_one_request() -> None:
    child = started("stop.block_done()\nbusy(4)\nprint(stop.due(), flush=True)")
    for _ in range(5):
        child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=20)
    assert (out, child.returncode) == ("received SIGINT\n", 0)


def test_the_limit_leaves_room_for_a_block_and_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("ferminet_core.runner.stopping.time.monotonic", lambda: clock[0])
    stop = Stop(wall_time_s=1000.0)
    for _ in range(3):
        clock[0] += 50.0
        stop.block_done()
        assert stop.due() is None
    stop.saved(20.0)
    while not stop.due():
        clock[0] += 50.0
        stop.block_done()
    # At the next end of a block one block and one checkpoint would not have fitted twice.
    assert 1000 - clock[0] >= 50 + 20
    assert 1000 - clock[0] < 2 * (50 + 20) + stopping.MARGIN_S + 50


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("01:30:10", 5410),
        ("2-03", 183600),
        ("1-00:10", 87000),
        ("1-02:03:04", 93784),
    ],
)
def test_wall_times_are_read_as_slurm_writes_them(text: str, seconds: float) -> None:
    assert parse_wall_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "UNLIMITED", "1:2:3:4", "-5"])
def test_other_wall_times_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--wall-time: found"):
        parse_wall_time(text)


def test_the_limit_is_read_from_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert slurm_seconds_left() is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 3600))
    assert slurm_seconds_left() == pytest.approx(3600, abs=5)  # seconds, and the call itself
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    squeue = tmp_path / "squeue"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for answer, expected in (("1-01:00:00", 90000.0), ("UNLIMITED", None)):
        squeue.write_text(f"#!/bin/sh\necho {answer}\n")
        squeue.chmod(0o755)
        assert slurm_seconds_left() == expected


def test_the_limit_is_read_from_flux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flux = tmp_path / "flux"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FLUX_JOB_ID", "f4q9rsV")
    assert flux_seconds_left() is None  # Flux does not answer
    for answer, expected in (("3599", 3599.0), (str(2**32 - 1), None)):
        flux.write_text(f'#!/bin/sh\n[ "$*" = "job timeleft" ] && echo {answer}\n')
        flux.chmod(0o755)
        assert flux_seconds_left() == expected
    monkeypatch.delenv("FLUX_JOB_ID")
    assert flux_seconds_left() is None


def test_the_limit_of_torque_counts_from_the_beginning_of_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ferminet_core.storage.provenance.process_age", lambda pid: 600.0)
    assert torque_seconds_left() is None
    monkeypatch.setenv("PBS_JOBID", "7.server")
    assert torque_seconds_left() is None  # PBS Professional does not say
    for limit in ("3600", "1:00:00"):
        monkeypatch.setenv("PBS_WALLTIME", limit)
        assert torque_seconds_left() == 3000.0
        assert seconds_left() == 3000.0


def test_variables_of_a_job_that_is_over_set_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) - 60))
    assert seconds_left() is None

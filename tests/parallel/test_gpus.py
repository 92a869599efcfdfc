"""GPUs of a node, shared by several processes. A stand-in for the driver's tool: none is here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

from ferminet_core.errors import InputError, ResumeError
from ferminet_core.parallel import gpus


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node with three GPUs, and a temporary folder of its own."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\nGPU-c\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def run(count: int) -> subprocess.Popen[str]:
    """A process that takes so many GPUs, says which, and lives until its input ends."""
    code = (
        "import os, sys\nfrom ferminet_core.parallel import gpus\n"
        f"gpus.claim({count}, lambda: None, lambda line: print(line, flush=True))\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\nsys.stdin.read()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_visible_gpus_are_read_from_the_driver(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus.visible_gpus({}) == ("GPU-a", "GPU-b", "GPU-c")
    assert gpus.visible_gpus({"CUDA_VISIBLE_DEVICES": "2,0"}) == ("GPU-c", "GPU-a")
    assert gpus.visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-b"}) == ("GPU-b",)
    monkeypatch.setenv("PATH", str(node / "empty"))
    assert gpus.visible_gpus({}) == ()


def test_runs_on_one_node_take_different_gpus_and_leave_them_when_killed(node: Path) -> None:
    one, two = run(1), run(2)
    try:
        first = line(one)
        taken = {first, *line(two).split(",")}
        assert taken == {"GPU-a", "GPU-b", "GPU-c"}
        three = run(1)
        try:
            assert line(three) == "waiting for 1 of 3 GPUs to become free"
            one.kill()
            assert line(three) == first
        finally:
            three.kill()
            three.communicate()
    finally:
        for process in (one, two):
            process.kill()
            process.communicate()


def test_waiting_ends_when_asked(node: Path) -> None:
    holder = run(3)
    try:
        line(holder)
        with pytest.raises(ResumeError, match="received SIGTERM, while waiting for GPUs"):
            gpus.claim(1, lambda: "received SIGTERM", lambda text: None)
    finally:
        holder.kill()
        holder.communicate()


def test_more_gpus_than_there_are_are_refused(node: Path) -> None:
    with pytest.raises(InputError, match="--gpus: found 4, but 3 are visible"):
        gpus.claim(4, lambda: None, lambda text: None)

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
    assert gpus.visible_gpus({"CUDA_VISIBLE_DEVICES": "1, GPU-a"}) == ("GPU-b", "GPU-a")
    for none in ("", "-1", "NoDevFiles", "-1,0", "7"):
        assert gpus.visible_gpus({"CUDA_VISIBLE_DEVICES": none}) == ()
    assert gpus.visible_gpus({"CUDA_VISIBLE_DEVICES": "0,-1,1"}) == ("GPU-a",)  # as CUDA reads it
    monkeypatch.setenv("PATH", str(node / "empty"))
    assert gpus.visible_gpus({}) == ()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ROCR_VISIBLE_DEVICES": "2,3"}, ("2", "3")),
        ({"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"}, ("3",)),
        ({"HIP_VISIBLE_DEVICES": "0"}, ("0",)),
        ({"ZE_AFFINITY_MASK": "0.0,0.1"}, ("0.0", "0.1")),
        ({}, ()),
    ],
)
def test_gpus_of_others_are_known_by_their_variables(
    variables: dict[str, str], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert gpus.assigned_gpus(variables) == expected


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


def test_a_claim_without_visible_gpus_says_why(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")
    with pytest.raises(InputError, match=r"0 are visible here \(CUDA_VISIBLE_DEVICES=NoDevFiles"):
        gpus.claim(1, lambda: None, lambda text: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(node / "empty"))
    with pytest.raises(InputError, match=r"0 are visible here \(nvidia-smi does not run"):
        gpus.claim(1, lambda: None, lambda text: None)


def test_a_link_in_place_of_a_lock_is_not_followed(node: Path) -> None:
    """Everybody may write to the folder of temporary files, and names there can be foreseen."""
    precious = node / "precious"
    precious.write_text("results")
    locks = node / f"ferminet_core-{os.getuid()}"
    locks.mkdir(mode=0o700)
    (locks / "GPU-a.lock").symlink_to(precious)
    with pytest.raises(OSError, match="GPU-a"):
        gpus.claim(1, lambda: None, lambda text: None)
    assert precious.read_text() == "results"
    (locks / "GPU-a.lock").unlink()
    (locks / "GPU-a.lock").write_text("kept")
    holder = run(1)
    assert line(holder) == "GPU-a"
    holder.communicate()
    assert (locks / "GPU-a.lock").read_text() == "kept"


def test_a_folder_of_locks_that_others_can_change_is_refused(node: Path) -> None:
    locks = node / f"ferminet_core-{os.getuid()}"
    elsewhere = node / "elsewhere"
    elsewhere.mkdir()

    def refused() -> None:
        with pytest.raises(InputError, match="found something that others can change"):
            gpus.claim(1, lambda: None, lambda text: None)

    locks.symlink_to(elsewhere)
    refused()
    locks.unlink()
    locks.mkdir()
    locks.chmod(0o777)
    refused()
    assert not list(elsewhere.iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_another_user_s_folder_of_locks_is_refused(node: Path) -> None:
    locks = node / f"ferminet_core-{os.getuid()}"
    locks.mkdir(mode=0o700)
    os.chown(locks, 65534, 65534)
    with pytest.raises(InputError, match="found something that others can change"):
        gpus.claim(1, lambda: None, lambda text: None)

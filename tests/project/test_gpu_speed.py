"""`make bench-gpu` on a machine without a GPU: its order, its report, and what ends a part."""

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil  # type: ignore[import-untyped]
import pytest
from helpers.paths import ROOT

from benchmarks import gpu_setup, gpu_speed
from benchmarks.cases import CASES

HANGS = {"hangs": True}
ON_GPU = {"platform": "gpu", "device": "H"}


class FakeWorker:
    """Prints the lines of a script for the parts that it was given; None ends it."""

    script: ClassVar[dict[str, Any]] = {}
    now: ClassVar[float] = 0.0

    def __init__(self, parts: list[str], quick: bool, errors: Any) -> None:
        del quick, errors
        self._lines = self._all(list(parts))

    def _all(self, parts: list[str]) -> Iterator[dict[str, Any] | None]:
        yield self.script.get("about", ON_GPU)
        for part in parts:
            yield {"begins": part}
            yield self.script.get(part, {"part": part, "state": "measured", "seconds": 1e-3})
        yield None

    def line(self, seconds: float) -> dict[str, Any] | None:
        found = next(self._lines)
        if found == HANGS:
            FakeWorker.now += seconds
            raise queue.Empty
        return found

    def last_words(self) -> str:
        return "killed"

    def end(self) -> None:
        pass


def rows(monkeypatch: pytest.MonkeyPatch, end: float = 1e9, **script: Any) -> list[dict[str, Any]]:
    monkeypatch.setattr(FakeWorker, "script", script)
    monkeypatch.setattr(FakeWorker, "now", 0.0)
    monkeypatch.setattr(gpu_speed, "Worker", FakeWorker)
    clock = SimpleNamespace(monotonic=lambda: FakeWorker.now)
    monkeypatch.setattr(gpu_speed, "time", clock)
    return list(gpu_speed.measured(["a", "b", "c"], end, quick=False))


def test_a_part_that_hangs_or_ends_its_process_has_a_row_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = rows(monkeypatch, a=HANGS, b=None)
    assert [(row["part"], row["state"]) for row in found] == [
        ("a", "stopped"),
        ("b", "failed"),
        ("c", "measured"),
    ]
    assert found[0]["reason"] == "stopped after 100 s"
    assert found[1]["reason"] == "the process ended: killed"
    assert found[2]["device"] == "H"


def test_a_part_that_the_end_of_the_time_cuts_off_is_left_for_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = rows(monkeypatch, end=50.0, b=HANGS)
    assert [row["part"] for row in found] == ["a"]


def test_nothing_is_measured_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(gpu_speed.UnusableError, match="CPUs"):
        rows(monkeypatch, about={"platform": "cpu", "device": "cpu"})


def test_a_report_continues_after_a_stump(tmp_path: Path) -> None:
    report = tmp_path / "r.jsonl"
    gpu_speed.append(report, {"part": "a", "state": "measured", "seconds": 1e-3})
    gpu_speed.append(report, {"part": "b", "state": "failed", "reason": "no"})
    with report.open("a") as file:
        file.write('{"part": "c", "sta')
    gpu_speed.append(report, {"part": "d", "state": "measured", "seconds": 2e-3})
    found = gpu_speed.read(report)
    assert [row["part"] for row in found] == ["a", "b", "d"]
    assert gpu_speed.missing(["a", "b", "c", "d"], found, retry=False) == ["c"]
    assert gpu_speed.missing(["a", "b", "c", "d"], found, retry=True) == ["b", "c"]
    assert "| b |  |  |  |  |  |  |  |  | no |" in gpu_speed.table(found)


def test_every_part_occurs_once_and_has_a_case() -> None:
    every = gpu_speed.names(gpu_speed.ORDER)
    assert len(set(every)) == len(every)
    for name in every:
        case, _, walkers = name.partition(" ")[0].partition(":")
        assert (case in CASES and int(walkers) > 0) or (ROOT / f"systems/{case}.yaml").exists()


def test_wheels_are_cut_into_volumes_and_put_together(tmp_path: Path) -> None:
    wheels = {"a-1-py3-none-any.whl": os.urandom(950), "b-1-py3-none-any.whl": os.urandom(130)}
    for name, data in wheels.items():
        (tmp_path / name).write_bytes(data)
    volumes = gpu_setup.cut(tmp_path, 400)
    sizes = [sum(path.stat().st_size for path in volume.iterdir()) for volume in volumes]
    assert sizes == [400, 400, 280]
    assert {path.name: path.read_bytes() for path in gpu_setup.put_together(tmp_path)} == wheels


def test_versions_of_the_lock_follow_the_python() -> None:
    lock = "\n".join(
        [
            "jax==0.9.1 \\",
            "numpy==2.4.6 ; python_full_version < '3.12' \\",
            "numpy==2.5.5 ; python_full_version >= '3.12' \\",
        ]
    )
    assert gpu_setup.locked("3.11", lock) == {"jax": "0.9.1", "numpy": "2.4.6"}
    assert gpu_setup.locked("3.12", lock) == {"jax": "0.9.1", "numpy": "2.5.5"}


IMPORTS = """
import importlib, importlib.metadata, json, sys
names = (
    "benchmarks.gpu_parts", "benchmarks.peer_folx", "ferminet_core.stages.joint_optimise",
    "ferminet_core.stages.joint_pretrain", "ferminet_core.stages.optimise",
    "ferminet_core.stages.pretrain", "ferminet_core.chemistry.hartree_fock",
    "ferminet_core.vmc.optimisers.kfac", "ferminet_core.planning.plan",
    "ferminet_core.inputs.scan", "ferminet_core.stages.base",
)
for name in names:
    importlib.import_module(name)
owners = importlib.metadata.packages_distributions()
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted({owner for name in loaded for owner in owners.get(name, ())})))
"""


def test_the_wheels_hold_all_that_is_imported() -> None:
    asked = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=ROOT)
    needed = {name.lower().replace("_", "-") for name in json.loads(done.stdout)}
    assert needed - {"ferminet-core"} <= {*gpu_setup.PACKAGES, "charset-normalizer"}


PARTS = ("LiH:4 log psi", "LiH:4 no such part", "h2_shared first updates")


def command(report: Path) -> list[str]:
    parts = [word for part in PARTS for word in ("--part", part)]
    options = ["--quick", "--report", str(report)]
    return [sys.executable, "-m", "benchmarks.gpu_speed", *options, *parts]


@pytest.mark.slow
def test_a_killed_measurement_leaves_no_process_and_goes_on(tmp_path: Path) -> None:
    report = tmp_path / "r.jsonl"
    first = subprocess.Popen(command(report), cwd=ROOT, stderr=subprocess.DEVNULL)
    while not gpu_speed.read(report):
        assert first.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL)
    first.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert workers
    assert not alive
    before = gpu_speed.read(report)
    assert before[0]["part"] == "LiH:4 log psi"
    assert before[0]["seconds"] > 0
    done = subprocess.run(command(report), cwd=ROOT, capture_output=True, text=True, check=True)
    after = gpu_speed.read(report)
    assert [row["part"] for row in after] == list(PARTS)
    assert after[: len(before)] == before
    assert [row["state"] for row in after] == ["measured", "failed", "measured"], after
    assert after[1]["reason"] == "KeyError: 'no such part'"
    assert after[2]["updates"] == 6
    assert len(after[2]["energies_last_Eh"]) == 8
    assert "left" not in done.stdout

"""Records next to the artefacts: whole, readable, complete."""

import contextlib
import errno
import json
import os
import socket
import stat
from pathlib import Path

import numpy as np
import pytest

from ferminet_core.errors import ExitCode
from ferminet_core.runner.work_files import StatusWriter, append_event, read_events
from ferminet_core.storage import files, provenance

STATUS_FIELDS = {  # fixed: other tools read these
    "schema",
    "state",
    "stage",
    "step",
    "total",
    "energy_Eh",
    "error_Eh",
    "rate",
    "host",
    "jobid",
    "pid",
    "heartbeat",
    "reason",
    "restarts",
    "node_s",
}


def test_exit_codes_are_the_published_ones() -> None:
    assert [int(code) for code in ExitCode] == [0, 2, 65, 70, 73, 74, 85]


def test_status_has_exactly_the_published_fields(tmp_path: Path) -> None:
    writer = StatusWriter(tmp_path / "optimise.work", "optimise", 100)
    writer.update("running", 10)
    writer.update("running", 20, energy=-1.17, error=float("nan"))
    status = files.read_json(writer.path)
    assert status is not None
    assert set(status) == STATUS_FIELDS
    assert status["state"] == "running"
    assert (status["stage"], status["step"], status["total"]) == ("optimise", 20, 100)
    assert status["energy_Eh"] == -1.17
    assert status["error_Eh"] is None  # JSON has no NaN
    assert status["rate"] > 0
    assert (status["host"], status["pid"]) == (socket.gethostname(), os.getpid())


def test_restarts_count_attempts_that_did_not_end_well(tmp_path: Path) -> None:
    for expected, state in ((0, "running"), (1, "failed"), (2, "done"), (0, "running")):
        writer = StatusWriter(tmp_path, "optimise", 10)
        writer.update(state, 1, reason="x")
        status = files.read_json(tmp_path / "status.json")
        assert status is not None
        assert status["restarts"] == expected


def test_a_crash_before_the_rename_leaves_the_old_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "status.json"
    files.write_json(path, {"step": 1})

    def crash(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, {"step": 2})
    assert files.read_json(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


def test_the_file_is_on_disk_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    files.write_json(tmp_path / "a.json", {})
    assert calls == ["fsync", "rename", "fsync"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_only_a_missing_call_for_folders_is_passed_over(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems cannot flush a folder. A disk that fails to is another matter."""
    fsync = os.fsync

    def fail_on_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_on_folders)
    fails = number == errno.EIO
    with pytest.raises(OSError, match="Input/output") if fails else contextlib.nullcontext():
        files.write_json(tmp_path / "a.json", {"x": 1})
    assert files.read_json(tmp_path / "a.json") == {"x": 1}


def test_json_holds_array_scalars_paths_and_nested_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    data = {
        "energy": np.float32(0.5),
        "counts": np.arange(2),
        "nested": [{"x": np.inf}, (1, Path("a/b"))],
    }
    files.write_json(path, data)
    assert json.loads(path.read_text()) == {
        "energy": 0.5,
        "counts": [0, 1],
        "nested": [{"x": None}, [1, "a/b"]],
    }


def test_damaged_or_missing_json_reads_as_none(tmp_path: Path) -> None:
    assert files.read_json(tmp_path / "absent.json") is None
    for text in ('{"state": "run', "[1]", "\xff"):
        (tmp_path / "a.json").write_text(text, encoding="latin-1")
        assert files.read_json(tmp_path / "a.json") is None


def test_events_are_appended_one_json_object_per_line(tmp_path: Path) -> None:
    append_event(tmp_path / "w", "start", stage="optimise")
    append_event(tmp_path / "w", "failed", reason="NaN\nin the energy")
    lines = (tmp_path / "w" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["start", "failed"]
    assert events[1]["reason"] == "NaN\nin the energy"
    assert events[0]["pid"] == os.getpid()
    with open(tmp_path / "w" / "events.jsonl", "a") as file:
        file.write('{"time": "2026-0')  # a line that a full disk cut short
    assert read_events(tmp_path / "w") == events
    assert read_events(tmp_path / "nowhere") == []


def test_code_hash_sees_content_and_names_of_sources_only(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("k: 1\n")
    first = provenance.code_hash(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"x")
    (tmp_path / "a.py~").write_text("x = 2\n")
    assert provenance.code_hash(tmp_path) == first
    (tmp_path / "sub" / "b.yaml").write_text("k: 2\n")
    second = provenance.code_hash(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    assert len({first, second, provenance.code_hash(tmp_path)}) == 3


def test_provenance_names_what_may_explain_a_difference() -> None:
    record = provenance.provenance(
        "optimise", provenance.utc_now(), 12.5, restarts=1, reason="done"
    )
    assert record["versions"]["jax"]
    assert record["versions"]["kfac-jax"]
    assert set(record["versions"]) >= {"ferminet-core", "pyscf", "zarr"}
    assert record["code_hash"] == provenance.code_hash()
    assert record["started"] <= record["ended"]
    assert (record["wall_s"], record["restarts"], record["exit_reason"]) == (12.5, 1, "done")
    assert record["cpu"]
    json.dumps(record, allow_nan=False)


def test_git_commit_is_empty_outside_the_projects_own_checkout(tmp_path: Path) -> None:
    assert provenance.git_commit(tmp_path) == ""

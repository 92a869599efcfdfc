"""What a user sees of runs from outside, and does to them."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from helpers.finished_scan import SYSTEM, save_finished_scan
from helpers.scans import LITERATURE, make_scan, write_literature
from helpers.stages import Oscillator, PowerCutError, command, failing, in_results, run

from ferminet_core.cli import commands
from ferminet_core.errors import ArtefactError, InputError, LockedError
from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import conventional_spec, freeze, write_specs
from ferminet_core.report import scan_files
from ferminet_core.runner import maintenance, status
from ferminet_core.runner.job import Job
from ferminet_core.storage import files
from ferminet_core.storage.lease import Lease


def states(job: Job) -> dict[str, str]:
    return {state.stage: state.state for state in status.run_states(job.out.parent)}


def test_states_of_a_stage_through_its_life(tmp_path: Path) -> None:
    job = in_results(tmp_path)
    assert set(states(job).values()) == {"waiting"}
    seen = []

    def look(step: int) -> None:
        seen.append(states(job)["optimise"])
        failing(30, PowerCutError())(step)

    with pytest.raises(PowerCutError):
        run(job, Oscillator(look))
    assert seen == ["running"] * 3
    assert states(job)["optimise"] == "failed"  # an unexpected exception
    run(job, Oscillator())
    assert states(job) == {
        "reference": "waiting",
        "pretrain": "waiting",
        "optimise": "done",
        "inference": "waiting",
    }
    job.out.unlink()
    assert states(job)["optimise"] == "resumable"


def test_a_finished_run_has_the_verdict_of_the_last_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = in_results(tmp_path)
    run, scan = job.out.parent, job.out.parents[2]
    run.mkdir(parents=True)
    result, summary = run / "inference.zarr.zip", scan / "summary.json"
    result.write_bytes(b"")

    def remark() -> str:
        commands.status(scan)
        (line,) = [x for x in capsys.readouterr().out.splitlines() if " inference " in x]
        return " ".join(line.split()[4:])

    assert remark() == ""
    files.write_json(summary, {"verdicts": {run.name: {"verdict": "suspect: why"}}})
    assert remark() == "suspect: why"
    # A result that was made again since is another one.
    later = summary.stat().st_mtime + 10
    os.utime(result, (later, later))
    (state,) = [s for s in status.run_states(run) if s.stage == "inference"]
    assert status.with_verdicts({run: [state]}) == {run: [state]}
    files.write_json(summary, {"verdicts": {}})
    os.utime(result, (0, 0))
    assert status.with_verdicts({run: [state]}) == {run: [state]}


def test_the_table_names_every_run_and_writes_nothing(tmp_path: Path) -> None:
    job = in_results(tmp_path)
    run(job, Oscillator())
    status = files.read_json(job.work / "status.json")
    assert status is not None
    files.write_json(job.work / "status.json", {**status, "state": "running"})
    job.out.unlink()
    scan = job.out.parents[2]
    before = {path: path.stat().st_mtime_ns for path in scan.rglob("*")}
    done = command("status", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[2][:5] == ["h2", "r_1.4", "optimise", "resumable", "40/40"]
    assert "stopped without a message, last seen" in done.stdout
    assert rows[3] == ["h2", "r_2", "waiting"]
    (entry,) = [
        stage
        for stage in json.loads(command("status", scan, "--json").stdout)[str(job.out.parent)]
        if stage["stage"] == "optimise"
    ]
    assert (entry["state"], entry["step"]) == ("resumable", 40)
    assert 0 <= entry["checkpoint_age_s"] < 600
    assert {path: path.stat().st_mtime_ns for path in scan.rglob("*")} == before
    assert command("status", tmp_path / "nothing").returncode == 2


def test_stop_asks_those_that_run(tmp_path: Path) -> None:
    job = in_results(tmp_path)
    with pytest.raises(InputError, match="no stage is running"):
        maintenance.request_stop(job.out.parent)
    with Lease(job.work).acquire(lambda: "no", print):
        (line,) = maintenance.request_stop(tmp_path / "results")
        assert line.startswith(f"r_1.4 optimise: asked process {os.getpid()} on ")
    assert (job.work / "stop.json").exists()


def test_conventional_energies_are_known_where_they_are_asked_for(tmp_path: Path) -> None:
    job = in_results(tmp_path)
    run(job, Oscillator())
    scan, folder = job.out.parents[2], job.out.parent
    assert "conventional" not in states(job)
    job.out.with_name("inference.zarr.zip").write_bytes(job.out.read_bytes())
    (scan / "runs.txt").write_text(f"{job.spec.run_id}\n")
    maintenance.archive(scan, tmp_path / "h2.tar", print)
    path = conventional_spec(scan, job.spec.run_id)
    path.parent.mkdir()
    path.write_text("{}")
    assert states(job)["conventional"] == "waiting"
    with pytest.raises(InputError, match=r"not finished: r_1\.4 \(conventional: waiting\)"):
        maintenance.archive(scan, tmp_path / "h2.tar", print)
    with Lease(folder / "conventional.work").acquire(lambda: "no", print):
        assert states(job)["conventional"] == "running"
        (line,) = maintenance.request_stop(scan)
        assert line.startswith("r_1.4 conventional: asked")
    (folder / "conventional.zarr.zip").write_bytes(job.out.read_bytes())
    maintenance.archive(scan, tmp_path / "h2.tar", print)
    with tarfile.open(tmp_path / "h2.tar") as tar:
        names = set(tar.getnames())
    assert {"h2/spec/conventional/r_1.4.json", "h2/runs/r_1.4/conventional.zarr.zip"} <= names
    assert len(maintenance.reset(folder, "conventional")) == 2
    assert maintenance.reset(folder, "conventional") == []
    assert not list(folder.glob("conventional*"))


def test_reset_forgets_one_stage_unless_somebody_works_on_it(tmp_path: Path) -> None:
    job = in_results(tmp_path)
    run(job, Oscillator())
    other = job.out.with_name("pretrain.zarr.zip")
    other.write_bytes(b"another stage's")
    with Lease(job.work).acquire(lambda: "no", print), pytest.raises(LockedError, match="held by"):
        maintenance.reset(job.out.parent, "optimise")
    assert job.out.exists()
    maintenance.reset(job.out.parent, "optimise")
    assert [path.name for path in job.out.parent.iterdir()] == ["pretrain.zarr.zip"]
    with pytest.raises(InputError, match="stage: found 'optimize'; allowed: reference"):
        maintenance.reset(job.out.parent, "optimize")
    with pytest.raises(InputError, match="not the folder of a scan, a run or a group"):
        maintenance.reset(tmp_path, "optimise")


def test_reset_leaves_no_result_of_a_later_stage(tmp_path: Path) -> None:
    """A workflow that found the inference would not ask for the optimisation behind it."""
    job = in_results(tmp_path)
    run(job, Oscillator())
    later, work = (job.out.with_name(f"inference.{ending}") for ending in ("zarr.zip", "work"))
    later.write_bytes(b"of the optimisation")
    work.mkdir()
    with Lease(work).acquire(lambda: "no", print), pytest.raises(LockedError, match="inference"):
        maintenance.reset(job.out.parent, "optimise")
    assert later in maintenance.reset(job.out.parent, "optimise")
    assert [path.name for path in job.out.parent.iterdir()] == ["inference.work"]
    assert maintenance.reset(job.out.parent, "inference") == [work]


def test_reset_of_a_scan_forgets_a_stage_of_every_run_or_nothing(tmp_path: Path) -> None:
    job = in_results(tmp_path)
    run(job, Oscillator())
    scan, first = job.out.parents[2], job.out.parent
    second = first.with_name("r_2")
    for folder in (first, second):
        folder.mkdir(exist_ok=True)
        (folder / "pretrain.zarr.zip").write_bytes(b"kept")
    (second / "optimise.zarr.zip").write_bytes(b"of the other run")
    with Lease(second / "optimise.work").acquire(lambda: "no", print):
        for stage in ("optimise", "all"):
            with pytest.raises(LockedError, match="r_2"):
                maintenance.reset(scan, stage)
    assert job.out.exists()
    maintenance.reset(scan, "optimise")
    left = [[path.name for path in folder.iterdir()] for folder in (first, second)]
    assert left == [["pretrain.zarr.zip"]] * 2
    assert len(maintenance.reset(scan, "all")) == 2
    assert not list(first.iterdir())
    assert not list(second.iterdir())


def test_an_archive_holds_results_and_no_checkpoints(tmp_path: Path) -> None:
    job = in_results(tmp_path)
    run(job, Oscillator())
    scan = job.out.parents[2]
    target = tmp_path / "h2.tar"
    with pytest.raises(InputError, match=r"not finished: r_1\.4 \(inference: waiting\), r_2"):
        maintenance.archive(scan, target, print)
    assert not target.exists()
    (scan / "runs.txt").write_text(f"{job.spec.run_id}\n")
    job.out.with_name("inference.zarr.zip").write_bytes(job.out.read_bytes())
    (scan / "scan.csv").write_text("run_id\nr_1.4\n")
    maintenance.archive(scan, target, print)
    with tarfile.open(target) as tar:
        names = set(tar.getnames())
    assert names == {
        "h2/MANIFEST.json",
        "h2/scan.csv",
        "h2/runs.txt",
        "h2/runs/r_1.4/optimise.zarr.zip",
        "h2/runs/r_1.4/inference.zarr.zip",
        "h2/runs/r_1.4/optimise.provenance.json",
    }


def finished(folder: Path) -> Path:
    """A finished scan with published energies, as a workflow leaves it; its folder."""
    write_literature(folder)
    scan = make_scan(folder, SYSTEM + LITERATURE)
    write_specs(scan, folder / "results")
    freeze(scan, folder / "results")
    return save_finished_scan(scan, folder / "results", iterations=100, records=60)


def test_an_unpacked_archive_gives_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    scan = finished(here)
    monkeypatch.chdir(here)
    scan_files.write_summary(load_scan(scan / "scan.json"), here / "results")
    table = (scan / "scan.csv").read_text()
    assert "ref_exact_Eh" in table
    maintenance.archive(scan, tmp_path / "h2.tar", print)
    here.rename(tmp_path / "gone")
    there.mkdir()
    with tarfile.open(tmp_path / "h2.tar") as tar:
        tar.extractall(there, filter="data")
    assert (there / "h2/system/h2.yaml").read_text() == SYSTEM + LITERATURE
    (there / "h2/scan.csv").unlink()
    done = command("summary", there / "h2/scan.json")
    assert "warning: literature" not in done.stderr + done.stdout
    assert (there / "h2/scan.csv").read_text() == table
    # An archive of what was unpacked holds the same.
    maintenance.archive(there / "h2", tmp_path / "again.tar", print)
    with tarfile.open(tmp_path / "h2.tar") as one, tarfile.open(tmp_path / "again.tar") as two:
        assert sorted(one.getnames()) == sorted(two.getnames())


def test_links_are_archived_as_the_files_that_they_lead_to(tmp_path: Path) -> None:
    scan = finished(tmp_path)
    artefact = next((scan / "runs").glob("*/inference.zarr.zip"))
    content = artefact.read_bytes()
    elsewhere = tmp_path / "scratch.zarr.zip"
    artefact.rename(elsewhere)
    artefact.symlink_to(elsewhere)
    target = tmp_path / "h2.tar"
    maintenance.archive(scan, target, print)
    with tarfile.open(target) as tar:
        member = tar.getmember(f"h2/{artefact.relative_to(scan)}")
        file = tar.extractfile(member)
        assert member.isreg()
        assert file is not None
        assert file.read() == content
    target.unlink()
    elsewhere.unlink()
    with pytest.raises(InputError, match=r"not finished: .* \(inference: waiting\)"):
        maintenance.archive(scan, target, print)
    assert not target.exists()


def test_an_archive_that_is_not_right_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = finished(tmp_path)
    target = tmp_path / "h2.tar"
    before = sorted(tmp_path.rglob("*"))
    add = tarfile.TarFile.addfile

    def lose_a_byte(self: tarfile.TarFile, member: tarfile.TarInfo, file: Any = None) -> None:
        if member.name.endswith("runs.txt"):
            file = io.BytesIO(b"x" * member.size)
        add(self, member, file)

    monkeypatch.setattr(tarfile.TarFile, "addfile", lose_a_byte)
    with pytest.raises(ArtefactError, match=r"differs from the files .*: h2/runs\.txt; nothing"):
        maintenance.archive(scan, target, print)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resluts: no such folder"):
        maintenance.request_stop(tmp_path / "resluts")

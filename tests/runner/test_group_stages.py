"""Stages of a group: their parents, resumes, states and files, and runs that start from them."""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from helpers.scans import make_scan
from helpers.stages import Oscillator, PowerCutError, failing, run

from ferminet_core.errors import InputError
from ferminet_core.inputs.group_files import group_spec
from ferminet_core.inputs.run_spec import GroupSpec, RunSpec, load_spec
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.spec_files import freeze, write_specs
from ferminet_core.runner import maintenance, status
from ferminet_core.runner.attempt import common_attributes
from ferminet_core.runner.job import Job
from ferminet_core.runner.origins import misfits
from ferminet_core.runner.run_stage import load_parents
from ferminet_core.runner.stopping import REQUEST
from ferminet_core.storage import artefacts, checkpoints
from ferminet_core.storage.lease import Lease

H2 = """units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {R: [1.4, 2.0, 3.0]}
preset: smoke
sharing: scan
overrides: {checkpoint.every_steps: 10}
"""
RUNS = ("r_1.4", "r_2", "r_3")
JOINT = ("joint_pretrain", "joint_optimise")


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    found = make_scan(tmp_path, H2)
    write_specs(found, tmp_path)
    freeze(found, tmp_path)
    return found


@pytest.fixture
def folder(scan: Scan, tmp_path: Path) -> Path:
    return tmp_path / "h2"


def job_of(folder: Path, spec: RunSpec, stage: str, **parents: Path) -> Job:
    kind = "groups" if isinstance(spec, GroupSpec) else "runs"
    place = folder / kind / spec.run_id
    return Job(stage, spec, place / f"{stage}.zarr.zip", place / f"{stage}.work", parents)


def save(job: Job, **changes: Any) -> Path:
    """An artefact without numbers, of a stage with these parents."""
    parents = {name: artefacts.digest(path) for name, path in job.parents.items()}
    known = {"stage_hash": job.spec.stage_hash(job.stage), "code_hash": "", "parents": parents}
    job.out.parent.mkdir(parents=True, exist_ok=True)
    artefacts.save(xr.Dataset(attrs={**common_attributes(job, known), **changes}), job.out)
    return job.out


def references(scan: Scan, folder: Path) -> dict[str, Path]:
    """Those of the members, as a job of the group names them."""
    specs = {spec.run_id: spec for spec in scan.runs}
    return {f"reference:{r}": save(job_of(folder, specs[r], "reference")) for r in RUNS}


def finish(scan: Scan, folder: Path, number: int = 0) -> dict[str, Path]:
    """All artefacts of a scan up to the start of each run; returns those of the group."""
    (group,) = scan.groups
    before = references(scan, folder)
    pretrained = save(job_of(folder, group, "joint_pretrain", **before))
    parent = {"joint_pretrain": pretrained}
    trained = save(job_of(folder, group, "joint_optimise", **parent), number=number)
    for spec in scan.runs:
        own = {"reference": before[f"reference:{spec.run_id}"], "group": trained}
        save(job_of(folder, spec, "pretrain", **own))
    return {**parent, "joint_optimise": trained}


# --- parents --------------------------------------------------------------------------------------


def test_a_group_reads_the_references_of_its_members_in_their_order(
    scan: Scan, folder: Path
) -> None:
    (group,) = scan.groups
    files = references(scan, folder)
    found = load_parents(job_of(folder, group, "joint_pretrain", **files))
    assert list(found) == [f"reference:{name}" for name in RUNS]
    assert [ds.attrs["run_id"] for ds in found.values()] == list(RUNS)
    second, first, third = files.values()
    swapped = dict(zip(files, (first, second, third), strict=True))
    with pytest.raises(InputError, match=r"comes from run 'r_2', expected: run 'r_1.4'; give the"):
        load_parents(job_of(folder, group, "joint_pretrain", **swapped))
    moved = make_scan(folder.parent, H2.replace("-R/2", "-R/2-0.1")).runs
    save(job_of(folder, moved[1], "reference"))
    with pytest.raises(InputError, match=r"r_2 \(run 'r_2' of scan 'h2'\): .* H1-H2 = 2.1 bohr"):
        load_parents(job_of(folder, group, "joint_pretrain", **files))


def test_a_stage_of_a_group_reads_the_same_group(scan: Scan, folder: Path) -> None:
    (group,) = scan.groups
    path = save(job_of(folder, group, "joint_pretrain"))
    assert load_parents(job_of(folder, group, "joint_optimise", joint_pretrain=path))
    fewer = group.model_copy(update={"members": group.members[:2]})
    with pytest.raises(InputError, match=r"than shared \(group 'shared' .*computed with r_3 as w"):
        load_parents(job_of(folder, fewer, "joint_optimise", joint_pretrain=path))
    late = save(job_of(folder, group, "joint_optimise"))
    with pytest.raises(InputError, match="but --joint-pretrain needs stage 'joint_pretrain'"):
        load_parents(job_of(folder, group, "joint_optimise", joint_pretrain=late))


def test_a_run_starts_from_its_own_group(scan: Scan, folder: Path) -> None:
    made = finish(scan, folder)
    spec = scan.runs[0]
    job = job_of(folder, spec, "pretrain", group=made["joint_optimise"])
    assert load_parents(job)["group"].attrs["run_id"] == "shared"
    other = job_of(folder, spec.model_copy(update={"group": "other"}), "pretrain", **job.parents)
    with pytest.raises(InputError, match=r"from group 'shared', but r_1.4 starts from group"):
        load_parents(other)
    early = job_of(folder, spec, "pretrain", group=made["joint_pretrain"])
    with pytest.raises(InputError, match="but --group needs stage 'joint_optimise'"):
        load_parents(early)


# --- resumes --------------------------------------------------------------------------------------


def cut_off(job: Job) -> None:
    with pytest.raises(PowerCutError):
        run(job, Oscillator(failing(30, PowerCutError())))
    assert max(checkpoints.steps_in(job.checkpoints)) == 20


def test_a_group_continues(scan: Scan, folder: Path) -> None:
    job = job_of(folder, scan.groups[0], "joint_optimise")
    cut_off(job)
    seen: list[int] = []
    digest = run(job, Oscillator(seen.append))
    assert seen == [30, 40]
    straight = job_of(folder.parent / "other", scan.groups[0], "joint_optimise")
    assert run(straight, Oscillator()) == digest


def test_a_group_with_another_member_starts_over(scan: Scan, folder: Path) -> None:
    (group,) = scan.groups
    cut_off(job_of(folder, group, "joint_optimise"))
    fewer = group.model_copy(update={"members": group.members[:2]})
    seen: list[int] = []
    run(job_of(folder, fewer, "joint_optimise"), Oscillator(seen.append))
    assert seen[0] == 10
    # The places of the geometries in the arrays are those of the members.
    cut_off(job_of(folder, group, "joint_pretrain"))
    turned = group.model_copy(update={"members": group.members[::-1]})
    run(job_of(folder, turned, "joint_pretrain"), Oscillator(seen.append))
    assert seen[4] == 10


def test_a_moved_member_is_refused(scan: Scan, folder: Path) -> None:
    (group,) = scan.groups
    cut_off(job_of(folder, group, "joint_optimise"))
    (moved,) = make_scan(folder.parent, H2.replace("-R/2", "-R/2-0.1")).groups
    with pytest.raises(
        InputError, match=r"molecule: r_1.4: computed with .*reset .*/groups/shared"
    ):
        run(job_of(folder, moved, "joint_optimise"), Oscillator())


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (
            "sharing.walkers: 32",
            "sharing.walkers: the stage was started with 64, the spec asks for 32",
        ),
        ("sharing.heads: false", "sharing.heads: the stage was started with True"),
        ("mcmc.steps: 3", "mcmc.steps: the stage was started with"),
    ],
)
def test_a_group_keeps_its_settings(setting: str, line: str, scan: Scan, folder: Path) -> None:
    cut_off(job_of(folder, scan.groups[0], "joint_optimise"))
    (other,) = make_scan(folder.parent, f"{H2[:-2]}, {setting}}}\n").groups
    with pytest.raises(InputError, match=line):
        run(job_of(folder, other, "joint_optimise"), Oscillator())


# --- origins --------------------------------------------------------------------------------------


def found_misfits(scan: Scan, folder: Path) -> dict[str, str]:
    return misfits(scan.runs[0], folder / "runs" / "r_1.4")


def test_a_run_belongs_to_the_result_of_its_group_that_is_there(scan: Scan, folder: Path) -> None:
    made = finish(scan, folder)
    assert found_misfits(scan, folder) == {}
    save(job_of(folder, scan.groups[0], "joint_optimise"), number=1)
    assert found_misfits(scan, folder) == {
        "pretrain": "group shared: pretrain was computed from an earlier result of joint_optimise"
    }
    made["joint_optimise"].unlink()
    assert found_misfits(scan, folder) == {}


def test_a_run_does_not_belong_to_a_changed_group(scan: Scan, folder: Path) -> None:
    finish(scan, folder)
    write_specs(make_scan(folder.parent, f"{H2[:-2]}, sharing.walkers: 32}}\n"), folder.parent)
    (reason,) = found_misfits(scan, folder).values()
    assert reason == "group shared: sharing.walkers 64, the file says 32"
    (state,) = (s for s in status.run_states(folder / "groups/shared") if s.stage == JOINT[1])
    assert (state.state, state.reason) == ("stale", "sharing.walkers 64, the file says 32")


def test_a_run_that_was_computed_alone_is_stale(scan: Scan, folder: Path) -> None:
    alone = make_scan(folder.parent, H2.replace("sharing: scan\n", "")).runs[0]
    for stage in ("reference", "pretrain"):
        save(job_of(folder, alone, stage))
    assert found_misfits(scan, folder) == {
        "pretrain": "computed without sharing, the file says with sharing"
    }


def test_a_new_geometry_leaves_the_others_as_they_are(scan: Scan, folder: Path) -> None:
    finish(scan, folder)
    grown = make_scan(folder.parent, H2.replace("3.0]", "3.0, 4.0]"))
    write_specs(grown, folder.parent)
    assert found_misfits(grown, folder) == {}
    states = [s.state for s in status.run_states(folder / "groups/shared")]
    assert states == ["done", "done"]


# --- from outside ---------------------------------------------------------------------------------


def test_groups_have_states_of_their_own(scan: Scan, folder: Path) -> None:
    place = folder / "groups" / "shared"
    assert status.group_folders(folder) == status.group_folders(folder.parent) == [place]
    assert status.group_folders(place) == [place]
    assert status.group_folders(folder / "runs" / "r_2") == []
    assert place not in status.run_folders(folder)
    assert [state.stage for state in status.run_states(place)] == list(JOINT)
    assert [state.stage for state in status.run_states(folder / "runs/r_2")][:1] == ["reference"]
    assert status.current_stage(status.run_states(place)).state == "waiting"
    finish(scan, folder)
    assert status.current_stage(status.run_states(place)).state == "done"


def test_stop_asks_the_stage_of_a_group(scan: Scan, folder: Path) -> None:
    work = folder / "groups" / "shared" / "joint_optimise.work"
    with pytest.raises(InputError, match="no stage is running there"):
        maintenance.request_stop(folder)
    with Lease(work).acquire(lambda: None, pytest.fail):
        for path in (folder, folder / "groups" / "shared"):
            (line,) = maintenance.request_stop(path)
            assert line.startswith("shared joint_optimise: asked ")
            (work / REQUEST).unlink()


def test_reset_knows_whose_stage_it_is(scan: Scan, folder: Path) -> None:
    made = finish(scan, folder)
    place = folder / "groups" / "shared"
    starts = [folder / "runs" / name / "pretrain.zarr.zip" for name in RUNS]
    assert maintenance.reset(folder, "joint_optimise") == [made["joint_optimise"], *starts]
    with pytest.raises(InputError, match="groups/shared: has no stage 'pretrain'"):
        maintenance.reset(place, "pretrain")
    with pytest.raises(InputError, match="runs/r_2: has no stage 'joint_pretrain'"):
        maintenance.reset(folder / "runs" / "r_2", "joint_pretrain")
    assert maintenance.reset(place, "all") == [made["joint_pretrain"]]
    finish(scan, folder)
    assert len(maintenance.reset(folder, "all")) == 2 + 2 * len(RUNS)


def test_an_archive_holds_the_groups(scan: Scan, folder: Path) -> None:
    finish(scan, folder)
    for spec in scan.runs:
        save(job_of(folder, spec, "inference"))
    target = maintenance.archive(folder, folder.parent / "h2.tar", lambda line: None)
    with tarfile.open(target) as packed:
        names = set(packed.getnames())
    assert {
        "h2/spec/groups/shared.json",
        *(f"h2/groups/shared/{stage}.zarr.zip" for stage in JOINT),
    } <= names


def test_a_group_and_a_run_may_have_one_name(tmp_path: Path) -> None:
    text = H2.replace("parameters: {R: [1.4, 2.0, 3.0]}\n", "").replace(
        "atoms: [H 0 0 -R/2, H 0 0 R/2]\n",
        "geometries:\n"
        "  - {name: shared, atoms: [H 0 0 0, H 0 0 1.4]}\n"
        "  - {name: b, atoms: [H 0 0 0, H 0 0 2.0]}\n",
    )
    scan = make_scan(tmp_path, text)
    write_specs(scan, tmp_path)
    assert [m.run_id for m in scan.groups[0].members] == ["b", "shared"]
    run_spec = load_spec(tmp_path / "h2" / "spec" / "shared.json")
    assert (type(run_spec), run_spec.group) == (RunSpec, "shared")
    stored = json.loads(group_spec(tmp_path / "h2", "shared").read_text())
    assert len(stored["members"]) == 2
    assert os.path.samefile(status.group_folders(tmp_path / "h2")[0].parents[1], tmp_path / "h2")

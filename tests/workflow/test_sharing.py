"""Jobs of a scan whose geometries share a wavefunction."""

import os
from pathlib import Path

import pytest
from helpers.workflow import JOINT, SYSTEM, Workflow, all_stages

from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import write_specs

SHARED = SYSTEM + "sharing: scan\n"
RUNS = ("r_1.4", "r_2", "r_3")


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path, SHARED)


def test_the_stages_of_the_group_run_once(workflow: Workflow) -> None:
    assert workflow.jobs() == {**all_stages(3), **dict.fromkeys(JOINT, 1)}


def test_a_finished_scan_grows_without_a_new_training(workflow: Workflow) -> None:
    workflow.pretend_done(*RUNS, groups=["shared"])
    assert workflow.jobs() == {}
    workflow.system.write_text(SHARED.replace("3.0]", "3.0, 4.0]"))
    assert workflow.jobs() == all_stages(1)
    # A geometry that leaves the scan takes nothing with it.
    workflow.system.write_text(SHARED.replace(", 3.0]", "]"))
    assert workflow.jobs() == {"specs": 1, "summary": 1}


def test_more_iterations_continue_the_training(workflow: Workflow) -> None:
    workflow.pretend_done(*RUNS, groups=["shared"])
    workflow.system.write_text(f"{SHARED}overrides: {{optimise.iterations: 50}}\n")
    assert workflow.jobs() == {**all_stages(3), **dict.fromkeys(JOINT, 1)}


def test_a_member_s_new_reference_is_a_new_training(workflow: Workflow) -> None:
    workflow.pretend_done(*RUNS, groups=["shared"])
    reference = workflow.results / "test" / "runs" / "r_2" / "reference.zarr.zip"
    later = reference.stat().st_mtime + 1
    os.utime(reference, (later, later))
    chain = dict.fromkeys(("pretrain", "optimise", "inference"), 3)
    assert workflow.jobs() == {**dict.fromkeys(JOINT, 1), **chain, "summary": 1}


def test_a_job_finds_its_group_in_its_spec(workflow: Workflow) -> None:
    """The process of a job never reads the system file."""
    write_specs(load_scan(workflow.system), workflow.results)
    workflow.system.write_text("")
    scan = workflow.results / "test"
    for path in (
        *(scan / "runs" / run / "reference.zarr.zip" for run in RUNS),
        *(scan / "groups" / "shared" / f"{stage}.zarr.zip" for stage in JOINT),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    group = str(scan / "groups" / "shared" / "joint_optimise.zarr.zip")
    own = str(scan / "runs" / "r_2" / "pretrain.zarr.zip")
    words = ["--dry-run", "--printshellcmds", "--force", "--mode", "remote"]
    pretrain = workflow.snakemake(own, *words, "--allowed-rules", "pretrain")
    told = pretrain.stdout + pretrain.stderr
    assert f" --reference {scan}/runs/r_2/reference.zarr.zip --group {group} " in told
    joint = workflow.snakemake(
        str(scan / "groups" / "shared" / "joint_pretrain.zarr.zip"),
        *words,
        "--allowed-rules",
        "joint_pretrain",
    )
    told = joint.stdout + joint.stderr
    files = [f"--reference {scan}/runs/{run}/reference.zarr.zip" for run in RUNS]
    assert f"{scan}/spec/groups/shared.json {' '.join(files)} --out " in told

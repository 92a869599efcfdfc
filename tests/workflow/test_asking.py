"""Asking changes nothing: only a run writes to the results, and jobs do not see later edits."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.workflow import SYSTEM, Workflow, all_stages

from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import write_specs
from ferminet_core.runner.workflow_lock import hold
from ferminet_core.storage import artefacts

QUESTIONS = (
    ["--dry-run"],
    ["--list-rules"],
    ["--lint"],
    ["--unlock"],
    ["--summary"],
    ["--dag"],
    ["--report", "report.html"],
)


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of all files and folders."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        if path.parent.name == ".workflow":  # its holder renews it
            continue
        stat = path.stat()
        found[str(path)] = (stat.st_size, stat.st_mtime_ns)
    return found


@pytest.mark.slow
def test_questions_do_not_touch_a_finished_scan(workflow: Workflow) -> None:
    workflow.pretend_done("r_1.4", "r_2", "r_3")
    before = listing(workflow.results)
    for question in QUESTIONS:
        done = workflow.snakemake(*question, config={"set": "seed=5"})
        assert done.returncode == 0, (question, done.stderr)
        assert listing(workflow.results) == before, question
    assert workflow.jobs(set="seed=5") == all_stages(3)
    # One file asked for by its name follows the new request as well.
    one = str(workflow.results / "test" / "runs" / "r_3" / "reference.zarr.zip")
    assert workflow.jobs(one, set="seed=5") == {"specs": 1, "reference": 1}
    assert listing(workflow.results) == before
    assert workflow.jobs() == {}
    # A run with nothing to do writes as little.
    done = workflow.snakemake()
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr
    assert listing(workflow.results) == before


def test_questions_do_not_create_a_folder_of_results(workflow: Workflow) -> None:
    for question in ("--dry-run", "--lint", "--summary"):
        assert workflow.snakemake(question).returncode == 0, question
        assert not workflow.results.exists(), question


def test_specs_are_written_by_a_run_and_only_where_the_request_changed(workflow: Workflow) -> None:
    assert workflow.snakemake("specs").returncode == 0
    before = listing(workflow.results / "test" / "spec")
    workflow.system.write_text(
        SYSTEM + "cases: [{where: R > 2.5, overrides: {reference.method: uhf}}]\n"
    )
    assert workflow.snakemake("specs").returncode == 0
    after = listing(workflow.results / "test" / "spec")
    assert before.keys() == after.keys()
    changed = {Path(name).name for name in before if before[name] != after[name]}
    assert changed == {"spec", "r_3.json"}


def job(
    workflow: Workflow, stage: str, run: str, mode: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """A job as an executor starts it on a node, in a process that parses the Snakefile again."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--target-jobs", f"{stage}:scan=test,run_id={run}", "--allowed-rules", stage]
    command += ["--cores", "1", "--force", "--no-hooks", "--nolock", "--ignore-incomplete"]
    command += ["--target-files-omit-workdir-adjustment", "--mode", mode]
    command += ["--directory", str(workflow.folder / "workdir")]
    command += arguments
    command += ["--config", f"system={workflow.system}", f"results={workflow.results}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mode", ["remote", pytest.param("subprocess", marks=pytest.mark.campaign)])
def test_jobs_do_not_see_edits_of_the_system_file(workflow: Workflow, mode: str) -> None:
    """One that waited in the queue while its basis set was edited, one while the file was saved."""
    text = SYSTEM + "overrides: {reference.basis: sto-3g}\n"
    workflow.system.write_text(text)
    assert workflow.snakemake("specs").returncode == 0
    for run, edited in (
        ("r_1.4", text.replace("sto-3g", "cc-pvdz")),
        ("r_2", text[: len(text) // 2]),
    ):
        workflow.system.write_text(edited)
        done = job(workflow, "reference", run, mode)
        assert done.returncode == 0, done.stderr
        result = artefacts.load(workflow.results / "test" / "runs" / run / "reference.zarr.zip")
        assert json.loads(result.attrs["spec"])["config"]["reference"]["basis"] == "sto-3g"


def test_a_job_parses_little_and_knows_the_wall_time_of_other_batch_systems(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tool of the batch system is asked, and the modules of scans are not loaded."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    write_specs(load_scan(workflow.system), workflow.results)
    words = ("--dry-run", "--printshellcmds", "--set-resources", "reference:runtime=240")
    done = job(workflow, "reference", "r_2", "remote", *words)
    assert " --wall-time 238 " in done.stdout + done.stderr
    assert "ferminet_core.inputs.stage_table" in done.stderr
    assert "ferminet_core.inputs.scan" not in done.stderr


@pytest.mark.slow
def test_a_warm_start_s_job_finds_its_neighbour_in_the_spec(workflow: Workflow) -> None:
    workflow.system.write_text(SYSTEM + "warm_start: {anchors: [r_2]}\n")
    assert workflow.snakemake("specs").returncode == 0
    workflow.system.write_text("")
    run = workflow.results / "test" / "runs" / "r_3"
    run.mkdir(parents=True)
    (run / "reference.zarr.zip").touch()
    done = job(workflow, "pretrain", "r_3", "remote")
    # The stage does not get far: its neighbour is not there.
    assert done.returncode != 0
    assert str(workflow.results / "test" / "runs" / "r_2" / "optimise.zarr.zip") in (
        done.stdout + done.stderr
    )


def test_another_system_file_needs_permission(workflow: Workflow) -> None:
    assert workflow.snakemake("specs").returncode == 0
    workflow.pretend_done("r_1.4", "r_2", "r_3")
    assert workflow.jobs() == {}
    first = workflow.system
    workflow.system = workflow.folder / "elsewhere" / "system.yaml"
    workflow.system.parent.mkdir()
    shutil.copy(first, workflow.system)
    refused = workflow.snakemake("--dry-run")
    assert refused.returncode == 2
    (line,) = (line for line in refused.stderr.splitlines() if line.startswith("error: "))
    assert f"was made from {first}, not from {workflow.system}; " in line
    assert "results=" in line
    assert "takeover=yes" in line
    assert workflow.jobs(takeover="yes") == {"specs": 1, "summary": 1}
    assert workflow.snakemake("specs", config={"takeover": "yes"}).returncode == 0
    assert workflow.jobs() == {"summary": 1}


def test_two_workflows_do_not_share_a_scan(workflow: Workflow) -> None:
    hold(workflow.results / "test", pytest.fail)
    before = listing(workflow.results)
    done = workflow.snakemake("specs")
    assert done.returncode == 73
    assert done.stderr.count("error: ") == 1
    assert f"held by process {os.getpid()} on " in done.stderr
    assert "a Snakemake that works on this scan" in done.stderr
    assert workflow.snakemake("specs", "--no-hooks").returncode == 73
    assert listing(workflow.results) == before
    assert workflow.jobs() == all_stages(3)  # asking is allowed


def test_ranks_may_follow_the_number_of_electrons(workflow: Workflow) -> None:
    """The expression in the documentation, before and after the spec file is there."""
    documented = (ROOT / "docs" / "clusters.md").read_text()
    (expression,) = (
        line.strip().removeprefix("tasks: ").strip('"')
        for line in documented.splitlines()
        if line.strip().startswith('tasks: "') and "electrons" in line
    )
    expression = expression.replace("> 20", "> 1")
    words = ["--dry-run", "--printshellcmds", "--quiet", "host"]
    words += ["--set-resources", f"optimise:tasks={expression}", "optimise:mpi='mpirun'"]
    one = str(workflow.results / "test" / "runs" / "r_2" / "optimise.zarr.zip")
    before = workflow.snakemake(one, *words)
    assert before.returncode == 0, before.stderr
    assert "tasks=<TBD>" in before.stdout + before.stderr
    assert workflow.snakemake("specs").returncode == 0
    after = workflow.snakemake(one, *words)
    assert "mpirun -n 8 python -m ferminet_core optimise" in after.stdout + after.stderr


def test_a_long_chain_of_warm_starts_is_planned(tmp_path: Path) -> None:
    """Snakemake follows it by recursion, past the interpreter's limit of calls from 262 on."""
    bonds = [1.0 + 0.01 * i for i in range(300)]
    chain = f"parameters: {{R: {bonds}}}\nwarm_start: {{anchors: [r_3.99]}}\n"
    workflow = Workflow(tmp_path, SYSTEM.replace("parameters: {R: [1.4, 2.0, 3.0]}\n", chain))
    assert workflow.jobs() == all_stages(300)

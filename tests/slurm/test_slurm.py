"""The workflow on a real Slurm, with MPI ranks on two nodes; and what may befall it there.

Each fault ends, without repair by hand, in the same bytes as one uninterrupted process.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster
import numpy as np
import pytest
from helpers.paths import ROOT
from slurm_scan import Scan

from ferminet_core.storage import artefacts
from ferminet_core.storage.checkpoints import steps_in


@pytest.fixture(scope="session", autouse=True)
def slurm() -> Iterator[None]:
    """The test cluster, started and stopped."""
    if reason := cluster.why_not():
        # In CI a skipped test would pass for one that holds.
        (pytest.fail if os.environ.get("REQUIRE_SLURM") else pytest.skip)(reason)
    cluster.start()
    yield
    cluster.stop()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled code of all scans of the session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def undisturbed(slurm: None, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Scan:
    """The whole scan, run on this machine without Slurm or MPI."""
    scan = Scan(tmp_path_factory.mktemp("undisturbed"), cache)
    scan.local()
    return scan


@pytest.fixture
def scan(undisturbed: Scan, tmp_path: Path, cache: Path) -> Iterator[Scan]:
    """A scan whose optimisation is still to be done."""
    scan = Scan(tmp_path, cache)
    undisturbed.copy_results(scan)
    for stage in ("optimise", "inference"):
        shutil.rmtree(scan.run / f"{stage}.work")
        for path in scan.run.glob(f"{stage}.*"):
            path.unlink()
    with ended(scan):
        yield scan


@contextlib.contextmanager
def ended(scan: Scan) -> Iterator[None]:
    """Its Snakemake and its jobs are gone after the test."""
    try:
        yield
    finally:
        if scan.process is not None and scan.process.poll() is None:
            scan.process.kill()
            scan.process.wait()
        cluster.call("scancel", "--full", "--partition=main")
        cluster.until(cluster.idle, "end of the test's jobs")


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait as long as a job on a busy machine may take."""
    cluster.until(condition, what, 180.0)


def jobs() -> list[str]:
    """Numbers of the jobs that wait or run."""
    return cluster.call("squeue", "--noheader", "--format=%i").split()


def ranks_on(node: str) -> list[int]:
    """Processes of the package on a node."""
    found = []
    for pid in cluster.processes_of(node):
        path = Path(f"/proc/{pid}/cmdline")
        words = path.read_bytes().split(b"\0") if path.exists() else []
        stages = {b"optimise", b"joint_optimise"} & set(words)
        if b"ferminet_core" in words and stages and b"python" in words[0]:
            found.append(pid)
    return found


def events(scan: Scan, name: str) -> list[dict[str, Any]]:
    path = scan.work / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]


def provenance(scan: Scan, stage: str) -> dict[str, Any]:
    return dict(json.loads((scan.run / f"{stage}.provenance.json").read_text()))


def checkpointed(scan: Scan, beyond: int = 0) -> bool:
    return max(steps_in(scan.work / "ckpt"), default=0) > beyond


def optimise(scan: Scan, **changes: str) -> subprocess.Popen[bytes]:
    """Start Snakemake for the optimisation alone."""
    return scan.start(str(scan.artefact), **changes)


def assert_as_undisturbed(scan: Scan, undisturbed: Scan, seconds: float = 400.0) -> None:
    assert scan.finish(seconds) == 0, scan.log[-3000:]
    assert artefacts.digest(scan.artefact) == artefacts.digest(undisturbed.artefact)
    assert len(events(scan, "done")) == 1


def test_the_chain_runs_on_two_nodes(scan: Scan, undisturbed: Scan) -> None:
    """Optimisation on two ranks, one on each node; inference, table and curve after it.

    The system file is cut in half as soon as a job is in the queue: no process reads it any more.
    """
    scan.start()
    until(lambda: bool(jobs()), "a job")
    text = scan.system.read_text()
    scan.system.write_text(text[: len(text) // 2])
    assert scan.finish() == 0, scan.log[-3000:]
    ranks = provenance(scan, "optimise")["ranks"]
    assert [rank["node"] for rank in ranks] == ["n1", "n2"]
    assert len({rank["pid"] for rank in ranks}) == 2
    for stage in ("optimise", "inference"):
        ours, theirs = (s.run / f"{stage}.zarr.zip" for s in (scan, undisturbed))
        if stage == "optimise":
            assert artefacts.digest(ours) == artefacts.digest(theirs)
            walkers = artefacts.load(ours)["walkers"].to_numpy()
            assert len(np.unique(walkers, axis=0)) == len(walkers)
        else:  # one device here, two there: the same but for rounding
            a, b = artefacts.load(ours).attrs, artefacts.load(theirs).attrs
            error = np.hypot(a["error_Eh"], b["error_Eh"])
            assert abs(a["energy_Eh"] - b["energy_Eh"]) < 5 * error
    assert (scan.results / "cluster" / "scan.csv").exists()


def test_ranks_that_do_not_find_each_other_fail_at_once(scan: Scan) -> None:
    """The launcher of another MPI: processes of size one, which would all do the same."""
    began = time.monotonic()
    optimise(scan, mpi="\"'srun --mpi=none'\"", retries="0")
    assert scan.finish() != 0
    # Guards against ranks that wait for each other for ever. Most of the time goes to Snakemake and
    # the queue; the stage takes seconds.
    assert time.monotonic() - began < 120
    log = scan.stage_log("optimise")
    assert log.count("error: --ranks") == 1
    assert "--ranks: found 2, but this process is alone: the launcher started 2" in log
    assert not (scan.work / "ckpt").exists()


@pytest.mark.campaign
def test_a_rank_that_is_killed(scan: Scan, undisturbed: Scan) -> None:
    optimise(scan)
    until(lambda: checkpointed(scan), "a checkpoint")
    (rank,) = ranks_on("n2")
    os.kill(rank, signal.SIGKILL)
    began = time.monotonic()
    until(lambda: not ranks_on("n1"), "end of the other rank")
    assert time.monotonic() - began < 30  # Slurm ends a step at once; ranks left alone never end
    assert_as_undisturbed(scan, undisturbed)
    assert events(scan, "resume")


@pytest.mark.campaign
def test_the_wall_time_costs_no_retry(scan: Scan, undisturbed: Scan, tmp_path: Path) -> None:
    """Two minutes for each job, and no retries.

    Slurm may send a signal up to a minute early. It then still comes after the first step.
    """
    iterations = 16_000  # more than such a job can make
    scan.lengthen(iterations)
    whole = Scan(tmp_path / "whole", scan.cache)
    undisturbed.copy_results(whole)
    whole.lengthen(iterations)
    whole.local()
    optimise(scan, runtime="2", slurm_extra="\"'--signal=USR1@15'\"", retries="0")
    assert_as_undisturbed(scan, whole, 900.0)
    assert "Trying to restart job" not in scan.log
    stops = [event["reason"] for event in events(scan, "resumable")]
    assert stops
    assert scan.log.count("goes on in another Slurm job") == len(stops)
    assert all("wall-time limit" in stop or "SIGUSR1" in stop for stop in stops), stops
    steps = [event["step"] for event in events(scan, "resume")]
    assert steps == sorted(steps)


@pytest.mark.campaign
def test_requeued(scan: Scan, undisturbed: Scan) -> None:
    optimise(scan)
    until(lambda: checkpointed(scan), "a checkpoint")
    (job,) = jobs()
    cluster.call("scontrol", "requeue", job)
    until(lambda: not ranks_on("n1") and not ranks_on("n2"), "end of the ranks")
    until(lambda: "PENDING" in cluster.call("scontrol", "show", "job", job), "the job in the queue")
    # Slurm would let a requeued job wait for two minutes.
    cluster.call("scontrol", "update", f"jobid={job}", "StartTime=now")
    assert_as_undisturbed(scan, undisturbed)
    assert events(scan, "resume")


@pytest.mark.campaign
def test_cancelled_then_run_again(scan: Scan, undisturbed: Scan) -> None:
    optimise(scan, retries="0")
    until(lambda: checkpointed(scan), "a checkpoint")
    cluster.call("scancel", *jobs())
    assert scan.finish() != 0
    assert not (scan.run / "optimise.zarr.zip").exists()
    optimise(scan)
    assert_as_undisturbed(scan, undisturbed)
    assert events(scan, "resume")


def lose_a_node(scan: Scan, undisturbed: Scan) -> None:
    """One that comes back."""
    optimise(scan)
    until(lambda: checkpointed(scan), "a checkpoint")
    cluster.kill_node("n2")
    began = time.monotonic()
    until(lambda: not ranks_on("n1"), "end of the other rank")
    assert time.monotonic() - began < 30  # Slurm ends a step at once; ranks left alone never end
    cluster.start_node("n2")
    assert_as_undisturbed(scan, undisturbed)
    assert events(scan, "resume")


@pytest.mark.campaign
def test_a_node_lost_and_back(scan: Scan, undisturbed: Scan) -> None:
    lose_a_node(scan, undisturbed)


@pytest.mark.campaign
def test_a_node_lost_while_geometries_are_trained_together(
    slurm: None, tmp_path: Path, cache: Path
) -> None:
    """Both stages of the group on two ranks, one on each node, and on one process elsewhere."""
    whole, scan = (
        Scan(tmp_path / name, cache, bonds="1.4, 2.0", shared=True) for name in ("whole", "scan")
    )
    whole.local(str(whole.artefact))
    whole.copy_results(scan)
    shutil.rmtree(scan.run)
    pretrained = scan.run / "joint_pretrain.zarr.zip"
    with ended(scan):
        scan.start(str(pretrained))
        assert scan.finish() == 0, scan.log[-3000:]
        assert artefacts.digest(pretrained) == artefacts.digest(whole.run / pretrained.name)
        lose_a_node(scan, whole)
    for stage in ("joint_pretrain", "joint_optimise"):
        assert [rank["node"] for rank in provenance(scan, stage)["ranks"]] == ["n1", "n2"]


@pytest.mark.campaign
def test_snakemake_killed_and_started_again_while_its_job_runs(
    scan: Scan, undisturbed: Scan
) -> None:
    first = optimise(scan)
    until(lambda: checkpointed(scan), "a checkpoint")
    first.kill()
    first.wait()
    assert jobs()
    optimise(scan)
    assert_as_undisturbed(scan, undisturbed)
    assert not events(scan, "resume")  # the first job was left to end


@pytest.mark.campaign
def test_controller_restarted(scan: Scan, undisturbed: Scan) -> None:
    optimise(scan)
    until(lambda: checkpointed(scan), "a checkpoint")
    cluster.kill_controller()
    cluster.start_controller()
    assert_as_undisturbed(scan, undisturbed)
    assert not events(scan, "resume")


def test_refused_submissions_wait_and_cost_no_retry(
    slurm: None, tmp_path: Path, cache: Path
) -> None:
    """First the partition takes no jobs, then the controller is away."""
    scan = Scan(tmp_path, cache, bonds="1.4, 2.0")
    cluster.call("scontrol", "update", "partition=main", "State=INACTIVE")
    try:
        scan.start("--until", "reference", retries="0", bundle="1")
        until(lambda: "Slurm refuses r_" in scan.log, "a refusal")
        cluster.kill_controller()
        until(lambda: "Unable to contact slurm controller" in scan.log, "another refusal")
    finally:
        cluster.start_controller()
        cluster.call("scontrol", "update", "partition=main", "State=UP")
    assert scan.finish() == 0, scan.log[-3000:]
    assert "and 1 more: " in scan.log  # two jobs, one submission
    assert len(list(scan.results.glob("cluster/runs/*/reference.zarr.zip"))) == 2


GRID = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6, 2.8)


def test_a_geometry_that_fails_costs_itself_alone(slurm: None, tmp_path: Path, cache: Path) -> None:
    """Ten geometries share a Slurm job."""
    scan = Scan(tmp_path, cache, bonds=", ".join(map(str, GRID)))
    in_the_way = scan.results / "cluster" / "runs" / "r_2" / "reference.work" / "events.jsonl"
    in_the_way.mkdir(parents=True)
    scan.start("--until", "reference", retries="0")
    assert scan.finish() == 1, scan.log[-3000:]
    found = {path.parent.name for path in scan.results.glob("cluster/runs/*/reference.zarr.zip")}
    assert found == {f"r_{bond:g}" for bond in GRID if bond != 2.0}
    assert scan.log.count("Slurm job ") == 2, scan.log  # the submission, and the failure
    assert "r_2 reference: Slurm job " in scan.log
    assert (scan.results / "cluster" / "scan.csv").exists()


@pytest.mark.campaign
def test_a_checkout_in_a_folder_with_a_space(slurm: None, tmp_path: Path, cache: Path) -> None:
    """The project, its interpreter, the system file and the results."""
    scan = Scan(tmp_path / "a folder", cache)
    project = tmp_path / "a folder" / "project"
    for name in ("ferminet_core", "workflow"):
        shutil.copytree(ROOT / name, project / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, project)
    python = project / ".venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    (packages,) = (project / ".venv" / "lib").glob("*/site-packages")
    (packages / "all.pth").write_text("\n".join([str(project), *sys.path]) + "\n")
    words = [str(python), "-m", "snakemake", "--snakefile", str(project / "Snakefile")]
    words += scan.command(scan.profile("slurm", retries="0"), "--until", "reference")[5:]
    environment = scan.environment()
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        words, cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (scan.run / "reference.zarr.zip").exists()


@pytest.mark.campaign
def test_a_job_that_slurm_has_forgotten(slurm: None, tmp_path: Path, cache: Path) -> None:
    """Snakemake sleeps until Slurm no longer knows its job."""
    scan = Scan(tmp_path, cache)
    cluster.configure("MinJobAge=3600", "MinJobAge=2")
    try:
        head = scan.start("--until", "reference", retries="0")
        until(lambda: bool(jobs()), "a job")
        os.kill(head.pid, signal.SIGSTOP)
        known = ("squeue", "--noheader", "--states=all")
        until(lambda: not cluster.call(*known).strip(), "the job forgotten")
        os.kill(head.pid, signal.SIGCONT)
        assert scan.finish() == 0, scan.log[-3000:]
    finally:
        cluster.configure("MinJobAge=2", "MinJobAge=3600")


@pytest.mark.campaign
def test_runs_share_a_node_and_have_a_gpu_each(
    slurm: None, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole node as one job. The GPUs are declared only: what is computed is on CPUs."""
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\nGPU-c\\nGPU-d\\n'\n")
    driver.chmod(0o755)
    scan = Scan(tmp_path, cache, bonds="1.4, 2.0")
    command = scan.command(scan.profile("whole-node"), "--until", "optimise")
    environment = scan.environment()
    environment["PATH"] = f"{driver.parent}:{environment['PATH']}"
    environment["JAX_PLATFORMS"] = "cpu"  # otherwise GPUs that JAX cannot use are an error
    words = ["sbatch", "--wait", "--partition=gpu", "--nodes=1", "--exclusive", "--gres=gpu:4"]
    words += [f"--output={tmp_path}/job.log", "--wrap", shlex.join(command)]
    done = subprocess.run(words, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, (tmp_path / "job.log").read_text()[-3000:]
    runs = sorted((scan.results / "cluster" / "runs").iterdir())
    found = [json.loads((run / "optimise.provenance.json").read_text()) for run in runs]
    assert [one["ranks"][0]["node"] for one in found] == ["n1", "n1"]
    gpus = {one["jax"]["cuda_visible_devices"] for one in found}
    assert len(gpus) == 2
    assert gpus < {"GPU-a", "GPU-b", "GPU-c", "GPU-d"}


def submissions(scan: Scan, profile: str, *arguments: str) -> list[list[str]]:
    """What Snakemake asks of sbatch first, recorded by a stand-in; nothing is submitted."""
    recorder = scan.folder / "bin" / "sbatch"
    recorder.parent.mkdir()
    calls = scan.folder / "sbatch.jsonl"
    recorder.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"open({str(calls)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\nprint(1)\n"
    )
    recorder.chmod(0o755)
    command = scan.command(ROOT / "cluster_profiles" / profile, *arguments)
    environment = scan.environment()
    environment["PATH"] = f"{recorder.parent}:{environment['PATH']}"
    head = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(calls.exists, "a submission")
    finally:
        head.kill()
        head.wait()
    return [json.loads(line) for line in calls.read_text().splitlines()]


def assert_accepted(words: list[str]) -> None:
    """By the real sbatch."""
    done = subprocess.run(
        ["sbatch", "--test-only", *words],
        input="#!/bin/sh\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (words, done.stderr)
    assert "to start at" in done.stderr


@pytest.mark.parametrize(("gpus", "nodes"), [(4, 2), (1, 1)])
def test_lines_of_the_gpu_profile_are_accepted(
    scan: Scan, gpus: int, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing runs on a GPU here."""
    monkeypatch.setenv("FERMINET_GPUS", str(gpus))
    monkeypatch.setenv("FERMINET_NODES", str(nodes))
    for words in submissions(scan, "slurm-gpu", "--until", "optimise"):
        gres = [word for word in words if word.startswith(f"--gres=gpu:{gpus}") or word == "--gres"]
        assert gres, words
        assert_accepted(words)
        if gpus * nodes > 1:
            assert f"--nodes={nodes}" in words
            assert f"--ntasks-per-node={gpus}" in words
        assert words[words.index("--mem-per-cpu") + 1] == "2000"
        assert "--cpus-per-task=8" in words
        assert not any(word.startswith("--ntasks-per-gpu") for word in words)


@pytest.mark.parametrize("profile", ["slurm", "slurm-gpu"])
def test_hartree_fock_of_several_geometries_asks_for_one_core(
    slurm: None, tmp_path: Path, cache: Path, profile: str
) -> None:
    """They share a job, and run in it one after the other."""
    (words,) = submissions(Scan(tmp_path, cache, bonds="1.4, 2.0, 3.0"), profile)
    assert_accepted(words)
    assert "--cpus-per-task=1" in words
    memory = words[words.index("--mem") + 1]
    *_, minutes = (words[i + 1] for i, word in enumerate(words) if word == "-t")
    expected = {"slurm": ("1500", "30"), "slurm-gpu": ("8000", "60")}
    assert (memory, minutes) == expected[profile]

"""Jobs of a scan whose geometries share a wavefunction."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.workflow import JOINT, SYSTEM, Workflow, all_stages, events, until

from benchmarks.layouts import AS_ROOT, LAUNCHER
from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import load_run, write_specs
from ferminet_core.report.run_outcomes import run_outcome
from ferminet_core.storage import artefacts
from ferminet_core.storage.checkpoints import steps_in

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
    told = workflow.snakemake("specs").stderr
    assert told.count("warning: group shared keeps the geometries that its training began") == 1
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


TINY = """
name: tiny
units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {R: [1.4, 2.0, 3.0]}
preset: smoke
overrides:
  network: {layers: 2, one_electron_width: 16}
  sharing.walkers: 16
  pretrain.max_iterations: 200
  checkpoint.every_steps: 5
  runtime.block: 5
sharing: {geometries: [r_1.4, r_3]}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A finished scan: two geometries are trained together, the third between them is not."""
    workflow = Workflow(tmp_path_factory.mktemp("sharing"), TINY)
    done = workflow.snakemake()
    assert done.returncode == 0, done.stderr[-3000:]
    assert workflow.jobs() == {}
    return workflow


@pytest.mark.slow
def test_a_shared_scan_ends_with_an_energy_for_each_geometry(tiny: Workflow) -> None:
    scan = tiny.results / "tiny"
    table = pd.read_csv(scan / "scan.csv").set_index("run_id")
    assert set(table["state"]) == {"done"}
    # Variational: no lower than exact but for five errors. Below the energy of two free atoms by
    # Hartree-Fock's orbitals at this bond, which twenty updates do not undo.
    exact = pd.Series({"r_1.4": -1.1745, "r_2": -1.1381, "r_3": -1.0573})
    assert (table["energy_Eh"] > exact - 5 * table["error_Eh"]).all()
    assert (table["energy_Eh"] < -0.9).all()
    # The middle one took no part in the training.
    assert table["n_opt"].to_dict() == {"r_1.4": 20, "r_2": 0, "r_3": 20}
    # Its optimisation has no iterations, and series without entries.
    outcome = run_outcome(load_run(scan, "r_2"), scan / "runs" / "r_2", recompute=True)
    assert (outcome.state, outcome.differences) == ("done", [])
    joint = artefacts.load(scan / "groups" / "shared" / "joint_optimise.zarr.zip")
    assert joint.sizes["geometry"] == 2
    for name in table.index:
        start = artefacts.load(scan / "runs" / name / "pretrain.zarr.zip")
        parents = json.loads(start.attrs["parents"])
        assert set(parents) == {"reference", "group"}
        assert parents["group"] == joint.attrs["digest"]


def train(tiny: Workflow, stage: str, folder: Path, ranks: int = 1) -> list[str]:
    """The command that trains the group again in a folder, on two devices in all."""
    scan = tiny.results / "tiny"
    command = [sys.executable, "-m", "ferminet_core", stage, str(scan / "spec/groups/shared.json")]
    command += ["--ranks", str(ranks), "--devices", str(2 // ranks)]
    command += ["--out", str(folder / f"{stage}.zarr.zip"), "--work", str(folder / f"{stage}.work")]
    if stage == "joint_pretrain":
        for name in ("r_1.4", "r_3"):
            command += ["--reference", str(scan / f"runs/{name}/reference.zarr.zip")]
    else:
        command += ["--joint-pretrain", str(scan / "groups/shared/joint_pretrain.zarr.zip")]
    return [*LAUNCHER.split(), "-n", str(ranks), *command] if ranks > 1 else command


# As the jobs of the workflow compile, but without the number of devices of the tests' own set-up.
FLAGS = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=2", "")
ENVIRONMENT = {**os.environ, **AS_ROOT, "XLA_FLAGS": FLAGS}


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("joint_pretrain", marks=pytest.mark.slow),
        # A killed optimisation is in the campaigns of test_kills and of Slurm, too.
        pytest.param("joint_optimise", marks=pytest.mark.campaign),
    ],
)
def test_a_killed_training_continues_on_another_layout_to_the_same_bits(
    tiny: Workflow, tmp_path: Path, stage: str
) -> None:
    """First one process with two devices, as in the workflow; then two ranks with a device each."""
    out, work = tmp_path / f"{stage}.zarr.zip", tmp_path / f"{stage}.work"
    process = subprocess.Popen(
        train(tiny, stage, tmp_path, ranks=1),
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    try:
        until(lambda: max(steps_in(work / "ckpt"), default=0) >= 5)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not out.exists()
    done = subprocess.run(
        train(tiny, stage, tmp_path, ranks=2),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    (event,) = events(work, "resume")
    assert 5 <= event["step"] < artefacts.load(out).sizes["step"]
    whole = tiny.results / "tiny" / "groups" / "shared" / f"{stage}.zarr.zip"
    assert artefacts.digest(out) == artefacts.digest(whole)


@pytest.mark.slow
def test_its_curve_is_measured_by_a_command(tiny: Workflow) -> None:
    scan = tiny.results / "tiny"
    command = [
        sys.executable,
        "-m",
        "ferminet_core",
        "curve",
        str(scan),
        "--at",
        "2",
        "--at",
        "2.5",
    ]
    done = subprocess.run(
        [*command, "--slopes"], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    energies = re.findall(r"^R = \S+: E = (\S+) \+- (\S+) Eh$", done.stdout, re.MULTILINE)
    assert len(energies) == 2
    # At 2 bohr, which was not trained, the run has the same wavefunction and other walkers.
    table = pd.read_csv(scan / "scan.csv").set_index("run_id")
    energy, error = map(float, energies[0])
    apart = abs(energy - table["energy_Eh"]["r_2"])
    assert apart < 5 * (error**2 + table["error_Eh"]["r_2"] ** 2) ** 0.5
    assert len(re.findall(r"^dE/dR at R = ", done.stdout, re.MULTILINE)) == 2
    again = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert again.stdout == done.stdout
    beyond = subprocess.run(
        [*command, "--at", "3.5"], capture_output=True, text=True, timeout=60, check=False
    )
    assert beyond.returncode == 2
    assert beyond.stderr.splitlines()[-1].startswith(
        "error: --at: found R = 3.5; allowed: 1.4 to 3"
    )

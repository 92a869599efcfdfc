"""A tiny scan through the real components: PySCF, JAX, KFAC, Snakemake, Zarr."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from helpers.workflow import STAGES, Workflow, all_stages, events, until

from benchmarks.layouts import AS_ROOT, LAUNCHER
from ferminet_core.analysis.statistics import summarise_energy
from ferminet_core.errors import ExitCode
from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import load_run, write_specs
from ferminet_core.report.run_outcomes import run_outcome
from ferminet_core.runner import status
from ferminet_core.storage import artefacts
from ferminet_core.storage.checkpoints import steps_in
from ferminet_core.vmc.space_warp import space_warp

SYSTEM = """
name: tiny
units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {R: [1.4, 2.0]}
preset: smoke
overrides: {network.layers: 2, network.one_electron_width: 16}
warm_start: {anchors: [r_2], share: 0.5}
"""


# A whole scan, and some stages of it again.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished scan."""
    workflow = Workflow(tmp_path_factory.mktemp("chain"), SYSTEM)
    assert workflow.jobs() == all_stages(2)
    done = workflow.snakemake()
    assert done.returncode == 0, done.stderr[-3000:]
    assert workflow.jobs() == {}
    return workflow.results / "tiny"


def test_table_and_pictures(scan: Path) -> None:
    table = pd.read_csv(scan / "scan.csv").set_index("run_id")
    assert list(table.index) == ["r_1.4", "r_2"]
    assert set(table["state"]) == {"done"}
    assert (table["error_Eh"] > 0).all()
    # Variational: no lower than exact but for five errors. Below two free atoms, -1 hartree: the
    # molecule is bound.
    exact = pd.Series({"r_1.4": -1.1745, "r_2": -1.1381})
    assert (table["energy_Eh"] > exact - 5 * table["error_Eh"]).all()
    assert (table["energy_Eh"] < -1.0).all()
    assert (scan / "curve.svg").read_text().count("<svg") == 1
    assert (scan / "curve.png").read_bytes().startswith(b"\x89PNG")
    page = (scan / "report.html").read_text()
    for chart in ("energy", "update_norm", "misfit", "records", "blocking", "plane-density"):
        assert f'"run1-{chart}":' in page


def test_numbers_follow_from_the_raw_series(scan: Path) -> None:
    with zarr.storage.ZipStore(scan / "runs/r_1.4/inference.zarr.zip", mode="r") as zipped:
        ds = xr.open_zarr(zipped, consolidated=False).load()
    assert ds["energy_local"].dims == ("sample", "walker")
    assert ds["energy_local"].dtype == np.float64
    assert ds["energy_local"].shape == (50, 64)
    assert ds["walkers"].dims == ("kept", "walker", "electron", "xyz")
    again = summarise_energy(ds["energy_local"].to_numpy(), 0)
    row = pd.read_csv(scan / "scan.csv").set_index("run_id").loc["r_1.4"]
    assert row["energy_Eh"] == pytest.approx(again.mean, rel=1e-14)
    assert row["error_Eh"] == pytest.approx(again.error, rel=1e-12)
    # All figures again, bit by bit.
    outcome = run_outcome(load_run(scan, "r_1.4"), scan / "runs/r_1.4", recompute=True)
    assert outcome.differences == []
    assert outcome.inference == ds.attrs


def test_twenty_updates_are_no_convergence(scan: Path) -> None:
    table = pd.read_csv(scan / "scan.csv").set_index("run_id")
    verdicts = json.loads((scan / "summary.json").read_text())["verdicts"]
    for run, verdict in table["verdict"].items():
        # By the rule: so short a sampling may be suspect as well, which then comes first. The trend
        # of 20 energies of 64 walkers is uncertain by far more than the 1 mEh that it may fall.
        assert verdict.startswith(("not converged: run ", "suspect: "))
        assert verdicts[run]["rules"]["trend"]["wrong"] != []
    assert verdicts["r_1.4"]["rules"]["trend"]["wrong"] == [
        "10 iterations are too few to show a trend"
    ]


def test_artefacts_name_their_parents(scan: Path) -> None:
    run = scan / "runs" / "r_2"
    for stage, parents in (
        ("pretrain", {"reference"}),
        ("optimise", {"pretrain"}),
        ("inference", {"optimise", "reference"}),
    ):
        attrs = artefacts.load(run / f"{stage}.zarr.zip").attrs
        expected = {name: artefacts.digest(run / f"{name}.zarr.zip") for name in parents}
        assert json.loads(attrs["parents"]) == expected
        assert (attrs["stage"], attrs["run_id"]) == (stage, "r_2")


def test_the_table_names_the_neighbours(scan: Path) -> None:
    table = pd.read_csv(scan / "scan.csv", keep_default_na=False).set_index("run_id")
    assert table["neighbour"].to_dict() == {"r_1.4": "r_2", "r_2": ""}
    assert table["n_opt"].to_dict() == {"r_1.4": 10, "r_2": 20}


def test_a_warm_start_takes_the_network_and_keeps_the_specs_geometry(scan: Path) -> None:
    run, neighbour = scan / "runs" / "r_1.4", scan / "runs" / "r_2"
    started, origin = (
        artefacts.load(run / "pretrain.zarr.zip"),
        artefacts.load(neighbour / "optimise.zarr.zip"),
    )
    assert started.attrs["neighbour"] == "r_2"
    parents = json.loads(started.attrs["parents"])
    assert parents["neighbour"] == origin.attrs["digest"]
    for name in origin.data_vars:
        if str(name).startswith("params."):
            np.testing.assert_array_equal(started[name], origin[name])
    before, after = (np.array([[0.0, 0, -r / 2], [0, 0, r / 2]]) for r in (2.0, 1.4))
    moved = space_warp(origin["walkers"].to_numpy().astype(float), before, after)
    # Stored in float32, of positions of a few bohr.
    np.testing.assert_allclose(started["walkers"], moved, rtol=0, atol=2e-6)
    for stage in STAGES:
        spec = json.loads(artefacts.load(run / f"{stage}.zarr.zip").attrs["spec"])
        np.testing.assert_allclose(spec["molecule"]["positions"], after)


def test_a_warm_start_refuses_another_runs_network(scan: Path, tmp_path: Path) -> None:
    # In processes of their own, since a stage settles JAX's precision for its whole process.
    command = [sys.executable, "-m", "ferminet_core", "pretrain", str(scan / "spec/r_1.4.json")]
    command += ["--reference", str(scan / "runs/r_1.4/reference.zarr.zip"), "--devices", "2"]
    command += ["--out", str(tmp_path / "out.zarr.zip"), "--work", str(tmp_path / "work")]
    without = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert without.returncode == 2
    assert "needs the optimisation of 'r_2'" in without.stderr
    command += ["--neighbour", str(scan / "runs/r_1.4/optimise.zarr.zip")]
    other = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert other.returncode == 2
    assert "spec/r_2.json asks for: computed with H1-H2 = 1.4 bohr" in other.stderr


@pytest.mark.parametrize("devices", [1, 2])
def test_inference_repeats_bit_by_bit(scan: Path, tmp_path: Path, devices: int) -> None:
    """The same stage by hand: the same digest on one device, rounding apart on two."""
    run = scan / "runs" / "r_1.4"
    out = tmp_path / "inference.zarr.zip"
    command = [sys.executable, "-m", "ferminet_core", "inference", str(scan / "spec/r_1.4.json")]
    command += ["--optimise", str(run / "optimise.zarr.zip")]
    command += ["--reference", str(run / "reference.zarr.zip"), "--out", str(out)]
    command += ["--work", str(tmp_path / "work"), "--devices", str(devices)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    first, second = artefacts.load(run / "inference.zarr.zip"), artefacts.load(out)
    if devices == 1:
        assert first.attrs["digest"] == second.attrs["digest"]
    else:
        # Random streams belong to walkers. The frozen width follows the acceptance averaged over
        # walkers, in another order: differences of 1e-7 that a chain amplifies, so only the first
        # moments are compared, within their errors.
        error = np.hypot(first.attrs["error_Eh"], second.attrs["error_Eh"])
        assert abs(first.attrs["energy_Eh"] - second.attrs["energy_Eh"]) < 5 * error


def rank_of(process: Path) -> str | None:
    """The number that the launcher gave a process, in /proc."""
    try:
        variables = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    name = b"OMPI_COMM_WORLD_RANK="
    return next((v.removeprefix(name).decode() for v in variables if v.startswith(name)), None)


def test_ranks_stop_together_when_one_hears_a_signal(scan: Path, tmp_path: Path) -> None:
    system = tmp_path / "tiny.yaml"
    system.write_text(SYSTEM)
    long = load_scan(system, overrides=["optimise.iterations=1000000", "runtime.block=10"])
    work = tmp_path / "optimise.work"
    command = [*LAUNCHER.split(), "-n", "2", sys.executable, "-m", "ferminet_core", "optimise"]
    command += [str(write_specs(long, tmp_path)[0]), "--out", str(tmp_path / "out.zarr.zip")]
    command += ["--pretrain", str(scan / "runs/r_1.4/pretrain.zarr.zip")]
    command += ["--work", str(work), "--ranks", "2", "--devices", "1"]
    environment = {**os.environ, **AS_ROOT, "XLA_FLAGS": ""}
    launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        until(lambda: (status.stage_state(tmp_path, "optimise").step or 0) > 20)
        mine = [p for p in Path("/proc").glob("[0-9]*") if rank_of(p) == "1"]
        (other,) = [p for p in mine if str(work).encode() in (p / "cmdline").read_bytes()]
        os.kill(int(other.name), signal.SIGUSR1)
        _, told = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
        launcher.communicate()
    assert launcher.returncode == ExitCode.RESUME_ME, told
    step = max(steps_in(work / "ckpt"))
    assert step > 20
    line = f"received SIGUSR1; continues from step {step} when run again"
    assert told.count(line) == 1, told
    assert line in events(work, "resumable")[0]["reason"]

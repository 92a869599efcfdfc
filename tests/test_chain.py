"""A tiny scan through the real components: PySCF, JAX, KFAC, Snakemake, Zarr."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from test_workflow import Workflow, all_stages

from ferminet_core import store
from ferminet_core.statistics import summarise_energy

SYSTEM = """
name: tiny
units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {R: [1.4, 4.0]}
preset: smoke
"""


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
    assert list(table.index) == ["r_1.4", "r_4"]
    assert set(table["state"]) == {"done"}
    assert (table["error_Eh"] > 0).all()
    # Twenty updates from a loosely pretrained network: between exact and twice the binding away.
    exact = pd.Series({"r_1.4": -1.1745, "r_4": -1.0164})
    assert (table["energy_Eh"] - exact).between(-0.05, 0.35).all()
    assert (scan / "curve.svg").read_text().count("<svg") == 1
    assert (scan / "curve.png").read_bytes().startswith(b"\x89PNG")


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


def test_artefacts_name_their_parents(scan: Path) -> None:
    run = scan / "runs" / "r_4"
    for stage, parents in (
        ("pretrain", {"reference"}),
        ("optimise", {"pretrain"}),
        ("inference", {"optimise", "reference"}),
    ):
        attrs = store.load(run / f"{stage}.zarr.zip").attrs
        expected = {name: store.digest(run / f"{name}.zarr.zip") for name in parents}
        assert json.loads(attrs["parents"]) == expected
        assert (attrs["stage"], attrs["run_id"]) == (stage, "r_4")


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
    first, second = store.load(run / "inference.zarr.zip"), store.load(out)
    if devices == 1:
        assert first.attrs["digest"] == second.attrs["digest"]
    else:
        # Random streams belong to walkers. The frozen width follows the acceptance averaged over
        # walkers, in another order: differences of 1e-7 that a chain amplifies, so only the first
        # moments are compared, within their errors.
        error = np.hypot(first.attrs["error_Eh"], second.attrs["error_Eh"])
        assert abs(first.attrs["energy_Eh"] - second.attrs["energy_Eh"]) < 5 * error

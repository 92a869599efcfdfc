"""Results of a scan on disk, opened from Python."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.finished_scan import SYSTEM, finished_scan_with_page
from helpers.scans import LITERATURE, make_scan

import ferminet_core
from ferminet_core.analysis.summary import summarise
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.spec_files import write_specs
from ferminet_core.report.run_outcomes import run_outcome
from ferminet_core.storage import artefacts


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    finished_scan_with_page(folder)
    write_specs(make_scan(folder, SYSTEM + LITERATURE), folder / "results")
    return folder / "results/h2"


@pytest.fixture
def scan(here: Path) -> Scan:
    return ferminet_core.load_system(here.parents[1] / "h2.yaml")


def test_the_table_is_that_of_the_summary(here: Path, scan: Scan) -> None:
    outcomes = {run.run_id: run_outcome(run, here / "runs" / run.run_id) for run in scan.runs}
    expected = summarise(scan, outcomes).table
    found = ferminet_core.open(here).table
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_the_dataset_is_the_stored_one(here: Path) -> None:
    found = ferminet_core.open(str(here)).dataset
    assert found.identical(artefacts.load(here / "scan.zarr.zip"))
    assert found["energy_Eh"].attrs["units"] == "hartree"


def test_a_run(here: Path, scan: Scan) -> None:
    results = ferminet_core.open(here)
    assert sorted(results.runs) == sorted(run.run_id for run in scan.runs)
    run, row = results.runs["r_1.4"], results.table.set_index("run_id").loc["r_1.4"]
    assert run.spec.molecule == run.molecule == scan.runs[2].molecule
    assert (run.state, run.verdict) == ("done", row["verdict"])
    assert (run.energy, run.error) == (row["energy_Eh"], row["error_Eh"])
    walkers = run.dataset("inference")["walkers"]
    assert walkers.dims == ("kept", "walker", "electron", "xyz")
    series = run.series("optimise")
    stored = artefacts.load(here / "runs/r_1.4/optimise.zarr.zip")
    assert np.array_equal(series["energy_Eh"], stored["energy_Eh"])
    assert series.index.name == "step"


def test_what_is_not_there_is_one_line(here: Path, tmp_path: Path) -> None:
    with pytest.raises(ferminet_core.InputError, match="not the folder of a scan"):
        ferminet_core.open(tmp_path)
    run = ferminet_core.open(here).runs["r_1.4"]
    with pytest.raises(ferminet_core.InputError, match="no stage 'inferrence'; did you mean"):
        run.dataset("inferrence")
    with pytest.raises(ferminet_core.InputError, match=r"no run 'r_1\.8'; did you mean 'r_1\.7'"):
        _ = ferminet_core.open(here).runs["r_1.8"]
    assert ferminet_core.open(here).runs.get("r_9") is None
    with pytest.raises(ferminet_core.InputError, match="reference recorded no series"):
        run.series("reference")


def test_an_unfinished_scan(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, SYSTEM)
    write_specs(scan, tmp_path)
    results = ferminet_core.open(tmp_path / "h2")
    assert list(results.runs) == sorted(run.run_id for run in scan.runs)
    with pytest.raises(ferminet_core.InputError, match=r"scan\.csv: no such file; .* summary"):
        _ = results.table
    run = results.runs["r_1.4"]
    assert (run.state, run.verdict) == ("waiting", "")
    with pytest.raises(ferminet_core.InputError, match=r"r_1\.4: inference is not done \(waiting"):
        _ = run.energy
    with pytest.raises(ferminet_core.InputError, match="optimise is not done"):
        run.wavefunction()

"""Results that are not what the system file asks for: in table, fits, page, status and Python."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.finished_scan import SYSTEM, save_finished_scan
from helpers.scans import LITERATURE, make_scan, save_conventional, write_literature

import ferminet_core
from ferminet_core.analysis.summary import summarise
from ferminet_core.errors import InputError
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.spec_files import write_specs
from ferminet_core.report import page, plots, scan_files
from ferminet_core.report.run_outcomes import run_outcome
from ferminet_core.report.run_page import read_run
from ferminet_core.runner.maintenance import archive
from ferminet_core.runner.status import run_states
from ferminet_core.storage import artefacts, files

UNITS = ("units: bohr", "units: angstrom")


@pytest.fixture(autouse=True)
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take seconds and are tested elsewhere."""
    monkeypatch.setattr(page, "_packed_plotly", lambda: "")
    monkeypatch.setattr(plots, "plot_scan", lambda *arguments: None)


def finished(here: Path) -> Scan:
    scan = make_scan(here, SYSTEM)
    write_specs(scan, here / "results")
    save_finished_scan(scan, here / "results", iterations=50, records=50)
    return scan


def edited(here: Path, old: str, new: str) -> Scan:
    return make_scan(here, SYSTEM.replace(old, new))


def row_of(here: Path, run_id: str) -> Any:
    return pd.read_csv(here / "results/h2/scan.csv").set_index("run_id").loc[run_id]


def test_other_units_leave_no_number_in_the_results(tmp_path: Path) -> None:
    finished(tmp_path)
    scan = edited(tmp_path, *UNITS)
    results = tmp_path / "results"
    lines = scan_files.write_summary(scan, results, recompute=True)
    reason = "stale: computed with H1-H2 = 1.4 bohr, the file says 2.64562 bohr (units: bohr, now"
    assert lines[0] == "h2: 6 runs (6 stale)"
    assert lines[3].startswith(f"r_1.4: {reason}")
    assert lines[6] == "and 1 more stale runs, named in scan.csv"
    assert not any("r_e" in line for line in lines)
    row = row_of(tmp_path, "r_1.4")
    assert row["verdict"].startswith(reason)
    assert np.isnan([row["energy_Eh"], row["error_Eh"], row["hf_Eh"]]).all()
    derived = files.read_json(results / "h2/summary.json")
    assert derived is not None
    assert derived["curves"] == []
    assert derived["verdicts"] == {}
    dataset = artefacts.load(results / "h2/scan.zarr.zip")
    assert np.isnan(dataset["error_bootstrap_Eh"]).all()
    text = (results / "h2/report.html").read_text()
    assert f"r_1.4: {reason}" in text
    assert "stale, stale" not in text


def test_one_changed_run_takes_no_part_in_the_fit(tmp_path: Path) -> None:
    finished(tmp_path)
    case = "{where: R == 1.4, overrides: {optimise.learning_rate: 0.02}}"
    scan = edited(tmp_path, "preset", f"cases: [{case}]\npreset")
    lines = scan_files.write_summary(scan, tmp_path / "results")
    assert lines[0] == "h2: 6 runs (5 done, 1 stale)"
    verdict = "stale: optimise.learning_rate 0.05, the file says 0.02"
    assert row_of(tmp_path, "r_1.4")["verdict"] == verdict
    assert f"r_1.4: {verdict}" in lines
    derived = files.read_json(tmp_path / "results/h2/summary.json")
    assert derived is not None
    assert derived["curves"][0]["n_points"] == 5


def test_an_extended_run_stays_done(tmp_path: Path) -> None:
    finished(tmp_path)
    scan = edited(tmp_path, "preset", "overrides: {optimise.iterations: 900}\npreset")
    lines = scan_files.write_summary(scan, tmp_path / "results")
    assert lines[0] == "h2: 6 runs (6 done)"


def test_an_inference_of_an_earlier_optimisation(tmp_path: Path) -> None:
    scan = finished(tmp_path)
    run, folder = scan.runs[0], tmp_path / "results/h2/runs/r_0.8"
    path = folder / "inference.zarr.zip"
    inference = artefacts.load(path)
    present = artefacts.digest(folder / "optimise.zarr.zip")
    artefacts.save(inference.assign_attrs(parents=f'{{"optimise": "{present}"}}'), path)
    assert run_outcome(run, folder).state == "done"
    artefacts.save(inference.assign_attrs(parents='{"optimise": "before"}'), path)
    outcome = run_outcome(run, folder)
    assert outcome.reason == "stale: inference was computed from an earlier result of optimise"
    assert outcome.inference == {}
    assert outcome.reference["method"] == "rhf"  # the run's own


def test_a_stale_parent_makes_its_stages_stale(tmp_path: Path) -> None:
    """As after a stage by hand with an edited spec file."""
    scan = finished(tmp_path)
    run, folder = scan.runs[0], tmp_path / "results/h2/runs/r_0.8"
    other = edited(tmp_path, "preset", "overrides: {optimise.clip: 3.0}\npreset").runs[0]
    path = folder / "optimise.zarr.zip"
    artefacts.save(artefacts.load(path).assign_attrs(spec=other.model_dump_json()), path)
    outcome = run_outcome(run, folder)
    assert (outcome.state, outcome.reason) == (
        "stale",
        "stale: optimise.clip 3.0, the file says 5.0",
    )
    shown = read_run(run, folder, "run0")
    assert set(shown.artefacts) == {"reference", "pretrain"}


def test_only_attributes_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path)
    (run, *_) = edited(tmp_path, *UNITS).runs
    monkeypatch.setattr(artefacts, "load", lambda *a, **k: pytest.fail("read whole"))
    assert run_outcome(run, tmp_path / "results/h2/runs/r_0.8").state == "stale"


def test_status_archive_and_python_compare_with_the_spec_files(tmp_path: Path) -> None:
    finished(tmp_path)
    results = tmp_path / "results"
    folder = results / "h2/runs/r_1.4"
    assert {state.state for state in run_states(folder)} == {"done"}
    assert ferminet_core.open(results / "h2").runs["r_1.4"].energy < -1.0
    write_specs(edited(tmp_path, *UNITS), results)
    states = run_states(folder)
    assert {state.state for state in states} == {"stale"}
    assert states[0].reason.startswith("computed with H1-H2 = 1.4 bohr")
    run = ferminet_core.open(results / "h2").runs["r_1.4"]
    assert run.state == "stale"
    with pytest.raises(InputError, match=r"stale: computed with H1-H2 = 1\.4 bohr"):
        _ = run.energy
    with pytest.raises(InputError, match="not finished: r_"):
        archive(results / "h2", tmp_path / "h2.tar", print)


def test_conventional_energies_belong_to_geometry_and_basis(tmp_path: Path) -> None:
    asked = (
        "overrides: {conventional: {methods: [uhf, fci], basis: [%s], extrapolate: true}}\npreset"
    )
    scan = edited(tmp_path, "preset", asked % "cc-pvtz, cc-pvqz")
    run, folder = scan.runs[0], tmp_path / "results/h2/runs/r_0.8"
    bases = ("cc-pvtz", "cc-pvqz", "cbs(t,q)")
    save_conventional(folder, {("uhf", name): -1.0 for name in bases})
    path = folder / "conventional.zarr.zip"
    stored = artefacts.load(path)
    artefacts.save(stored.assign_attrs(spec=run.model_dump_json()), path)
    outcome = run_outcome(run, folder)
    assert outcome.conventional is not None
    assert list(outcome.conventional["basis"].values) == list(bases)
    assert outcome.conventional_reason == "not computed yet: method fci"
    # The limit from other sets has the same name.
    core = edited(tmp_path, "preset", asked % "cc-pcvtz, cc-pcvqz").runs[0]
    outcome = run_outcome(core, folder)
    assert outcome.conventional is not None
    assert list(outcome.conventional["basis"].values) == ["cc-pvtz", "cc-pvqz"]
    assert outcome.conventional_reason.endswith("basis cc-pCVTZ, basis cc-pCVQZ, basis CBS(T,Q)")
    moved = make_scan(
        tmp_path, SYSTEM.replace("preset", asked % "cc-pvtz, cc-pvqz").replace(*UNITS)
    )
    outcome = run_outcome(moved.runs[0], folder)
    assert outcome.conventional is None
    assert outcome.conventional_reason == "stale: computed for another molecule"


def test_published_energies_keep_to_the_unit_of_their_column(tmp_path: Path) -> None:
    write_literature(tmp_path)
    text = SYSTEM + LITERATURE
    scan = make_scan(tmp_path, text)
    found = summarise(scan, {})
    assert found.warnings == []
    assert found.table["ref_exact_Eh"].notna().all()
    found = summarise(make_scan(tmp_path, text.replace(*UNITS)), {})
    assert found.warnings[0] == (
        "literature 'exact': its column R_bohr is in bohr, the parameter R in angstrom; its "
        "columns stay empty"
    )
    assert found.table["ref_exact_Eh"].isna().all()
    assert all(not entry.curves for entry in found.published)

"""The table of a scan, its comparison with literature, and the constants of its curve."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers.scans import (
    ATOMS,
    BOND,
    DEPTH,
    H2,
    LITHIUM,
    QUANTITIES,
    inference_attributes,
    make_scan,
    morse,
    rows,
    rows_of,
    save_conventional,
    save_run,
    write_literature,
)

from ferminet_core.analysis.summary import RunOutcome, summarise
from ferminet_core.errors import InputError
from ferminet_core.inputs.scan import Scan
from ferminet_core.report import plots, scan_files
from ferminet_core.runner.work_files import StatusWriter
from ferminet_core.storage import artefacts, files
from ferminet_core.storage.lease import Lease
from ferminet_core.units import BOHR_IN_ANGSTROM

GRID = [0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0]

COLUMNS = [  # fixed: other tools read them
    *("run_id", "geometry", "variant", "R", "state", "energy_Eh", "error_Eh"),
    *("left_Eh", "left_error_Eh", "variance_Eh2"),
    *("tau", "rhat", "s2", "s2_error", "n_nonfinite", "n_outliers", "pmove", "hf_Eh", "hf_method"),
    *("n_opt", "n_samples", "neighbour", "start", "wall_s", "node_h", "verdict"),
    *("molecule", "total_charge", "spin_2S", "pseudopotential"),
]
CURVE_AND_ATOM = """
units: angstrom
preset: smoke
geometries:
  - name: h2
    atoms: ["H 0 0 -R/2", "H 0 0 R/2"]
    parameters: {R: [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]}
  - {name: h, atoms: ["H 0 0 0"], spin: 1}
variants:
  - {name: kfac}
  - {name: adam, overrides: {optimise.optimiser: adam}}
"""


def done(energy: float, **changes: Any) -> RunOutcome:
    reference = {"e_hf": energy + 0.04, "method": "rhf"}
    attributes = inference_attributes(energy, **changes)
    return RunOutcome("done", "", attributes, reference, 60.0, 1 / 60, settled(energy))


def settled(energy: float) -> dict[str, np.ndarray]:
    """Series of a converged optimisation; the error of its fall is 0.25 mEh."""
    noise = np.random.default_rng(0).standard_normal(400)
    return {
        "energy_Eh": energy + 1e-3 * noise,
        "variance_Eh2": 0.01 + 0.2 * np.exp(-np.arange(400) / 40.0),
        "pmove": np.full(400, 0.52),
        "n_nonfinite": np.zeros(400),
        "n_frozen": np.zeros(400),
    }


def outcomes_on_the_curve(scan: Scan, shift: float = 0.0) -> dict[str, RunOutcome]:
    return {run.run_id: done(morse(run.parameters["R"]) + shift) for run in scan.runs}


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    write_literature(tmp_path)
    return make_scan(tmp_path)


def test_columns_are_the_published_ones(scan: Scan) -> None:
    summary = summarise(scan, outcomes_on_the_curve(scan))
    assert list(summary.table.columns) == [*COLUMNS, "ref_exact_Eh", "ref_other_Eh"]
    row = rows(summary)[1.4]
    assert row["energy_Eh"] == morse(1.4)
    assert row["hf_Eh"] == morse(1.4) + 0.04
    assert (row["state"], row["verdict"], row["hf_method"]) == ("done", "converged", "rhf")
    assert (row["n_opt"], row["n_samples"], row["n_outliers"]) == (2000, 1000, 2)
    assert (row["wall_s"], row["node_h"]) == (60.0, 1 / 60)


def test_literature_is_matched_by_number_within_rounding(scan: Scan) -> None:
    summary = summarise(scan, outcomes_on_the_curve(scan))
    for r, row in rows(summary).items():
        assert row["ref_exact_Eh"] == pytest.approx(morse(r), abs=1e-12)
        assert row["ref_other_Eh"] == pytest.approx(morse(r) + 1e-3 * r, abs=1e-12)
    assert summary.warnings == []
    errors = summary.dataset["ref_other_error_Eh"].values
    np.testing.assert_array_equal(errors, np.full(len(GRID), 2e-4))


def test_runs_that_are_not_done_keep_their_row_with_empty_values(scan: Scan) -> None:
    outcomes = outcomes_on_the_curve(scan)
    ids = {run.parameters["R"]: run.run_id for run in scan.runs}
    outcomes[ids[2.0]] = RunOutcome("failed", "optimise: NaN in the energy")
    outcomes[ids[2.5]] = RunOutcome("running", reference={"e_hf": -1.0, "method": "uhf"})
    del outcomes[ids[3.0]]
    summary = summarise(scan, outcomes)
    table = rows(summary)
    assert [table[r]["state"] for r in (2.0, 2.5, 3.0)] == ["failed", "running", "waiting"]
    assert all(np.isnan(table[r]["energy_Eh"]) for r in (2.0, 2.5, 3.0))
    assert table[2.0]["verdict"] == "optimise: NaN in the energy"
    assert (table[2.5]["hf_Eh"], table[2.5]["hf_method"]) == (-1.0, "uhf")
    assert table[2.0]["ref_exact_Eh"] == pytest.approx(morse(2.0))
    text = summary.table.to_csv(index=False).splitlines()
    assert text[1 + GRID.index(3.0)].startswith(f"{ids[3.0]},{ids[3.0]},,3.0,waiting,,,,,")
    assert summary.derived["states"] == {"done": 6, "failed": 1, "running": 1, "waiting": 1}
    assert summary.derived["curves"][0]["n_points"] == 6


def test_nothing_done_yet(scan: Scan, tmp_path: Path) -> None:
    lines = scan_files.write_summary(scan, tmp_path / "results")
    assert lines[0] == f"h2: {len(GRID)} runs ({len(GRID)} waiting)"
    assert (tmp_path / "results" / "h2" / "curve.svg").exists()
    table = pd.read_csv(tmp_path / "results" / "h2" / "scan.csv")
    assert set(table["state"]) == {"waiting"}


def test_missing_or_unfit_literature_is_a_warning_and_empty_columns(tmp_path: Path) -> None:
    scan = make_scan(tmp_path)  # the file was never written
    summary = summarise(scan, outcomes_on_the_curve(scan))
    assert len(summary.warnings) == 2
    assert "h2.csv cannot be read (No such file or directory)" in summary.warnings[0]
    assert summary.table["ref_exact_Eh"].isna().all()
    assert summary.derived["curves"][0]["non_parallelity"] == {}
    for content, words in (
        ("R,E\n1.4,-1.17\n", "has no column 'value'"),
        ("", "is not a table"),
        ('R_bohr,method,value,error,unit\n1.4,"exact,-1', "is not a table"),
        ("R_bohr,method,value,error,unit\n1.4,exact,-31.9,0,eV\n", "units other than hartree"),
        ("R_bohr,method,value,error,unit\n9.9,exact,-1.0,0,Eh\n", "matches any run"),
        (
            "R_bohr,method,value,error,unit\n1.4,exact,-1.0,0,Eh\n1.4,exact,-1.1,0,Eh\n",
            "2 different values",
        ),
    ):
        (tmp_path / "h2.csv").write_text(content)
        summary = summarise(scan, outcomes_on_the_curve(scan))
        assert words in summary.warnings[0]
        assert summary.table["ref_exact_Eh"].isna().all()


def test_energies_below_an_exact_reference_are_flagged(scan: Scan) -> None:
    flagged = summarise(scan, outcomes_on_the_curve(scan, shift=-6e-4))  # six errors below
    assert set(flagged.derived["flagged"]) == {run.run_id for run in scan.runs}
    verdict = str(flagged.table.loc[0, "verdict"])
    assert "0.60 mEh (6.0 sigma) below exact (test)" in verdict
    # `other` lies up to 4 mEh higher, but it is a method and not exact.
    assert "other" not in verdict
    for shift in (-4e-4, 6e-4):
        fine = summarise(scan, outcomes_on_the_curve(scan, shift))
        assert fine.derived["flagged"] == {}


def test_flags_of_the_inference_reach_the_verdict(scan: Scan) -> None:
    outcomes = outcomes_on_the_curve(scan)
    first, second = scan.runs[0].run_id, scan.runs[1].run_id
    flags = json.dumps(["40 local energies are not finite"])
    outcomes[first] = done(-1.0, flags=flags, flags_sampling=flags, n_nonfinite=40)
    outcomes[second] = done(-1.0, energy_Eh=float("nan"))
    summary = summarise(scan, outcomes)
    assert "40 local energies are not finite" in str(summary.table.loc[0, "verdict"])
    assert summary.table.loc[0, "n_nonfinite"] == 40
    assert summary.table.loc[1, "verdict"] == "suspect: the energy is not a number"
    assert summary.derived["curves"][0]["n_points"] == len(GRID) - 1


def test_single_energies_that_are_not_finite_are_counted_only(scan: Scan) -> None:
    """Earlier versions flagged the first one: 3 of 256000 say nothing."""
    outcomes = outcomes_on_the_curve(scan)
    first = scan.runs[0].run_id
    flags = json.dumps(["3 local energies are not finite"])
    clean = outcomes[first].inference
    spoiled = {**clean, "flags": flags, "flags_sampling": flags, "n_nonfinite": 3}
    outcomes[first] = outcomes[first]._replace(inference=spoiled)
    summary = summarise(scan, outcomes)
    assert (summary.table.loc[0, "verdict"], summary.table.loc[0, "n_nonfinite"]) == (
        "converged",
        3,
    )
    assert summary.derived["flagged"] == {}


def test_the_accuracy_of_a_scan_decides_on_its_errors(tmp_path: Path) -> None:
    write_literature(tmp_path)
    texts = []
    for wanted in ("1.0e-3", "2.0e-5"):
        folder = tmp_path / wanted
        folder.mkdir()
        scan = make_scan(folder, f"{H2}overrides: {{inference.accuracy: {wanted}}}\n")
        texts.append(str(summarise(scan, outcomes_on_the_curve(scan)).table.loc[0, "verdict"]))
    # An error of 0.1 mEh over 1000 records: 24 times as many more.
    assert texts[0] == "converged"
    assert texts[1].startswith("not converged: run ")
    assert "and 24000 more records are needed" in texts[1]


def test_the_rates_of_adam_are_no_imaginary_time(tmp_path: Path) -> None:
    write_literature(tmp_path)
    texts = {}
    for optimiser in ("adam", "spring"):
        folder = tmp_path / optimiser
        folder.mkdir()
        scan = make_scan(folder, f"{H2}overrides: {{optimise.optimiser: {optimiser}}}\n")
        outcomes = outcomes_on_the_curve(scan)
        first = scan.runs[0].run_id
        series = {**outcomes[first].optimisation, "learning_rate": np.full(400, 1e-4)}
        outcomes[first] = outcomes[first]._replace(optimisation=series)
        texts[optimiser] = str(summarise(scan, outcomes).table.loc[0, "verdict"])
    assert texts["adam"] == "converged"
    assert "as the rates of the last 200 iterations sum to 0.02" in texts["spring"]


def test_the_estimate_of_what_is_left_is_in_the_table(scan: Scan) -> None:
    """E = E_0 + 0.2 variance, which ends at 0.01 hartree^2."""
    outcomes = outcomes_on_the_curve(scan)
    first = scan.runs[0].run_id
    series = settled(0.0)
    energy = outcomes[first].inference["energy_Eh"] - 2e-3 + 0.2 * series["variance_Eh2"]
    noise = 1e-4 * np.random.default_rng(1).standard_normal(400)
    series |= {"energy_Eh": energy + noise, "error_Eh": np.full(400, 1e-4)}
    outcomes[first] = outcomes[first]._replace(optimisation=series)
    table = summarise(scan, outcomes).table
    left, error = (float(table[name].to_numpy()[0]) for name in ("left_Eh", "left_error_Eh"))
    # The error is at least the inference's, 0.1 mEh; four of it.
    assert left == pytest.approx(2e-3, abs=4 * error)
    assert 1e-4 < error < 4e-4
    assert "mEh are left, by the energy against the variance" in str(table.loc[0, "verdict"])
    assert np.isnan(table["left_Eh"].to_numpy()[1])


def test_verdicts_reach_the_table_the_details_and_the_terminal(scan: Scan) -> None:
    outcomes = outcomes_on_the_curve(scan)
    falling, off = scan.runs[2].run_id, scan.runs[4].run_id
    energy = outcomes[falling].inference["energy_Eh"]
    series = settled(energy) | {"energy_Eh": energy + np.linspace(0.02, 0.0, 400)}
    outcomes[falling] = outcomes[falling]._replace(optimisation=series)
    outcomes[off] = done(morse(scan.runs[4].parameters["R"]) + 0.02)
    del outcomes[scan.runs[8].run_id]
    summary = summarise(scan, outcomes)
    texts = dict(zip(summary.table["run_id"], summary.table["verdict"], strict=True))
    assert texts[falling].startswith("not converged: run ")
    assert re.match(
        r"suspect: the energy lies 2\d mEh \(.* errors\) above the prediction", texts[off]
    )
    assert texts[scan.runs[8].run_id] == ""
    details = summary.derived["verdicts"]
    assert set(details) == set(outcomes)
    assert details[falling]["more_iterations"] > 0
    # The other points have no noise: the prediction from them is good to its error or better.
    smoothness = details[off]["rules"]["smoothness"]
    assert abs(smoothness["deviation_Eh"] - 0.02) < smoothness["error_Eh"] < 1e-3
    lines = scan_files.describe(summary)
    assert "6 of 8 finished runs converged" in lines
    assert [line for line in lines if line.startswith((falling, off))] == [
        f"{falling}: {texts[falling]}",
        f"{off}: {texts[off]}",
    ]


def test_bond_length_and_frequency_of_a_morse_curve(scan: Scan) -> None:
    curve = summarise(scan, outcomes_on_the_curve(scan)).derived["curves"][0]
    for key, truth in (("r_e_bohr", BOND), ("minimum_Eh", -1.0 - DEPTH)):
        assert abs(curve[key]["value"] - truth) < 2 * curve[key]["error"]
        assert curve[key]["error_statistical"] > 0
    # omega = a sqrt(2 D / mu) = 4349.1 cm^-1; test_potential_curve.py has the coverage.
    assert abs(curve["omega_e_inverse_cm"]["value"] - 4349.1) < (
        2 * curve["omega_e_inverse_cm"]["error"]
    )
    assert curve["D_e_refused"] == "no finished run of the free atom H"


def test_no_minimum_is_refused_with_a_reason(tmp_path: Path) -> None:
    text = H2.replace("[0.8, 1.0, 1.2, 1.4, 1.7, ", "[")
    scan = make_scan(tmp_path, text)
    curve = summarise(scan, outcomes_on_the_curve(scan)).derived["curves"][0]
    assert curve["refused"] == "a fit needs at least 5 points, found 4"
    assert "r_e_bohr" not in curve


def test_non_parallelity_against_each_literature_curve(scan: Scan) -> None:
    summary = summarise(scan, outcomes_on_the_curve(scan, shift=2e-3))
    npe = summary.derived["curves"][0]["non_parallelity"]
    # A constant shift is parallel; against `other` the deviation falls by 1 mEh per bohr.
    assert npe["exact"]["value_Eh"] == pytest.approx(0.0, abs=1e-9)
    assert npe["other"]["value_Eh"] == pytest.approx((4.0 - 0.8) * 1e-3, abs=1e-9)
    # Two ends with 0.1 mEh each; other points lie too far inside to matter much.
    assert npe["other"]["error_Eh"] == pytest.approx(np.sqrt(2) * 1e-4, rel=0.1)


def test_depth_only_against_atoms_that_were_run(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, ATOMS, "lih")
    ids = {len(run.molecule.symbols) * run.molecule.symbols[0]: run.run_id for run in scan.runs}
    outcomes = {
        ids["LiLi"]: done(-8.0705),  # the molecule: two symbols, lithium first
        ids["Li"]: done(-7.4780, error_Eh=3e-4),
        ids["H"]: done(-0.5, error_Eh=0.0),
    }
    summary = summarise(scan, outcomes)
    depth = summary.derived["atomisation"]
    assert list(depth) == [ids["LiLi"]]
    assert depth[ids["LiLi"]]["value_Eh"] == pytest.approx(8.0705 - 7.4780 - 0.5)
    assert depth[ids["LiLi"]]["error_Eh"] == pytest.approx(np.hypot(1e-4, 3e-4))
    assert summary.derived["curves"] == []
    outcomes[ids["H"]] = RunOutcome("running")
    assert summarise(scan, outcomes).derived["atomisation"] == {}


@pytest.mark.parametrize(
    ("atoms", "unit"),
    [
        ("[H 0 0 0, H 0 0 R, H 0 0 2*R]", "bohr"),
        ("[O 0 0 0, H 0 0 1.8, H 0 1.8*sin(R) 1.8*cos(R)]", ""),
        ("[H 0 0 0, H 0 0 1.4, H 0 0 1.4+R]", ""),  # the longer of two bonds
    ],
)
def test_the_unit_of_a_parameter_is_that_of_the_shortest_bond(
    tmp_path: Path, atoms: str, unit: str
) -> None:
    text = f"units: bohr\natoms: {atoms}\nspin: {int('O' not in atoms)}\npreset: smoke\n"
    scan = make_scan(tmp_path, text + "parameters: {R: [1.5, 2.0]}\n")
    outcomes = {run.run_id: done(-1.0) for run in scan.runs}
    assert summarise(scan, outcomes).parameter_unit == unit


def test_each_variant_has_its_own_curve_and_depth(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, CURVE_AND_ATOM, "h2_h")
    shift = {"kfac": 0.0, "adam": 5e-3}
    outcomes = {}
    for run in scan.runs:
        r = run.parameters.get("R")
        energy = -0.5 if r is None else morse(r / BOHR_IN_ANGSTROM)
        outcomes[run.run_id] = done(energy + (r is not None) * shift[run.variant])
    summary = summarise(scan, outcomes)
    assert (summary.parameter, summary.parameter_unit) == ("R", "angstrom")
    assert [curve["variant"] for curve in summary.derived["curves"]] == ["kfac", "adam"]
    for curve in summary.derived["curves"]:
        assert curve["n_points"] == 7  # the atom is not a point of the curve
        assert abs(curve["r_e_bohr"]["value"] - BOND) < 2 * curve["r_e_bohr"]["error"]
        depth = curve["D_e_Eh"]
        truth = DEPTH - shift[curve["variant"]]
        # Twice the error of the one atom, 0.1 mEh, plus that of the minimum.
        assert depth["error_statistical"] > 2e-4
        assert abs(depth["value"] - truth) < 2 * depth["error"]


def test_quantities_and_correlation_energy_of_several_runs(tmp_path: Path) -> None:
    (tmp_path / "li.csv").write_text(LITHIUM)
    scan = make_scan(tmp_path, QUANTITIES, "li")
    outcomes = {
        "li+kfac": done(-7.49, error_Eh=3e-4, hf_Eh=-7.4),
        "li++kfac": done(-7.29, error_Eh=4e-4, hf_Eh=-7.2),
        "li+adam": done(-7.45, error_Eh=1e-3, hf_Eh=-7.4),
    }
    assert set(outcomes) < {run.run_id for run in scan.runs}
    summary = summarise(scan, outcomes)
    records = summary.quantities.to_dict("records")
    found = {(row["quantity"], row["variant"]): row for row in records}
    # With adam the cation is missing, so there is no ionization potential.
    assert list(found) == [("ip", "kfac"), ("twice", "kfac"), ("twice", "adam")]
    ip = found["ip", "kfac"]
    rounding = 1e-12
    assert ip["value_Eh"] == pytest.approx(0.2, abs=rounding)
    assert ip["error_Eh"] == pytest.approx(5e-4, abs=rounding)  # a triangle of 3, 4, 5
    assert ip["hf_Eh"] == pytest.approx(0.2, abs=rounding)
    assert ip["ref_exact_Eh"] == pytest.approx(0.2, abs=rounding)
    assert np.isnan(ip["ref_limit_Eh"])  # not known of the cation
    assert ip["published_Eh"] == 0.19814
    assert found["twice", "adam"]["error_Eh"] == pytest.approx(2e-3, abs=rounding)
    share = summary.derived["correlation"]
    assert set(share) == {"li+kfac", "li+adam"}
    assert share["li+kfac"] == pytest.approx({"percent": 90.0, "error": 0.3}, abs=100 * rounding)


@pytest.mark.parametrize(
    ("found", "wanted", "line"),
    [
        ("li+: 1,", "lit: 1,", "of.lit: unknown geometry 'lit'"),
        ("exact: exact}", "exact: exacto}", "correlation.exact: unknown literature 'exacto'"),
        ("name: twice", "name: ip", "quantity 'ip' is given twice"),
    ],
)
def test_quantities_of_what_is_not_there_are_refused(
    tmp_path: Path, found: str, wanted: str, line: str
) -> None:
    with pytest.raises(InputError, match=re.escape(line)):
        make_scan(tmp_path, QUANTITIES.replace(found, wanted), "li")


def write_status(folder: Path, stage: str, state: str, age: timedelta, reason: str = "") -> None:
    writer = StatusWriter(folder / f"{stage}.work", stage, 100)
    writer.update(state, 40, reason=reason)
    status = files.read_json(writer.path)
    assert status is not None
    heartbeat = (datetime.now(UTC) - age).isoformat(timespec="seconds")
    files.write_json(writer.path, status | {"heartbeat": heartbeat})


def test_a_half_finished_scan_from_its_files(scan: Scan, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "h2"
    runs = {run.parameters["R"]: folder / "runs" / run.run_id for run in scan.runs}
    for r in GRID[:5]:
        save_run(runs[r], morse(r))
    # A failure before a successful attempt does not count.
    write_status(runs[0.8], "inference", "failed", timedelta(days=1), "killed")
    write_status(runs[2.0], "optimise", "broken", timedelta(days=1), "NaN in the energy")
    write_status(runs[2.5], "optimise", "running", timedelta(seconds=3))
    write_status(runs[3.0], "optimise", "running", timedelta(days=1))
    save_run(runs[4.0], morse(4.0))
    damaged = runs[4.0] / "inference.zarr.zip"
    damaged.write_bytes(damaged.read_bytes()[:-100])

    with Lease(runs[2.5] / "optimise.work").acquire(lambda: "no", print):
        lines = scan_files.write_summary(scan, tmp_path / "results")
    assert lines[0] == "h2: 9 runs (1 broken, 5 done, 1 failed, 1 resumable, 1 running)"
    assert any(line.startswith("r_e = 1.") for line in lines)  # five points around the minimum
    table = rows_of(pd.read_csv(folder / "scan.csv"))
    assert [table[r]["state"] for r in GRID] == ["done"] * 5 + [
        "broken",
        "running",
        "resumable",
        "failed",
    ]
    assert table[2.0]["verdict"] == "optimise: NaN in the energy"
    assert table[2.5]["verdict"] == "optimise: step 40 of 100"
    assert table[3.0]["verdict"].startswith("optimise: stopped without a message, last seen 20")
    assert "damaged or cut short" in table[4.0]["verdict"]
    assert table[1.4]["energy_Eh"] == pytest.approx(morse(1.4), abs=1e-15)
    assert table[1.4]["wall_s"] == 36.0

    ds = artefacts.load(folder / "scan.zarr.zip")
    assert ds.sizes == {"run": 9}
    assert {"run_id", "geometry", "variant", "R", "state"} <= set(ds.coords)
    assert ds["energy_Eh"].attrs["units"] == "hartree"
    assert ds["variance_Eh2"].attrs["units"] == "hartree^2"
    assert ds["ref_exact_Eh"].attrs["kind"] == "exact"
    assert ds["R"].attrs["units"] == "bohr"
    assert np.isnan(ds["energy_Eh"].values[5:]).all()
    derived = files.read_json(folder / "summary.json")
    assert derived is not None
    assert derived["states"] == dict.fromkeys(("broken", "failed", "resumable", "running"), 1) | {
        "done": 5
    }


def test_conventional_energies_reach_dataset_and_picture(scan: Scan, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "h2"
    runs = {run.parameters["R"]: folder / "runs" / run.run_id for run in scan.runs}
    for r, run in runs.items():
        save_run(run, morse(r))
        if r < 3.0:  # two runs do not ask for any
            energies = {("uccsd(t)", "ccpvtz"): morse(r) + 0.02, ("fci", "cbs(t,q)"): morse(r)}
            save_conventional(run, energies)
    # A damaged file of conventional energies leaves the run done.
    damaged = runs[0.8] / "conventional.zarr.zip"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    lines = scan_files.write_summary(scan, tmp_path / "results")
    assert lines[0] == "h2: 9 runs (9 done)"
    (fault, *refused) = [line for line in lines if line.startswith("warning: no conventional ")]
    assert fault.startswith(f"warning: no conventional energies of {runs[0.8].name}: {damaged}: ")
    first = runs[1.0].name
    assert refused == [
        f"warning: no conventional {method} of 6 runs, {first} first: refused"
        for method in ("FCI/cc-pVTZ", "UCCSD(T)/CBS(T,Q)")
    ]
    ds = artefacts.load(folder / "scan.zarr.zip")
    found = {name for name, variable in ds.data_vars.items() if "method" in variable.attrs}
    assert found == {"uccsd_t_ccpvtz_Eh", "fci_cbstq_Eh"}  # and none that no run has
    asked = np.array([1.0 <= r < 3.0 for r in GRID])
    expected = np.where(asked, [morse(r) + 0.02 for r in GRID], np.nan)
    np.testing.assert_array_equal(ds["uccsd_t_ccpvtz_Eh"], expected)
    assert ds["uccsd_t_ccpvtz_Eh"].attrs["units"] == "hartree"
    svg = (folder / "curve.svg").read_text()
    for text in ("UCCSD(T)/cc-pVTZ", "FCI/CBS(T,Q)", "HF", "FermiNet"):
        assert svg.count(f">{text}<") == 1
    assert svg.count("UCCSD(T)") == svg.count("FCI") == 1


def test_residuals_of_conventional_methods_are_drawn(scan: Scan, tmp_path: Path) -> None:
    """Residuals that are not far widen the limits of the axis; others do not."""
    outcomes = outcomes_on_the_curve(scan)
    for run in scan.runs:
        folder = tmp_path / "results" / "h2" / "runs" / run.run_id
        energy = morse(run.parameters["R"])
        save_conventional(
            folder, {("uhf", "cc-pvdz"): energy + 0.2, ("fci", "cc-pvdz"): energy + 0.01}
        )
        conventional = artefacts.load(folder / "conventional.zarr.zip")
        outcomes[run.run_id] = outcomes[run.run_id]._replace(conventional=conventional)
    figure = plots._curve_figure(summarise(scan, outcomes))
    upper, lower = figure.axes
    heights = [np.asarray(line.get_ydata(), dtype=float) for line in lower.lines]
    flat = [y[0] for y in heights if len(y) == len(GRID) and np.ptp(y) < 1e-9]
    far_up = sorted(y for y in flat if y > 1.0)  # mEh; others are of the results, and their bars
    np.testing.assert_allclose(far_up, np.array([10.0, 200.0]), atol=1e-9)
    assert 10.0 < lower.get_ylim()[1] < 20.0
    labels = upper.get_legend_handles_labels()[1]
    assert [label for label in labels if "/" in label] == ["UHF/cc-pVDZ", "FCI/cc-pVDZ"]


def test_conventional_energies_of_single_runs_are_markers(tmp_path: Path) -> None:
    atoms = make_scan(tmp_path, ATOMS, "lih")
    outcomes = {}
    for run in atoms.runs[:2]:
        folder = tmp_path / "results" / "lih" / "runs" / run.run_id
        save_conventional(folder, {("fci", "cc-pvtz"): -7.03})
        conventional = artefacts.load(folder / "conventional.zarr.zip")
        outcomes[run.run_id] = done(-7.04)._replace(conventional=conventional)
    (axes,) = plots._rows_figure(summarise(atoms, outcomes)).axes
    (line,) = [line for line in axes.lines if line.get_label() == "FCI/cc-pVTZ"]
    # Relative to Hartree-Fock at -7.00 hartree, as no energy is published; the third run has none.
    shown = np.asarray(line.get_xdata(), dtype=float)
    np.testing.assert_allclose(shown, np.array([-30.0, -30.0, np.nan]))
    np.testing.assert_array_equal(line.get_ydata(), [0, 1, 2])
    assert line.get_linestyle() == "None"


def test_the_dataset_holds_nothing_that_changes_from_host_to_host(scan: Scan) -> None:
    outcomes = outcomes_on_the_curve(scan)
    slower = {k: o._replace(wall_s=1e5, node_h=30.0) for k, o in outcomes.items()}
    xr.testing.assert_identical(summarise(scan, outcomes).dataset, summarise(scan, slower).dataset)


def test_pictures_of_a_curve_and_of_single_runs(scan: Scan, tmp_path: Path) -> None:
    for run in scan.runs:
        save_run(tmp_path / "results" / "h2" / "runs" / run.run_id, morse(run.parameters["R"]))
    scan_files.write_summary(scan, tmp_path / "results")
    svg = (tmp_path / "results" / "h2" / "curve.svg").read_text()
    for text in ("R (bohr)", "energy (hartree)", "exact (test)", "HF", "FermiNet"):
        assert f">{text}<" in svg
    assert "chemical accuracy (±1.6 mEh)" in svg
    png = (tmp_path / "results" / "h2" / "curve.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    # The same results give the same picture, byte for byte.
    scan_files.write_summary(scan, tmp_path / "results")
    assert (tmp_path / "results" / "h2" / "curve.svg").read_text() == svg

    atoms = make_scan(tmp_path, ATOMS, "lih")
    save_run(tmp_path / "results" / "lih" / "runs" / atoms.runs[0].run_id, -8.07)
    scan_files.write_summary(atoms, tmp_path / "results")
    svg = (tmp_path / "results" / "lih" / "curve.svg").read_text()
    assert ">lih<" in svg
    assert ">h (waiting)<" in svg

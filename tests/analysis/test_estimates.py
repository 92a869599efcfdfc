"""Figures from raw series, and from stored ones."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from helpers.scans import make_scan
from helpers.series import ar1, healthy, optimisation, raw_series

from ferminet_core.analysis import estimates
from ferminet_core.analysis.estimates import Conditions, figures
from ferminet_core.analysis.statistics import reblock
from ferminet_core.errors import ArtefactError, RecomputeError
from ferminet_core.inputs.observable_table import OBSERVABLES
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.scan import Scan
from ferminet_core.report import scan_files
from ferminet_core.report.run_outcomes import run_outcome
from ferminet_core.stages import optimise
from ferminet_core.storage import artefacts

SYSTEM = """
units: bohr
atoms: ["H 0 0 -R/2", "H 0 0 R/2"]
parameters: {R: [1.4, 2.0]}
preset: smoke
"""


def save_run(folder: Path, run: RunSpec, **changes: Any) -> None:
    """Save the artefacts of a run, with a healthy series that depends on its seed."""
    seed = run.stage_seed("bootstrap")
    series = raw_series(healthy(seed=seed))
    attrs = {
        "stage": "inference",
        "spec": run.model_dump_json(),
        "equilibrated": 1,
        "neighbour": "",
        "n_opt": 400,
        "hf_Eh": -0.95,
        "hf_method": "rhf",
        **figures(series, Conditions(seed, run.molecule.spin, True, True, 0)),
    }
    dims = {
        "energy_local": ("sample", "walker"),
        "equilibration_Eh": ("equilibration",),
        "pmove": ("sample",),
        **{o.name: o.dims for o in OBSERVABLES},
    }
    variables: dict[str, Any] = {name: (dims[name], values) for name, values in series.items()}
    variables["walkers"] = (("kept", "walker", "electron", "xyz"), np.zeros((1, 64, 2, 3)))
    energy = float(attrs["energy_Eh"]) + 1e-3 * np.random.default_rng(2).standard_normal(400)
    optimised = dict.fromkeys(optimise.Stats._fields, np.zeros(400)) | optimisation(energy)
    steps = {name: ("step", values) for name, values in optimised.items()}
    folder.mkdir(parents=True)
    artefacts.save(xr.Dataset(variables, attrs=attrs | changes), folder / "inference.zarr.zip")
    before = {"n_rollbacks": 0, "pretrain_converged": 1}
    artefacts.save(xr.Dataset(steps, attrs=before), folder / "optimise.zarr.zip")
    reference = {"e_hf": -0.95, "method": "rhf", "s2": 0.0}
    artefacts.save(xr.Dataset(attrs=reference), folder / "reference.zarr.zip")


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return make_scan(tmp_path, SYSTEM)


def test_figures_of_a_series() -> None:
    series = raw_series(healthy())
    found = figures(series, Conditions(1, 0, True, True, 0))
    assert found["energy_Eh"] == pytest.approx(series["energy_local"].mean(), rel=1e-14)
    assert found["variance_Eh2"] == pytest.approx(series["energy_local"].var(), rel=1e-12)
    assert found["dipole_y"] == pytest.approx(series["dipole"][:, 1].mean(), rel=1e-12)
    assert (found["n_samples"], found["n_walkers"], found["n_equilibration"]) == (1000, 64, 100)
    assert (found["flags"], found["flags_sampling"]) == ("[]", "[]")
    flagged = figures(series, Conditions(1, 2, False, False, 3))
    assert json.loads(flagged["flags_sampling"]) == ["not in equilibrium after 100 records"]
    flags = json.loads(flagged["flags"])
    assert flags[1] == "pretraining ended before its criterion was met"
    assert "-2.000 from that of the spin asked for" in flags[2]
    assert flags[3] == "the optimisation went back 3 times over numerical accidents"
    # Nothing but the flags depends on these conditions.
    assert {k: v for k, v in flagged.items() if "flags" not in k} == {
        k: v for k, v in found.items() if "flags" not in k
    }


def test_recomputed_figures_are_the_stored_ones_bit_by_bit(scan: Scan, tmp_path: Path) -> None:
    results = tmp_path / "results"
    for run in scan.runs:
        save_run(results / "h2" / "runs" / run.run_id, run)
    lines = scan_files.write_summary(scan, results)
    assert "2 of 2 finished runs converged" in lines
    table = (results / "h2" / "scan.csv").read_bytes()
    dataset = artefacts.load(results / "h2" / "scan.zarr.zip")
    lines = scan_files.write_summary(scan, results, recompute=True)
    assert lines[-1] == "recomputed: the stored figures of 2 runs follow from their series"
    assert (results / "h2" / "scan.csv").read_bytes() == table
    xr.testing.assert_identical(artefacts.load(results / "h2" / "scan.zarr.zip"), dataset)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("energy_Eh", -1.5),
        ("error_Eh", 1e-7),
        ("rhat", 1.0),
        ("s2", 0.5),
        ("dipole_z_error", 0.0),
        ("n_outliers", 7),
        ("n_opt", 500),
        ("hf_Eh", -0.9500001),
        ("pmove", 0.53),
        ("flags", '["R-hat across walkers is 9.000, above 1.05"]'),
    ],
)
def test_a_tampered_figure_is_named_with_both_values(
    scan: Scan, tmp_path: Path, name: str, wrong: float | str
) -> None:
    folder = tmp_path / "results" / "h2" / "runs"
    first, second = (run.run_id for run in scan.runs)
    save_run(folder / first, scan.runs[0])
    save_run(folder / second, scan.runs[1], **{name: wrong})
    assert run_outcome(scan.runs[0], folder / first, recompute=True).differences == []
    (line,) = run_outcome(scan.runs[1], folder / second, recompute=True).differences
    save_run(folder / "untouched", scan.runs[1])
    right = artefacts.load(folder / "untouched" / "inference.zarr.zip").attrs[name]
    assert line == f"{name} is stored as {wrong!r}, its series give {right!r}"


def test_the_table_has_the_recomputed_figures_and_the_command_fails(
    scan: Scan, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    first, second = scan.runs
    save_run(results / "h2" / "runs" / first.run_id, first)
    path = results / "h2" / "runs" / second.run_id
    save_run(path, second)
    scan_files.write_summary(scan, results)
    table = (results / "h2" / "scan.csv").read_bytes()
    # An edit of the file itself, which the digest contradicts.
    inside = rewrite(path / "inference.zarr.zip", '"rhat"', '"rhat": 7.0, "unused"')
    assert "7.0" in inside
    with pytest.raises(RecomputeError) as caught:
        scan_files.write_summary(scan, results, recompute=True)
    head, line, written = str(caught.value).splitlines()
    assert head == "stored figures differ from their series"
    assert line.startswith(f"{second.run_id}: rhat is stored as 7.0, its series give 1.0")
    assert written.startswith("written: ")
    assert caught.value.exit_code == 65
    assert (results / "h2" / "scan.csv").read_bytes() == table
    # Without --recompute the summary does not read the series, which the digest covers as well.
    with pytest.raises(ArtefactError, match="does not match its digest"):
        artefacts.load(path / "inference.zarr.zip")


def rewrite(path: Path, found: str, wanted: str) -> str:
    """Replace text in the root metadata of an artefact."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text = members["zarr.json"].decode().replace(found, wanted, 1)
    members["zarr.json"] = text.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return text


def test_what_cannot_be_recomputed_fails_its_run_with_a_reason(scan: Scan, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "h2" / "runs" / scan.runs[0].run_id
    run, optimise = scan.runs[0], folder / "optimise.zarr.zip"
    save_run(folder, run)
    artefacts.save(artefacts.load(optimise).drop_attrs(), optimise)
    outcome = run_outcome(run, folder, recompute=True)
    assert outcome.state == "failed"
    assert "inference.zarr.zip: cannot be recomputed" in outcome.reason
    optimise.unlink()
    assert run_outcome(run, folder).state == "done"  # its energy stands, its trend is unknown
    assert run_outcome(run, folder).optimisation == {}


@pytest.mark.parametrize("figures_too", [True, False])
def test_an_observable_that_an_earlier_version_did_not_measure(
    scan: Scan, tmp_path: Path, figures_too: bool
) -> None:
    """It lacks figures after a recomputation as before. A series that is lost is an error."""
    folder = tmp_path / "r"
    save_run(folder, scan.runs[0])
    path = folder / "inference.zarr.zip"
    stored = artefacts.load(path).drop_vars("dipole")
    if figures_too:
        kept = {name: x for name, x in stored.attrs.items() if not name.startswith("dipole")}
        stored = stored.drop_attrs().assign_attrs(kept)
    artefacts.save(stored, path)
    outcome = run_outcome(scan.runs[0], folder, recompute=True)
    assert outcome.differences == ([] if figures_too else ())
    assert (outcome.state, outcome.reason) == (
        ("done", "") if figures_too else ("failed", f"{path}: holds no variable dipole")
    )
    assert "dipole_x" not in outcome.inference


def test_an_observable_without_a_finite_value_has_no_figures() -> None:
    series = raw_series(healthy())
    series["dipole"][:, 1] = np.nan
    found = figures(series, Conditions(1, 0, True, True, 0))
    assert np.isnan([found["dipole_y"], found["dipole_y_error"]]).all()
    assert np.isfinite([found["dipole_x"], found["dipole_x_error"]]).all()


@pytest.mark.parametrize(("length", "bias"), [(0.02, 3), (0.05, 3), (0.1, 3), (0.25, 6)])
def test_drifts_that_the_halves_do_not_show(length: float, bias: float) -> None:
    """exp(-t / T), T in records, that shifts the mean by some of its standard errors.

    The window rule of the equilibration lets the last two pass.
    """
    n_samples, n_walkers, n_series = 1000, 64, 20
    scale = length * n_samples
    shape = np.exp(-np.arange(n_samples) / scale)[:, None]
    # The error of the mean: tau is 3, and the variance of the series 1 / (1 - 1/4).
    error = np.sqrt(3 / 0.75 / (n_samples * n_walkers))
    size = bias * error / shape.mean()
    found = [
        estimates.drift(ar1(0.5, n_samples, n_walkers, seed).T + size * shape).sigmas
        for seed in range(n_series)
    ]
    # All were found in trials; the difference of the halves exceeded 4 errors in one of ten.
    assert np.mean(np.array(found) > estimates.DRIFT_SIGMAS) >= 0.9


def test_records_in_equilibrium_hardly_ever_drift() -> None:
    found = [abs(estimates.drift(ar1(0.5, 320, 64, seed).T).sigmas) for seed in range(400)]
    # 0.4 expected of 400; 5 or more by chance with a probability of 6e-5.
    assert sum(sigmas > estimates.DRIFT_SIGMAS for sigmas in found) < 5
    assert np.isnan(estimates.drift(np.zeros((10, 1))).sigmas)
    assert np.isnan(estimates.drift(np.zeros((1, 8))).sigmas)


def test_what_counts_as_a_difference() -> None:
    derived = {"flags": json.dumps(["a"]), "energy_Eh": float("nan")}
    assert estimates.differences(dict(derived), derived) == []
    assert estimates.differences({"flags": '["a"]'}, derived) == [
        "energy_Eh is stored as None, its series give nan"
    ]
    # A flag of an earlier version that no longer counts.
    flags = {"flags": '["2 local energies are not finite"]', "n_nonfinite": 2, "n_samples": 1000}
    stored = {**flags, "flags_sampling": flags["flags"], "n_walkers": 256}
    assert estimates.differences(stored, {**stored, "flags": "[]", "flags_sampling": "[]"}) == []
    # A relative difference of 1e-12 is rounding, one of 1e-8 is not.
    assert estimates.differences({"energy_Eh": -150.0}, {"energy_Eh": -150.0 * (1 + 1e-12)}) == []
    assert len(estimates.differences({"energy_Eh": -150.0}, {"energy_Eh": -150.000002})) == 1


def test_every_observable_has_figures_and_a_series() -> None:
    """Its entry in the table is all that statistics need of an observable."""
    series = raw_series(healthy())
    found = figures(series, Conditions(1, 0, True, True, 0))
    for observable in OBSERVABLES:
        columns = series[observable.name].reshape(-1, len(observable.figures)).T
        for name, values in zip(observable.figures, columns, strict=True):
            assert found[name] == pytest.approx(values.mean(), rel=1e-12)  # rounding of the sum
            assert found[f"{name}_error"] == reblock(values).error

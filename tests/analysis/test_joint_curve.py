"""Tables of a shared wavefunction's measurements, and the fits that use them."""

from pathlib import Path

import numpy as np
import pytest
from helpers.scans import inference_attributes, morse

from ferminet_core.analysis.joint_curve import (
    SEGMENT,
    SLOPE,
    JointCurve,
    point_table,
    step_table,
)
from ferminet_core.analysis.summary import RunOutcome, Summary, summarise
from ferminet_core.inputs.scan import Scan, load_scan

SHARED = """
units: bohr
atoms: ["H 0 0 -R/2", "H 0 0 R/2"]
parameters: {R: [0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0]}
preset: smoke
sharing: scan
"""


def shared_scan(folder: Path, text: str = SHARED) -> Scan:
    path = folder / "h2.yaml"
    path.write_text(text)
    return load_scan(path)


def point(value: float, **changes: object) -> dict[str, object]:
    row = {"value": value, "bond_bohr": value, "energy_Eh": morse(value), "error_Eh": 1e-4}
    more = {"variance_Eh2": 0.01, "tau": 1.0, "s2": 0.0, "n_samples": 100, "flags": "[]"}
    return row | more | changes


def step(
    kind: str, between: tuple[float, float], ends: tuple[float, float], **changes: object
) -> dict[str, object]:
    row = {"kind": kind, "first": between[0], "last": between[1], "n_segments": 1}
    places = dict(zip(("start", "end"), ends, strict=True))
    bonds = dict(zip(("start_bohr", "end_bohr"), ends, strict=True))
    found = {"difference_Eh": morse(ends[1]) - morse(ends[0]), "error_Eh": 1e-6}
    more = {"effective": 0.9, "n_samples": 100, "reason": ""}
    return row | places | bonds | found | more | changes


def empty(folder: Path) -> JointCurve:
    (group,) = shared_scan(folder).groups
    return JointCurve.of(group, "R")


def measured(folder: Path, noise: float = 0.0, seed: int = 0) -> JointCurve:
    """Slopes at all trained geometries, with errors of `noise` hartree per bohr."""
    curve = empty(folder)
    rng = np.random.default_rng(seed)
    for value in curve.trained.values():
        ends = (value - 0.01, value + 0.01)
        error = 0.02 * max(noise, 1e-5)
        exact = morse(ends[1]) - morse(ends[0])
        changes = {"difference_Eh": exact + error * rng.normal(), "error_Eh": error}
        curve = curve.with_step(**step(SLOPE, (value, value), ends, **changes))
    return curve


def test_a_dataset_has_all_of_it(tmp_path: Path) -> None:
    curve = empty(tmp_path).with_point(**point(1.5)).with_point(**point(1.1, flags='["x"]'))
    curve = curve.with_step(**step(SLOPE, (1.4, 1.4), (1.39, 1.41)))
    (group,) = shared_scan(tmp_path).groups
    again = JointCurve.of(group, "R", curve.dataset())
    assert list(again.points["value"]) == [1.1, 1.5]
    assert again.points.equals(curve.points)
    assert again.steps.equals(curve.steps)
    nothing = JointCurve.of(group, "R", empty(tmp_path).dataset())
    assert nothing.points.empty
    assert nothing.steps.empty


def test_a_later_measurement_replaces_an_earlier_one(tmp_path: Path) -> None:
    curve = empty(tmp_path).with_point(**point(1.5)).with_point(**point(1.5, n_samples=300))
    assert list(curve.points["n_samples"]) == [300]
    slope = step(SLOPE, (1.4, 1.4), (1.39, 1.41))
    curve = curve.with_step(**slope).with_step(**slope)
    assert len(curve.steps) == 1


def test_segments_add_up_to_neighbours(tmp_path: Path) -> None:
    curve = empty(tmp_path)
    for ends in ((1.4, 1.55), (1.55, 1.7)):
        assert curve.neighbours() == []
        curve = curve.with_step(**step(SEGMENT, (1.4, 1.7), ends, n_segments=2, error_Eh=3e-5))
    (found,) = curve.neighbours()
    assert found["difference_Eh"] == pytest.approx(morse(1.7) - morse(1.4), abs=1e-12)
    assert found["error_Eh"] == pytest.approx(3e-5 * np.sqrt(2))
    # One that was refused leaves no sum.
    refused = step(SEGMENT, (1.4, 1.7), (1.55, 1.7), n_segments=2, difference_Eh=np.nan, reason="x")
    assert curve.with_step(**refused).neighbours() == []
    assert curve.without_segments(1.4, 1.7).steps.empty


def test_the_tables_say_what_was_trained(tmp_path: Path) -> None:
    curve = empty(tmp_path).with_point(**point(1.4)).with_point(**point(1.5))
    curve = curve.with_step(**step(SLOPE, (1.4, 1.4), (1.39, 1.41)))
    points = point_table([curve])
    assert list(points["R"]) == [1.4, 1.5]
    assert list(points["trained"]) == ["yes", "no"]
    steps = step_table([curve])
    assert steps["slope_Eh"].iloc[0] == pytest.approx((morse(1.41) - morse(1.39)) / 0.02)
    assert steps["slope_error_Eh"].iloc[0] == pytest.approx(5e-5)
    assert point_table([empty(tmp_path)]).empty
    assert step_table([empty(tmp_path)]).empty


def summary_of(scan: Scan, *joint: JointCurve) -> Summary:
    outcomes = {
        run.run_id: RunOutcome("done", inference=inference_attributes(morse(run.parameters["R"])))
        for run in scan.runs
    }
    return summarise(scan, outcomes, joint=joint)


def test_a_summary_fits_with_and_without_slopes(tmp_path: Path) -> None:
    scan = shared_scan(tmp_path)
    (plain,) = summary_of(scan).derived["curves"]
    (found,) = summary_of(scan, measured(tmp_path)).derived["curves"]
    assert "with_slopes" not in plain
    with_slopes = found.pop("with_slopes")
    assert found == plain
    assert with_slopes["n_slopes"] == 8
    assert with_slopes["n_differences"] == 0
    small, large = (each["r_e_bohr"]["error_statistical"] for each in (with_slopes, plain))
    assert small < 0.2 * large
    assert with_slopes["r_e_bohr"]["value"] == pytest.approx(1.4, abs=2e-3)


def test_slopes_are_not_those_of_runs_that_have_gone_on(tmp_path: Path) -> None:
    scan = shared_scan(tmp_path, SHARED.replace("scan", "{geometries: all, finish: 10}"))
    (found,) = summary_of(scan, measured(tmp_path)).derived["curves"]
    assert "gone on from the shared wavefunction" in found["with_slopes"]["refused"]
    assert "r_e_bohr" in found

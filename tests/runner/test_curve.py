"""The command `curve`: what it refuses, what it keeps, and what it measures again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from helpers.scans import inference_attributes, make_scan, morse

from ferminet_core.analysis.correlated_differences import Difference, LowOverlapError
from ferminet_core.errors import InputError, LockedError, ResumeError
from ferminet_core.inputs.group_curves import Source, open_group
from ferminet_core.inputs.spec_files import freeze, write_specs
from ferminet_core.interface import Progress, open_results
from ferminet_core.report import scan_files
from ferminet_core.runner import curve, maintenance
from ferminet_core.runner.curve import Request
from ferminet_core.stages.base import Step
from ferminet_core.storage import artefacts
from ferminet_core.storage.lease import Lease

H2 = """
units: bohr
atoms: ["H 0 0 -R/2", "H 0 0 R/2"]
parameters: {R: [1.0, 1.2, 1.4, 1.7, 2.2]}
preset: smoke
sharing: scan
"""
SAMPLES = 20


class Toy:
    """A measurement of the Morse curve in two blocks; `measured` lists what was asked for."""

    total = SAMPLES + 10
    reach = 0.3  # of walkers, bohr

    def __init__(self, measured: list[tuple[float, ...]], *ends: float) -> None:
        self.measured, self.ends = measured, ends

    def initial(self) -> None:
        return None

    def steps(self, state: None) -> Iterator[Step]:
        self.measured.append(self.ends)
        for step in (10, 20, 30):
            yield Step(step, None, {"energy_Eh": np.array([morse(self.ends[0])])})

    def result(self, state: Any, series: Any) -> xr.Dataset:
        return xr.Dataset(attrs=inference_attributes(morse(self.ends[0])))

    def overlap(self) -> float:
        return 0.9 if self.ends[1] - self.ends[0] < self.reach else 0.1

    def difference(self, series: Any) -> Difference:
        start, end = self.ends
        if start > 1.9:
            raise LowOverlapError("the walkers overlap too little")
        return Difference(morse(end) - morse(start), 1e-5, 0.9)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, ...]]:
    """What is measured, by toys."""
    found: list[tuple[float, ...]] = []
    stages = SimpleNamespace(
        bond=float,
        slope_step=lambda value: 0.01,
        point=lambda value: Toy(found, value),
        step=lambda centre, start, end: Toy(found, start, end),
    )
    monkeypatch.setattr("ferminet_core.stages.joint_curve.CurveStages", lambda *given: stages)
    return found


def scan_in(folder: Path, text: str = H2) -> Path:
    scan = make_scan(folder, text)
    write_specs(scan, folder)
    freeze(scan, folder)
    return folder / "h2"


def train(scan: Path, number: int = 0) -> None:
    """A joint optimisation's artefact, without a network."""
    source = open_group(scan)
    spec = source.spec.model_dump_json()
    attrs = {"stage": "joint_optimise", "spec": spec, "number": number, "n_iterations": 10}
    path = scan / "groups" / source.spec.run_id / "joint_optimise.zarr.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    artefacts.save(xr.Dataset(attrs=attrs), path)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    scan = scan_in(tmp_path)
    train(scan)
    return open_group(scan)


def request(**changes: Any) -> Request:
    return Request(**{"samples": SAMPLES, **changes})


def test_a_second_call_measures_what_is_missing(
    source: Source, measured: list[tuple[float, ...]]
) -> None:
    curve.measure(source, request(at=(1.5, 1.1)))
    assert measured == [(1.1,), (1.5,)]
    found = curve.measure(source, request(at=(1.5,), points=3))
    assert measured[2:] == [(1.0,), (1.6,), (2.2,)]
    assert list(found.points["value"]) == [1.0, 1.1, 1.5, 1.6, 2.2]
    np.testing.assert_array_equal(
        found.points["energy_Eh"], [morse(r) for r in found.points["value"]]
    )
    # More records replace fewer, and fewer replace nothing.
    curve.measure(source, request(at=(1.5,), samples=40))
    curve.measure(source, request(at=(1.5,), samples=10))
    assert measured[5:] == [(1.5,)]
    assert curve.measured(source)[0].points["n_samples"].max() == 40


def test_what_was_finished_before_a_stop_is_kept(
    source: Source, measured: list[tuple[float, ...]]
) -> None:
    due = iter([None, None, None, None, "the wall-time limit is near"])
    with pytest.raises(ResumeError, match="the wall-time limit is near; finished"):
        curve.measure(source, request(at=(1.1, 1.5)), due=lambda: next(due))
    assert list(curve.measured(source)[0].points["value"]) == [1.1]
    curve.measure(source, request(at=(1.1, 1.5)))
    assert measured == [(1.1,), (1.5,), (1.5,)]


def test_slopes_and_ways_between_neighbours(
    source: Source, measured: list[tuple[float, ...]]
) -> None:
    found = curve.measure(source, request(slopes=True, differences=True))
    expected = [(r - 0.01, r + 0.01) for r in (1.0, 1.2, 1.4, 1.7, 2.2)]
    np.testing.assert_allclose(measured[:5], expected, rtol=1e-9)
    # 0.3 bohr and more are too far for one step.
    assert measured[7:9] == [(1.4, 1.55), (1.55, 1.7)]
    assert measured[9:] == [(1.7, 1.95), (1.95, 2.2)]
    sums = {(row["start"], row["end"]): row["difference_Eh"] for row in found.neighbours()}
    assert set(sums) == {(1.0, 1.2), (1.2, 1.4), (1.4, 1.7)}
    assert sums[1.4, 1.7] == pytest.approx(morse(1.7) - morse(1.4))
    lines = curve.describe(found)
    assert "no difference from 1.95 to 2.2: the walkers overlap too little" in lines
    count = len(measured)
    curve.measure(source, request(slopes=True, differences=True))
    assert len(measured) == count


def test_a_new_training_is_measured_anew(source: Source, measured: list[tuple[float, ...]]) -> None:
    curve.measure(source, request(at=(1.5,)))
    train(source.scan, number=1)
    found, reason = curve.measured(source)
    assert found.points.empty
    assert "earlier result of joint_optimise" in reason
    curve.measure(source, request(at=(1.5,)))
    assert measured == [(1.5,), (1.5,)]


def test_progress_counts_the_records(source: Source, measured: list[tuple[float, ...]]) -> None:
    seen: list[tuple[int, int]] = []
    curve.measure(
        source,
        request(at=(1.1, 1.5)),
        report=lambda done, total, reading: seen.append((done, total)),
    )
    assert seen == [(0, 40), (10, 40), (20, 40), (20, 40), (30, 40), (40, 40)]


def test_the_summary_has_the_points(source: Source, measured: list[tuple[float, ...]]) -> None:
    curve.measure(source, request(points=9, slopes=True))
    scan = make_scan(source.scan.parent, H2)
    lines = scan_files.write_summary(scan, source.scan.parent)
    assert not [line for line in lines if "warning" in line]
    text = (source.scan / "curve_points.csv").read_text()
    assert text.startswith("group,variant,R,trained,bond_bohr,energy_Eh,error_Eh")
    assert text.count("\n") == 10
    assert (source.scan / "curve_slopes.csv").read_text().count("slope,") == 4
    for name in ("curve.svg", "report.html"):
        assert "joint wavefunction, not optimised there" in (source.scan / name).read_text()
    train(source.scan, number=1)
    lines = scan_files.write_summary(scan, source.scan.parent)
    assert any("earlier result of joint_optimise" in line for line in lines)
    assert not (source.scan / "curve_points.csv").exists()


def test_a_reset_of_the_training_takes_the_measurements_along(
    source: Source, measured: list[tuple[float, ...]]
) -> None:
    curve.measure(source, request(at=(1.5,)))
    assert curve.path_of(source) in maintenance.reset(source.scan, "joint_optimise")
    assert not curve.path_of(source).exists()


def test_one_process_at_a_time(source: Source, measured: list[tuple[float, ...]]) -> None:
    work = curve.path_of(source).with_name("curve.work")
    with (
        Lease(work).acquire(lambda: "x", lambda line: None),
        pytest.raises(LockedError, match="try again"),
    ):
        curve.measure(source, request(at=(1.5,)))
    assert measured == []


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"at": (2.3,)}, "--at: found R = 2.3; allowed: 1 to 2.2"),
        ({"at": (float("nan"),)}, "--at: found R = nan; allowed: 1 to 2.2"),
        ({"points": 1}, "--points: found 1; allowed: 2 to 1000"),
        ({"at": (1.5,), "samples": 15}, "--samples: found 15; allowed: multiples of 10"),
    ],
)
def test_a_wrong_request_is_refused(source: Source, wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        curve.measure(source, request(**wrong))


def test_an_edited_geometry_is_refused(source: Source, measured: list[tuple[float, ...]]) -> None:
    (source.scan.parent / "h2.yaml").write_text(H2.replace("R/2", "R/3"))
    with pytest.raises(InputError, match=r"h2\.yaml: gives other geometries than those"):
        curve.measure(source, request(at=(1.5,)))
    # More points are no edit of the geometry.
    (source.scan.parent / "h2.yaml").write_text(H2.replace("2.2", "2.2, 3.0"))
    curve.measure(source, request(at=(1.5,)))
    assert measured == [(1.5,)]


def edited(text: str) -> Callable[[Path], Path]:
    return lambda folder: scan_in(folder, text)


TWO = H2.replace("R: [", "S: [0.1, 0.2], R: [").replace("H 0 0 R/2", "H S 0 R/2")


@pytest.mark.parametrize(
    ("make", "name", "line"),
    [
        (lambda folder: folder, None, "not the folder of a scan"),
        (edited(H2.replace("sharing: scan", "")), None, "do not share a wavefunction"),
        (edited(TWO), None, "vary in R, S; a curve needs exactly one parameter"),
        (edited(H2), "shard", "--group: found 'shard'; did you mean 'shared'"),
        (edited(H2 + "variants: [{name: a}, {name: b, overrides: {seed: 7}}]"), None, "choose"),
    ],
)
def test_a_scan_without_such_a_curve_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], name: str | None, line: str
) -> None:
    with pytest.raises(InputError, match=line):
        open_group(make(tmp_path), name)


def test_an_unfinished_or_stale_group_is_refused(tmp_path: Path) -> None:
    scan = scan_in(tmp_path)
    with pytest.raises(InputError, match="joint_optimise has not finished"):
        curve.measure(open_group(scan), request(at=(1.5,)))
    train(scan)
    write_specs(make_scan(tmp_path, H2 + "overrides: {network.layers: 1}"), tmp_path)
    with pytest.raises(InputError, match="joint_optimise is stale"):
        curve.measure(open_group(scan), request(at=(1.5,)))


def test_python_gets_the_same(source: Source, measured: list[tuple[float, ...]]) -> None:
    results = open_results(source.scan)
    seen: list[Progress] = []
    assert results.curve().points.empty
    found = results.curve(at=(1.5,), samples=SAMPLES, progress=seen.append)
    assert measured == [(1.5,)]
    assert found.points["energy_Eh"].item() == morse(1.5)
    assert (seen[-1].stage, seen[-1].step, seen[-1].total) == ("curve", 20, 20)
    assert results.curve().points.equals(found.points)
    assert measured == [(1.5,)]

"""Measures a group's wavefunction along its parameter, by inference alone.

The results are in one file of the group, `curve.zarr.zip`, which is written after each measurement.
A second call measures what is missing. A file made from an earlier joint optimisation is not used.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ferminet_core.analysis.correlated_differences import LowOverlapError
from ferminet_core.analysis.joint_curve import SEGMENT, SLOPE, JointCurve
from ferminet_core.errors import ArtefactError, InputError, ResumeError
from ferminet_core.inputs.config import RECORDS_PER_CALL
from ferminet_core.inputs.geometries import geometry_of
from ferminet_core.inputs.group_curves import Source
from ferminet_core.inputs.group_files import GROUPS
from ferminet_core.inputs.parameter_values import value_text
from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import FROZEN_SCAN
from ferminet_core.inputs.stage_table import of_groups
from ferminet_core.runner.attempt import NO_READING
from ferminet_core.runner.origins import group_artefact, misfit
from ferminet_core.runner.progress import Reading, read_stats
from ferminet_core.storage import artefacts, provenance
from ferminet_core.storage.lease import Lease

if TYPE_CHECKING:
    from ferminet_core.stages.base import Series, Step
    from ferminet_core.stages.joint_curve import CurveStages

NAME = "curve"
JOINT = of_groups()[-1].name
# Segments between two trained geometries: twice as many, until the walkers overlap by this share.
# It leaves room above the least share, `correlated_differences.MIN_EFFECTIVE`.
ENOUGH_OVERLAP = 0.75
MOST_SEGMENTS = 32
MAX_POINTS = 1000


class Request(NamedTuple):
    """What to measure.

    points: so many values of the parameter, evenly from the first trained one to the last
    at: further values; slopes: at every trained value; differences: between neighbouring ones
    samples: records of each measurement, those of the settings if None
    """

    points: int | None = None
    at: tuple[float, ...] = ()
    slopes: bool = False
    differences: bool = False
    samples: int | None = None


# Called after each block of records: records done, records in all, and the latest energies.
Report = Callable[[int, int, Reading], None]


def path_of(source: Source) -> Path:
    """The file with the measurements of a group."""
    return source.scan / GROUPS / source.spec.run_id / f"{NAME}.zarr.zip"


def measured(source: Source) -> tuple[JointCurve, str]:
    """What has been measured of a group's present wavefunction, and why a file is not used.

    The reason is empty if the file is used, and if there is none.
    """
    empty = JointCurve.of(source.spec, source.parameter)
    path, joint = path_of(source), group_artefact(source.scan, source.spec.run_id, JOINT)
    if not path.exists():
        return empty, ""
    try:
        found = artefacts.load(path)
        current = artefacts.attributes(joint)["digest"]
    except ArtefactError as error:
        return empty, str(error)
    if found.attrs.get("joint_digest") != current:
        return empty, f"{path}: was measured on an earlier result of {JOINT}"
    return JointCurve.of(source.spec, source.parameter, found), ""


def measure(
    source: Source,
    request: Request,
    report: Report = lambda done, total, reading: None,
    due: Callable[[], str | None] = lambda: None,
) -> JointCurve:
    """Measure what is missing of a request.

    Args:
        source: From `group_curves.open_group`.
        request: What to measure.
        report: Called after each block of records.
        due: A reason to stop, if there is one.

    Returns:
        All that is known of the curve.

    Raises:
        InputError: A value is outside of the trained range, a number is out of bounds, the group is
            unfinished or stale, or its system file gives other geometries by now.
        LockedError: Another process measures this group.
        ResumeError: It was asked to stop. All finished measurements are kept.
    """
    values = check(source, request)
    samples = request.samples or source.spec.config.inference.samples
    path = group_artefact(source.scan, source.spec.run_id, JOINT)
    joint = artefacts.load(path)
    known = [(member.parameters, member.molecule) for member in source.spec.members]
    molecule_at = geometry_of(_system_file(source.scan), known)
    from ferminet_core.stages.frozen import precision_of  # loads JAX
    from ferminet_core.stages.joint_curve import CurveStages

    lease = Lease(path.with_name(f"{NAME}.work"))
    with (
        lease.acquire(lambda: "try again when it is done", lambda line: None),
        precision_of(source.spec.config),
    ):
        stages = CurveStages(source.spec, joint, source.parameter, molecule_at, samples)
        work = _Work(source, stages, samples, str(joint.attrs["digest"]), lease, report, due)
        work.run(values, request)
    return work.curve


def check(source: Source, request: Request) -> list[float]:
    """Check a request before anything is computed; returns the values of its points, in order.

    Raises:
        InputError: As `measure`.
    """
    name = source.spec.run_id
    path = group_artefact(source.scan, name, JOINT)
    if not path.exists():
        raise InputError(f"group {name}: {JOINT} has not finished; run the scan first")
    if reason := misfit(source.spec, JOINT, artefacts.attributes(path)):
        raise InputError(f"group {name}: {JOINT} is stale ({reason}); run the scan first")
    samples = request.samples
    if samples is not None and (samples < RECORDS_PER_CALL or samples % RECORDS_PER_CALL):
        raise InputError(f"--samples: found {samples}; allowed: multiples of {RECORDS_PER_CALL}")
    return _values(source, request)


def _values(source: Source, request: Request) -> list[float]:
    """The values of a request's points."""
    first, last = source.values[0], source.values[-1]
    found = [float(value_text(value)) for value in request.at]
    for value in found:
        if not first <= value <= last:
            raise InputError(
                f"--at: found {source.parameter} = {value:g}; allowed: {first:g} to {last:g}, the "
                f"range that group {source.spec.run_id} was trained in"
            )
    if request.points is not None:
        if not 2 <= request.points <= MAX_POINTS:
            raise InputError(f"--points: found {request.points}; allowed: 2 to {MAX_POINTS}")
        found += [float(value_text(v)) for v in np.linspace(first, last, request.points)]
    return sorted(set(found))


def _system_file(scan: Path) -> Path:
    """The system file of a scan. An unpacked archive has it in the scan's folder."""
    path = load_scan(scan / FROZEN_SCAN).path
    packed = scan / "system" / path.name
    return packed if packed.is_file() else path


def describe(curve: JointCurve) -> list[str]:
    """All measurements of a group in a few lines for the terminal."""
    lines = []
    for row in curve.points.to_dict("records"):
        energy = f"E = {row['energy_Eh']:.6f} +- {row['error_Eh']:.6f} Eh"
        lines.append(f"{curve.parameter} = {row['value']:g}: {energy}")
    known = curve.known_differences()
    for row in known[known["kind"] == SLOPE].to_dict("records"):
        length = row["end"] - row["start"]
        slope, error = row["difference_Eh"] / length, row["error_Eh"] / length
        name = f"dE/d{curve.parameter} at {curve.parameter} = {row['first']:g}"
        lines.append(f"{name}: {slope:.6f} +- {error:.6f} Eh")
    for sum_ in curve.neighbours():
        name = f"E({sum_['end']:g}) - E({sum_['start']:g})"
        lines.append(f"{name} = {sum_['difference_Eh']:.6f} +- {sum_['error_Eh']:.6f} Eh")
    refused = curve.steps[curve.steps["reason"] != ""]
    for row in refused.to_dict("records"):
        lines.append(f"no difference from {row['start']:g} to {row['end']:g}: {row['reason']}")
    return lines


class _Work:
    """The measurements of one call, one after the other."""

    def __init__(
        self,
        source: Source,
        stages: "CurveStages",
        samples: int,
        digest: str,
        lease: Lease,
        report: Report,
        due: Callable[[], str | None],
    ) -> None:
        self.source, self.stages, self.samples = source, stages, samples
        self.curve, _ = measured(source)
        self._digest, self._lease, self._report, self._due = digest, lease, report, due
        self._done = self._total = 0
        self._latest = NO_READING

    def run(self, values: Sequence[float], request: Request) -> None:
        """Measure what is missing."""
        steps = self.curve.steps[self.curve.steps["n_samples"] >= self.samples]
        known = set(self.curve.points["value"][self.curve.points["n_samples"] >= self.samples])
        values = [value for value in values if value not in known]
        trained = self.source.values
        slopes = set(steps["first"][steps["kind"] == SLOPE])
        missing = [v for v in trained if v not in slopes] if request.slopes else []
        pairs = list(pairwise(trained)) if request.differences else []
        self._total = (len(values) + len(missing) + len(pairs)) * self.samples
        for value in values:
            self._point(value)
        for value in missing:
            shift = self.stages.slope_step(value)
            ends = (float(value_text(value - shift)), float(value_text(value + shift)))
            self._step(SLOPE, (value, value), 1, ends)
        for pair in pairs:
            self._pair(*pair)

    def _pair(self, first: float, last: float) -> None:
        """Segments from one trained value to the next, those that are missing."""
        mine = self.curve.steps
        mine = mine[(mine["kind"] == SEGMENT) & (mine["first"] == first) & (mine["last"] == last)]
        found = mine[mine["n_samples"] >= self.samples]
        count = int(found["n_segments"].iloc[0]) if len(found) else self._segments(first, last)
        if len(mine) and int(mine["n_segments"].iloc[0]) != count:
            self.curve = self.curve.without_segments(first, last)
        edges = [float(value_text(v)) for v in np.linspace(first, last, count + 1)]
        ends = [e for e in pairwise(edges) if e[0] not in set(found["start"])]
        self._total += (len(ends) - 1) * self.samples
        for pair in ends:
            self._step(SEGMENT, (first, last), count, pair)

    def _segments(self, first: float, last: float) -> int:
        """Into how many steps of enough overlap the way between two trained values is divided."""
        count = 1
        while count < MOST_SEGMENTS:
            length = (last - first) / count
            # A curve changes most at its short end.
            stage = self.stages.step(first + length / 2, first, first + length)
            if stage.overlap() >= ENOUGH_OVERLAP:
                break
            count *= 2
        return count

    def _point(self, value: float) -> None:
        stage = self.stages.point(value)
        state, series = self._loop(stage)
        found = stage.result(state, series).attrs
        row = {name: found[name] for name in ("energy_Eh", "error_Eh", "variance_Eh2", "tau", "s2")}
        self.curve = self.curve.with_point(
            value=value,
            bond_bohr=self.stages.bond(value),
            n_samples=self.samples,
            flags=found["flags"],
            **row,
        )
        self._save()

    def _step(
        self, kind: str, between: tuple[float, float], count: int, ends: tuple[float, float]
    ) -> None:
        start, end = ends
        stage = self.stages.step(between[0] if kind == SLOPE else (start + end) / 2, start, end)
        _, series = self._loop(stage)
        value, error, share, reason = np.nan, np.nan, np.nan, ""
        try:
            value, error, share = stage.difference(series)
        except LowOverlapError as refused:
            reason = str(refused)
        self.curve = self.curve.with_step(
            kind=kind,
            first=between[0],
            last=between[1],
            n_segments=count,
            start=start,
            end=end,
            start_bohr=self.stages.bond(start),
            end_bohr=self.stages.bond(end),
            difference_Eh=value,
            error_Eh=error,
            effective=share,
            n_samples=self.samples,
            reason=reason,
        )
        self._save()

    def _loop(self, stage: Any) -> "tuple[Any, Series]":
        """Run one measurement."""
        from ferminet_core.stages.base import run

        before = self._done

        def on_step(step: "Step") -> None:
            recorded = max(0, step.step - (stage.total - self.samples))
            reading = read_stats(step.stats)
            self._latest = reading if reading.energy is not None else self._latest
            self._done = before + recorded
            self._report(self._done, self._total, self._latest)
            if reason := self._due():
                raise ResumeError(f"{reason}; finished measurements are kept, run it again")

        found = run(stage, on_step)
        self._done = before + self.samples
        return found

    def _save(self) -> None:
        attrs = {
            "stage": NAME,
            "scan": self.source.spec.scan,
            "run_id": self.source.spec.run_id,
            "joint_digest": self._digest,
            "code_hash": provenance.code_hash(),
            "parameter": self.source.parameter,
            "spec": self.source.spec.model_dump_json(),
        }
        found = self.curve.dataset().assign_attrs(attrs)
        artefacts.save(found, path_of(self.source), self._lease.check)

"""The result of a scan: its table, its dataset, verdicts, and what follows from its curves.

Pure functions of a scan and of the results of its runs; `ferminet_core.report` reads and writes the
files.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from ferminet_core import units
from ferminet_core.analysis import scan_table
from ferminet_core.analysis.curve_constants import atomisation, constants, shortest_bond
from ferminet_core.analysis.curve_outliers import Deviation, deviations
from ferminet_core.analysis.curves import Curve, curves_of, formula, varied_parameter
from ferminet_core.analysis.derived_quantities import (
    Sources,
    correlation,
    quantities,
    quantity_variables,
)
from ferminet_core.analysis.estimates import flags_of
from ferminet_core.analysis.group_summary import GroupOutcome, group_facts
from ferminet_core.analysis.joint_curve import JointCurve
from ferminet_core.analysis.literature import PublishedEnergies, read_published
from ferminet_core.analysis.localisation import localisation_flags
from ferminet_core.analysis.run_start import RunStart
from ferminet_core.analysis.scan_dataset import energies_by_method, scan_dataset
from ferminet_core.analysis.scan_table import measured
from ferminet_core.analysis.verdict import Verdict, judge
from ferminet_core.inputs.basis_sets import basis_label
from ferminet_core.inputs.messages import replace_unprintable
from ferminet_core.inputs.origin import potential_label
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.scan_columns import Column

SCHEMA_VERSION = 1
# An energy further below an exact one is not noise: the variational principle forbids it.
SIGMA_BELOW_EXACT = 5.0


class RunOutcome(NamedTuple):
    """State and results of a run, finished or not."""

    state: str  # done, stale, failed, broken, running, resumable or waiting
    reason: str = ""
    inference: Mapping[str, Any] = {}  # attributes of the inference artefact
    reference: Mapping[str, Any] = {}  # attributes of the reference artefact
    wall_s: float | None = None  # over its stages
    node_h: float | None = None
    optimisation: Mapping[str, np.ndarray] = {}  # `optimisation_rules.SERIES`
    start: RunStart | None = None  # what the optimisation has started from
    differences: Sequence[str] = ()  # stored figures that recomputing contradicts
    conventional: xr.Dataset | None = None  # the artefact of the conventional energies
    conventional_reason: str = ""  # why there is none, if an attempt was made


class Summary(NamedTuple):
    """Everything that is reported on a scan."""

    name: str
    title: str
    parameter: str | None  # the numeric parameter along the curves, if there is exactly one
    parameter_unit: str  # bohr, angstrom, or empty where it is not the shortest bond's length
    columns: list[Column]  # of table and dataset
    curves: list[Curve]  # over the parameter
    table: pd.DataFrame  # the columns of scan.csv; missing values are NA
    dataset: xr.Dataset  # dimension run
    derived: dict[str, Any]  # JSON: bond length, frequency, dissociation energy, ...
    quantities: pd.DataFrame  # the columns of quantities.csv
    published: list[PublishedEnergies]
    warnings: list[str]
    groups: Sequence[GroupOutcome] = ()
    joint: Sequence[JointCurve] = ()  # what was measured of shared wavefunctions


def summarise(
    scan: Scan,
    outcomes: Mapping[str, RunOutcome],
    groups: Sequence[GroupOutcome] = (),
    joint: Sequence[JointCurve] = (),
) -> Summary:
    """Table, dataset and derived quantities of the finished part of a scan.

    Args:
        scan: the runs and the literature to compare with.
        outcomes: by run_id; a run without one is waiting.
        groups: those whose wavefunctions runs of the scan share.
        joint: what was measured of the groups' shared wavefunctions.
    """
    published, warnings = read_published(scan)
    outcomes = {run.run_id: outcomes.get(run.run_id, RunOutcome("waiting")) for run in scan.runs}
    parameters = list(scan.parameters)
    single = varied_parameter(scan.runs)
    curves = curves_of(scan.runs, single)
    unit = _parameter_unit(scan, single)
    flags = {run.run_id: _run_flags(outcomes[run.run_id], run, published) for run in scan.runs}
    deviating = _deviations(curves, single, scan.runs, outcomes)
    verdicts = _verdicts(scan.runs, outcomes, flags, deviating)
    columns = scan_table.columns(parameters, published, {single: unit} if single else {})
    rows = [_row(run, outcomes[run.run_id], verdicts, published) for run in scan.runs]
    table = scan_table.table(rows, columns)
    done = measured(table)
    found = constants(curves, scan.runs, table, published, joint)
    sums, lost = quantities(scan.quantities, Sources(scan.runs, done, published, found), parameters)
    warnings += [*_missing_conventional(outcomes), *lost]
    derived: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "scan": scan.name,
        "states": {str(k): int(v) for k, v in table["state"].value_counts().items()},
        "verdicts": {run_id: verdict.plain() for run_id, verdict in verdicts.items()},
        "flagged": {run_id: lines.all for run_id, lines in flags.items() if lines.all},
        "groups": group_facts(groups, table, _groups_of(outcomes)),
        "literature": {entry.name: _literature_facts(entry) for entry in published},
        "curves": found,
        "atomisation": atomisation(scan.runs, table),
        "correlation": correlation(scan.correlation, done),
        "warnings": warnings,
    }
    return Summary(
        name=scan.name,
        title=replace_unprintable(scan.title or scan.name),
        parameter=single,
        parameter_unit=unit,
        columns=columns,
        curves=curves,
        table=table,
        dataset=_dataset(scan, columns, table, outcomes, published, sums),
        derived=derived,
        quantities=sums,
        published=published,
        warnings=warnings,
        groups=groups,
        joint=joint,
    )


def _groups_of(outcomes: Mapping[str, RunOutcome]) -> dict[str, str]:
    """The group that each optimised run has started from, or an empty text."""
    return {name: found.start.group for name, found in outcomes.items() if found.start}


def _dataset(
    scan: Scan,
    columns: list[Column],
    table: pd.DataFrame,
    outcomes: Mapping[str, RunOutcome],
    published: list[PublishedEnergies],
    sums: pd.DataFrame,
) -> xr.Dataset:
    """The dataset of a scan, with its quantities."""
    inferences = [outcome.inference for outcome in outcomes.values()]
    conventional = [outcome.conventional for outcome in outcomes.values()]
    found = scan_dataset(scan, columns, table, inferences, conventional, published)
    return found.assign(quantity_variables(sums) if scan.quantities else {})


def _literature_facts(entry: PublishedEnergies) -> dict[str, Any]:
    return {
        "label": entry.label,
        "kind": entry.kind,
        "file": entry.source,
        "matched": len(entry.values),
        "sources": list(entry.sources),
    }


class _Flags(NamedTuple):
    """The flags of a finished run, in plain sentences.

    untrusted: the walkers do not sample |psi|^2; doubtful: everything else
    """

    untrusted: list[str]
    doubtful: list[str]

    @property
    def all(self) -> list[str]:
        """Both."""
        return [*self.untrusted, *self.doubtful]


def _run_flags(outcome: RunOutcome, run: RunSpec, published: list[PublishedEnergies]) -> _Flags:
    """The flags of the inference, of moments against symmetry, and of energies below exact ones."""
    if outcome.state != "done":
        return _Flags([], [])
    flags, doubtful = flags_of(outcome.inference)
    energy, error = _energy(outcome)
    if not math.isfinite(energy):
        flags.append("the energy is not a number")
    for exact in published:
        if exact.kind != "exact" or run.run_id not in exact.values:
            continue
        below = exact.values[run.run_id] - energy
        sigma = math.hypot(error, exact.errors.get(run.run_id, 0.0))
        if below > SIGMA_BELOW_EXACT * sigma:
            flags.append(
                f"the energy lies {1e3 * below:.2f} mEh "
                f"({below / sigma if sigma else math.inf:.1f} sigma) below {exact.label}: the "
                "walkers may not be in equilibrium"
            )
    return _Flags(flags, doubtful + localisation_flags(outcome.inference, run.molecule))


def _energy(outcome: RunOutcome) -> tuple[float, float]:
    """Energy and standard error, hartree; NaN without an inference."""
    energy, error = (outcome.inference.get(name, np.nan) for name in ("energy_Eh", "error_Eh"))
    return float(energy), float(error)


def _verdicts(
    runs: Sequence[RunSpec],
    outcomes: Mapping[str, RunOutcome],
    flags: Mapping[str, _Flags],
    deviating: Mapping[str, Deviation | None],
) -> dict[str, Verdict]:
    """The verdicts on all finished runs."""
    found = {}
    for run in runs:
        outcome = outcomes[run.run_id]
        if outcome.state == "done":
            found[run.run_id] = judge(
                outcome.optimisation,
                outcome.inference,
                outcome.reference,
                run.config.inference.accuracy,
                *flags[run.run_id],
                deviating.get(run.run_id),
                start=outcome.start,
                # Adam's rate is the size of a step, whatever the gradient.
                rate_is_time=run.config.optimise.optimiser != "adam",
            )
    return found


def _deviations(
    curves: list[Curve],
    parameter: str | None,
    runs: list[RunSpec],
    outcomes: Mapping[str, RunOutcome],
) -> dict[str, Deviation | None]:
    """How far the points of each curve lie from their neighbours' predictions."""
    by_id = {run.run_id: run for run in runs}
    found: dict[str, Deviation | None] = {}
    for curve in curves:
        points = [
            (run_id, by_id[run_id].parameters[str(parameter)], *_energy(outcomes[run_id]))
            for run_id in curve.run_ids
            if outcomes[run_id].state == "done" and np.isfinite(_energy(outcomes[run_id])).all()
        ]
        if points:
            run_ids, *numbers = zip(*points, strict=True)
            arrays = [np.array(column, float) for column in numbers]
            found |= zip(run_ids, deviations(*arrays), strict=True)
    return found


def _row(
    run: RunSpec,
    outcome: RunOutcome,
    verdicts: Mapping[str, Verdict],
    published: list[PublishedEnergies],
) -> dict[str, Any]:
    """The values of one run by the names of the columns.

    Hartree-Fock is known as soon as the reference is there; the inference has all figures.
    """
    row: dict[str, Any] = {}
    if outcome.reference:
        row = {"hf_Eh": outcome.reference["e_hf"], "hf_method": outcome.reference["method"]}
    row |= {
        **outcome.inference,
        **run.parameters,
        "run_id": run.run_id,
        "geometry": run.geometry,
        "molecule": formula(run.molecule.symbols),
        "total_charge": run.molecule.charge,
        "spin_2S": run.molecule.spin,
        "pseudopotential": potential_label(run.molecule.pseudopotentials, all_electrons=""),
        "variant": run.variant,
        "state": outcome.state,
        "start": outcome.start.text if outcome.start else "",
        "wall_s": outcome.wall_s,
        "node_h": outcome.node_h,
        # The reason may quote a file's name in another encoding.
        "verdict": replace_unprintable(
            verdicts[run.run_id].text if run.run_id in verdicts else outcome.reason
        ),
    }
    if run.run_id in verdicts and (left := verdicts[run.run_id].left):
        row |= {"left_Eh": left.value, "left_error_Eh": left.error}
    known = {entry.column: entry.values for entry in published if run.run_id in entry.values}
    return row | {column: values[run.run_id] for column, values in known.items()}


def _parameter_unit(scan: Scan, parameter: str | None) -> str:
    """The unit of a parameter that is the length of the shortest bond; empty for any other.

    Examples are the parameter of a diatomic and that of a chain with even spacings.
    """
    if parameter is None:
        return ""
    runs = [run for run in scan.runs if parameter in run.parameters]
    lengths = np.array([shortest_bond(run) for run in runs])
    values = np.array([run.parameters[parameter] for run in runs])
    for unit, factor in (("bohr", 1.0), ("angstrom", units.ANGSTROM_IN_BOHR)):
        # Lengths of a system file have about as many digits.
        if np.allclose(lengths, factor * values, rtol=1e-6):
            return unit
    return ""


def _missing_conventional(outcomes: Mapping[str, RunOutcome]) -> list[str]:
    """A line for each reason why conventional energies are missing, with the runs concerned."""
    runs: dict[tuple[str, str], list[str]] = {}
    for run_id, outcome in outcomes.items():
        if outcome.conventional_reason:
            runs.setdefault(("energies", outcome.conventional_reason), []).append(run_id)
        if outcome.conventional is None:
            continue
        notes = json.loads(outcome.conventional.attrs["notes"])
        for (method, basis), energy in energies_by_method(outcome.conventional).items():
            if math.isnan(energy):
                what = f"{method.upper()}/{basis_label(basis)}"
                runs.setdefault((what, notes[basis][method]), []).append(run_id)
    return [
        f"no conventional {what} of {_some(run_ids)}: {reason}"
        for (what, reason), run_ids in runs.items()
    ]


def _some(run_ids: list[str]) -> str:
    """The first of some runs, and how many there are."""
    return run_ids[0] if len(run_ids) == 1 else f"{len(run_ids)} runs, {run_ids[0]} first"

"""The result of a scan: its table, its dataset, and what follows from the curve.

Pure functions of a scan and of what its runs left behind; `ferminet_core.report.write` reads and
writes the files.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from ferminet_core import units
from ferminet_core.analysis.curve_outliers import Deviation, deviations
from ferminet_core.analysis.derived_quantities import correlation, quantities
from ferminet_core.analysis.literature import Reference, read_references
from ferminet_core.analysis.potential_curve import (
    CurveMinimum,
    Estimate,
    FitRefusedError,
    fit_minimum,
    non_parallelity,
    reduced_mass,
)
from ferminet_core.analysis.scan_dataset import energies_by_method, scan_dataset
from ferminet_core.analysis.verdict import Verdict, judge
from ferminet_core.inputs.basis_sets import basis_label
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.scan import Scan

SCHEMA_VERSION = 1
# An energy further below an exact one cannot be noise: the variational principle forbids it.
SIGMA_BELOW_EXACT = 5.0

_NAMES = ("run_id", "geometry", "variant")
_FROM_INFERENCE = (
    "energy_Eh",
    "error_Eh",
    "variance_Eh2",
    "tau",
    "rhat",
    "s2",
    "s2_error",
    "n_nonfinite",
    "n_outliers",
    "pmove",
    "hf_Eh",
    "hf_method",
    "n_opt",
    "n_samples",
    "neighbour",
)
_COUNTS = ("n_nonfinite", "n_outliers", "n_opt", "n_samples")
_TEXTS = ("hf_method", "neighbour")
_TAIL = ("wall_s", "node_h", "verdict")


class RunOutcome(NamedTuple):
    """What a run has left behind so far."""

    state: str  # done, failed, broken, running, resumable or waiting
    reason: str = ""
    inference: Mapping[str, Any] = {}  # attributes of the inference artefact
    reference: Mapping[str, Any] = {}  # attributes of the reference artefact
    wall_s: float | None = None  # over its stages
    node_h: float | None = None
    optimisation: Mapping[str, np.ndarray] = {}  # `verdict.SERIES` of the optimise artefact
    differences: Sequence[str] = ()  # what recomputing found to be stored wrongly
    conventional: xr.Dataset | None = None  # the artefact of the conventional energies
    conventional_reason: str = ""  # why there is none, if an attempt was made


class Summary(NamedTuple):
    """All that is reported on a scan."""

    name: str
    title: str
    parameter: str | None  # the numeric parameter, if there is exactly one
    parameter_unit: str  # bohr, angstrom, or empty where it is not the shortest bond's length
    table: pd.DataFrame  # the columns of scan.csv; missing values are NA
    dataset: xr.Dataset  # dimension run
    derived: dict[str, Any]  # JSON: bond length, frequency, dissociation energy, ...
    quantities: pd.DataFrame  # the columns of quantities.csv
    references: list[Reference]
    warnings: list[str]


def summarise(scan: Scan, outcomes: Mapping[str, RunOutcome]) -> Summary:
    """Table, dataset and derived quantities of whatever is done of a scan.

    Args:
        scan: the runs and the literature to compare with.
        outcomes: by run_id; a run without one is waiting.
    """
    references, warnings = read_references(scan)
    outcomes = {run.run_id: outcomes.get(run.run_id, RunOutcome("waiting")) for run in scan.runs}
    warnings += _missing_conventional(outcomes)
    parameters = list(scan.parameters)
    flags = {
        run.run_id: _run_flags(outcomes[run.run_id], run.run_id, references) for run in scan.runs
    }
    single = parameters[0] if len(parameters) == 1 else None
    verdicts = _verdicts(outcomes, flags, _deviations(scan.runs, single, outcomes))
    table = _table(scan, parameters, outcomes, verdicts, references)
    columns = [reference.column for reference in references]
    found = quantities(scan.quantities, energies(table), columns)
    derived: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "scan": scan.name,
        "states": {str(k): int(v) for k, v in table["state"].value_counts().items()},
        "verdicts": {run_id: verdict.plain() for run_id, verdict in verdicts.items()},
        "flagged": {run_id: lines.all for run_id, lines in flags.items() if lines.all},
        "literature": {
            r.name: {
                "label": r.label,
                "kind": r.kind,
                "file": r.source,
                "matched": len(r.values),
                "sources": list(r.sources),
            }
            for r in references
        },
        "curves": _curves(scan, table, references) if single else [],
        "atomisation": _atomisation(scan, table),
        "correlation": correlation(scan.correlation, energies(table)),
        "warnings": warnings,
    }
    dataset = scan_dataset(
        scan,
        table,
        [outcome.inference for outcome in outcomes.values()],
        [outcome.conventional for outcome in outcomes.values()],
        references,
    )
    unit = _parameter_unit(scan, single)
    if unit:
        dataset[single].attrs["units"] = unit
    return Summary(
        name=scan.name,
        title=scan.title or scan.name,
        parameter=single,
        parameter_unit=unit,
        table=table,
        dataset=dataset,
        derived=derived,
        quantities=found,
        references=references,
        warnings=warnings,
    )


def energies(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a scan table that have an energy with an error."""
    usable = (table["state"] == "done") & table["energy_Eh"].notna() & table["error_Eh"].notna()
    return table[usable]


class _Flags(NamedTuple):
    """What is suspicious about a finished run, in plain sentences.

    untrusted: the walkers do not sample |psi|^2; doubtful: all else
    """

    untrusted: list[str]
    doubtful: list[str]

    @property
    def all(self) -> list[str]:
        """Both."""
        return [*self.untrusted, *self.doubtful]


def _run_flags(outcome: RunOutcome, run_id: str, references: list[Reference]) -> _Flags:
    """What the inference flagged, and an energy below an exact one."""
    if outcome.state != "done":
        return _Flags([], [])
    flagged = [str(flag) for flag in json.loads(outcome.inference.get("flags", "[]"))]
    # Without the distinction, as in artefacts of older versions, all count.
    sampling = json.loads(outcome.inference.get("flags_sampling", json.dumps(flagged)))
    flags = [flag for flag in flagged if flag in sampling]
    energy = float(outcome.inference.get("energy_Eh", np.nan))
    error = float(outcome.inference.get("error_Eh", np.nan))
    if not math.isfinite(energy):
        flags.append("the energy is not a number")
    for reference in references:
        if reference.kind != "exact" or run_id not in reference.values:
            continue
        below = reference.values[run_id] - energy
        sigma = math.hypot(error, reference.errors.get(run_id, 0.0))
        if below > SIGMA_BELOW_EXACT * sigma:
            flags.append(
                f"energy lies {1e3 * below:.2f} mEh ({below / sigma if sigma else math.inf:.1f} "
                f"sigma) below {reference.label}: walkers out of equilibrium?"
            )
    return _Flags(flags, [flag for flag in flagged if flag not in sampling])


def _verdicts(
    outcomes: Mapping[str, RunOutcome],
    flags: Mapping[str, _Flags],
    deviating: Mapping[str, Deviation | None],
) -> dict[str, Verdict]:
    """The verdicts on all finished runs."""
    return {
        run_id: judge(
            outcome.optimisation,
            outcome.inference,
            outcome.reference,
            *flags[run_id],
            deviating.get(run_id),
        )
        for run_id, outcome in outcomes.items()
        if outcome.state == "done"
    }


def _deviations(
    runs: list[RunSpec], parameter: str | None, outcomes: Mapping[str, RunOutcome]
) -> dict[str, Deviation | None]:
    """How far the points of each curve of one parameter lie from their neighbours' predictions.

    A curve is one molecule in one state and one variant.
    """
    curves: dict[tuple[Any, ...], list[tuple[str, float, float, float]]] = {}
    for run in runs:
        outcome, molecule = outcomes[run.run_id], run.molecule
        energy, error = (
            float(outcome.inference.get(name, np.nan)) for name in ("energy_Eh", "error_Eh")
        )
        known = outcome.state == "done" and math.isfinite(energy) and math.isfinite(error)
        if parameter in run.parameters and known:
            curve = run.variant, molecule.symbols, molecule.charge, molecule.spin
            point = run.run_id, run.parameters[parameter], energy, error
            curves.setdefault(curve, []).append(point)
    found: dict[str, Deviation | None] = {}
    for points in curves.values():
        run_ids, *numbers = zip(*points, strict=True)
        columns = [np.array(column, float) for column in numbers]
        found |= zip(run_ids, deviations(*columns), strict=True)
    return found


def _table(
    scan: Scan,
    parameters: list[str],
    outcomes: Mapping[str, RunOutcome],
    verdicts: Mapping[str, Verdict],
    references: list[Reference],
) -> pd.DataFrame:
    """The scan table, one row per run in the scan's order."""
    reference_columns = [reference.column for reference in references]
    columns = [*_NAMES, *parameters, "state", *_FROM_INFERENCE, *_TAIL, *reference_columns]
    rows = []
    for run in scan.runs:
        outcome = outcomes[run.run_id]
        row: dict[str, Any] = {
            "run_id": run.run_id,
            "geometry": run.geometry,
            "variant": run.variant,
            **run.parameters,
            "state": outcome.state,
            **_hartree_fock(outcome.reference),
            **{
                name: outcome.inference[name]
                for name in _FROM_INFERENCE
                if name in outcome.inference
            },
            "wall_s": outcome.wall_s,
            "node_h": outcome.node_h,
            "verdict": verdicts[run.run_id].text if run.run_id in verdicts else outcome.reason,
        }
        row |= {r.column: r.values[run.run_id] for r in references if run.run_id in r.values}
        rows.append(row)
    table = pd.DataFrame(rows, columns=columns)
    texts = {*_NAMES, "state", "verdict", *_TEXTS}
    for name in columns:
        if name in _COUNTS:
            table[name] = table[name].astype("Int64")
        elif name in texts:
            table[name] = table[name].astype(object).where(table[name].notna(), "").astype(str)
        else:
            table[name] = pd.to_numeric(table[name]).astype("float64")
    return table


def _hartree_fock(reference: Mapping[str, Any]) -> dict[str, Any]:
    """The Hartree-Fock columns, known as soon as the reference is there."""
    if "e_hf" not in reference:
        return {}
    return {"hf_Eh": reference["e_hf"], "hf_method": reference.get("method", "")}


def _curves(scan: Scan, table: pd.DataFrame, references: list[Reference]) -> list[dict[str, Any]]:
    """Derived quantities of each variant's curve in a scan of one parameter."""
    runs = {run.run_id: run for run in scan.runs}
    curves = []
    for variant in table["variant"].unique():
        done = energies(table[table["variant"] == variant])
        points = done[[bool(runs[run_id].parameters) for run_id in done["run_id"]]]
        if points.empty:
            continue
        curve: dict[str, Any] = {"variant": variant, "n_points": len(points)}
        curve |= _minimum(points, runs, _free_atoms(done, runs))
        curve["non_parallelity"] = _non_parallelity(points, references)
        curves.append(curve)
    return curves


def _minimum(
    points: pd.DataFrame, runs: Mapping[str, RunSpec], atoms: Mapping[str, tuple[float, float]]
) -> dict[str, Any]:
    """Bond length, frequency, depth of a diatomic's curve, or why they are not given."""
    molecules = [runs[run_id].molecule for run_id in points["run_id"]]
    if any(len(m.symbols) != 2 or m.symbols != molecules[0].symbols for m in molecules):
        return {"refused": "not a curve of one diatomic molecule"}
    if len({(m.charge, m.spin) for m in molecules}) > 1:
        return {"refused": "charge or spin changes along the curve"}
    try:
        minimum = fit_minimum(
            np.array([_shortest_bond(runs[run_id]) for run_id in points["run_id"]]),
            points["energy_Eh"].to_numpy(),
            points["error_Eh"].to_numpy(),
            reduced_mass(*molecules[0].symbols),
        )
    except FitRefusedError as error:
        return {"refused": str(error)}
    return {
        "r_e_bohr": _plain_estimate(minimum.bond_length),
        "omega_e_inverse_cm": _plain_estimate(minimum.frequency),
        "minimum_Eh": _plain_estimate(minimum.energy),
        "n_models": minimum.n_models,
        **_depth(minimum, molecules[0].symbols, molecules[0].charge, atoms),
    }


def _depth(
    minimum: CurveMinimum,
    symbols: tuple[str, ...],
    charge: int,
    atoms: Mapping[str, tuple[float, float]],
) -> dict[str, Any]:
    """D_e against the free atoms that were run."""
    try:
        energy, error = _separated(symbols, charge, atoms)
    except FitRefusedError as refusal:
        return {"D_e_refused": str(refusal)}
    depth = Estimate(
        energy - minimum.energy.value,
        math.hypot(error, minimum.energy.statistical),
        minimum.energy.model,
    )
    return {"D_e_Eh": _plain_estimate(depth)}


def _free_atoms(done: pd.DataFrame, runs: Mapping[str, RunSpec]) -> dict[str, tuple[float, float]]:
    """Energy and error of each neutral atom that was run; of several spins the lowest."""
    atoms: dict[str, tuple[float, float]] = {}
    for run_id, energy, error in zip(
        done["run_id"], done["energy_Eh"], done["error_Eh"], strict=True
    ):
        molecule = runs[run_id].molecule
        if len(molecule.symbols) != 1 or molecule.charge != 0:
            continue
        symbol = molecule.symbols[0]
        if symbol not in atoms or energy < atoms[symbol][0]:
            atoms[symbol] = (float(energy), float(error))
    return atoms


def _separated(
    symbols: tuple[str, ...], charge: int, atoms: Mapping[str, tuple[float, float]]
) -> tuple[float, float]:
    """Energy and error of a neutral molecule's separated atoms.

    Raises:
        FitRefusedError: an atom was not run, or the molecule is charged.
    """
    if charge != 0:
        raise FitRefusedError("the molecule is charged; its fragments are not all neutral atoms")
    if missing := sorted(set(symbols) - set(atoms)):
        raise FitRefusedError(f"no finished run of the free atom {', '.join(missing)}")
    energy = sum(atoms[symbol][0] for symbol in symbols)
    # The same run stands for all atoms of an element, so their errors add up.
    errors = [symbols.count(symbol) * atoms[symbol][1] for symbol in set(symbols)]
    return energy, math.hypot(*errors)


def _atomisation(scan: Scan, table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Energy of the separated atoms minus that of each molecule, where all atoms were run."""
    runs = {run.run_id: run for run in scan.runs}
    result = {}
    for variant in table["variant"].unique():
        done = energies(table[table["variant"] == variant])
        atoms = _free_atoms(done, runs)
        for run_id, energy, error in zip(
            done["run_id"], done["energy_Eh"], done["error_Eh"], strict=True
        ):
            molecule = runs[run_id].molecule
            neutral = molecule.charge == 0 and len(molecule.symbols) > 1
            if neutral and set(molecule.symbols) <= set(atoms):
                separated, separated_error = _separated(molecule.symbols, 0, atoms)
                result[run_id] = {
                    "value_Eh": float(separated - energy),
                    "error_Eh": math.hypot(separated_error, error),
                }
    return result


def _non_parallelity(points: pd.DataFrame, references: list[Reference]) -> dict[str, Any]:
    """Non-parallelity error against each literature curve with two points or more."""
    result = {}
    for reference in references:
        known = points[points[reference.column].notna()]
        if len(known) < 2:
            continue
        npe = non_parallelity(
            (known["energy_Eh"] - known[reference.column]).to_numpy(), known["error_Eh"].to_numpy()
        )
        result[reference.name] = {
            "value_Eh": npe.value,
            "error_Eh": npe.error,
            "expected_from_noise_Eh": npe.noise,
            "n_points": npe.n_points,
        }
    return result


def _plain_estimate(estimate: Estimate) -> dict[str, float]:
    return {
        "value": estimate.value,
        "error": estimate.error,
        "error_statistical": estimate.statistical,
        "error_model": estimate.model,
    }


def _shortest_bond(run: RunSpec) -> float:
    """The shortest distance between two nuclei, bohr; infinite for an atom."""
    pairs = itertools.combinations(run.molecule.positions, 2)
    return min(itertools.starmap(math.dist, pairs), default=math.inf)


def _parameter_unit(scan: Scan, parameter: str | None) -> str:
    """The parameter's unit where it is the shortest bond's length, as of a diatomic or a chain with
    even spacings; empty otherwise."""
    if parameter is None:
        return ""
    runs = [run for run in scan.runs if parameter in run.parameters]
    lengths = np.array([_shortest_bond(run) for run in runs])
    values = np.array([run.parameters[parameter] for run in runs])
    for unit, factor in (("bohr", 1.0), ("angstrom", units.ANGSTROM_IN_BOHR)):
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

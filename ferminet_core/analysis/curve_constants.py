"""Numbers that follow from a scan's curves and free atoms: bond lengths, depths, atomisation."""

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ferminet_core.analysis.curves import Curve, formula
from ferminet_core.analysis.joint_curve import SEGMENT, SLOPE, JointCurve
from ferminet_core.analysis.literature import PublishedEnergies
from ferminet_core.analysis.potential_curve import (
    CurveMinimum,
    Differences,
    Estimate,
    FitRefusedError,
    fit_minimum,
    non_parallelity,
    reduced_mass,
)
from ferminet_core.analysis.scan_table import measured
from ferminet_core.inputs.molecule import ELEMENTS, Molecule
from ferminet_core.inputs.run_spec import RunSpec

# Energy and standard error (hartree) of free atoms and ions by symbol and charge.
Fragments = Mapping[tuple[str, int], tuple[float, float]]


class Separated(NamedTuple):
    """The separated atoms of a molecule; hartree.

    fragments: in words, such as "He + H+"; not_run: other limits, which may lie lower
    """

    energy: float
    error: float
    fragments: str
    not_run: tuple[str, ...]


def constants(
    curves: Sequence[Curve],
    runs: Sequence[RunSpec],
    table: pd.DataFrame,
    published: Sequence[PublishedEnergies],
    joint: Sequence[JointCurve] = (),
) -> list[dict[str, Any]]:
    """The constants of each curve of a scan that has a finished run, as JSON values.

    Args:
        curves: of the scan.
        runs: of the scan.
        table: the scan table.
        published: energies to compare with, whose columns the table has.
        joint: what was measured of shared wavefunctions along the curves.
    """
    by_id = {run.run_id: run for run in runs}
    found = []
    for curve in curves:
        done = measured(table[table["variant"] == curve.variant])
        points = done[done["run_id"].isin(curve.run_ids)]
        if points.empty:
            continue
        facts: dict[str, Any] = {
            "name": curve.name,
            "state": curve.label,
            "entry": curve.state.entry,
            "variant": curve.variant,
            "molecule": curve.state.formula,
            "charge": curve.state.charge,
            "spin": curve.state.spin,
            "n_points": len(points),
        }
        facts |= _minimum(curve, points, by_id, _fragments(done, by_id))
        facts |= _with_slopes(curve, points, by_id, joint)
        facts["non_parallelity"] = _non_parallelity(points, published)
        found.append(facts)
    return found


def _minimum(
    curve: Curve, points: pd.DataFrame, runs: Mapping[str, RunSpec], fragments: Fragments
) -> dict[str, Any]:
    """Bond length, frequency and depth of a diatomic's curve, or the reason why there are none."""
    symbols = curve.state.symbols
    if len(symbols) != 2:
        return {"refused": "the points are not those of a diatomic molecule"}
    distances = np.array([shortest_bond(runs[run_id]) for run_id in points["run_id"]])
    try:
        minimum = fit_minimum(
            distances,
            points["energy_Eh"].to_numpy(),
            points["error_Eh"].to_numpy(),
            reduced_mass(*symbols),
        )
    except FitRefusedError as error:
        return {"refused": str(error)}
    used = points[np.isin(distances, minimum.used)]
    return {
        **_constants(minimum),
        "fitted": list(used["run_id"]),
        "fitted_bohr": [min(minimum.used), max(minimum.used)],
        "fitted_suspect": list(used["run_id"][used["verdict"].str.startswith("suspect")]),
        "fitted_unconverged": list(used["run_id"][used["verdict"].str.startswith("not converged")]),
        "fitted_untrained": list(used["run_id"][used["verdict"].str.startswith("not optimised")]),
        **_depth(minimum, runs[curve.run_ids[0]].molecule, fragments),
    }


def _constants(minimum: CurveMinimum) -> dict[str, Any]:
    return {
        "r_e_bohr": _plain_estimate(minimum.bond_length),
        "omega_e_inverse_cm": _plain_estimate(minimum.frequency),
        "minimum_Eh": _plain_estimate(minimum.energy),
        "n_models": minimum.n_models,
        "scatter": minimum.scatter,
    }


def _with_slopes(
    curve: Curve, points: pd.DataFrame, runs: Mapping[str, RunSpec], joint: Sequence[JointCurve]
) -> dict[str, Any]:
    """The constants once more, from energies with slopes and differences; empty without these."""
    steps = [j.known_differences() for j in joint if not j.trained.keys().isdisjoint(curve.run_ids)]
    known = pd.concat(steps, ignore_index=True) if steps else pd.DataFrame()
    if known.empty or len(curve.state.symbols) != 2:
        return {}
    if any(runs[run_id].config.optimise.iterations for run_id in points["run_id"]):
        reason = "runs have gone on from the shared wavefunction, which the slopes belong to"
        return {"with_slopes": {"refused": reason}}
    columns = ("start_bohr", "end_bohr", "difference_Eh", "error_Eh")
    try:
        minimum = fit_minimum(
            np.array([shortest_bond(runs[run_id]) for run_id in points["run_id"]]),
            points["energy_Eh"].to_numpy(),
            points["error_Eh"].to_numpy(),
            reduced_mass(*curve.state.symbols),
            differences=Differences(*(known[name].to_numpy(float) for name in columns)),
        )
    except FitRefusedError as error:
        return {"with_slopes": {"refused": str(error)}}
    return {
        "with_slopes": {
            **_constants(minimum),
            "n_slopes": int((known["kind"] == SLOPE).sum()),
            "n_differences": int((known["kind"] == SEGMENT).sum()),
        }
    }


def _depth(minimum: CurveMinimum, molecule: Molecule, fragments: Fragments) -> dict[str, Any]:
    """D_e relative to the separated fragments that were run."""
    try:
        apart = separated(molecule.symbols, molecule.charge, fragments, molecule.cores)
    except FitRefusedError as refusal:
        return {"D_e_refused": str(refusal)}
    depth = Estimate(
        apart.energy - minimum.energy.value,
        math.hypot(apart.error, minimum.energy.statistical),
        minimum.energy.model,
    )
    return {"D_e_Eh": _plain_estimate(depth), **_named(apart)}


def _named(apart: Separated) -> dict[str, Any]:
    """The fragments of a dissociation energy, and those that it was not compared with."""
    return {"fragments": apart.fragments, "fragments_not_run": list(apart.not_run)}


def _fragments(
    done: pd.DataFrame, runs: Mapping[str, RunSpec]
) -> dict[tuple[str, int], tuple[float, float]]:
    """Energy and error of each atom and ion that was run; of several spins the lowest."""
    found: dict[tuple[str, int], tuple[float, float]] = {}
    for run_id, energy, error in zip(
        done["run_id"], done["energy_Eh"], done["error_Eh"], strict=True
    ):
        molecule = runs[run_id].molecule
        if len(molecule.symbols) != 1:
            continue
        key = molecule.symbols[0], molecule.charge
        if key not in found or energy < found[key][0]:
            found[key] = (float(energy), float(error))
    return found


def separated(
    symbols: Sequence[str],
    charge: int,
    fragments: Fragments,
    cores: Mapping[str, int] = MappingProxyType({}),
) -> Separated:
    """The lowest energy of a molecule's separated atoms, over all ways to share its charge.

    The atoms of a neutral molecule are neutral. Those of an ion have charges of its sign: HeH+ has
    the limits He + H+ and He+ + H. A bare nucleus, such as the proton, has the energy 0, and so has
    a core whose electrons a pseudopotential replaces. Limits with an atom that was not run are left
    out, and named.

    Args:
        symbols: of the molecule's nuclei.
        charge: of the molecule.
        fragments: the atoms and ions that were run.
        cores: electrons that pseudopotentials replace, by element.

    Raises:
        FitRefusedError: no limit has all its atoms.
    """
    bare = {symbol: ELEMENTS.index(symbol) + 1 - cores.get(symbol, 0) for symbol in symbols}
    known = dict(fragments) | dict.fromkeys(bare.items(), (0.0, 0.0))
    sign = 1 if charge > 0 else -1
    limits: dict[tuple[tuple[str, int], ...], str] = {}
    for places in itertools.combinations_with_replacement(range(len(symbols)), abs(charge)):
        atoms = [(symbol, sign * places.count(i)) for i, symbol in enumerate(symbols)]
        if all(q <= bare[symbol] for symbol, q in atoms):
            text = " + ".join(formula([symbol], q) for symbol, q in atoms)
            limits.setdefault(tuple(sorted(atoms)), text)
    found, not_run = [], []
    for atoms_, text in limits.items():
        if not known.keys() >= set(atoms_):
            not_run.append(text)
            continue
        energy = sum(known[atom][0] for atom in atoms_)
        # One run stands for all atoms of a kind, so their errors add up.
        errors = [atoms_.count(atom) * known[atom][1] for atom in set(atoms_)]
        found.append((energy, math.hypot(*errors), text))
    if found:
        return Separated(*min(found), tuple(not_run))
    if charge:
        raise FitRefusedError(f"no finished runs of the fragments {' or '.join(not_run)}")
    missing = sorted({symbol for symbol in symbols if (symbol, 0) not in known})
    raise FitRefusedError(f"no finished run of the free atom {', '.join(missing)}")


def atomisation(runs: Sequence[RunSpec], table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Energy of the separated atoms minus that of each molecule, where these atoms were run."""
    by_id = {run.run_id: run for run in runs}
    result: dict[str, dict[str, Any]] = {}
    for variant in table["variant"].unique():
        done = measured(table[table["variant"] == variant])
        fragments = _fragments(done, by_id)
        for run_id, energy, error in zip(
            done["run_id"], done["energy_Eh"], done["error_Eh"], strict=True
        ):
            molecule = by_id[run_id].molecule
            if len(molecule.symbols) == 1:
                continue
            with contextlib.suppress(FitRefusedError):
                apart = separated(molecule.symbols, molecule.charge, fragments, molecule.cores)
                result[run_id] = {
                    "value_Eh": apart.energy - float(energy),
                    "error_Eh": math.hypot(apart.error, error),
                    **_named(apart),
                }
    return result


def _non_parallelity(
    points: pd.DataFrame, published: Sequence[PublishedEnergies]
) -> dict[str, dict[str, Any]]:
    """Non-parallelity error relative to each published curve of two points or more."""
    result = {}
    for other in published:
        known = points[points[other.column].notna()]
        if len(known) < 2:
            continue
        npe = non_parallelity(
            (known["energy_Eh"] - known[other.column]).to_numpy(), known["error_Eh"].to_numpy()
        )
        result[other.name] = {
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


def shortest_bond(run: RunSpec) -> float:
    """The shortest distance between two nuclei, bohr; infinite for an atom."""
    pairs = itertools.combinations(run.molecule.positions, 2)
    return min(itertools.starmap(math.dist, pairs), default=math.inf)

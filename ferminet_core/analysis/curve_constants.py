"""Numbers that follow from a scan's curves and free atoms: bond lengths, depths, atomisation."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ferminet_core.analysis.literature import PublishedEnergies
from ferminet_core.analysis.potential_curve import (
    CurveMinimum,
    Estimate,
    FitRefusedError,
    fit_minimum,
    non_parallelity,
    reduced_mass,
)
from ferminet_core.analysis.scan_table import measured
from ferminet_core.inputs.run_spec import RunSpec

# Energy and standard error of free atoms by symbol, hartree.
Atoms = Mapping[str, tuple[float, float]]


def curves(
    runs: Sequence[RunSpec], table: pd.DataFrame, published: Sequence[PublishedEnergies]
) -> list[dict[str, Any]]:
    """The constants of each variant's curve in a scan of one parameter, as JSON values.

    Args:
        runs: of the scan.
        table: the scan table.
        published: energies to compare with, whose columns the table has.
    """
    by_id = {run.run_id: run for run in runs}
    found = []
    for variant in table["variant"].unique():
        done = measured(table[table["variant"] == variant])
        points = done[[bool(by_id[run_id].parameters) for run_id in done["run_id"]]]
        if points.empty:
            continue
        curve: dict[str, Any] = {"variant": variant, "n_points": len(points)}
        curve |= _minimum(points, by_id, _free_atoms(done, by_id))
        curve["non_parallelity"] = _non_parallelity(points, published)
        found.append(curve)
    return found


def _minimum(points: pd.DataFrame, runs: Mapping[str, RunSpec], atoms: Atoms) -> dict[str, Any]:
    """Bond length, frequency and depth of a diatomic's curve, or the reason why there are none."""
    molecules = [runs[run_id].molecule for run_id in points["run_id"]]
    if any(len(m.symbols) != 2 or m.symbols != molecules[0].symbols for m in molecules):
        return {"refused": "the points are not those of one diatomic molecule"}
    if len({(m.charge, m.spin) for m in molecules}) > 1:
        return {"refused": "charge or spin changes along the curve"}
    try:
        minimum = fit_minimum(
            np.array([shortest_bond(runs[run_id]) for run_id in points["run_id"]]),
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
    minimum: CurveMinimum, symbols: tuple[str, ...], charge: int, atoms: Atoms
) -> dict[str, Any]:
    """D_e relative to the free atoms that were run."""
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


def _separated(symbols: tuple[str, ...], charge: int, atoms: Atoms) -> tuple[float, float]:
    """Energy and error of a neutral molecule's separated atoms.

    Raises:
        FitRefusedError: an atom was not run, or the molecule is charged.
    """
    if charge != 0:
        raise FitRefusedError("the molecule is charged; its fragments are not all neutral atoms")
    if missing := sorted(set(symbols) - set(atoms)):
        raise FitRefusedError(f"no finished run of the free atom {', '.join(missing)}")
    energy = sum(atoms[symbol][0] for symbol in symbols)
    # One run stands for all atoms of an element, so their errors add up.
    errors = [symbols.count(symbol) * atoms[symbol][1] for symbol in set(symbols)]
    return energy, math.hypot(*errors)


def atomisation(runs: Sequence[RunSpec], table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Energy of the separated atoms minus that of each molecule, where all its atoms were run."""
    by_id = {run.run_id: run for run in runs}
    result = {}
    for variant in table["variant"].unique():
        done = measured(table[table["variant"] == variant])
        atoms = _free_atoms(done, by_id)
        for run_id, energy, error in zip(
            done["run_id"], done["energy_Eh"], done["error_Eh"], strict=True
        ):
            molecule = by_id[run_id].molecule
            neutral = molecule.charge == 0 and len(molecule.symbols) > 1
            if neutral and set(molecule.symbols) <= set(atoms):
                separated, separated_error = _separated(molecule.symbols, 0, atoms)
                result[run_id] = {
                    "value_Eh": float(separated - energy),
                    "error_Eh": math.hypot(separated_error, error),
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

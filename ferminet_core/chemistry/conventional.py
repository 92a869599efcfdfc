"""Stage `conventional`: energies of established methods, to compare with the curve.

The stage lies next to the chain. It needs only the molecule, and only the summary reads it. All
electrons are correlated, so basis sets with functions for the core (cc-pCVXZ) come nearest to the
limit. A method that fails or is refused is recorded with its reason, and the stage continues. A
full disk or a lack of memory ends the stage instead: it is not a property of the method.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyscf
import xarray as xr
from pyscf import lib

from ferminet_core.chemistry.correlated_methods import (
    MethodEnergy,
    correlated_energies,
    failed,
    no_energy,
)
from ferminet_core.chemistry.gaussian_basis import build_mole
from ferminet_core.chemistry.hartree_fock import Solution, all_solutions, lowest
from ferminet_core.errors import ArtefactError, InputError, describe
from ferminet_core.inputs.basis_sets import dunning, limit_name
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import RunSpec

# Methods that start from the unrestricted solution.
_UNRESTRICTED = frozenset({"uhf", "uccsd(t)"})
# Share of a basis set's Hartree-Fock error that remains in the next larger set.
_LEFT = math.exp(-1.63)


class _InBasis(NamedTuple):
    """Results in one basis set.

    energies: energy by method, always including rhf and uhf
    solutions: records of the Hartree-Fock solutions that were tried
    """

    energies: dict[str, MethodEnergy]
    solutions: list[dict[str, Any]]


def hartree_fock_limit(smaller: float, larger: float) -> float:
    """Hartree-Fock energy at the basis-set limit from two neighbouring sets, hartree.

    E_X = E + B exp(-1.63 X) for any cardinal number X of the smaller set (Halkier et al. 1999,
    doi:10.1016/S0009-2614(99)00179-7).
    """
    return (larger - _LEFT * smaller) / (1.0 - _LEFT)


def correlation_limit(cardinal: int, smaller: float, larger: float) -> float:
    """Correlation energy at the basis-set limit from two neighbouring sets, hartree.

    E_X = E + A X^-3 with the cardinal number X of the smaller set and X + 1 of the larger one
    (Helgaker et al. 1997, doi:10.1063/1.473863; Halkier et al. 1998,
    doi:10.1016/S0009-2614(98)00111-0).
    """
    x, y = cardinal**3, (cardinal + 1) ** 3
    return (y * larger - x * smaller) / (y - x)


def run(spec: RunSpec, threads: int = 1) -> xr.Dataset:
    """Energies of the methods in the basis sets that a run asks for.

    Args:
        spec: The run. Only its molecule and the settings `conventional` are read.
        threads: Threads of the correlated methods. Hartree-Fock runs on one thread, because the
            order of sums over threads would decide which of several solutions it finds.

    Returns:
        Dataset with energy (method, basis), hartree; NaN if a method failed or was refused. One
        energy is energy.loc["fci", "cc-pvdz"] (`sel` has its own keyword `method`). The coordinates
        are the names in the settings. With `extrapolate` the last basis is the limit from two sets,
        such as "cbs(t,q)". Attributes, as JSON: notes, {basis: {method: the reason for a NaN, or
        the active space}}; solutions, {basis: [Hartree-Fock solutions tried, with energy, <S^2> and
        stability]}.

    Raises:
        InputError: The spec asks for no methods.
        ArtefactError: PySCF's temporary files cannot be written.
        MemoryError: There is not enough memory.
    """
    config = spec.config.conventional
    if not config.methods:
        raise InputError(
            f"conventional.methods: found none for run {spec.run_id}; allowed: a spec from the "
            "folder spec/conventional, which has one for each run that asks for methods"
        )
    try:
        found = {
            name: _in_basis(spec.molecule, name, config.methods, threads) for name in config.basis
        }
    except OSError as error:
        # The text of HDF5's errors has many lines.
        reason = os.strerror(error.errno) if error.errno else describe(error)
        raise ArtefactError(
            f"{lib.param.TMPDIR}: the temporary files of PySCF cannot be written ({reason}); "
            "make room, or set PYSCF_TMPDIR to another folder"
        ) from error
    energies = {name: part.energies for name, part in found.items()}
    if config.extrapolate:
        smaller, larger = config.basis[-2:]
        energies[limit_name(smaller, larger)] = {
            method: _limit(method, smaller, energies[smaller], energies[larger])
            for method in config.methods
        }
    notes = {
        name: {method: kept[method].note for method in config.methods if kept[method].note}
        for name, kept in energies.items()
    }
    table = [[kept[method].energy for kept in energies.values()] for method in config.methods]
    return xr.Dataset(
        {"energy": (("method", "basis"), np.array(table), {"units": "hartree"})},
        coords={"method": list(config.methods), "basis": list(energies)},
        attrs={
            "notes": json.dumps(notes),
            "solutions": json.dumps({name: part.solutions for name, part in found.items()}),
            "pyscf": pyscf.__version__,
        },
    )


def _in_basis(molecule: Molecule, name: str, methods: Sequence[str], threads: int) -> _InBasis:
    """All methods in one basis set."""
    try:
        mole = build_mole(molecule, name, key="conventional.basis")
        with lib.with_omp_threads(1):
            solutions = all_solutions(mole, unrestricted=not _UNRESTRICTED.isdisjoint(methods))
    except Exception as error:  # noqa: BLE001  (recorded as the reason)
        return _InBasis(dict.fromkeys(("rhf", "uhf", *methods), failed(error, name)), [])
    best = {"rhf": lowest(solutions, solutions[0].method), "uhf": lowest(solutions, "uhf")}
    fields = [solution.mean_field if solution else None for solution in best.values()]
    with lib.with_omp_threads(threads):
        correlated = correlated_energies([m for m in methods if m not in best], *fields)
    start = {method: _hartree_fock(solution) for method, solution in best.items()}
    return _InBasis({**start, **correlated}, [solution.record() for solution in solutions])


def _hartree_fock(solution: Solution | None) -> MethodEnergy:
    if solution is None:
        return no_energy("it did not converge")
    return MethodEnergy(solution.energy, "" if solution.stable else "not a stable solution")


def _limit(
    method: str,
    basis: str,
    smaller: Mapping[str, MethodEnergy],
    larger: Mapping[str, MethodEnergy],
) -> MethodEnergy:
    """The energy of a method at the basis-set limit.

    It follows from the energies in `basis` and in the next larger set of the same family. The
    correlation energy is relative to the method's own Hartree-Fock.
    """
    place = dunning(basis)
    if place is None:
        raise ValueError(f"{basis}: not one of Dunning's sets")  # the settings exclude this
    start = "uhf" if method in _UNRESTRICTED else "rhf"
    limit = hartree_fock_limit(smaller[start].energy, larger[start].energy)
    if method != start:
        correlation = [kept[method].energy - kept[start].energy for kept in (smaller, larger)]
        limit += correlation_limit(place.cardinal, *correlation)
    if math.isnan(limit):
        return no_energy("it has no energy in one of the two basis sets")
    return MethodEnergy(limit)

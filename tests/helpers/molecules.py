"""Atoms and molecules, and Hartree-Fock straight from PySCF."""

from pathlib import Path
from typing import Any

from ferminet_core.chemistry.gaussian_basis import build_mole
from ferminet_core.inputs.molecule import Molecule, Position
from ferminet_core.inputs.pseudopotentials import Choice, pseudopotentials

# Variational: a solution lies no further above its minimum than g^2 / h. SCF ends at an orbital
# gradient g below 3.2e-6, the root of `directly`'s 1e-11 (`solve` ends at 1e-6). The lowest
# curvature h of the molecules in use, an eigenvalue of PySCF's orbital Hessian, is 0.024 hartree
# (O2 in cc-pVDZ; N2 has 0.045, the others 0.3 or more): 4.2e-10. Rounding of 150 hartree is 1e-12.
SCF_ROUNDING = 1e-9


def atom(symbol: str, charge: int = 0, spin: int = 0) -> Molecule:
    return Molecule(symbols=(symbol,), positions=((0.0, 0.0, 0.0),), charge=charge, spin=spin)


def diatomic(first: str, second: str, distance: float, charge: int = 0, spin: int = 0) -> Molecule:
    half = 0.5 * distance
    return Molecule(
        symbols=(first, second),
        positions=((0.0, 0.0, -half), (0.0, 0.0, half)),
        charge=charge,
        spin=spin,
    )


def with_pseudopotentials(
    symbols: tuple[str, ...],
    positions: tuple[Position, ...],
    charge: int = 0,
    spin: int = 0,
    choice: Choice = "ccecp",
) -> Molecule:
    found = pseudopotentials(choice, set(symbols), Path(), lambda *key: "here")
    return Molecule.make(symbols, positions, charge, spin, pseudopotentials=found)


def directly(molecule: Molecule, basis: str, method: Any) -> Any:
    mean_field = method(build_mole(molecule, basis))
    mean_field.conv_tol = 1e-11
    return mean_field.run()

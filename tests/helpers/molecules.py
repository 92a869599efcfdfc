"""Atoms and molecules, and Hartree-Fock straight from PySCF."""

from typing import Any

from ferminet_core.chemistry.gaussian_basis import build_mole
from ferminet_core.inputs.molecule import Molecule

# Variational: an orbital gradient g at a curvature h leaves g^2 / (2 h). SCF ends at g = 1e-6, and
# stable solutions have curvatures of 1e-3 hartree and more: 5e-10, and rounding of 1e-11.
SCF_ROUNDING = 1e-8


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


def directly(molecule: Molecule, basis: str, method: Any) -> Any:
    mean_field = method(build_mole(molecule, basis))
    mean_field.conv_tol = 1e-11
    return mean_field.run()

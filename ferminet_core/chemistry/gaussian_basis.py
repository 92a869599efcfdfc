"""Gaussian basis sets by name, and the molecule in them, from PySCF."""

from typing import Any

import numpy as np
from pyscf import gto

from ferminet_core.errors import InputError
from ferminet_core.inputs.basis_sets import check_basis, element_basis
from ferminet_core.inputs.molecule import Molecule, Pseudopotential


def build_mole(
    molecule: Molecule, basis: str, cartesian: bool = False, key: str = "reference.basis"
) -> gto.Mole:
    """The molecule in PySCF, with coordinates in bohr.

    Args:
        molecule: Nuclei (bohr), charge and spin.
        basis: Name of the basis set.
        cartesian: Whether d, f, ... functions are Cartesian instead of spherical.
        key: The setting that names the basis, for error lines.

    Raises:
        InputError: The basis is unsuitable (`check_basis`), or has fewer orbitals than electrons of
            one spin.
    """
    potentials = {p.symbol: p for p in molecule.pseudopotentials}
    names = {symbol: potential.name for symbol, potential in potentials.items()}
    check_basis(basis, molecule.symbols, key, names)
    mole = gto.M(
        atom=list(zip(molecule.symbols, molecule.positions, strict=True)),
        unit="Bohr",
        basis={symbol: element_basis(basis, symbol, names) for symbol in molecule.symbols},
        ecp={symbol: in_pyscf(potential) for symbol, potential in potentials.items()},
        charge=molecule.charge,
        spin=molecule.spin,
        cart=cartesian,
        verbose=0,
        parse_arg=False,  # PySCF would read this process's command line
    )
    if mole.nao < molecule.n_up:
        raise InputError(
            f"{key}: {basis!r} gives {mole.nao} orbitals for {molecule.n_up} spin-up "
            "electrons; choose a larger basis"
        )
    return mole


def in_pyscf(potential: Pseudopotential) -> list[Any]:
    """A pseudopotential as PySCF takes it: the core, and (a, c) of each part and n."""
    parts = {-1: potential.local, **dict(enumerate(potential.channels))}
    return [
        potential.core,
        [
            [
                momentum,
                [[[t.exponent, t.coefficient] for t in terms if t.power == n] for n in range(7)],
            ]
            for momentum, terms in parts.items()
        ],
    ]


def shell_variables(mole: gto.Mole) -> dict[str, tuple[str, np.ndarray]]:
    """The basis as arrays. Each contraction becomes its own shell, in AO order."""
    centre: list[int] = []
    momentum: list[int] = []
    owner: list[int] = []
    exponent: list[float] = []
    coefficient: list[float] = []
    for shell in range(mole.nbas):
        own, exponents = mole.bas_angular(shell), mole.bas_exp(shell)
        normalised = gto.gto_norm(own, exponents)[:, None] * mole.bas_ctr_coeff(shell)
        for column in normalised.T:
            used = column != 0.0
            owner += [len(centre)] * int(used.sum())
            exponent += exponents[used].tolist()
            coefficient += column[used].tolist()
            centre.append(mole.bas_atom(shell))
            momentum.append(own)
    return {
        "shell_centre": ("shell", np.asarray(centre, dtype=np.int64)),
        "shell_momentum": ("shell", np.asarray(momentum, dtype=np.int64)),
        "primitive_shell": ("primitive", np.asarray(owner, dtype=np.int64)),
        "primitive_exponent": ("primitive", np.asarray(exponent)),
        "primitive_coefficient": ("primitive", np.asarray(coefficient)),
    }

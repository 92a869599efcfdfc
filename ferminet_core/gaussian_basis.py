"""Gaussian basis sets by name, and the molecule in them, from PySCF."""

import difflib
import warnings
from typing import Any

import numpy as np
from pyscf import gto
from pyscf.gto.basis import ALIAS
from pyscf.lib.exceptions import BasisNotFoundError

from ferminet_core.errors import InputError
from ferminet_core.system import Molecule


def _known_basis(name: str, symbol: str) -> list[Any]:
    """Shells of one element, or InputError."""
    wrong_name = "/" in name or "\\" in name or "\n" in name
    try:
        if wrong_name:
            raise KeyError(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return gto.basis.load(name, symbol)
    except (BasisNotFoundError, KeyError, RuntimeError, AssertionError, ValueError):
        plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
        if plain in ALIAS:
            raise InputError(
                f"reference.basis: {name!r} has no functions for {symbol}; choose a basis that does"
            ) from None
        close = difflib.get_close_matches(plain, ALIAS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else " (try 'cc-pvdz' or 'cc-pvtz')"
        raise InputError(f"reference.basis: unknown basis set {name!r}{hint}") from None


def check_basis(name: str, symbols: tuple[str, ...]) -> None:
    """Check that a basis set is known, has every element, and is meant for all electrons.

    Raises:
        InputError: unknown basis, element missing, or made for an effective core potential.
    """
    for symbol in sorted(set(symbols)):
        shells = _known_basis(name, symbol)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                potential = gto.basis.load_ecp(name, symbol)
        except (BasisNotFoundError, KeyError, RuntimeError):  # RuntimeError: no ECP of this name
            potential = []
        # Core electrons need exponents beyond Z^2; sets made for effective cores lack them.
        largest = max(row[0] for shell in shells for row in shell[1:] if isinstance(row, list))
        charge = gto.charge(symbol)
        valence = charge > 2 and largest < charge**2
        if potential or valence or any(word in name.lower() for word in ("ecp", "gth", "bfd")):
            raise InputError(
                f"reference.basis: {name!r} stands on an effective core potential for {symbol}, "
                "and all electrons are treated here; choose an all-electron basis such as 'cc-pvdz'"
            )


def build_mole(molecule: Molecule, basis: str, cartesian: bool = False) -> gto.Mole:
    """PySCF's molecule, with coordinates in bohr as given.

    Raises:
        InputError: bad basis (`check_basis`), or fewer orbitals than electrons of one spin.
    """
    check_basis(basis, molecule.symbols)
    mole = gto.M(
        atom=list(zip(molecule.symbols, molecule.positions, strict=True)),
        unit="Bohr",
        basis=basis,
        charge=molecule.charge,
        spin=molecule.spin,
        cart=cartesian,
        verbose=0,
        parse_arg=False,  # PySCF would read this process's command line
    )
    if mole.nao < molecule.n_up:
        raise InputError(
            f"reference.basis: {basis!r} gives {mole.nao} orbitals for {molecule.n_up} spin-up "
            "electrons; choose a larger basis"
        )
    return mole


def shell_variables(mole: gto.Mole) -> dict[str, tuple[str, np.ndarray]]:
    """The basis as arrays; each contraction becomes a shell of its own, in AO order."""
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

"""Gaussian basis sets by name: Dunning's families, and the elements that a set covers.

The functions import PySCF when they run, because the run table must expand quickly.
"""

import difflib
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ferminet_core.errors import InputError

_SIZES = {"d": 2, "t": 3, "q": 4, "5": 5, "6": 6}
_DUNNING = re.compile(rf"(aug)?cc(p|pc|pwc)v([{''.join(_SIZES)}])z")
# PySCF has no single error for a missing set. It raises its own (a RuntimeError), an error of its
# reader, or the error of a missing file.
_ABSENT = (RuntimeError, LookupError, AssertionError, ValueError, TypeError, OSError)


def plain(name: str) -> str:
    """A name as PySCF compares it: "cc-pVDZ" is "ccpvdz"."""
    return re.sub("[-_ ]", "", name.lower())


class Dunning(NamedTuple):
    """A correlation-consistent set.

    augmented: with diffuse functions; kind: p, or pc or pwc with functions for the core
    cardinal: cardinal number, 2 for double zeta
    """

    augmented: bool
    kind: str
    cardinal: int


def dunning(name: str) -> Dunning | None:
    """The place of a set in Dunning's families; None for any other set."""
    match = _DUNNING.fullmatch(plain(name))
    return Dunning(bool(match[1]), match[2], _SIZES[match[3]]) if match else None


def limit_name(smaller: str, larger: str) -> str:
    """The basis-set limit from two of Dunning's sets, such as "cbs(t,q)"."""
    return f"cbs({plain(smaller)[-2]},{plain(larger)[-2]})"


def basis_label(name: str) -> str:
    """The printed name of a basis set.

    It is "cc-pVTZ" for "ccpvtz", and "CBS(T,Q)" for the limit from two sets. Names outside
    Dunning's families do not change.
    """
    match = _DUNNING.fullmatch(plain(name))
    if not match:
        return name.upper() if name.startswith("cbs(") else name
    kind = match[2].replace("c", "C")
    return f"{'aug-' if match[1] else ''}cc-{kind}V{match[3].upper()}Z"


def element_basis(name: str, symbol: str) -> str:
    """The set of one element in a molecule with this set.

    Hydrogen and helium have no core, so a core-valence set means the valence set for them.
    """
    match = _DUNNING.fullmatch(plain(name))
    if match and match[2] != "p" and symbol in ("H", "He"):
        return f"{match[1] or ''}ccpv{match[3]}z"
    return name


def check_basis(name: str, symbols: Iterable[str], key: str = "reference.basis") -> None:
    """Check that a basis set is known, covers every element, and describes all electrons.

    Args:
        name: Name of the basis set.
        symbols: The elements.
        key: The setting that names it, for the error line.

    Raises:
        InputError: The set is unknown, lacks an element, or needs an effective core potential.
    """
    from pyscf import gto

    for symbol in sorted(set(symbols)):
        shells = _load(gto.basis.load, element_basis(name, symbol), symbol)
        if not shells:
            raise InputError(f"{key}: {_absent(name, symbol)}")
        # Core electrons need exponents beyond Z^2, which sets for effective core potentials lack.
        largest = max(row[0] for shell in shells for row in shell[1:] if isinstance(row, list))
        charge = gto.charge(symbol)
        valence = charge > 2 and largest < charge**2
        named = any(word in name.lower() for word in ("ecp", "gth", "bfd"))
        if valence or named or _load(gto.basis.load_ecp, name, symbol):
            raise InputError(
                f"{key}: {name!r} needs an effective core potential for {symbol}, but this program "
                "treats all electrons; choose an all-electron basis such as 'cc-pvdz'"
            )


def _load(load: Callable[[str, str], list[Any]], name: str, symbol: str) -> list[Any]:
    """What PySCF has for an element under this name; empty if it has nothing."""
    if any(character in name for character in "/\\\n"):  # PySCF would open such a file
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about other packages that may have more sets
        try:
            return list(load(name, symbol))
        except _ABSENT:
            return []


def _absent(name: str, symbol: str) -> str:
    from pyscf.gto.basis import ALIAS

    if plain(name) in ALIAS:
        return f"{name!r} has no functions for {symbol}; choose one that does"
    close = difflib.get_close_matches(plain(name), ALIAS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "try 'cc-pvdz' or 'cc-pvtz'"
    return f"unknown basis set {name!r}; {hint}"

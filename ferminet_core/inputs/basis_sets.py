"""Gaussian basis sets by name: Dunning's families, and whether a set exists for a run's elements.

PySCF is imported inside the functions: the run table is expanded where a second counts.
"""

import difflib
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ferminet_core.errors import InputError

_SIZES = {"d": 2, "t": 3, "q": 4, "5": 5, "6": 6}
_DUNNING = re.compile(rf"(aug)?cc(p|pc|pwc)v([{''.join(_SIZES)}])z")
# PySCF has no single error for a set that it lacks: its own (a RuntimeError), what its reader trips
# over, and what opening a file that is not there gives.
_ABSENT = (RuntimeError, LookupError, AssertionError, ValueError, TypeError, OSError)


def plain(name: str) -> str:
    """A name as PySCF compares it: "cc-pVDZ" is "ccpvdz"."""
    return re.sub("[-_ ]", "", name.lower())


class Dunning(NamedTuple):
    """A correlation-consistent set: augmented or not; p, pc or pwc (with functions for the core);
    cardinal number, 2 of double zeta."""

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
    """A set's name as it is printed: "cc-pVTZ" of "ccpvtz", "CBS(T,Q)" of the limit from two sets;
    others than Dunning's as they are."""
    match = _DUNNING.fullmatch(plain(name))
    if not match:
        return name.upper() if name.startswith("cbs(") else name
    kind = match[2].replace("c", "C")
    return f"{'aug-' if match[1] else ''}cc-{kind}V{match[3].upper()}Z"


def element_basis(name: str, symbol: str) -> str:
    """The set that an element has in a molecule with this set.

    Hydrogen and helium have no core: beside a core-valence set theirs is the valence set.
    """
    match = _DUNNING.fullmatch(plain(name))
    if match and match[2] != "p" and symbol in ("H", "He"):
        return f"{match[1] or ''}ccpv{match[3]}z"
    return name


def check_basis(name: str, symbols: Iterable[str], key: str = "reference.basis") -> None:
    """Check that a basis set is known, has every element, and is meant for all electrons.

    Args:
        name: of the basis set.
        symbols: the elements.
        key: the setting that named it, for the error line.

    Raises:
        InputError: unknown basis, element missing, or made for an effective core potential.
    """
    from pyscf import gto

    for symbol in sorted(set(symbols)):
        shells = _load(gto.basis.load, element_basis(name, symbol), symbol)
        if not shells:
            raise InputError(f"{key}: {_absent(name, symbol)}")
        # Core electrons need exponents beyond Z^2; sets made for effective cores lack them.
        largest = max(row[0] for shell in shells for row in shell[1:] if isinstance(row, list))
        charge = gto.charge(symbol)
        valence = charge > 2 and largest < charge**2
        named = any(word in name.lower() for word in ("ecp", "gth", "bfd"))
        if valence or named or _load(gto.basis.load_ecp, name, symbol):
            raise InputError(
                f"{key}: {name!r} stands on an effective core potential for {symbol}, and all "
                "electrons are treated here; choose an all-electron basis such as 'cc-pvdz'"
            )


def _load(load: Callable[[str, str], list[Any]], name: str, symbol: str) -> list[Any]:
    """What PySCF has for an element under this name; empty where it has nothing."""
    if any(character in name for character in "/\\\n"):  # PySCF would open such a file
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on other packages that may know more
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

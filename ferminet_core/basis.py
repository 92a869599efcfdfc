"""Whether a Gaussian basis set exists for the elements of a run, asked before any job starts.

PySCF is imported inside the functions: the run table is expanded where a second counts.
"""

import difflib
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from ferminet_core.errors import InputError

_KEY = "reference.basis"
# PySCF has no single error for a set that it lacks: its own (a RuntimeError), what its reader trips
# over, and what opening a file that is not there gives.
_ABSENT = (RuntimeError, LookupError, AssertionError, ValueError, TypeError, OSError)


def check_basis(name: str, symbols: Iterable[str]) -> None:
    """Check that a basis set is known, has every element, and is meant for all electrons.

    Raises:
        InputError: unknown basis, element missing, or made for an effective core potential.
    """
    from pyscf import gto

    for symbol in sorted(set(symbols)):
        shells = _load(gto.basis.load, name, symbol)
        if not shells:
            raise InputError(_absent(name, symbol))
        # Core electrons need exponents beyond Z^2; sets made for effective cores lack them.
        largest = max(row[0] for shell in shells for row in shell[1:] if isinstance(row, list))
        charge = gto.charge(symbol)
        valence = charge > 2 and largest < charge**2
        named = any(word in name.lower() for word in ("ecp", "gth", "bfd"))
        if valence or named or _load(gto.basis.load_ecp, name, symbol):
            raise InputError(
                f"{_KEY}: {name!r} stands on an effective core potential for {symbol}, and all "
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

    plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    if plain in ALIAS:
        return f"{_KEY}: {name!r} has no functions for {symbol}; choose one that does"
    close = difflib.get_close_matches(plain, ALIAS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "try 'cc-pvdz' or 'cc-pvtz'"
    return f"{_KEY}: unknown basis set {name!r}; {hint}"

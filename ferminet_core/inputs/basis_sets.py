"""Gaussian basis sets by name: Dunning's families, and the elements that a set covers.

The functions import PySCF when they run, because the run table must expand quickly.
"""

import difflib
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import show
from ferminet_core.inputs.molecule import ELEMENTS

# PySCF takes other names for paths of files, or for the text of a basis set.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 +*(),@_-]*")
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

    if _NAME.fullmatch(name) and Path(name.partition("@")[0]).is_file():
        raise InputError(
            f"{key}: {name!r} is also a file in this folder, and PySCF would read it; rename the "
            "file, or start elsewhere"
        )
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
                f"{key}: {show(name)} needs an effective core potential for {symbol}, but this "
                "program treats all electrons; choose an all-electron basis such as 'cc-pvdz'"
            )


def _load(load: Callable[[str, str], list[Any]], name: str, symbol: str) -> list[Any]:
    """What PySCF has for an element under this name; empty if it has nothing."""
    if not _NAME.fullmatch(name):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about other packages that may have more sets
        try:
            return list(load(name, symbol))
        except _ABSENT:
            return []


def _absent(name: str, symbol: str) -> str:
    from pyscf import gto

    if plain(name) in gto.basis.ALIAS:
        covered = [e for e in ELEMENTS if _load(gto.basis.load, element_basis(name, e), e)]
        if not covered:
            return f"{show(name)} has no functions for {symbol}; choose another, such as 'cc-pvdz'"
        return (
            f"{show(name)} has no functions for {symbol}; it has {', '.join(covered)}; choose one "
            f"that has {symbol}"
        )
    close = difflib.get_close_matches(plain(name), gto.basis.ALIAS, n=1)
    hint = f"did you mean {_spelling(close[0])!r}?" if close else "try 'cc-pvdz' or 'cc-pvtz'"
    return f"unknown basis set {show(name)}; {hint}"


def _spelling(alias: str) -> str:
    """The spelling of a set as in PySCF's documentation, such as "cc-pvdz" for "ccpvdz".

    PySCF names its files so, apart from capitals.
    """
    from pyscf.gto.basis import ALIAS

    files = ALIAS[alias]
    file = files if isinstance(files, str) else files[0]
    stem = Path(file).stem.lower()
    return stem if plain(stem) == alias else alias

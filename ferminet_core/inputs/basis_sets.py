"""Gaussian basis sets by name: Dunning's families, and the elements that a set covers.

The functions import PySCF when they run, because the run table must expand quickly.
"""

import difflib
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import show
from ferminet_core.inputs.molecule import ELEMENTS

# PySCF takes other names for paths of files, or for the text of a basis set.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 +*(),@_-]*")
_SIZES = {"d": 2, "t": 3, "q": 4, "5": 5, "6": 6}
# The sets of ccECP pseudopotentials are named like Dunning's, after the name of the potential.
_DUNNING = re.compile(rf"(ccecp(?:he|reg|28|36)?)?(aug)?cc(p|pc|pwc)v([{''.join(_SIZES)}])z")
_CCECP = re.compile(r"ccecp(he|reg|28|36)?")
_BFD = re.compile(r"bfdv[dtq5]z")
# PySCF has no single error for a missing set. It raises its own (a RuntimeError), an error of its
# reader, or the error of a missing file.
_ABSENT = (RuntimeError, LookupError, AssertionError, ValueError, TypeError, OSError)


def plain(name: str) -> str:
    """A name as PySCF compares it: "cc-pVDZ" is "ccpvdz"."""
    return re.sub("[-_ ]", "", name.lower())


class Dunning(NamedTuple):
    """A correlation-consistent set.

    potential: the pseudopotential that it belongs to, such as ccecp; empty for all electrons
    augmented: with diffuse functions; kind: p, or pc or pwc with functions for the core
    cardinal: cardinal number, 2 for double zeta
    """

    potential: str
    augmented: bool
    kind: str
    cardinal: int


def dunning(name: str) -> Dunning | None:
    """The place of a set in Dunning's families; None for any other set."""
    match = _DUNNING.fullmatch(plain(name))
    if not match:
        return None
    return Dunning(match[1] or "", bool(match[2]), match[3], _SIZES[match[4]])


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
    potential = ""
    if match[1]:
        kind = match[1].removeprefix("ccecp")
        potential = f"ccECP-{kind}-" if kind else "ccECP-"
    kind = match[3].replace("c", "C")
    return f"{potential}{'aug-' if match[2] else ''}cc-{kind}V{match[4].upper()}Z"


def element_basis(name: str, symbol: str, potentials: Collection[str] = ()) -> str:
    """The set of one element in a molecule with this set.

    Hydrogen and helium have no core, so a core-valence set means the valence set for them. Elements
    without a pseudopotential have the all-electron set of the same size as those with ccECP.

    Args:
        name: Name of the basis set.
        symbol: The element.
        potentials: Elements of the molecule that have a pseudopotential.
    """
    match = _DUNNING.fullmatch(plain(name))
    if match and match[1] and potentials and symbol not in potentials:
        return f"{match[2] or ''}cc{match[3]}v{match[4]}z"
    if match and match[3] != "p" and symbol in ("H", "He"):
        return f"{match[1] or ''}{match[2] or ''}ccpv{match[4]}z"
    return name


def check_basis(
    name: str,
    symbols: Iterable[str],
    key: str = "reference.basis",
    potentials: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Check that a basis set is known, covers every element, and describes its electrons.

    Args:
        name: Name of the basis set.
        symbols: The elements.
        key: The setting that names it, for the error line.
        potentials: Names of the pseudopotentials, by the elements that have one.

    Raises:
        InputError: The set is unknown, lacks an element, or is one for other electrons: for all, or
            for those of another pseudopotential.
    """
    from pyscf import gto

    if _NAME.fullmatch(name) and Path(name.partition("@")[0]).is_file():
        raise InputError(
            f"{key}: {name!r} is also a file in this folder, and PySCF would read it; rename the "
            "file, or start elsewhere"
        )
    for symbol in sorted(set(symbols)):
        own = element_basis(name, symbol, potentials)
        shells = load_from_pyscf(gto.basis.load, own, symbol)
        if not shells:
            raise InputError(f"{key}: {_absent(own, symbol)}")
        if symbol in potentials:
            if problem := _of_other_potential(own, symbol, potentials[symbol]):
                raise InputError(f"{key}: {problem}")
        elif _needs_potential(own, symbol, shells):
            raise InputError(
                f"{key}: {show(name)} needs a pseudopotential for {symbol}, which has all of its "
                "electrons; choose an all-electron basis such as 'cc-pvdz', or give a "
                "`pseudopotential`"
            )


def _needs_potential(name: str, symbol: str, shells: list[Any]) -> bool:
    """Whether a set describes valence electrons only.

    Core electrons need exponents beyond Z^2, which sets for pseudopotentials lack.
    """
    from pyscf import gto

    largest = max(row[0] for shell in shells for row in shell[1:] if isinstance(row, list))
    charge = gto.charge(symbol)
    valence = charge > 2 and largest < charge**2
    named = any(word in name.lower() for word in ("ecp", "gth", "bfd"))
    return bool(valence or named or load_from_pyscf(gto.basis.load_ecp, name, symbol))


def _of_other_potential(name: str, symbol: str, potential: str) -> str:
    """What is wrong with a set for an element with a pseudopotential; empty if nothing is.

    Potentials from files have no sets of their own, and take any.
    """
    from pyscf import gto

    wanted, own = plain(potential), plain(name)
    if "." in potential or own == wanted:
        return ""
    place = dunning(name)
    if _CCECP.fullmatch(wanted):
        belongs = place is not None and place.potential == wanted
        size = "".join(k for k, v in _SIZES.items() if place and v == place.cardinal) or "d"
        fitting = f"{potential}-{'aug-' if place and place.augmented else ''}cc-pv{size}z"
    elif wanted in ("bfd", "bfdpp"):
        belongs, fitting = bool(_BFD.fullmatch(own)), "bfd-vdz"
    else:  # sets and potentials of one name
        found = [load_from_pyscf(gto.basis.load_ecp, n, symbol) for n in (name, potential)]
        belongs, fitting = bool(found[0]) and found[0] == found[1], potential
    if belongs:
        return ""
    return (
        f"{show(name)} does not belong to the pseudopotential {show(potential)} of {symbol}; "
        f"choose one that does, such as {fitting!r}"
    )


def load_from_pyscf(load: Callable[[str, str], list[Any]], name: str, symbol: str) -> list[Any]:
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
        covered = [
            e for e in ELEMENTS if load_from_pyscf(gto.basis.load, element_basis(name, e), e)
        ]
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

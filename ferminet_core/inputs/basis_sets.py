"""Gaussian basis sets by name: Dunning's families, and the elements that a set covers.

The functions import PySCF when they run, because the run table must expand quickly.
"""

import difflib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import show
from ferminet_core.inputs.molecule import ELEMENTS
from ferminet_core.inputs.pseudopotentials import canonical, from_pyscf, is_file

# PySCF takes other names for paths of files, or for the text of a basis set.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 +*(),@_-]*")
_SIZES = {"d": 2, "t": 3, "q": 4, "5": 5, "6": 6}
# The sets of ccECP pseudopotentials are named like Dunning's, after the name of the potential.
_DUNNING = re.compile(rf"(ccecp(?:he|reg|28|36)?)?(aug)?cc(p|pc|pwc)v([{''.join(_SIZES)}])z")
_CCECP = re.compile(r"ccecp(he|reg|28|36)?")
_BFD = re.compile(r"bfdv([dtq5])z")
_PP = re.compile(r"(aug)?cc(p|pwc)v([dtq5])zpp")
# Double-zeta sets for potentials of the same name, in which light elements without a potential have
# no functions, or no core.
_VALENCE_ONLY = re.compile(r"stuttgart(dz|rlc|rsc)?|crenb[ls]|sbkjc|lanl(08|2tz)")
# Names of sets that are not for orbitals.
_NO_ORBITALS = re.compile(r"fit|ri$|^sap|dyall|f12")
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


class _Sized(NamedTuple):
    """A set with relatives of the same size for other electrons.

    family: of the potential that it belongs to: a spelling of ccecp, "bfd", or "pp" for the sets
    and potentials of one name such as cc-pvdz-pp; empty for all electrons
    prefix: "aug" or nothing; kind: as in `Dunning`; size: letter of the cardinal number
    """

    family: str
    prefix: str
    kind: str
    size: str

    @property
    def name(self) -> str:
        """The set's name."""
        if self.family == "bfd":
            return f"bfd-v{self.size}z"
        potential = self.family.replace("ccecp", "ccecp-", 1).strip("-")
        parts = ("" if self.family == "pp" else potential, self.prefix)
        behind = "-pp" if self.family == "pp" else ""
        return f"{'-'.join((*filter(None, parts), f'cc-{self.kind}v{self.size}z'))}{behind}"


def _sized(name: str) -> _Sized | None:
    if match := _DUNNING.fullmatch(plain(name)):
        return _Sized(match[1] or "", match[2] or "", match[3], match[4])
    if match := _BFD.fullmatch(plain(name)):
        return _Sized("bfd", "", "p", match[1])
    if match := _PP.fullmatch(plain(name)):
        return _Sized("pp", match[1] or "", match[2], match[3])
    return None


def _family(potential: str | None) -> str | None:
    """The `_Sized.family` of a potential, empty for all electrons; None if it has no such sets."""
    if potential is None:
        return ""
    own = canonical(potential)
    if is_file(own):
        return None
    if _CCECP.fullmatch(own):
        return own
    return "bfd" if own in ("bfd", "bfdpp") else "pp" if _PP.fullmatch(own) else None


def element_basis(
    name: str, symbol: str, potentials: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The set of one element in a molecule with this set.

    Hydrogen and helium have no core, so a core-valence set means the valence set for them. A set
    that belongs to a pseudopotential means the set of the same size of all electrons, or of their
    own pseudopotential, for elements that do not have this one. With sets such as stuttgart,
    elements without a pseudopotential have cc-pvdz.

    Args:
        name: Name of the basis set.
        symbol: The element.
        potentials: Names of the pseudopotentials, by the elements of the molecule that have one.
    """
    if symbol not in potentials and potentials and _VALENCE_ONLY.fullmatch(plain(name)):
        return "cc-pvdz"
    sized = _sized(name)
    if not sized:
        return name
    wanted, own = sized, _family(potentials.get(symbol))
    known = {_family(potential) for potential in potentials.values()}
    if sized.family and potentials and symbol not in potentials:
        wanted = wanted._replace(family="")
    elif own and sized.family in known - {own} and (own != "bfd" or sized[1:3] == ("", "p")):
        wanted = wanted._replace(family=own)
    if symbol in ("H", "He"):
        wanted = wanted._replace(kind="p")
    return name if wanted == sized else wanted.name


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
    if _NAME.fullmatch(name) and Path(name.partition("@")[0]).is_file():
        raise InputError(
            f"{key}: {name!r} is also a file in this folder, and PySCF would read it; rename the "
            "file, or start elsewhere"
        )
    elements = sorted(set(symbols))
    for symbol in elements:
        if problem := _problem(name, symbol, potentials, listed=True):
            raise InputError(f"{key}: {problem}{_suggestion(name, elements, potentials)}")


def _problem(name: str, symbol: str, potentials: Mapping[str, str], listed: bool = False) -> str:
    """What is wrong with a set for one element of a molecule; empty if nothing is.

    To list the elements that a set has takes a while.
    """
    from pyscf import gto

    own = element_basis(name, symbol, potentials)
    shells = load_from_pyscf(gto.basis.load, own, symbol)
    if not shells:
        return _absent(own, symbol, listed)
    if symbol in potentials:
        if _belongs(own, symbol, potentials[symbol]):
            return ""
        potential = potentials[symbol]
        return f"{show(own)} does not belong to the pseudopotential {show(potential)} of {symbol}"
    if _needs_potential(own, symbol, shells):
        return f"{show(name)} needs a pseudopotential for {symbol}, which has all of its electrons"
    return ""


def _suggestion(name: str, symbols: Sequence[str], potentials: Mapping[str, str]) -> str:
    """What to do about a set that does not fit: nothing that the next check would refuse."""
    from pyscf import gto

    def fits(other: str) -> bool:
        return not any(_problem(other, symbol, potentials) for symbol in symbols)

    if plain(name) not in gto.basis.ALIAS:
        for close in difflib.get_close_matches(plain(name), gto.basis.ALIAS, n=5):
            if fits(close):
                return f"; did you mean {_spelling(close)!r}?"
    known = plain(name) in gto.basis.ALIAS
    for other in _candidates(name, potentials):
        if fits(other):
            return f"; {'choose a set that fits, such as' if known else 'try'} {other!r}"
    ccecp = dict.fromkeys(symbols, "ccecp")
    if all(from_pyscf("ccecp", symbol) for symbol in symbols) and not any(
        _problem("ccecp-cc-pvdz", symbol, ccecp) for symbol in symbols
    ):
        return (
            "; no basis set of PySCF's fits these potentials; `pseudopotential: ccecp` with "
            "'ccecp-cc-pvdz' fits all elements"
        )
    return "; no basis set of PySCF's fits all elements; choose other pseudopotentials"


def _candidates(name: str, potentials: Mapping[str, str]) -> Iterator[str]:
    """Sets to suggest in place of one, the nearest first."""
    from pyscf import gto

    sized = _sized(name) or _Sized("", "", "p", "d")
    for family in dict.fromkeys((*filter(None, map(_family, potentials.values())), "")):
        for changes in ({}, {"kind": "p"}, {"kind": "p", "prefix": ""}):
            yield sized._replace(family=family, **changes).name
        yield _Sized(family, "", "p", "d").name
    yield from (_spelling(n) for n in map(canonical, potentials.values()) if n in gto.basis.ALIAS)
    yield "def2-svp"
    yield from (_spelling(n) for n in gto.basis.ALIAS if not _NO_ORBITALS.search(n))


def _belongs(name: str, symbol: str, potential: str) -> bool:
    """Whether a set is one for an element's pseudopotential.

    Potentials from files have no sets of their own, and take any.
    """
    wanted = canonical(potential)
    if is_file(wanted) or plain(name) == wanted:
        return True
    family, place = _family(wanted), _sized(name)
    if family and family != "pp":
        return place is not None and place.family == family
    # Sets and potentials of one name. PySCF has the potential with the plain sets only.
    if place and place.family == "pp":
        name = place._replace(prefix="", kind="p").name
    found = from_pyscf(name, symbol)
    return found is not None and found == from_pyscf(wanted, symbol)


def _needs_potential(name: str, symbol: str, shells: list[Any]) -> bool:
    """Whether a set describes valence electrons only.

    Core electrons need exponents beyond Z^2, which sets for pseudopotentials lack.
    """
    from pyscf import gto

    largest = max(row[0] for shell in shells for row in shell[1:] if isinstance(row, list))
    charge = gto.charge(symbol)
    valence = charge > 2 and largest < charge**2
    named = any(word in name.lower() for word in ("ecp", "gth", "bfd"))
    return bool(valence or named or from_pyscf(name, symbol))


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


def _absent(name: str, symbol: str, listed: bool) -> str:
    from pyscf import gto

    if plain(name) not in gto.basis.ALIAS:
        return f"unknown basis set {show(name)}"
    elements = ELEMENTS if listed else ()
    covered = [e for e in elements if load_from_pyscf(gto.basis.load, element_basis(name, e), e)]
    has = f"; it has {', '.join(covered)}" if covered else ""
    return f"{show(name)} has no functions for {symbol}{has}"


def _spelling(alias: str) -> str:
    """The spelling of a set as in PySCF's documentation, such as "cc-pvdz" for "ccpvdz".

    PySCF names its files so, apart from capitals.
    """
    from pyscf.gto.basis import ALIAS

    files = ALIAS[alias]
    file = files if isinstance(files, str) else files[0]
    stem = Path(file).stem.lower()
    return stem if plain(stem) == alias else alias

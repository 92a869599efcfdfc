"""Pseudopotentials by name or from a file: what a system file asks for, as numbers.

The functions import PySCF when they run, because the run table must expand quickly.
"""

import difflib
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import did_you_mean, show
from ferminet_core.inputs.molecule import ELEMENTS, Pseudopotential, RadialTerm, check_element
from ferminet_core.inputs.potential_files import Parts, read_potential

# All electrons, where the file's top level says otherwise.
NONE = "none"
# What a system file gives: a name or file for all elements, or one for each of some.
Choice = str | Mapping[str, str]


def is_file(name: str) -> bool:
    """Whether a potential is from a file, by what a system file gives or by its stored name.

    Names of PySCF have neither dots nor slashes.
    """
    return "." in name or "/" in name


def canonical(name: str) -> str:
    """The one spelling of a name of PySCF: "ccecp" for "cc-ECP". Names of files do not change."""
    return name if is_file(name) else re.sub("[-_ ]", "", name.lower())


def from_pyscf(name: str, symbol: str) -> Parts | None:
    """PySCF's potential of this name for an element; None if it has none.

    Reads PySCF's own files only: `load_ecp` would prefer a file of this name in the working folder.
    """
    from pyscf import gto
    from pyscf.gto.basis import parse_nwchem_ecp
    from pyscf.lib.exceptions import BasisNotFoundError

    file = gto.basis.ALIAS.get(canonical(name))
    if not isinstance(file, str):
        return None
    try:
        found = parse_nwchem_ecp.load(Path(gto.basis.__file__).parent / file, symbol)
    except (BasisNotFoundError, OSError):  # PySCF lists files that it comes without
        return None
    if not found:
        return None
    return Parts(int(found[0]), {int(momentum): _terms(rows) for momentum, rows in found[1]})


def pseudopotentials(
    choice: Choice | None,
    symbols: Collection[str],
    folder: Path,
    where: Callable[..., str],
) -> tuple[Pseudopotential, ...]:
    """The pseudopotentials of the elements that have one, sorted by symbol.

    Args:
        choice: The key's value; elements that a mapping does not name have all of their electrons.
        symbols: The elements of all geometries.
        folder: Of the system file; files are relative to it.
        where: Returns the beginning of an error line, from the keys inside of the value.

    Raises:
        InputError: A name or a file is unknown or has nothing for an element.
    """
    if choice is None or choice == NONE:
        return ()
    if isinstance(choice, str):
        asked = {symbol: (choice, where()) for symbol in symbols}
    else:
        asked = {symbol: (name, where(symbol)) for symbol, name in choice.items() if name != NONE}
    for symbol, (_, line) in asked.items():
        try:
            check_element(symbol)
        except ValueError as error:
            raise InputError(f"{line}: {error}") from None
        if symbol not in symbols:
            raise InputError(f"{line}: no atom is {symbol}{did_you_mean(symbol, symbols)}")
    others = symbols if isinstance(choice, str) else ()
    return tuple(
        _pseudopotential(name, symbol, folder, line, others)
        for symbol, (name, line) in sorted(asked.items())
    )


def _pseudopotential(
    name: str, symbol: str, folder: Path, line: str, others: Collection[str]
) -> Pseudopotential:
    """One element's potential; `others` are the elements that ask for the same.

    Raises:
        InputError: There is none, or it is none that this program can use.
    """
    if is_file(name):
        found: Parts | None = read_potential(folder / os.path.expanduser(name), symbol, line)
    else:
        found = from_pyscf(name, symbol)
    if found is None:
        raise InputError(f"{line}: {_absent(name, symbol, others)}")
    parts = dict(found.terms)
    local, momenta = parts.pop(-1, ()), sorted(parts)
    if momenta != list(range(len(momenta))) or not found.core <= ELEMENTS.index(symbol):
        raise InputError(
            f"{line}: the potential {show(name)} of {symbol} replaces {found.core} electrons and "
            f"has parts for l = {', '.join(map(str, momenta))}; allowed: fewer electrons than "
            f"{symbol} has, and parts for l = 0, 1, ... without a gap"
        )
    return Pseudopotential(
        symbol=symbol,
        name=_label(name),
        core=found.core,
        local=local,
        channels=tuple(parts[momentum] for momentum in momenta),
    )


def _label(name: str) -> str:
    """The name under which a potential is stored; `is_file` tells it from those of PySCF."""
    if not is_file(name):
        return canonical(name)
    path = Path(name)
    return path.name if is_file(path.name) else f"{path.parent.name or '.'}/{path.name}"


def _terms(rows: Sequence[Sequence[Sequence[float]]]) -> tuple[RadialTerm, ...]:
    """The terms of a part in PySCF's form, a list of (a, c) for each n; zeros are left out.

    A third number, of spin-orbit coupling, is left out as well.
    """
    return tuple(
        RadialTerm(power, float(term[0]), float(term[1]))
        for power, terms in enumerate(rows)
        for term in terms
        if float(term[1]) != 0.0
    )


def _absent(name: str, symbol: str, others: Collection[str]) -> str:
    """What is wrong with a name that has no potential for an element."""
    from pyscf import gto

    covered = [e for e in ELEMENTS if from_pyscf(name, e)]
    if covered:
        own = ", ".join(f"{e}: {name}" for e in covered if e in others)
        named = f", or name the elements that have one, as in {{{own}}}" if own else ""
        return (
            f"{show(name)} has no pseudopotential for {symbol}; it has {', '.join(covered)}; "
            f"choose one that has {symbol}{named}"
        )
    names = [NONE, *(n for n in gto.basis.ALIAS if from_pyscf(n, symbol))]
    close = difflib.get_close_matches(canonical(name), names, n=1)
    example = "ccecp" if "ccecp" in names else names[-1]
    allowed = f"allowed: {NONE}, a file, or a name of PySCF's, such as {example!r}"
    hint = f"did you mean {close[0]!r}?" if close else allowed
    return f"unknown pseudopotential {show(name)}; {hint}"

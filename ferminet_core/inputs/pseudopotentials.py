"""Pseudopotentials by name or from a file: what a system file asks for, as numbers.

The functions import PySCF when they run, because the run table must expand quickly.
"""

import difflib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ferminet_core.errors import InputError
from ferminet_core.inputs.basis_sets import load_from_pyscf, plain
from ferminet_core.inputs.messages import did_you_mean, show
from ferminet_core.inputs.molecule import ELEMENTS, Pseudopotential, RadialTerm, check_element
from ferminet_core.inputs.text_files import read_text

# All electrons, where the file's top level says otherwise.
NONE = "none"
# What a system file gives: a name or file for all elements, or one for each of some.
Choice = str | Mapping[str, str]


def is_file(name: str) -> bool:
    """Whether a potential is one from a file: what a system file gives, or the name of a stored one.

    Names of PySCF have neither dots nor slashes.
    """
    return "." in name or "/" in name


def canonical(name: str) -> str:
    """The one spelling of a name of PySCF: "ccecp" for "cc-ECP". Names of files do not change."""
    return name if is_file(name) else plain(name)


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
    return tuple(
        _pseudopotential(name, symbol, folder, line)
        for symbol, (name, line) in sorted(asked.items())
    )


def _pseudopotential(name: str, symbol: str, folder: Path, line: str) -> Pseudopotential:
    """One element's potential.

    Raises:
        InputError: There is none, or it is none that this program can use.
    """
    if "." in name or "/" in name:
        found = _from_file(folder / Path(name).expanduser(), symbol, line)
    else:
        from pyscf import gto

        found = load_from_pyscf(gto.basis.load_ecp, name, symbol)
        if not found:
            raise InputError(f"{line}: {_absent(name, symbol)}")
    core, parts = int(found[0]), {int(momentum): rows for momentum, rows in found[1]}
    local, momenta = parts.pop(-1, ()), sorted(parts)
    if momenta != list(range(len(momenta))) or not 0 <= core <= ELEMENTS.index(symbol):
        raise InputError(
            f"{line}: the potential {show(name)} of {symbol} replaces {core} electrons and has "
            f"parts for l = {', '.join(map(str, momenta))}; allowed: fewer electrons than "
            f"{symbol} has, and parts for l = 0, 1, ... without a gap"
        )
    return Pseudopotential(
        symbol=symbol,
        name=Path(name).name,
        core=core,
        local=_terms(local),
        channels=tuple(_terms(parts[momentum]) for momentum in momenta),
    )


def _terms(rows: Any) -> tuple[RadialTerm, ...]:
    """The terms of a part in PySCF's form, a list of (a, c) for each n; zeros are left out."""
    return tuple(
        RadialTerm(power, float(term[0]), float(term[1]))
        for power, terms in enumerate(rows)
        for term in terms
        if float(term[1]) != 0.0
    )


def _from_file(path: Path, symbol: str, line: str) -> list[Any]:
    """The potential of an element in a file of NWChem's format, in PySCF's form.

    Raises:
        InputError: The file is missing, no text of this format, or has nothing for the element.
    """
    from pyscf.gto.basis import parse_ecp

    try:
        text = read_text(path)
    except OSError as error:
        raise InputError(f"{line}: {path}: cannot be read: {error.strerror or error}") from None
    try:
        found = list(parse_ecp(text, symbol))
    except (RuntimeError, LookupError, AssertionError, ValueError, TypeError):
        found = []
    if len(found) < 2:
        raise InputError(
            f"{line}: {path}: has no pseudopotential of {symbol} in NWChem's format, which begins "
            f"with `{symbol} nelec` and the number of electrons that it replaces"
        )
    return found


def _absent(name: str, symbol: str) -> str:
    """What is wrong with a name that has no potential for an element."""
    from pyscf import gto

    covered = [e for e in ELEMENTS if load_from_pyscf(gto.basis.load_ecp, name, e)]
    if covered:
        return (
            f"{show(name)} has no pseudopotential for {symbol}; it has {', '.join(covered)}; "
            f"choose one that has {symbol}, or name the elements that have one, as in "
            f"{{{covered[-1]}: {name}}}"
        )
    names = [n for n in gto.basis.ALIAS if load_from_pyscf(gto.basis.load_ecp, n, symbol)]
    close = difflib.get_close_matches(plain(name), names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"allowed: {NONE}, a file or one of PySCF's"
    return f"unknown pseudopotential {show(name)}; {hint}, such as 'ccecp'".replace("?,", "? or")

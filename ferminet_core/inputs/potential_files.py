"""Files with pseudopotentials in NWChem's format.

    ECP
    Al nelec 10
    Al ul
    1   5.073893    3.000000
    Al s
    2   7.863954   14.879513
    END

A row has n, a and c of a term c r^(n - 2) exp(-a r^2), hartree and bohr. `ul` is the local part, a
letter the part for an angular momentum. The files come from elsewhere, and PySCF's reader evaluates
text that is not a number. Here a row has three numbers, or it is an error.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import listing, printable, show
from ferminet_core.inputs.molecule import ELEMENTS, RadialTerm
from ferminet_core.inputs.text_files import read_text

# Of an angular momentum, from the local part (-1) on.
_BLOCKS = ("ul", "s", "p", "d", "f", "g", "h", "i", "k")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eEdD][+-]?[0-9]+)?")
# n of published potentials. Others would be slips, such as n - 2 in place of n.
_POWERS = ("0", "1", "2", "3", "4")
_FORM = "n, a and c of a term c r^(n - 2) exp(-a r^2)"
# The digits that files have.
_PRINTED = 1e-4


class Parts(NamedTuple):
    """A potential as numbers.

    core: electrons that it replaces; terms: those of each angular momentum and, under -1, of the
    local part, by n; terms of zero are left out
    """

    core: int
    terms: Mapping[int, tuple[RadialTerm, ...]]


def read_potential(path: Path, symbol: str, where: str) -> Parts:
    """The potential of an element in a file.

    Args:
        path: The file.
        symbol: The element.
        where: Beginning of the error lines.

    Raises:
        InputError: The file cannot be read, has none, or has one that is wrong.
    """
    name = f"{where}: {printable(str(path))}"
    try:
        # A comment may be in any encoding. What matters is ASCII.
        text = read_text(path, encodings=("utf-8-sig", "latin-1"))
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from None
    return _parse(text, symbol, name)


def _parse(text: str, symbol: str, name: str) -> Parts:
    core: int | None = None
    parts: dict[int, list[RadialTerm]] = {}
    block: list[RadialTerm] | None = None  # that the line is in
    owner, others = "", set()
    for number, words in _lines(text):
        place = f"{name}:{number}"
        if not words:
            block = None
        elif words[0].isalpha():
            owner, kind = _header(words, symbol, place)
            block = []
            if owner != symbol:
                others.add(owner)
            elif kind == "nelec":
                if core is not None:
                    raise _second(words, symbol, place)
                core, block = _core(words, place), None
            else:
                momentum = _BLOCKS.index(kind) - 1
                if momentum in parts:
                    raise _second(words, symbol, place)
                block = parts[momentum] = []
        elif block is None:
            raise InputError(
                f"{place}: found {_quoted(words)}, which belongs to no part; allowed before it: "
                f"`{symbol} ul`, `{symbol} s`, `{symbol} p`, ... (NWChem's format)"
            )
        elif owner == symbol:
            block.append(_term(words, place))
    if core is None or -1 not in parts:
        _incomplete(core, parts, symbol, sorted(others), name)
    terms = {
        momentum: tuple(sorted((t for t in rows if t.coefficient), key=lambda term: term.power))
        for momentum, rows in parts.items()
    }
    _check_charge(core, terms[-1], symbol, name)
    return Parts(core, terms)


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The words of each line by its number, without comments and basis sets.

    `ECP` and `END` are lines without words.
    """
    in_basis = False
    for number, line in enumerate(text.splitlines(), start=1):
        words = re.split("[#!]", line, maxsplit=1)[0].split()
        keyword = words[0].upper() if words else ""
        if keyword in ("ECP", "END", "BASIS"):
            in_basis = keyword == "BASIS"
            yield number, []
        elif words and not in_basis:
            yield number, words


def _header(words: Sequence[str], symbol: str, place: str) -> tuple[str, str]:
    """The element of a line such as `Al nelec 10` or `Al s`, and its second word."""
    owner, kind = words[0].capitalize(), words[1].lower() if len(words) > 1 else ""
    if owner == "So":
        raise InputError(f"{place}: found {_quoted(words)}, a block for {_spin_orbit()}")
    if kind == "nelec" or (kind in _BLOCKS and len(words) == 2):
        return owner, kind
    raise InputError(
        f"{place}: found {_quoted(words)}; allowed: `{symbol} nelec` with a number of electrons, "
        f"`{symbol} ul` or `{symbol}` with one of {', '.join(_BLOCKS[1:])} (NWChem's format)"
    )


def _core(words: Sequence[str], place: str) -> int:
    if len(words) != 3 or not re.fullmatch("[0-9]{1,3}", words[2]):
        raise InputError(
            f"{place}: found {_quoted(words)}; allowed after `nelec`: the number of electrons that "
            "the potential replaces, a whole number"
        )
    return int(words[2])


def _term(words: Sequence[str], place: str) -> RadialTerm:
    if len(words) == 4 and all(map(_NUMBER.fullmatch, words)):
        raise InputError(
            f"{place}: found {_quoted(words)}, whose last number is for "
            f"{_spin_orbit()}; allowed: {_FORM}"
        )
    if len(words) != 3:
        raise InputError(
            f"{place}: found {_quoted(words)}; allowed: three numbers, {_FORM}; comments begin "
            "with #"
        )
    if words[0] not in _POWERS:
        raise InputError(
            f"{place}: found n = {show(words[0])}; allowed: {_POWERS[0]} to {_POWERS[-1]}, in "
            "c r^(n - 2) exp(-a r^2)"
        )
    exponent, coefficient = (_finite(word, place) for word in words[1:])
    if exponent <= 0.0:
        raise InputError(
            f"{place}: found a = {show(words[1])}; allowed: more than 0, in c r^(n - 2) exp(-a r^2)"
        )
    return RadialTerm(int(words[0]), exponent, coefficient)


def _finite(word: str, place: str) -> float:
    value = float(re.sub("[dD]", "e", word)) if _NUMBER.fullmatch(word) else math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{place}: found {show(word)}; allowed: a finite number, such as 1.5 or 1.5d0"
        )
    return value


def _check_charge(core: int, local: Sequence[RadialTerm], symbol: str, name: str) -> None:
    """Refuse a number of electrons that does not fit a potential such as ccECP or BFD.

    Their local part q / r exp(-a r^2) + a q r exp(-b r^2) + ... cancels the charge q at the
    nucleus, and its slope. Local parts of other potentials do not tell the charge.
    """
    first = [term for term in local if term.power == 1]
    if len(first) != 1:
        return
    (_, a, charge), left = first[0], ELEMENTS.index(symbol) + 1 - core
    cancels = any(
        term.power == 3 and math.isclose(term.coefficient, a * charge, rel_tol=_PRINTED)
        for term in local
    )
    if cancels and abs(charge - left) > _PRINTED * abs(charge):
        raise InputError(
            f"{name}: `{symbol} nelec {core}` leaves {symbol} the charge {left}, and the local "
            f"part cancels {charge:g} / r; allowed: equal charges"
        )


def _incomplete(
    core: int | None, parts: Mapping[int, object], symbol: str, others: Sequence[str], name: str
) -> NoReturn:
    if core is not None:
        raise InputError(
            f"{name}: has no local part of {symbol}, `{symbol} ul`; allowed: one, without rows if "
            "it is zero"
        )
    what = f"no line `{symbol} nelec`" if parts else f"no pseudopotential of {symbol}"
    raise InputError(
        f"{name}: has {what} in NWChem's format, which begins with `{symbol} nelec` and the number "
        f"of electrons that it replaces{f'; it has {listing(others)}' if others else ''}"
    )


def _second(words: Sequence[str], symbol: str, place: str) -> InputError:
    return InputError(
        f"{place}: found a second `{symbol} {words[1]}`; allowed: one potential of {symbol} in a "
        "file"
    )


def _spin_orbit() -> str:
    return "spin-orbit coupling, which this program does not compute; leave it out"


def _quoted(words: Sequence[str]) -> str:
    return show(" ".join(words))

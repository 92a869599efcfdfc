"""XYZ files: the nuclei at one geometry or at several, the frames of a path.

A frame is the number of atoms, a comment, and a line `El x y z` for each atom. Further columns are
left out, and so are lines after the atoms that are none, such as the properties in QM9's files.
`key=value` pairs in the comment are read as in extended XYZ files.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import printable, show
from ferminet_core.inputs.molecule import ELEMENTS, MAX_ATOMS, Position, check_element
from ferminet_core.inputs.text_files import read_text

# Fortran writes 1.0D-05, and Mathematica, which wrote QM9, 1.0*^-5.
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:(?:[eEdD]|\*\^)[-+]?[0-9]+)?")
_PAIR = re.compile(r"""(?<!\S)([A-Za-z][\w.-]*)\s*=\s*("[^"]*"|'[^']*'|\[[^\]]*\]|\S+)""")
_COLUMNS = "species:s:1:pos:r:3"
_LENGTHS = {"bohr": "bohr", "au": "bohr", "a.u.": "bohr", "angstrom": "angstrom", "ang": "angstrom"}


class Frame(NamedTuple):
    """One geometry.

    symbols: the elements
    positions: in the file's units
    numbers: the numbers in the comment, by their keys
    units: bohr or angstrom if the comment says so
    where: beginning of the error lines about its comment: file and line
    """

    symbols: tuple[str, ...]
    positions: tuple[Position, ...]
    numbers: dict[str, float]
    units: str | None
    where: str


def read_frames(path: Path, where: str) -> list[Frame]:
    """The frames of an XYZ file, in its order; at least one.

    Args:
        path: The file.
        where: Beginning of the error lines.

    Raises:
        InputError: The file cannot be read, is no XYZ file, or describes a periodic system.
    """
    name = f"{where}: {printable(str(path))}"
    try:
        # A comment may be in any encoding. What matters is ASCII.
        text = read_text(path, encodings=("utf-8-sig", "latin-1"))
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")
    frames = []
    start: int | None = 0
    while start is not None:
        frame, after = _read_frame(lines, start, name)
        frames.append(frame)
        start = _next_frame(lines, after, frame, name)
    return frames


def _read_frame(lines: Sequence[str], start: int, name: str) -> tuple[Frame, int]:
    """The frame that begins in a line, and the number of the line after its atoms."""
    first = lines[start].strip()
    if not re.fullmatch(r"[0-9]{1,9}", first) or int(first) < 1:
        raise InputError(
            f"{name}:{start + 1}: found {show(first)}; allowed: the number of atoms (XYZ format)"
        )
    count = int(first)
    if count > MAX_ATOMS:
        raise InputError(
            f"{name}:{start + 1}: found {count} atoms; allowed: at most {MAX_ATOMS} (the largest "
            "published calculations have about 100 electrons)"
        )
    rows = lines[start + 2 : start + 2 + count]
    if len(rows) < count:
        raise _miscounted(name, start, len(rows), count)
    atoms = [_atom(row, f"{name}:{i}") for i, row in enumerate(rows, start=start + 3)]
    numbers, units = _read_comment(lines[start + 1], f"{name}:{start + 2}")
    symbols, positions = zip(*atoms, strict=True)
    return Frame(symbols, positions, numbers, units, f"{name}:{start + 2}"), start + 2 + count


def _next_frame(lines: Sequence[str], after: int, frame: Frame, name: str) -> int | None:
    """The line in which the next frame begins: the next one that is a whole number."""
    for place in range(after, len(lines)):
        if re.fullmatch("[0-9]+", lines[place].strip()):
            return place
        if _is_atom(lines[place]):
            count = len(frame.symbols)
            further = sum(map(_is_atom, lines[after : after + MAX_ATOMS]))
            raise _miscounted(name, after - count - 2, count + further, count)
    return None


def _miscounted(name: str, start: int, found: int, count: int) -> InputError:
    line = "the first line" if start == 0 else f"line {start + 1}"
    return InputError(f"{name}: found {found} atoms; {line} says {count}")


def _is_atom(row: str) -> bool:
    words = row.split()
    element = len(words) > 3 and (words[0].isdecimal() or words[0].capitalize() in ELEMENTS)
    return element and all(_NUMBER.fullmatch(word) for word in words[1:4])


def _atom(row: str, where: str) -> tuple[str, Position]:
    words = row.split()
    if len(words) < 4:
        raise InputError(f"{where}: found {show(row)}; allowed: an element and three coordinates")
    x, y, z = (_coordinate(word, where) for word in words[1:4])
    return _element(words[0], where), (x, y, z)


def _coordinate(word: str, where: str) -> float:
    value = _number(word)
    if value is None:
        raise InputError(f"{where}: found {show(word)}; allowed: a finite number")
    return value


def _number(word: str) -> float | None:
    """The finite number that a word is, or None."""
    if not _NUMBER.fullmatch(word):
        return None
    value = float(re.sub(r"[dD]|\*\^", "e", word))
    return value if math.isfinite(value) else None


def _element(word: str, where: str) -> str:
    """An element by its symbol in any case, or by its atomic number."""
    if re.fullmatch("[0-9]+", word):
        if len(word) > 3 or not 1 <= int(word) <= len(ELEMENTS):
            raise InputError(
                f"{where}: found the atomic number {show(word)[1:-1]}; allowed: 1 to "
                f"{len(ELEMENTS)} (H to {ELEMENTS[-1]})"
            )
        return ELEMENTS[int(word) - 1]
    symbol = word.capitalize() if word.isalpha() else word
    try:
        check_element(symbol)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    return symbol


def _read_comment(comment: str, where: str) -> tuple[dict[str, float], str | None]:
    """The numbers in a comment, and the units that it names.

    Raises:
        InputError: It says that the system is periodic, or that the columns are others.
    """
    pairs = {key: value.strip("\"'[] ") for key, value in _PAIR.findall(comment)}
    known = {key.lower(): value for key, value in pairs.items()}
    pbc = known.get("pbc", "" if "lattice" not in known else "t t t")
    if {"t", "true", "1"} & set(pbc.lower().replace(",", " ").split()):
        raise InputError(
            f"{where}: the comment describes a periodic cell; allowed: molecules in vacuum; if it "
            'is one, take Lattice and pbc out of the comment, or write pbc="F F F"'
        )
    if not known.get("properties", _COLUMNS).lower().startswith(_COLUMNS):
        raise InputError(
            f"{where}: found Properties={show(known['properties'])[1:-1]}; allowed: columns that "
            "begin with species:S:1:pos:R:3"
        )
    numbers = {key: value for key, text in pairs.items() if (value := _number(text)) is not None}
    return numbers, _LENGTHS.get(known.get("units", "").lower())

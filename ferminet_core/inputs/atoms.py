"""Atoms with coordinates that may be expressions of parameters, and the parameters' values."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ferminet_core.errors import InputError
from ferminet_core.inputs.expressions import Expression, known_names, parse_number
from ferminet_core.inputs.messages import did_you_mean, show
from ferminet_core.inputs.molecule import Position, check_element
from ferminet_core.inputs.system_file import Grid, NamedGrid, SystemFile, ValueRange, Values
from ferminet_core.inputs.yaml_file import YamlFile
from ferminet_core.units import ANGSTROM_IN_BOHR

# Digits that name a value; values that agree in them are one.
_DIGITS = 10

FACTORS: Mapping[str, float] = {"bohr": 1.0, "angstrom": ANGSTROM_IN_BOHR}


@dataclass(frozen=True)
class Atom:
    """An element and three expressions; `where` is the beginning of its error lines."""

    symbol: str
    coordinates: tuple[Expression, Expression, Expression]
    where: str

    @property
    def names(self) -> frozenset[str]:
        """Parameters that the coordinates use."""
        return frozenset().union(*(c.names for c in self.coordinates))

    def check_names(self, parameters: Mapping[str, object]) -> None:
        """Raise InputError, with a suggestion, where a coordinate uses no known parameter."""
        try:
            for coordinate in self.coordinates:
                known_names(coordinate, parameters)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None

    def position(self, parameters: Mapping[str, float], units: str) -> Position:
        """Position in bohr; raises InputError where a coordinate has no finite value."""
        try:
            x, y, z = (c.number(parameters) * FACTORS[units] for c in self.coordinates)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None
        return x, y, z


def parse_atom(line: str, where: str) -> Atom:
    """An atom from `El x y z`; an expression may hold spaces within parentheses only.

    Raises:
        InputError: not four parts, unknown element, or no arithmetic.
    """
    parts = _split(line)
    if len(parts) != 4:
        raise InputError(
            f"{where}: found {show(line)}; allowed: an element and three coordinates without "
            "spaces inside, such as 'N 0 0 -R/2'"
        )
    try:
        check_element(parts[0])
        x, y, z = (parse_number(text) for text in parts[1:])
    except (ValueError, InputError) as error:
        raise InputError(f"{where}: {error}") from None
    return Atom(parts[0], (x, y, z), where)


def _split(line: str) -> list[str]:
    """Words of a line; spaces within parentheses do not separate."""
    words, depth = [""], 0
    for character in line.strip():
        depth += (character == "(") - (character == ")")
        if character.isspace() and depth <= 0:
            words.append("")
        else:
            words[-1] += character
    return [word for word in words if word]


def read_xyz(path: Path, where: str) -> list[Atom]:
    """Atoms of an XYZ file: their number, a comment, one `El x y z` per line.

    Further columns are ignored. Coordinates are numbers.

    Raises:
        InputError: unreadable, or not such a file; the line begins with `where`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{where}: {path} cannot be read: {reason}") from None
    count = lines[0].strip() if lines else ""
    if not count.isdecimal() or int(count) < 1:
        raise InputError(
            f"{where}: {path}:1: found {show(count)}; allowed: the number of atoms (XYZ format)"
        )
    rows = lines[2 : 2 + int(count)]
    rest = [row for row in lines[2 + int(count) :] if row.strip()]
    if len(rows) < int(count) or rest:
        found = sum(bool(row.strip()) for row in lines[2:])
        raise InputError(
            f"{where}: {path}: found {found} atoms; the first line says {count} "
            "(one geometry per file)"
        )
    return [_xyz_atom(row, f"{where}: {path}:{i}") for i, row in enumerate(rows, start=3)]


def _xyz_atom(row: str, where: str) -> Atom:
    words = row.split()
    if len(words) < 4:
        raise InputError(f"{where}: found {show(row)}; allowed: an element and three coordinates")
    for word in words[1:4]:
        try:
            finite = math.isfinite(float(word))
        except ValueError:
            finite = False
        if not finite:
            raise InputError(f"{where}: found {show(word)}; allowed: a finite number")
    return parse_atom(" ".join(words[:4]), where)


def used_names(atoms: Sequence[Atom]) -> frozenset[str]:
    """Parameters that the coordinates of any atom use."""
    return frozenset().union(*(atom.names for atom in atoms))


def parameter_values(
    given: Values | Grid, system: SystemFile, file: YamlFile, location: tuple[str | int, ...]
) -> list[float]:
    """The values of a parameter, rounded to the digits that name them.

    Raises:
        InputError: no values, one that is there twice, or an unknown grid.
    """
    where = file.where(location)
    if isinstance(given, NamedGrid):
        if given.grid not in system.grids:
            hint = did_you_mean(given.grid, system.grids, "grids")
            raise InputError(f"{where}: unknown grid {given.grid!r}{hint}")
        return parameter_values(system.grids[given.grid], system, file, ("grids", given.grid))
    if isinstance(given, ValueRange):
        step = (given.stop - given.start) / (given.num - 1)
        numbers = [given.start + i * step for i in range(given.num - 1)] + [given.stop]
    else:
        numbers = given if isinstance(given, list) else [given]
    if not numbers:
        raise InputError(f"{where}: empty grid; give at least one value")
    values = [float(value_text(number)) for number in numbers]
    doubled = [value for value, count in Counter(values).items() if count > 1]
    if doubled:
        raise InputError(
            f"{where}: {value_text(doubled[0])} is there twice (to {_DIGITS} digits); keep one"
        )
    return values


def value_text(value: float) -> str:
    """A value in a run's name: 1.4, 90, -0.5, 1e-05."""
    return f"{value + 0.0:.{_DIGITS}g}".replace("e+", "e")

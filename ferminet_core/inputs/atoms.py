"""Atoms with expressions as coordinates, from lines of a system file and from XYZ files."""

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ferminet_core.errors import InputError
from ferminet_core.inputs.expressions import MAX_LENGTH, RESERVED, Expression, parse_number
from ferminet_core.inputs.messages import show
from ferminet_core.inputs.molecule import Position, check_element
from ferminet_core.inputs.parameter_values import value_text
from ferminet_core.inputs.system_keys import COLUMN_NAMES, IDENTIFIER, Geometry, SystemFile
from ferminet_core.inputs.xyz_files import Frame, read_frames
from ferminet_core.inputs.yaml_file import YamlFile
from ferminet_core.units import ANGSTROM_IN_BOHR

# Returns the beginning of an error line: file, line and key. Only an error needs the line.
Where = Callable[[], str]

# Numbers in the comments of XYZ files that are results or facts, and tell no geometries apart.
_RESULTS = frozenset({"charge", "spin", "multiplicity", "energy", "free_energy", "gnorm"})

FACTORS: Mapping[str, float] = {"bohr": 1.0, "angstrom": ANGSTROM_IN_BOHR}


@dataclass(frozen=True)
class Atom:
    """An element and three expressions; `where` returns the beginning of its error lines."""

    symbol: str
    coordinates: tuple[Expression, Expression, Expression]
    where: Where

    @property
    def names(self) -> frozenset[str]:
        """Parameters that the coordinates use."""
        return frozenset().union(*(c.names for c in self.coordinates))

    def position(self, parameters: Mapping[str, float], units: str) -> Position:
        """Position in bohr.

        Raises:
            InputError: A coordinate has no finite value.
        """
        try:
            x, y, z = (c.number(parameters) * FACTORS[units] for c in self.coordinates)
        except InputError as error:
            raise InputError(f"{self.where()}: {error}") from None
        return x, y, z


def used_names(atoms: Sequence[Atom]) -> frozenset[str]:
    """Parameters that the coordinates of any atom use."""
    return frozenset().union(*(atom.names for atom in atoms))


def source_atoms(
    source: SystemFile | Geometry,
    file: YamlFile,
    location: tuple[str | int, ...],
    parameters: Collection[str],
    facts: tuple[str, int, int],
) -> list[tuple[list[Atom], dict[str, float]]]:
    """The atoms of each geometry of a source, with the parameters of the frame if it has several.

    Args:
        source: The geometry, or the top level of the file.
        file: The file, for error lines.
        location: Of the source in the file.
        parameters: That the coordinates may use.
        facts: Units, charge and spin, which a comment in an XYZ file may contradict.

    Raises:
        InputError: Wrong coordinates, or a comment that contradicts.
    """
    if source.atoms is not None and source.xyz is not None:
        raise InputError(f"{file.where((*location, 'xyz'))}: `atoms` is given as well; keep one")
    if source.xyz is None:
        lines = source.atoms or []
        places = [partial(file.where, (*location, "atoms", i)) for i in range(len(lines))]
        atoms = [
            parse_atom(line, where, parameters) for line, where in zip(lines, places, strict=True)
        ]
        return [(atoms, {})]
    where = file.where((*location, "xyz"))
    frames = read_frames(file.path.parent / os.path.expanduser(source.xyz), where)
    for frame in frames:
        check_comment(frame, *facts)
    found = _frame_parameters(frames) if len(frames) > 1 else [{}]
    for name in found[0]:
        if name in parameters:
            raise InputError(f"{where}: {name!r} is a parameter of the frames, too; rename yours")
    return [(frame_atoms(f), values) for f, values in zip(frames, found, strict=True)]


def frame_atoms(frame: Frame) -> list[Atom]:
    """The atoms of a frame, whose coordinates are numbers."""
    atoms = []
    for symbol, position in zip(frame.symbols, frame.positions, strict=True):
        x, y, z = (parse_number(repr(coordinate), ()) for coordinate in position)
        atoms.append(Atom(symbol, (x, y, z), lambda: frame.where))
    return atoms


def check_comment(frame: Frame, units: str, charge: int, spin: int) -> None:
    """Check that the comment of a frame does not contradict units, charge (e) and spin (2S).

    Raises:
        InputError: It does.
    """
    given = {"charge": charge, "multiplicity": spin + 1}
    for key, value in frame.numbers.items():
        expected = given.get(key.lower())
        if expected is not None and value != expected:
            raise InputError(
                f"{frame.where}: found {key}={value:g} in the comment, but charge {charge} and "
                f"spin {spin} (multiplicity {spin + 1}) are given; change one of them"
            )
    if frame.units not in (None, units):
        raise InputError(
            f"{frame.where}: found units of {frame.units} in the comment, but {units} is given; "
            "change one of them"
        )


def _frame_parameters(frames: Sequence[Frame]) -> list[dict[str, float]]:
    """The parameters of each frame.

    They are the numbers in the comments that all frames have and that differ between them. Where
    these do not tell all frames apart, `frame` does, which counts from 1.
    """
    shared = [
        name
        for name in frames[0].numbers
        if all(name in frame.numbers for frame in frames)
        and len({value_text(frame.numbers[name]) for frame in frames}) > 1
        and re.fullmatch(IDENTIFIER, name)
        and not {name, name.lower()} & {*_RESULTS, *RESERVED, *COLUMN_NAMES}
    ]
    shared = [n for i, n in enumerate(shared) if n.lower() not in map(str.lower, shared[:i])]
    found = [{name: float(value_text(f.numbers[name])) for name in shared} for f in frames]
    if len({tuple(values.values()) for values in found}) < len(frames):
        found = [{"frame": float(i), **v} for i, v in enumerate(found, start=1)]
    return found


def parse_atom(line: str, where: Where, parameters: Collection[str]) -> Atom:
    """An atom from `El x y z`. An expression may contain spaces within parentheses only."""
    parts = _split(line) if len(line) <= 4 * MAX_LENGTH else []
    if len(parts) != 4:
        raise InputError(
            f"{where()}: found {show(line)}; allowed: an element and three coordinates without "
            "spaces inside, such as 'N 0 0 -R/2'"
        )
    try:
        check_element(parts[0])
        x, y, z = (parse_number(text, parameters) for text in parts[1:])
    except (ValueError, InputError) as error:
        raise InputError(f"{where()}: {error}") from None
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

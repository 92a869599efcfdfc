"""The geometries of a scan: atoms with expressions as coordinates, times parameter values."""

import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ferminet_core.errors import InputError
from ferminet_core.inputs.expressions import (
    MAX_LENGTH,
    RESERVED,
    Expression,
    parse_condition,
    parse_number,
)
from ferminet_core.inputs.messages import did_you_mean, show
from ferminet_core.inputs.molecule import Molecule, Position, check_element
from ferminet_core.inputs.origin import same_molecule
from ferminet_core.inputs.system_file import parse_system
from ferminet_core.inputs.system_keys import (
    COLUMN_NAMES,
    IDENTIFIER,
    MAX_RUN_NAME,
    Case,
    Geometry,
    Grid,
    NamedGrid,
    SystemFile,
    ValueRange,
    Values,
    variant_suffix,
)
from ferminet_core.inputs.xyz_files import Frame, read_frames
from ferminet_core.inputs.yaml_file import YamlFile, read_yaml
from ferminet_core.units import ANGSTROM_IN_BOHR

MAX_RUNS = 10_000
# Digits that name a value. Two values that agree in them are the same value.
_DIGITS = 10

# Returns the beginning of an error line: file, line and key. Only an error needs the line.
Where = Callable[[], str]

# Numbers in the comments of XYZ files that are results or facts, and tell no geometries apart.
_RESULTS = frozenset({"charge", "spin", "multiplicity", "energy", "free_energy", "gnorm"})

FACTORS: Mapping[str, float] = {"bohr": 1.0, "angstrom": ANGSTROM_IN_BOHR}


@dataclass(frozen=True)
class Point:
    """One geometry of the scan.

    name: the geometry's name; parameters: its values of the scan's parameters; overrides: the
    settings that the file gives for this geometry, by dotted key
    """

    name: str
    parameters: dict[str, float]
    molecule: Molecule
    overrides: dict[str, Any]


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


@dataclass(frozen=True)
class _Family:
    """A geometry whose parameters are still open; `index` is its place in the file's list.

    frame: parameters of the frame of an XYZ file that it comes from
    """

    index: int | None
    name: str
    atoms: list[Atom]
    units: str
    charge: int
    spin: int
    values: dict[str, list[float]]
    frame: dict[str, float]
    overrides: dict[str, Any]


@dataclass(frozen=True)
class _Condition:
    """The parsed condition of a case; `where` returns the beginning of its error lines."""

    expression: Expression
    where: Where
    case: Case

    def holds(self, parameters: Mapping[str, float]) -> bool:
        """Whether the case applies to a geometry with these parameters."""
        if not self.expression.names <= set(parameters):
            return False
        try:
            return self.expression.holds(parameters)
        except InputError as error:
            raise InputError(f"{self.where()}: {error}") from None


def points(system: SystemFile, file: YamlFile, name: str) -> list[Point]:
    """Every geometry of the scan: families in the file's order, the last parameter fastest.

    Args:
        system: The checked content of the file.
        file: The file, for error lines.
        name: Name of a single geometry without parameters.

    Raises:
        InputError: No geometry, wrong coordinates, an impossible molecule, an unused parameter or
            too many runs.
    """
    families = _families(system, file, name)
    conditions = _conditions(system, file, families)
    _check_used(system, file, families, conditions)
    variants = [variant_suffix(variant) for variant in system.variants] or [""]
    count = sum(math.prod(map(len, family.values.values())) for family in families)
    if count * len(variants) > MAX_RUNS:
        raise InputError(f"{file.path}: more than {MAX_RUNS} runs; split the scan")
    found: list[Point] = []
    for family in families:
        for values in itertools.product(*family.values.values()):
            parameters = {**family.frame, **dict(zip(family.values, values, strict=True))}
            found.append(_point(family, parameters, conditions, file.path))
    _check_lengths(found, max(map(len, variants)), file.path)
    return found


def geometry_of(
    path: Path, known: Sequence[tuple[Mapping[str, float], Molecule]]
) -> Callable[[Mapping[str, float]], Molecule]:
    """A molecule at any values of its parameters, as a system file gives it.

    Args:
        path: The system file.
        known: Parameters and molecules that tell which of the file's geometries it is.

    Returns:
        A function from parameters to the molecule there. It raises `InputError` where a coordinate
        has no value or the molecule is impossible.

    Raises:
        InputError: The file is wrong, or no geometry in it gives the known molecules.
    """
    file = read_yaml(path)
    system = parse_system(file)
    families = _families(system, file, "")
    conditions = _conditions(system, file, families)

    def found(family: _Family, parameters: Mapping[str, float]) -> Molecule:
        values = {name: float(value_text(value)) for name, value in parameters.items()}
        return _point(family, values, conditions, path).molecule

    def gives(family: _Family, parameters: Mapping[str, float], molecule: Molecule) -> bool:
        if {*family.values, *family.frame} != {*parameters}:
            return False
        return same_molecule(found(family, parameters), molecule)

    for family in families:
        if not family.frame and all(gives(family, *pair) for pair in known):
            return partial(found, family)
    parameters = ", ".join(f"{k} = {v:g}" for k, v in (known[0][0] if known else {}).items())
    raise InputError(
        f"{path}: gives other geometries than those that were computed (at {parameters}), or "
        "frames of an XYZ file, which has none between them; take the edits back"
    )


def _check_lengths(found: Sequence[Point], variant: int, path: Path) -> None:
    """Names of runs become names of files, which have at most 255 characters."""
    longest = max((point.name for point in found), key=len)
    length = len(longest) + (variant + 1 if variant else 0)
    if length > MAX_RUN_NAME:
        raise InputError(
            f"{path}: geometry {show(longest)}: the run's name has {length} characters; allowed: "
            f"at most {MAX_RUN_NAME} (names of files are made of it); shorten the names of the "
            "geometry, its parameters or its variant"
        )


def _point(
    family: _Family, parameters: dict[str, float], conditions: list[_Condition], path: Path
) -> Point:
    charge, spin = family.charge, family.spin
    overrides = dict(family.overrides)
    for condition in conditions:
        if condition.holds(parameters):
            case = condition.case
            charge = charge if case.charge is None else case.charge
            spin = spin if case.spin is None else case.spin
            overrides.update(case.overrides)
    name = "_".join(filter(None, (family.name, _values_text(parameters)))).lower()
    molecule = Molecule.make(
        symbols=tuple(atom.symbol for atom in family.atoms),
        positions=tuple(atom.position(parameters, family.units) for atom in family.atoms),
        charge=charge,
        spin=spin,
        where=f"{path}: geometry {name}",
    )
    return Point(name, parameters, molecule, overrides)


# --- families and conditions -------------------------------------------------------------------


def _families(system: SystemFile, file: YamlFile, name: str) -> list[_Family]:
    """The top level's geometry, if it has one, and those of the list."""
    common = _parameters(system, file, system.parameters, ())
    families = []
    if system.atoms is not None or system.xyz is not None:
        units = _units(system.units, file, ())
        for atoms, frame in _atoms(system, file, (), common, (units, system.charge, system.spin)):
            families.append(
                _Family(
                    index=None,
                    name="" if common or frame else name,
                    atoms=atoms,
                    units=units,
                    charge=system.charge,
                    spin=system.spin,
                    values=common,
                    frame=frame,
                    overrides={},
                )
            )
    for i, geometry in enumerate(system.geometries):
        families.extend(_listed_families(i, geometry, common, system, file))
    if not families:
        raise InputError(f"{file.path}: no geometry; give `atoms`, `xyz` or `geometries`")
    return families


def _listed_families(
    i: int,
    geometry: Geometry,
    common: Mapping[str, list[float]],
    system: SystemFile,
    file: YamlFile,
) -> Iterator[_Family]:
    location = ("geometries", i)
    if geometry.atoms is None and geometry.xyz is None:
        raise InputError(f"{file.where(location)}: no coordinates; give `atoms` or `xyz`")
    own = _parameters(system, file, geometry.parameters, location)
    units = _units(geometry.units or system.units, file, location)
    charge = system.charge if geometry.charge is None else geometry.charge
    spin = system.spin if geometry.spin is None else geometry.spin
    for atoms, frame in _atoms(geometry, file, location, {**common, **own}, (units, charge, spin)):
        used = _used_names(atoms)
        values = {p: v for p, v in common.items() if p in used and p not in own}
        yield _Family(
            index=i,
            name=geometry.name,
            atoms=atoms,
            units=units,
            charge=charge,
            spin=spin,
            values={**values, **own},
            frame=frame,
            overrides=geometry.overrides,
        )


def _parameters(
    system: SystemFile,
    file: YamlFile,
    given: Mapping[str, Values],
    location: tuple[str | int, ...],
) -> dict[str, list[float]]:
    return {
        name: _values(value, system, file, (*location, "parameters", name))
        for name, value in given.items()
    }


def _units(units: str | None, file: YamlFile, location: tuple[str | int, ...]) -> str:
    if units is None:
        raise InputError(
            f"{file.where((*location, 'units'))}: is missing, and there are coordinates; "
            "allowed: bohr, angstrom"
        )
    return units


def _conditions(system: SystemFile, file: YamlFile, families: list[_Family]) -> list[_Condition]:
    known = {name for family in families for name in (*family.values, *family.frame)}
    conditions = []
    for i, case in enumerate(system.cases):
        where = partial(file.where, ("cases", i, "where"))
        try:
            expression = parse_condition(case.where, known)
        except InputError as error:
            raise InputError(f"{where()}: {error}") from None
        conditions.append(_Condition(expression, where, case))
    return conditions


def _check_used(
    system: SystemFile, file: YamlFile, families: list[_Family], conditions: list[_Condition]
) -> None:
    """A parameter that nothing uses would compute the same run many times over."""
    in_cases = frozenset().union(*(condition.expression.names for condition in conditions))
    for family in families:
        used = _used_names(family.atoms) | in_cases
        for name, values in family.values.items():
            if name not in used and (len(values) > 1 or family.index is None):
                place = () if family.index is None else ("geometries", family.index)
                raise InputError(
                    f"{file.where((*place, 'parameters', name))}: no coordinate and no case uses "
                    "this parameter"
                )
    unused = [p for p in system.parameters if not any(p in f.values for f in families)]
    if unused:
        raise InputError(
            f"{file.where(('parameters', unused[0]))}: no geometry uses this parameter"
        )


def _used_names(atoms: Sequence[Atom]) -> frozenset[str]:
    """Parameters that the coordinates of any atom use."""
    return frozenset().union(*(atom.names for atom in atoms))


# --- atoms ---------------------------------------------------------------------------------------


def _atoms(
    source: SystemFile | Geometry,
    file: YamlFile,
    location: tuple[str | int, ...],
    parameters: Collection[str],
    facts: tuple[str, int, int],
) -> list[tuple[list[Atom], dict[str, float]]]:
    """The atoms of each geometry of a source, with the parameters of the frame if it has several.

    `facts` are the units, the charge and the spin, which a comment in an XYZ file may contradict.
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


# --- values of parameters ------------------------------------------------------------------------


def _values(
    given: Values | Grid, system: SystemFile, file: YamlFile, location: tuple[str | int, ...]
) -> list[float]:
    """The values of a parameter, rounded to the digits that name them."""
    if isinstance(given, NamedGrid):
        if given.grid not in system.grids:
            hint = did_you_mean(given.grid, system.grids, "grids")
            raise InputError(f"{file.where(location)}: unknown grid {show(given.grid)}{hint}")
        return _values(system.grids[given.grid], system, file, ("grids", given.grid))
    if isinstance(given, ValueRange):
        step = (given.stop - given.start) / (given.num - 1)
        if not math.isfinite(step):
            raise InputError(f"{file.where(location)}: start and stop are too far apart")
        numbers = [given.start + i * step for i in range(given.num - 1)] + [given.stop]
    else:
        numbers = given if isinstance(given, list) else [given]
    if not numbers:
        raise InputError(f"{file.where(location)}: empty grid; give at least one value")
    values = [float(value_text(number)) for number in numbers]
    doubled = [value for value, count in Counter(values).items() if count > 1]
    if doubled:
        raise InputError(
            f"{file.where(location)}: {value_text(doubled[0])} is given twice (to {_DIGITS} "
            "digits); keep one"
        )
    return values


def _values_text(parameters: Mapping[str, float]) -> str:
    """The part of a geometry's name that its parameters give; empty without any."""
    return "_".join(f"{name}_{value_text(value)}" for name, value in parameters.items())


def entry_name(geometry: str, parameters: Mapping[str, float]) -> str:
    """The entry of `geometries` that a geometry comes from, which its own name begins with.

    Empty for the geometries of the top level's atoms with parameters.
    """
    return geometry.removesuffix(_values_text(parameters).lower()).removesuffix("_")


def value_text(value: float) -> str:
    """A value in a run's name: 1.4, 90, -0.5, 1e-05."""
    return f"{value + 0.0:.{_DIGITS}g}".replace("e+", "e")

"""The geometries of a scan: atoms with expressions as coordinates, times parameter values."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ferminet_core.errors import InputError
from ferminet_core.inputs.atoms import Atom, Where, source_atoms, used_names
from ferminet_core.inputs.expressions import (
    Expression,
    parse_condition,
)
from ferminet_core.inputs.messages import show
from ferminet_core.inputs.molecule import (
    ALL_ELECTRON,
    ALLOWED_ELEMENTS,
    Molecule,
    Pseudopotential,
    needs_potential,
)
from ferminet_core.inputs.origin import same_molecule
from ferminet_core.inputs.parameter_values import value_text, values_of, values_text
from ferminet_core.inputs.pseudopotentials import Choice, pseudopotentials
from ferminet_core.inputs.system_file import parse_system
from ferminet_core.inputs.system_keys import (
    MAX_RUN_NAME,
    Case,
    Geometry,
    SystemFile,
    Values,
    variant_suffix,
)
from ferminet_core.inputs.yaml_file import YamlFile, read_yaml

MAX_RUNS = 10_000


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


def points(system: SystemFile, file: YamlFile, name: str) -> dict[str, list[Point]]:
    """Every geometry of the scan: families in the file's order, the last parameter fastest.

    Args:
        system: The checked content of the file.
        file: The file, for error lines.
        name: Name of a single geometry without parameters.

    Returns:
        By what a variant adds to the names of its runs, as pseudopotentials differ between
        variants; without variants there is the plain one.

    Raises:
        InputError: No geometry, wrong coordinates, an impossible molecule, an unused parameter, too
            many runs, or no such pseudopotential.
    """
    families = _families(system, file, name)
    conditions = _conditions(system, file, families)
    _check_used(system, file, families, conditions)
    variants = [variant_suffix(variant) for variant in system.variants] or [""]
    count = sum(math.prod(map(len, family.values.values())) for family in families)
    if count * len(variants) > MAX_RUNS:
        raise InputError(f"{file.path}: more than {MAX_RUNS} runs; split the scan")
    places = [
        (family, {**family.frame, **dict(zip(family.values, values, strict=True))})
        for family in families
        for values in itertools.product(*family.values.values())
    ]
    made: dict[tuple[Pseudopotential, ...], list[Point]] = {}
    found = {}
    for variant, potentials in _potentials(system, file, families).items():
        if potentials not in made:
            made[potentials] = [
                _point(*place, conditions, file.path, potentials) for place in places
            ]
        found[variant] = made[potentials]
    _check_lengths(next(iter(made.values())), max(map(len, variants)), file.path)
    return found


def _potentials(
    system: SystemFile, file: YamlFile, families: Sequence[_Family]
) -> dict[str, tuple[Pseudopotential, ...]]:
    """The pseudopotentials of each variant, by what it adds to the names of its runs.

    Raises:
        InputError: The pseudopotential is unknown or does not cover an element.
    """
    symbols = sorted({atom.symbol for family in families for atom in family.atoms})
    key = "pseudopotential"
    asked: dict[str, tuple[Any, tuple[str | int, ...]]] = {"": (system.pseudopotential, (key,))}
    if system.variants:
        # Where only some variants have potentials, the key is missing in the variant.
        only_here = system.pseudopotential is None and any(
            v.pseudopotential is not None for v in system.variants
        )
        asked = {
            variant_suffix(v): (v.pseudopotential, ("variants", i, key))
            if only_here or v.pseudopotential is not None
            else (system.pseudopotential, (key,))
            for i, v in enumerate(system.variants)
        }
    read: dict[tuple[str | int, ...], tuple[Pseudopotential, ...]] = {}
    found = {}
    for variant, (choice, place) in asked.items():
        if place not in read:

            def where(*inside: str, place: tuple[str | int, ...] = place) -> str:
                return file.where((*place, *inside))

            read[place] = pseudopotentials(choice, symbols, file.path.parent, where)
            allowed = {*ALL_ELECTRON, *(potential.symbol for potential in read[place])}
            for atom in (atom for family in families for atom in family.atoms):
                if atom.symbol not in allowed:
                    if place == (key,) and choice is None:
                        raise InputError(f"{atom.where()}: {needs_potential(atom.symbol)}")
                    raise InputError(f"{where()}: {_all_electrons(atom.symbol, choice)}")
        found[variant] = read[place]
    return found


def _all_electrons(symbol: str, choice: Choice | None) -> str:
    """What is wrong with potentials that leave out an element beyond Kr."""
    found = "is missing" if choice is None else f"found {show(choice)}"
    return (
        f"{found}, and {symbol} needs a pseudopotential, such as ccecp; without one allowed: "
        f"{ALLOWED_ELEMENTS}"
    )


def geometry_of(
    path: Path, known: Sequence[tuple[Mapping[str, float], Molecule]]
) -> Callable[[Mapping[str, float]], Molecule]:
    """A molecule at any values of its parameters, as a system file gives it.

    Args:
        path: The system file.
        known: Parameters and molecules that tell which of the file's geometries it is, and give its
            pseudopotentials.

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
    potentials = known[0][1].pseudopotentials if known else ()

    def found(family: _Family, parameters: Mapping[str, float]) -> Molecule:
        values = {name: float(value_text(value)) for name, value in parameters.items()}
        return _point(family, values, conditions, path, potentials).molecule

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
    family: _Family,
    parameters: dict[str, float],
    conditions: list[_Condition],
    path: Path,
    potentials: tuple[Pseudopotential, ...],
) -> Point:
    charge, spin = family.charge, family.spin
    overrides = dict(family.overrides)
    for condition in conditions:
        if condition.holds(parameters):
            case = condition.case
            charge = charge if case.charge is None else case.charge
            spin = spin if case.spin is None else case.spin
            overrides.update(case.overrides)
    name = "_".join(filter(None, (family.name, values_text(parameters)))).lower()
    symbols = tuple(atom.symbol for atom in family.atoms)
    molecule = Molecule.make(
        symbols=symbols,
        positions=tuple(atom.position(parameters, family.units) for atom in family.atoms),
        charge=charge,
        spin=spin,
        where=f"{path}: geometry {name}",
        pseudopotentials=tuple(p for p in potentials if p.symbol in symbols),
    )
    return Point(name, parameters, molecule, overrides)


# --- families and conditions -------------------------------------------------------------------


def _families(system: SystemFile, file: YamlFile, name: str) -> list[_Family]:
    """The top level's geometry, if it has one, and those of the list."""
    common = _parameters(system, file, system.parameters, ())
    families = []
    if system.atoms is not None or system.xyz is not None:
        units = _units(system.units, file, ())
        for atoms, frame in source_atoms(
            system, file, (), common, (units, system.charge, system.spin)
        ):
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
    for atoms, frame in source_atoms(
        geometry, file, location, {**common, **own}, (units, charge, spin)
    ):
        used = used_names(atoms)
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
        name: values_of(value, system, file, (*location, "parameters", name))
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
        used = used_names(family.atoms) | in_cases
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

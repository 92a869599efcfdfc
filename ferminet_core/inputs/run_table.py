"""The table of runs: geometries times parameter values times variants, each with its settings.

Settings: defaults < preset < file < variant < geometry < case < command line. A case is the last of
the file's because it speaks of single values of the parameters, where a geometry may have many.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ferminet_core.errors import InputError
from ferminet_core.inputs.atoms import (
    Atom,
    parameter_values,
    parse_atom,
    read_xyz,
    used_names,
    value_text,
)
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.expressions import Expression, known_names, parse_condition
from ferminet_core.inputs.messages import did_you_mean
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.overrides import DEFAULT_PRESET, flatten, presets, resolve
from ferminet_core.inputs.system_checks import (
    check_literature,
    check_parameter_names,
    check_quantities,
)
from ferminet_core.inputs.system_file import (
    NAME,
    Case,
    CorrelationSpec,
    Geometry,
    LiteratureSpec,
    QuantitySpec,
    Start,
    SystemFile,
    WarmStart,
    parse_system,
)
from ferminet_core.inputs.warm_starts import central, spanning_tree
from ferminet_core.inputs.yaml_file import YamlFile, parse_value, read_yaml

MAX_RUNS = 10_000
# The variant that is computed without overrides, and has no part in a run's name.
PLAIN_VARIANT = "base"


@dataclass(frozen=True)
class RunPlan:
    """One line of the table; neighbour: the run whose wavefunction it starts from, or empty; share:
    of the iterations that it then takes."""

    run_id: str
    geometry: str
    variant: str
    parameters: dict[str, float]
    molecule: Molecule
    preset: str
    overrides: dict[str, Any]
    config: Config
    neighbour: str = ""
    share: float = 1.0


@dataclass(frozen=True)
class ScanPlan:
    """The whole table, and what belongs to the scan as such."""

    name: str
    title: str
    path: Path
    preset: str
    parameters: tuple[str, ...]
    runs: list[RunPlan]
    literature: list[LiteratureSpec]
    quantities: list[QuantitySpec]
    correlation: CorrelationSpec | None


@dataclass(frozen=True)
class _Family:
    """A geometry with its parameters still open; `index` is its place in the file's list."""

    index: int | None
    name: str
    atoms: list[Atom]
    units: str
    charge: int
    spin: int
    values: dict[str, list[float]]
    overrides: dict[str, Any]


@dataclass(frozen=True)
class _Case:
    condition: Expression
    where: str
    case: Case
    overrides: dict[str, Any]


@dataclass(frozen=True)
class _Point:
    """A geometry with its parameters fixed, and the settings that go with it."""

    geometry: str
    parameters: dict[str, float]
    molecule: Molecule
    overrides: dict[str, Any]


def expand(
    path: Path, preset: str | None, overrides: Mapping[str, Any] | Iterable[str]
) -> ScanPlan:
    """Read a system file and expand it; see `scan.load_scan`."""
    file = read_yaml(path)
    system = parse_system(file)
    own_preset = system.preset or DEFAULT_PRESET
    _check_preset(own_preset, file.where(("preset",)))
    if preset is not None:
        _check_preset(preset, "--preset")
    name = _scan_name(system, file)
    check_parameter_names(system, file)
    command_line = _command_line(overrides)
    used = preset or own_preset
    runs = list(_runs(system, file, name, used, command_line))
    _check_runs(runs, file)
    runs = _warm_starts(runs, system, file)
    check_literature(system, file)
    check_quantities(system, file, {run.geometry for run in runs})
    return ScanPlan(
        name=name if used == own_preset else f"{name}-{used}",
        title=system.title,
        path=path,
        preset=used,
        parameters=tuple(dict.fromkeys(p for run in runs for p in run.parameters)),
        runs=runs,
        literature=system.literature,
        quantities=system.quantities,
        correlation=system.correlation,
    )


def _check_preset(preset: str, where: str) -> None:
    if preset not in presets():
        raise InputError(f"{where}: unknown preset {preset!r}{did_you_mean(preset, presets())}")


def _scan_name(system: SystemFile, file: YamlFile) -> str:
    name = system.name or file.path.stem.lower()
    if not re.match(NAME, name):
        raise InputError(
            f"{file.path}: the file's name {file.path.stem!r} cannot name its results; "
            f"give a `name:` of the form {NAME}"
        )
    return name


def _command_line(overrides: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    """Settings given on the command line, by dotted key."""
    if not isinstance(overrides, Mapping):
        parsed: dict[str, Any] = {}
        for text in overrides:
            key, equals, value = text.partition("=")
            key = key.strip()
            if not equals or not value.strip():
                raise InputError(
                    f"--set: found {text!r}; allowed: KEY=VALUE, as in mcmc.walkers=64"
                )
            if key in parsed:
                raise InputError(f"--set {key}: given twice; keep one")
            parsed[key] = parse_value(value, f"--set {key}")
        overrides = parsed
    return flatten(overrides, lambda key: f"--set {key}")


def _settings(overrides: Mapping[str, Any], file: YamlFile, *location: str | int) -> dict[str, Any]:
    """The overrides that stand at a location of the file, by dotted key."""
    return flatten(overrides, lambda key: file.where((*location, "overrides", *key.split("."))))


def _file_settings(system: SystemFile, file: YamlFile) -> dict[str, Any]:
    settings = _settings(system.overrides, file)
    if system.seed is not None:
        if "seed" in settings:
            raise InputError(f"{file.where(('seed',))}: also given in overrides; keep one")
        settings["seed"] = system.seed
    return settings


def _runs(
    system: SystemFile, file: YamlFile, name: str, preset: str, command_line: Mapping[str, Any]
) -> Iterator[RunPlan]:
    base = _file_settings(system, file)
    variants = _variants(system, file)
    for point in _points(system, file, name):
        for variant, settings in variants.items():
            run_id = f"{point.geometry}+{variant}" if variant else point.geometry
            explicit = {**base, **settings, **point.overrides, **command_line}
            where = f"{file.path}: run {run_id}: "
            config = resolve(preset, explicit, where.__add__)
            if config.reference.method == "rhf" and point.molecule.spin != 0:
                raise InputError(
                    f"{where}reference.method: found 'rhf' with spin {point.molecule.spin}; "
                    "allowed: rohf, uhf, auto (rhf needs spin 0)"
                )
            yield RunPlan(
                run_id=run_id,
                geometry=point.geometry,
                variant=variant,
                parameters=point.parameters,
                molecule=point.molecule,
                preset=preset,
                overrides=dict(sorted(explicit.items())),
                config=config,
            )


def _variants(system: SystemFile, file: YamlFile) -> dict[str, dict[str, Any]]:
    """Settings of each variant by its name; the plain one has the empty name."""
    if not system.variants:
        return {"": {}}
    variants: dict[str, dict[str, Any]] = {}
    for i, variant in enumerate(system.variants):
        where = file.where(("variants", i, "name"))
        name = "" if variant.name == PLAIN_VARIANT else variant.name
        if name in variants:
            raise InputError(f"{where}: variant {variant.name!r} is there twice; rename one")
        if not name and variant.overrides:
            raise InputError(
                f"{where}: {PLAIN_VARIANT!r} is the variant without overrides; rename this one"
            )
        variants[name] = _settings(variant.overrides, file, "variants", i)
    return variants


def _points(system: SystemFile, file: YamlFile, name: str) -> Iterator[_Point]:
    """Every geometry of the scan, families in the file's order, the last parameter fastest."""
    families = _families(system, file, name)
    cases = _cases(system, file, families)
    _check_used(system, file, families, cases)
    count = 0
    for family in families:
        for values in itertools.product(*family.values.values()):
            count += 1
            if count * max(1, len(system.variants)) > MAX_RUNS:
                raise InputError(f"{file.path}: more than {MAX_RUNS} runs; split the scan")
            yield _point(family, dict(zip(family.values, values, strict=True)), cases, file)


def _point(
    family: _Family, parameters: dict[str, float], cases: list[_Case], file: YamlFile
) -> _Point:
    charge, spin = family.charge, family.spin
    overrides = dict(family.overrides)
    for case in cases:
        if case.condition.names <= set(parameters) and _holds(case, parameters):
            charge = charge if case.case.charge is None else case.case.charge
            spin = spin if case.case.spin is None else case.case.spin
            overrides.update(case.overrides)
    values = "_".join(f"{name}_{value_text(value)}" for name, value in parameters.items())
    geometry = "_".join(filter(None, (family.name, values))).lower()
    molecule = Molecule.make(
        symbols=tuple(atom.symbol for atom in family.atoms),
        positions=tuple(atom.position(parameters, family.units) for atom in family.atoms),
        charge=charge,
        spin=spin,
        where=f"{file.path}: geometry {geometry}",
    )
    return _Point(geometry, parameters, molecule, overrides)


def _holds(case: _Case, parameters: Mapping[str, float]) -> bool:
    try:
        return case.condition.holds(parameters)
    except InputError as error:
        raise InputError(f"{case.where}: {error}") from None


def _families(system: SystemFile, file: YamlFile, name: str) -> list[_Family]:
    """The top level's geometry, if it has one, and those of the list."""
    common = {
        p: parameter_values(v, system, file, ("parameters", p))
        for p, v in system.parameters.items()
    }
    families = []
    if system.atoms is not None or system.xyz is not None:
        families.append(
            _Family(
                index=None,
                name="" if common else name,
                atoms=_atoms(system, file, ()),
                units=_units(system.units, file, ()),
                charge=system.charge,
                spin=system.spin,
                values=common,
                overrides={},
            )
        )
    for i, geometry in enumerate(system.geometries):
        families.append(_listed_family(i, geometry, common, system, file))
    if not families:
        raise InputError(f"{file.path}: no geometry; give `atoms`, `xyz` or `geometries`")
    for family in families:
        for atom in family.atoms:
            atom.check_names(family.values)
    return families


def _listed_family(
    i: int,
    geometry: Geometry,
    common: Mapping[str, list[float]],
    system: SystemFile,
    file: YamlFile,
) -> _Family:
    location = ("geometries", i)
    if geometry.atoms is None and geometry.xyz is None:
        raise InputError(f"{file.where(location)}: no coordinates; give `atoms` or `xyz`")
    atoms = _atoms(geometry, file, location)
    own = {
        p: parameter_values(v, system, file, (*location, "parameters", p))
        for p, v in geometry.parameters.items()
    }
    used = used_names(atoms)
    values = {p: v for p, v in common.items() if p in used and p not in own}
    return _Family(
        index=i,
        name=geometry.name,
        atoms=atoms,
        units=_units(geometry.units or system.units, file, location),
        charge=system.charge if geometry.charge is None else geometry.charge,
        spin=system.spin if geometry.spin is None else geometry.spin,
        values={**values, **own},
        overrides=_settings(geometry.overrides, file, *location),
    )


def _atoms(
    source: SystemFile | Geometry, file: YamlFile, location: tuple[str | int, ...]
) -> list[Atom]:
    if source.atoms is not None and source.xyz is not None:
        raise InputError(f"{file.where((*location, 'xyz'))}: `atoms` is there, too; keep one")
    if source.xyz is not None:
        return read_xyz(file.path.parent / source.xyz, file.where((*location, "xyz")))
    return [
        parse_atom(line, file.where((*location, "atoms", i)))
        for i, line in enumerate(source.atoms or [])
    ]


def _units(units: str | None, file: YamlFile, location: tuple[str | int, ...]) -> str:
    if units is None:
        raise InputError(
            f"{file.where((*location, 'units'))}: is missing, and there are coordinates; "
            "allowed: bohr, angstrom"
        )
    return units


def _cases(system: SystemFile, file: YamlFile, families: list[_Family]) -> list[_Case]:
    known = {name for family in families for name in family.values}
    cases = []
    for i, case in enumerate(system.cases):
        where = file.where(("cases", i, "where"))
        try:
            condition = parse_condition(case.where)
            known_names(condition, dict.fromkeys(known))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        cases.append(_Case(condition, where, case, _settings(case.overrides, file, "cases", i)))
    return cases


def _warm_starts(runs: list[RunPlan], system: SystemFile, file: YamlFile) -> list[RunPlan]:
    """The runs, with the neighbours of those that start from one."""
    known = {run.geometry for run in runs}
    common = _start(system.warm_start, known, file, ("warm_start",))
    starts = {"": common}
    for i, variant in enumerate(system.variants):
        name = "" if variant.name == PLAIN_VARIANT else variant.name
        start = common
        if variant.warm_start is not None:
            start = _start(variant.warm_start, known, file, ("variants", i, "warm_start"))
        starts[name] = start
    planned = {run.run_id: run for run in runs}
    for name, start in starts.items():
        if start is None:
            continue
        for family in _families_of_one_network(run for run in runs if run.variant == name):
            for run_id, neighbour in _parents(family, start).items():
                planned[run_id] = _warm(planned[run_id], neighbour, start.share)
    return list(planned.values())


def _start(
    start: Start, known: set[str], file: YamlFile, place: tuple[str | int, ...]
) -> WarmStart | None:
    """How a variant's runs start, its anchors checked; None for independent runs."""
    if start == "independent":
        return None
    warm = start if isinstance(start, WarmStart) else WarmStart()
    for i, anchor in enumerate(warm.anchors):
        if anchor not in known:
            raise InputError(
                f"{file.where((*place, 'anchors', i))}: unknown geometry {anchor!r}"
                f"{did_you_mean(anchor, known)}"
            )
    return warm


def _families_of_one_network(runs: Iterable[RunPlan]) -> Iterator[list[RunPlan]]:
    """Runs that can hand parameters and walkers on to each other."""
    families: dict[Any, list[RunPlan]] = {}
    for run in runs:
        molecule, config = run.molecule, run.config
        key = (molecule.symbols, molecule.electrons, config.network, config.mcmc.walkers)
        families.setdefault(key, []).append(run)
    yield from families.values()


def _parents(runs: list[RunPlan], warm: WarmStart) -> dict[str, str]:
    molecules = {run.run_id: run.molecule for run in runs}
    anchors = [run.run_id for run in runs if run.geometry in warm.anchors]
    return spanning_tree(molecules, anchors or [central(molecules)])


def _warm(run: RunPlan, neighbour: str, share: float) -> RunPlan:
    """A run that starts from a neighbour: fewer iterations, the learning rate in proportion."""
    optimise = run.config.optimise
    shorter = optimise.model_copy(
        update={
            "iterations": max(1, round(share * optimise.iterations)),
            "delay": share * optimise.delay,
        }
    )
    config = run.config.model_copy(update={"optimise": shorter})
    return replace(run, config=config, neighbour=neighbour, share=share)


def _check_used(
    system: SystemFile, file: YamlFile, families: list[_Family], cases: list[_Case]
) -> None:
    """A parameter that nothing uses would compute the same run many times over."""
    in_cases = frozenset().union(*(case.condition.names for case in cases))
    for family in families:
        for name, values in family.values.items():
            used = name in used_names(family.atoms) | in_cases
            if not used and (len(values) > 1 or family.index is None):
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


def _check_runs(runs: list[RunPlan], file: YamlFile) -> None:
    seen: set[str] = set()
    for run in runs:
        if run.run_id in seen:
            raise InputError(f"{file.path}: two runs are named {run.run_id!r}; rename a geometry")
        seen.add(run.run_id)

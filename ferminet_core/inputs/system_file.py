"""Checks of a system file (`systems/*.yaml`) that need no geometry, and its JSON schema."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from ferminet_core.errors import InputError
from ferminet_core.inputs.config import (
    SECTIONS,
    Config,
    PseudopotentialConfig,
    SharingConfig,
    setting_keys,
)
from ferminet_core.inputs.expressions import RESERVED
from ferminet_core.inputs.messages import Location, did_you_mean, error_lines, show
from ferminet_core.inputs.overrides import check_preset, flatten, presets
from ferminet_core.inputs.system_keys import (
    COLUMN_NAMES,
    IDENTIFIER,
    PLAIN_VARIANT,
    Case,
    CorrelationSpec,
    Geometry,
    LiteratureSpec,
    QuantitySpec,
    Sharing,
    SystemFile,
    ValueRange,
    Variant,
    WarmStart,
    sharing_of,
    variant_suffix,
)
from ferminet_core.inputs.yaml_file import YamlFile

# Reasons for bounds, by the last key.
_REASONS = {
    "atoms": "the largest published calculations have about 100 electrons",
    "name": "names of files are made of it",
    "share": "a share of more than 1 is no saving",
    "num": "a scan has at most that many runs",
    "geometries": "a scan has at most that many runs",
}


def _reason(location: Location) -> str:
    return _REASONS.get(str(location[-1]), "") if location else ""


def _hint(location: Location) -> str:
    """What to write in place of a key beside which `overrides` may stand, or in `sharing`."""
    if "sharing" in location[:-1] and location[-1] in SharingConfig.model_fields:
        return f"it is a setting, written as `overrides: {{sharing.{location[-1]}: ...}}`"
    beside = "overrides" in _keys_at(location[:-1])
    return _hints().get(str(location[-1]), "") if beside else ""


@cache
def _hints() -> dict[str, str]:
    """What to write in place of the keys of other programs, and of settings out of their place."""
    hints = {
        key: f"it is a setting, written as `overrides: {{{key}: {{...}}}}`" for key in SECTIONS
    }
    for key in setting_keys():
        hints.setdefault(
            key.rpartition(".")[2], f"it is a setting, written as `overrides: {{{key}: ...}}`"
        )
    cell = "periodic systems are not supported; allowed: molecules in vacuum"
    spin = "give `spin`, which is multiplicity - 1 (up minus down electrons)"
    sharing = "give `sharing: scan` at the top of the file or in a variant"
    potential = "give `pseudopotential`, such as ccecp, at the top of the file or in a variant"
    return {
        **hints,
        **dict.fromkeys(("multiplicity", "mult"), spin),
        **dict.fromkeys(("shared", "group", "sharing"), sharing),
        **dict.fromkeys(("cell", "lattice", "pbc"), cell),
        "basis": "it is a setting, written as `overrides: {reference.basis: cc-pvdz}`",
        **dict.fromkeys(("ecp", "pseudopotential"), potential),
        "geometry": "give `atoms`, `xyz` or a list of `geometries`",
    }


def parse_system(file: YamlFile) -> SystemFile:
    """The checked content of a system file, with overrides by dotted key and `seed` among them.

    Raises:
        InputError: Unknown keys, wrong types, bad names or unknown settings; one line for each
            problem.
    """
    try:
        system = SystemFile.model_validate(file.data)
    except ValidationError as error:
        found = error_lines(error, _keys_at, file.where, _reason, _hint)
        lines = [line for _, line in found]
        raise InputError("\n".join(lines)) from None
    if system.preset is not None:
        check_preset(system.preset, lambda: file.where(("preset",)))
    _check_parameter_names(system, file)
    _check_potentials(system, file)
    _check_variants(system, file)
    _check_starts(system, file)
    _check_literature(system, file)
    return _flattened(system, file)


def _flattened(system: SystemFile, file: YamlFile) -> SystemFile:
    """The same content with all overrides by dotted key, and `seed` among them."""

    def flat(overrides: dict[str, Any], *location: str | int) -> dict[str, Any]:
        place = (*location, "overrides")
        return flatten(overrides, lambda key: file.where((*place, *key.split("."))))

    def each(key: str, entries: Sequence[Geometry | Case | Variant]) -> list[BaseModel]:
        return [
            entry.model_copy(update={"overrides": flat(entry.overrides, key, i)})
            for i, entry in enumerate(entries)
        ]

    settings = flat(system.overrides)
    if system.seed is not None:
        if "seed" in settings:
            raise InputError(f"{file.where(('seed',))}: also given in overrides; keep one")
        settings |= flatten({"seed": system.seed}, lambda key: file.where((key,)))
    return system.model_copy(
        update={
            "overrides": settings,
            "geometries": each("geometries", system.geometries),
            "cases": each("cases", system.cases),
            "variants": each("variants", system.variants),
        }
    )


def _check_parameter_names(system: SystemFile, file: YamlFile) -> None:
    """Parameter names are identifiers, not columns of the table, and differ not only in case."""
    places: list[tuple[tuple[str | int, ...], Iterable[str]]] = [
        (("parameters",), system.parameters),
        *((("geometries", i, "parameters"), g.parameters) for i, g in enumerate(system.geometries)),
    ]
    seen: dict[str, str] = {}
    for location, names in places:
        for name in names:
            problem = ""
            if not re.fullmatch(IDENTIFIER, name):
                problem = f"found {show(name)}; allowed: names of the form {IDENTIFIER}"
            elif name in RESERVED or name in COLUMN_NAMES:
                what = "a word of expressions" if name in RESERVED else "a column of the scan table"
                problem = f"{name!r} is {what}; choose another name, such as 'R'"
            elif (other := seen.setdefault(name.lower(), name)) != name:
                problem = f"differs from {other!r} only in case; run names are lower case"
            if problem:
                raise InputError(f"{file.where((*location, name))}: {problem}")


def _check_potentials(system: SystemFile, file: YamlFile) -> None:
    """Settings of pseudopotentials are not elements."""
    for place, choice in (
        ((), system.pseudopotential),
        *((("variants", i), v.pseudopotential) for i, v in enumerate(system.variants)),
    ):
        for key in choice if isinstance(choice, Mapping) else ():
            if key in PseudopotentialConfig.model_fields:
                raise InputError(
                    f"{file.where((*place, 'pseudopotential', key))}: no element; it is a setting, "
                    f"written as `overrides: {{pseudopotential.{key}: ...}}`"
                )


def _check_variants(system: SystemFile, file: YamlFile) -> None:
    """Variants have different names, and the plain one has no overrides."""
    names: set[str] = set()
    for i, variant in enumerate(system.variants):
        problem = ""
        if variant.name in names:
            problem = f"variant {variant.name!r} is given twice; rename one"
        elif variant.name == PLAIN_VARIANT and (variant.overrides or variant.pseudopotential):
            problem = f"{PLAIN_VARIANT!r} is the variant without overrides; rename this one"
        if problem:
            raise InputError(f"{file.where(('variants', i, 'name'))}: {problem}")
        names.add(variant.name)


def _check_starts(system: SystemFile, file: YamlFile) -> None:
    """Runs that share a wavefunction take it from no neighbour."""
    starts = {variant_suffix(v): v.warm_start for v in system.variants}
    for name, (sharing, place) in sharing_of(system).items():
        own = starts.get(name)
        if sharing and (system.warm_start if own is None else own) != "independent":
            other = "warm_start"
            if own is not None and place == ("sharing",):  # the variant's key against the file's
                place, other = ("variants", list(starts).index(name), other), "sharing"
            raise InputError(f"{file.where(place)}: `{other}` is given as well; keep one")


def _check_literature(system: SystemFile, file: YamlFile) -> None:
    """Literature entries have different names, and all that names one or a parameter is right."""
    names: set[str] = set()
    known = {"geometry", "charge", "spin", *system.parameters}
    known |= {p for geometry in system.geometries for p in geometry.parameters}
    # The frames of an XYZ file have parameters of their own. The summary warns of what fits no run.
    frames = any(xyz for xyz in (system.xyz, *(g.xyz for g in system.geometries)))
    for i, entry in enumerate(system.literature):
        if entry.name in names:
            where = file.where(("literature", i, "name"))
            raise InputError(f"{where}: literature {entry.name!r} is given twice; rename one")
        names.add(entry.name)
        entries = {geometry.name for geometry in system.geometries}
        if entry.geometry is not None and entry.geometry not in entries:
            raise InputError(
                f"{file.where(('literature', i, 'geometry'))}: unknown entry of `geometries` "
                f"{entry.geometry!r}{did_you_mean(entry.geometry, entries)}"
            )
        for column, target in entry.match.items():
            if target not in known and not frames:
                where = file.where(("literature", i, "match", column))
                raise InputError(
                    f"{where}: unknown parameter {show(target)}{did_you_mean(target, known)}"
                )
    if system.correlation is not None:
        for key, name in system.correlation.model_dump().items():
            if name not in names:
                raise InputError(
                    f"{file.where(('correlation', key))}: unknown literature "
                    f"{show(name)}{did_you_mean(name, names)}"
                )


def check_quantities(
    system: SystemFile,
    file: YamlFile,
    geometries: Iterable[tuple[str, str, Mapping[str, float]]],
) -> None:
    """Check that quantities have different names and are made of the scan's geometries.

    Args:
        system: The content of the file.
        file: The file, for error lines.
        geometries: Entry of `geometries`, name and parameters of each geometry of the scan.

    Raises:
        InputError: A name is given twice, a geometry is unknown, or those of a quantity do not go
            together.
    """
    single: set[str] = set()
    entries: dict[str, set[tuple[tuple[str, float], ...]]] = {}
    for entry, name, parameters in geometries:
        single.add(name)
        if entry and parameters:
            entries.setdefault(entry, set()).add(tuple(parameters.items()))
    names: set[str] = set()
    for i, quantity in enumerate(system.quantities):
        if quantity.name in names:
            where = file.where(("quantities", i, "name"))
            raise InputError(f"{where}: quantity {quantity.name!r} is given twice; rename one")
        names.add(quantity.name)
        for geometry in quantity.of:
            if geometry not in single and geometry not in entries:
                raise InputError(
                    f"{file.where(('quantities', i, 'of', geometry))}: unknown geometry "
                    f"{show(geometry)}{did_you_mean(geometry, {*entries, *single})}"
                )
        over = [name for name in quantity.of if name not in single]
        if problem := _quantity_problem(quantity, over, [entries[name] for name in over]):
            key, text = problem
            raise InputError(f"{file.where(('quantities', i, key))}: {text}")


def _quantity_problem(
    quantity: QuantitySpec, over: list[str], values: list[set[tuple[tuple[str, float], ...]]]
) -> tuple[str, str] | None:
    """Key and text of what is wrong with a quantity of entries with parameters, if anything."""
    if quantity.at == "minima":
        if not over:
            return "at", "no geometry of this quantity has parameters; leave `at` out"
        return None
    if over and not set.intersection(*values):
        return "of", f"{' and '.join(over)} have no values of their parameters in common"
    if over and quantity.published is not None:
        return "published", (
            "one value for many geometries; give the curves as `literature`, or take `at: minima`"
        )
    return None


def _keys_at(location: Location) -> Iterable[str]:
    """The keys that are allowed in the mapping at a location of a system file."""
    inside: dict[str, type[BaseModel]] = {
        "geometries": Geometry,
        "cases": Case,
        "variants": Variant,
        "literature": LiteratureSpec,
        "quantities": QuantitySpec,
        "correlation": CorrelationSpec,
    }
    if not location:
        return SystemFile.model_fields
    if "warm_start" in location:
        return WarmStart.model_fields
    if "sharing" in location:
        return Sharing.model_fields
    if "parameters" in location or location[0] == "grids":
        return ValueRange.model_fields
    return inside[str(location[0])].model_fields


def json_schema() -> dict[str, Any]:
    """JSON schema of system files, for completion and checks in an editor."""
    schema = SystemFile.model_json_schema()
    config = Config.model_json_schema()
    definitions = schema["$defs"]
    definitions.update(config.pop("$defs"))
    properties = dict(config["properties"])
    for key in setting_keys():
        section, _, name = key.partition(".")
        if name:
            model = type(getattr(Config(), section)).__name__
            properties[key] = definitions[model]["properties"][name]
    definitions["Overrides"] = {
        "type": "object",
        "description": "Settings by nested or dotted key.",
        "properties": properties,
        "additionalProperties": False,
    }
    for model in (schema, *(definitions[name] for name in ("Geometry", "Case", "Variant"))):
        model["properties"]["overrides"] = {"$ref": "#/$defs/Overrides"}
    schema["properties"]["preset"] = {
        "enum": list(presets()),
        "description": SystemFile.model_fields["preset"].description,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "FermiNet system file",
    }

"""What may stand in a system file (`systems/*.yaml`); the run table is made of it in `scan`."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError

from ferminet_core.errors import InputError
from ferminet_core.inputs.config import Config, Section, Whole, setting_keys
from ferminet_core.inputs.messages import Location, error_lines
from ferminet_core.inputs.overrides import presets
from ferminet_core.inputs.yaml_file import YamlFile

# Of scans, runs, geometries and variants, which become names of files and folders.
NAME = r"^[a-z0-9][a-z0-9_.+-]*$"
VARIANT_NAME = r"^[a-z0-9][a-z0-9_.-]*$"
# Of parameters and literature columns.
IDENTIFIER = r"^[A-Za-z][A-Za-z0-9_]*$"
MAX_VALUES = 10_000

Units = Literal["bohr", "angstrom"]
_OVERRIDES = "Settings by nested or dotted key, such as `network.layers: 3`."
_ATOMS = "One `El x y z` per atom; coordinates may be expressions."
Atoms = Annotated[list[str], Field(min_length=1)]


class ValueRange(Section):
    """Evenly spaced values, both ends included."""

    start: float = Field(description="First value.")
    stop: float = Field(description="Last value.")
    num: Whole = Field(ge=2, le=MAX_VALUES, description="Number of values.")


class NamedGrid(Section):
    """Reference to one of `grids`."""

    grid: str = Field(description="Its name.")


def _kind(value: object) -> str | None:
    if isinstance(value, dict):
        return "<grid>" if "grid" in value else "<range>"
    if isinstance(value, NamedGrid):
        return "<grid>"
    if isinstance(value, ValueRange):
        return "<range>"
    if isinstance(value, list | tuple):
        return "<list>"
    return "<number>" if isinstance(value, int | float) else None


_NUMBERS = "a list of numbers, {start, stop, num}, or {grid: name}"
_ValueList = Annotated[list[float], Field(max_length=MAX_VALUES)]
Values = Annotated[
    Annotated[float, Tag("<number>")]
    | Annotated[_ValueList, Tag("<list>")]
    | Annotated[ValueRange, Tag("<range>")]
    | Annotated[NamedGrid, Tag("<grid>")],
    Discriminator(
        _kind, custom_error_type="values", custom_error_message=f"Input should be {_NUMBERS}"
    ),
]
Grid = Annotated[
    Annotated[_ValueList, Tag("<list>")] | Annotated[ValueRange, Tag("<range>")],
    Discriminator(
        _kind,
        custom_error_type="values",
        custom_error_message="Input should be a list of numbers or {start, stop, num}",
    ),
]


class Geometry(Section):
    """One geometry, or with parameters one family of them, of an explicit list."""

    name: str = Field(pattern=NAME, description="Name of the geometry, part of its runs' names.")
    units: Units | None = Field(None, description="Units of its coordinates, if others than above.")
    atoms: Atoms | None = Field(None, description=_ATOMS)
    xyz: str | None = Field(None, description="XYZ file, relative to this one.")
    charge: Whole | None = Field(None, description="Total charge, if another than above.")
    spin: Whole | None = Field(None, description="2S, if another than above.")
    parameters: dict[str, Values] = Field({}, description="Its own values of parameters.")
    overrides: dict[str, Any] = Field({}, description=_OVERRIDES)


class Case(Section):
    """Settings for the geometries whose parameters fulfil a condition."""

    where: str = Field(description="Condition on the parameters, such as `R > 4`.")
    charge: Whole | None = Field(None, description="Total charge, if another than above.")
    spin: Whole | None = Field(None, description="2S, if another than above.")
    overrides: dict[str, Any] = Field({}, description=_OVERRIDES)


class WarmStart(Section):
    """Anchors are computed in full; every other geometry starts from the wavefunction of its
    nearest neighbour and takes a share of the iterations, down to the same learning rate."""

    anchors: list[str] = Field(
        [], description="Geometries that are computed in full; default: the most central one."
    )
    share: float = Field(0.2, gt=0, le=1, description="Of `optimise.iterations`, for the others.")


def _start_kind(value: object) -> str | None:
    if isinstance(value, dict | WarmStart):
        return "<anchors>"
    return "<word>" if isinstance(value, str) else None


Start = Annotated[
    Annotated[Literal["neighbours", "independent"], Tag("<word>")]
    | Annotated[WarmStart, Tag("<anchors>")],
    Discriminator(
        _start_kind,
        custom_error_type="start",
        custom_error_message="Input should be neighbours, independent, or {anchors, share}",
    ),
]


class Variant(Section):
    """One way to compute every geometry; `base` is the plain way, without overrides."""

    name: str = Field(pattern=VARIANT_NAME, description="Part of its runs' names.")
    warm_start: Start | None = Field(None, description="If another than above.")
    overrides: dict[str, Any] = Field({}, description=_OVERRIDES)


class LiteratureSpec(Section):
    """Published energies (hartree) to be set beside the scan; read by `summary` alone."""

    name: str = Field(pattern=IDENTIFIER, description="Column ref_<name>_Eh of the table.")
    label: str = Field("", description="In the plot's legend.")
    file: str = Field(min_length=1, description="CSV file, relative to this one.")
    where: dict[str, str | float] = Field({}, description="Rows to keep: {column: value}.")
    match: dict[str, str] = Field(
        min_length=1, description="Rows to runs: {column: parameter or `geometry`}."
    )
    value: str = Field("value", description="Column of the energies, hartree.")
    error: str | None = Field(None, description="Column of their errors, hartree.")
    kind: Literal["exact", "experiment", "method"] = Field(
        description="exact, experiment or method; of the kind `exact` are bounds from below."
    )


class QuantitySpec(Section):
    """An energy that follows from several runs; computed by `summary` alone."""

    name: str = Field(pattern=IDENTIFIER, description="In the table of quantities.")
    of: dict[str, float] = Field(
        min_length=1, description="Factor of each geometry's energy, such as {li+: 1, li: -1}."
    )
    published: float | None = Field(None, description="A measured value to compare with, hartree.")


class CorrelationSpec(Section):
    """Between which literature energies the correlation energy lies."""

    hartree_fock: str = Field(description="Name of the literature with Hartree-Fock limits.")
    exact: str = Field(description="Name of the literature with exact energies.")


class SystemFile(Section):
    """A scan: which molecule, which geometries, with which settings."""

    name: str | None = Field(None, pattern=NAME, description="Default: the file's name.")
    title: str = Field("", description="Title of the plot.")
    units: Units | None = Field(None, description="Units of coordinates and lengths.")
    charge: Whole = Field(0, description="Total charge.")
    spin: Whole = Field(0, description="2S, up minus down electrons.")
    atoms: Atoms | None = Field(None, description=_ATOMS)
    xyz: str | None = Field(None, description="XYZ file, relative to this one.")
    parameters: dict[str, Values] = Field({}, description="Values of the scan's parameters.")
    grids: dict[str, Grid] = Field({}, description="Named lists of values.")
    geometries: list[Geometry] = Field([], description="Explicit list of geometries.")
    preset: str | None = Field(None, description="Preset that the settings start from.")
    overrides: dict[str, Any] = Field({}, description=_OVERRIDES)
    cases: list[Case] = Field([], description="Settings for a part of the geometries.")
    variants: list[Variant] = Field([], description="Ways to compute every geometry.")
    warm_start: Start = Field("independent", description="Where optimisations start.")
    seed: Whole | None = Field(None, ge=0, description="Short for the setting `seed`.")
    literature: list[LiteratureSpec] = Field([], description="Published energies to compare with.")
    quantities: list[QuantitySpec] = Field(
        [], description="Energies that follow from several runs."
    )
    correlation: CorrelationSpec | None = Field(None, description="Limits of correlation energy.")


def parse_system(file: YamlFile) -> SystemFile:
    """The file's content in its model.

    Raises:
        InputError: unknown keys, wrong types, bad names; one line for each problem.
    """
    try:
        return SystemFile.model_validate(file.data)
    except ValidationError as error:
        lines = [line for _, line in error_lines(error, _keys_at, file.where)]
        raise InputError("\n".join(lines)) from None


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

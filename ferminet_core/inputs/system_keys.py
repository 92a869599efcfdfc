"""The keys of a system file (`systems/*.yaml`), as models that check their types and bounds."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from ferminet_core.inputs.messages import show
from ferminet_core.inputs.molecule import MAX_ATOMS
from ferminet_core.inputs.scan_columns import COLUMNS
from ferminet_core.inputs.setting_fields import MAX_COUNT, Section, Whole

# Names of scans, runs, geometries and variants, which become names of files and folders.
# Names of files have at most 255 characters. Logs of batch jobs join the scan's and the run's name,
# and temporary files add 23 characters.
MAX_SCAN_NAME = 100
MAX_RUN_NAME = 150
NAME = r"^[a-z0-9][a-z0-9_.+-]*$"
VARIANT_NAME = r"^[a-z0-9][a-z0-9_.-]*$"
# Names of parameters and literature columns.
IDENTIFIER = r"^[A-Za-z][A-Za-z0-9_]*$"
MAX_VALUES = 10_000
COLUMN_NAMES = frozenset(column.name for column in COLUMNS)
# The variant without overrides. It adds nothing to the names of its runs.
PLAIN_VARIANT = "base"

Units = Literal["bohr", "angstrom"]
_OVERRIDES = "Settings by nested or dotted key, such as `network.layers: 3`."
_ATOMS = "One `El x y z` per atom; coordinates may be expressions."
Atoms = Annotated[list[str], Field(min_length=1, max_length=MAX_ATOMS)]
_XYZ = "XYZ file, relative to the system file. Each of its frames is a geometry."


def _file_name(path: str) -> str:
    if not path.isprintable():
        raise ValueError(f"found {show(path)}; allowed: names of files without control characters")
    return path


FileName = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_file_name)]


class ValueRange(Section):
    """Evenly spaced values that include both ends."""

    start: float = Field(description="First value.")
    stop: float = Field(description="Last value.")
    num: Whole = Field(ge=2, le=MAX_VALUES, description="Number of values.")


class NamedGrid(Section):
    """Reference to one of `grids`."""

    grid: str = Field(description="Name of the grid.")


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


def _word_or(tag: str, *types: type) -> Callable[[object], str | None]:
    """Tells words from values of some types, which have this tag."""

    def kind(value: object) -> str | None:
        if isinstance(value, types):
            return tag
        return "<word>" if isinstance(value, str) else None

    return kind


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
    """One entry of an explicit list: a geometry, or a family of geometries with parameters."""

    name: str = Field(pattern=NAME, description="Name of the geometry, part of its runs' names.")
    units: Units | None = Field(None, description="Units of its coordinates, if they differ.")
    atoms: Atoms | None = Field(None, description=_ATOMS)
    xyz: FileName | None = Field(None, description=_XYZ)
    charge: Whole | None = Field(None, description="Total charge, if it differs.")
    spin: Whole | None = Field(None, description="2S, if it differs.")
    parameters: dict[str, Values] = Field({}, description="Values of its own parameters.")
    overrides: dict[str, Any] = Field({}, description=_OVERRIDES)


class Case(Section):
    """Settings for the geometries whose parameters meet a condition."""

    where: str = Field(description="Condition on the parameters, such as `R > 4`.")
    charge: Whole | None = Field(None, description="Total charge, if it differs.")
    spin: Whole | None = Field(None, description="2S, if it differs.")
    overrides: dict[str, Any] = Field({}, description=_OVERRIDES)


class WarmStart(Section):
    """Warm starts of the geometries of a scan from their neighbours.

    Anchors are computed in full. Every other geometry starts from the wavefunction of its
    nearest neighbour and takes a share of the iterations, down to the same learning rate.
    """

    anchors: list[str] = Field(
        [], description="Geometries that are computed in full. Default: the most central one."
    )
    share: float = Field(
        0.2, gt=0, le=1, description="Share of `optimise.iterations` that the others take."
    )


Start = Annotated[
    Annotated[Literal["neighbours", "independent"], Tag("<word>")]
    | Annotated[WarmStart, Tag("<anchors>")],
    Discriminator(
        _word_or("<anchors>", dict, WarmStart),
        custom_error_type="start",
        custom_error_message="Input should be neighbours, independent, or {anchors, share}",
    ),
]


TrainedGeometries = Annotated[
    Annotated[Literal["all"], Tag("<word>")] | Annotated[list[str], Tag("<list>")],
    Discriminator(
        _word_or("<list>", list, tuple),
        custom_error_type="trained",
        custom_error_message="Input should be all or a list of geometries",
    ),
]


class Sharing(Section):
    """One wavefunction for the geometries of a scan.

    Geometries with the same nuclei, charge, spin and settings are a group. Those that are not
    trained take the wavefunction of their group as it is there.
    """

    geometries: TrainedGeometries = Field(
        "all", description="Geometries that the wavefunction is trained for."
    )
    finish: Whole = Field(
        0,
        ge=0,
        le=MAX_COUNT,
        description="Iterations that each geometry then takes of its own. Their learning rate "
        "goes on from that of the group.",
    )


ShareKey = Annotated[
    Annotated[Literal["none", "scan"], Tag("<word>")] | Annotated[Sharing, Tag("<sharing>")],
    Discriminator(
        _word_or("<sharing>", dict, Sharing),
        custom_error_type="sharing",
        custom_error_message="Input should be none, scan, or {geometries, finish}",
    ),
]


PotentialKey = Annotated[
    Annotated[FileName, Tag("<word>")] | Annotated[dict[str, FileName], Tag("<elements>")],
    Discriminator(
        _word_or("<elements>", dict),
        custom_error_type="pseudopotential",
        custom_error_message="Input should be a name such as ccecp, a file, or {element: name}",
    ),
]


class Variant(Section):
    """One way to compute every geometry. `base` is the variant without overrides."""

    name: str = Field(
        pattern=VARIANT_NAME, description="Name of the variant, part of its runs' names."
    )
    warm_start: Start | None = Field(None, description="Start of its runs, if it differs.")
    sharing: ShareKey | None = Field(
        None, description="Sharing of a wavefunction among its runs, if it differs."
    )
    pseudopotential: PotentialKey | None = Field(
        None, description="Pseudopotentials of its runs, if they differ; `none` for all electrons."
    )
    overrides: dict[str, Any] = Field({}, description=_OVERRIDES)


class LiteratureSpec(Section):
    """Published energies (hartree) to compare with the scan. Only `summary` reads them."""

    name: str = Field(pattern=IDENTIFIER, description="Column ref_<name>_Eh of the table.")
    label: str = Field("", description="Label in the plot's legend.")
    file: FileName = Field(description="CSV file, relative to the system file.")
    where: dict[str, str | float] = Field({}, description="Rows to keep: {column: value}.")
    match: dict[str, str] = Field(
        min_length=1,
        description="How rows match runs: {column: parameter, `geometry`, `charge` or `spin`}.",
    )
    geometry: str | None = Field(
        None, description="Entry of `geometries` that the energies belong to."
    )
    charge: Whole | None = Field(
        None, description="Total charge that they belong to. Default: that of the file."
    )
    spin: Whole | None = Field(
        None, description="2S that they belong to. Default: that of the file."
    )
    pseudopotential: PotentialKey | None = Field(
        None,
        description="Pseudopotential that they were computed with, for all elements or as "
        "{element: name}. Default: all electrons. They are compared with runs of the same "
        "potentials only.",
    )
    value: str = Field("value", description="Column of the energies (hartree).")
    error: str | None = Field(None, description="Column of their errors (hartree).")
    kind: Literal["exact", "experiment", "method"] = Field(
        description="exact, experiment or method. Energies of kind `exact` are lower bounds."
    )


class QuantitySpec(Section):
    """An energy that follows from several runs. Only `summary` computes it."""

    name: str = Field(pattern=IDENTIFIER, description="Name in the table of quantities.")
    of: dict[str, float] = Field(
        min_length=1,
        description="Factor of each geometry's energy, such as {li+: 1, li: -1}. An entry of "
        "`geometries` with parameters gives a value at each of theirs.",
    )
    at: Literal["minima"] | None = Field(
        None, description="`minima` takes the minima of the curves instead, for one value."
    )
    published: float | None = Field(None, description="Measured value to compare with (hartree).")


class CorrelationSpec(Section):
    """The literature energies between which the correlation energy lies."""

    hartree_fock: str = Field(description="Literature entry with the Hartree-Fock limits.")
    exact: str = Field(description="Literature entry with the exact energies.")


class SystemFile(Section):
    """A scan: the molecule, its geometries and their settings."""

    name: str | None = Field(
        None,
        pattern=NAME,
        max_length=MAX_SCAN_NAME,
        description="Name of the scan. Default: the file's name.",
    )
    title: str = Field("", description="Title of the plot.")
    units: Units | None = Field(None, description="Units of coordinates and lengths.")
    charge: Whole = Field(0, description="Total charge.")
    spin: Whole = Field(0, description="2S, up minus down electrons.")
    atoms: Atoms | None = Field(None, description=_ATOMS)
    xyz: FileName | None = Field(None, description=_XYZ)
    pseudopotential: PotentialKey | None = Field(
        None,
        description="Pseudopotential in place of the cores: PySCF's name, or a file in NWChem's "
        "format, for all elements or as {element: name}. Elements without one have all electrons.",
    )
    parameters: dict[str, Values] = Field({}, description="Values of the scan's parameters.")
    grids: dict[str, Grid] = Field({}, description="Named lists of values.")
    geometries: list[Geometry] = Field(
        [], max_length=MAX_VALUES, description="Explicit list of geometries."
    )
    preset: str | None = Field(
        None, description="Preset that the settings start from. The file or --preset gives it."
    )
    overrides: dict[str, Any] = Field({}, description=_OVERRIDES)
    cases: list[Case] = Field(
        [], max_length=1000, description="Settings for some of the geometries."
    )
    variants: list[Variant] = Field(
        [], max_length=1000, description="Ways to compute every geometry."
    )
    warm_start: Start = Field("independent", description="Where optimisations start.")
    sharing: ShareKey = Field("none", description="Whether geometries share one wavefunction.")
    seed: Whole | None = Field(None, description="Same as the setting `seed`.")
    literature: list[LiteratureSpec] = Field([], description="Published energies to compare with.")
    quantities: list[QuantitySpec] = Field(
        [], description="Energies that follow from several runs."
    )
    correlation: CorrelationSpec | None = Field(None, description="Limits of correlation energy.")


def sharing_of(
    system: SystemFile,
) -> dict[str, tuple[Sharing | None, tuple[str | int, ...]]]:
    """How the runs of each variant share a wavefunction, if they do, and where the file says so.

    Returns:
        By what a variant adds to the names of its runs; without variants there is the plain one.
    """
    plain: tuple[str | int, ...] = ("sharing",)
    given = {
        variant_suffix(v): (v.sharing, ("variants", i, *plain))
        for i, v in enumerate(system.variants)
    }
    found = {}
    for name, (own, place) in (given or {"": (None, plain)}).items():
        key, where = (system.sharing, plain) if own is None else (own, place)
        word = {"none": None, "scan": Sharing()}
        found[name] = (word[key] if isinstance(key, str) else key, where)
    return found


def variant_suffix(variant: Variant) -> str:
    """What a variant adds to the names of its runs; empty for the plain one."""
    return "" if variant.name == PLAIN_VARIANT else variant.name

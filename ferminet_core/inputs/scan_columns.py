"""The columns of a scan, declared once.

From `COLUMNS` follow scan.csv, the variables of scan.zarr.zip with their attributes, the headings
of the report's table, the list of columns in the documentation, and the names that a parameter of a
system file may not have. pandas is not loaded here.
"""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ferminet_core import units
from ferminet_core.inputs.observable_table import OBSERVABLES, Observable

MILLI = 1000.0  # mEh in one hartree


class Kind(enum.Enum):
    """What the cells of a column hold; a missing text is empty, a missing number is NA."""

    TEXT = "text"
    COUNT = "whole number"
    NUMBER = "number"


def fixed(decimals: int, factor: float = 1.0) -> Callable[[Any], str]:
    """A format with a fixed number of decimals, after multiplication by a factor."""
    return lambda value: f"{factor * value:.{decimals}f}"


def _significant(digits: int) -> Callable[[Any], str]:
    return lambda value: f"{value:.{digits}g}"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: in scan.csv, and of the variable in scan.zarr.zip.
        kind: of its cells.
        heading: in the report, with the unit in which the report shows it.
        unit: of the stored values; empty for texts and pure numbers.
        meaning: a phrase in Markdown.
        text: a value as the report shows it.
        in_table: whether scan.csv has it, or only scan.zarr.zip.
        in_dataset: whether scan.zarr.zip has it, which holds nothing that differs between hosts.
    """

    name: str
    kind: Kind
    heading: str
    unit: str
    meaning: str
    text: Callable[[Any], str] = str
    in_table: bool = True
    in_dataset: bool = True

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of the variable in the dataset."""
        attributes = {"long_name": self.meaning.replace("`", "")}
        return attributes | ({"units": self.unit} if self.unit else {})


def _of_observable(observable: Observable) -> Iterator[Column]:
    """Mean and standard error of each component."""
    for place, name in enumerate(observable.figures):
        of = f", {observable.axis[place]} component" if observable.axis else ""
        for figure, heading, meaning in (
            (name, f"{observable.heading}{of}", f"{observable.meaning}{of}"),
            (f"{name}_error", f"error of {observable.heading}{of}", f"standard error of `{name}`"),
        ):
            yield Column(
                figure,
                Kind.NUMBER,
                heading,
                "" if observable.unit == "1" else observable.unit,
                meaning,
                _significant(2),
                in_table=observable.in_table,
            )


# The columns of a scan's parameters come before this one.
AFTER_PARAMETERS = "state"
_BEFORE_OBSERVABLES = (
    Column("run_id", Kind.TEXT, "run", "", "name of the run"),
    Column("geometry", Kind.TEXT, "geometry", "", "name of the geometry"),
    Column("variant", Kind.TEXT, "variant", "", "name of the variant; empty without variants"),
    Column(
        "state",
        Kind.TEXT,
        "state",
        "",
        "`done`, how far the run is, or `stale` if its result is not what the file asks for; "
        "`verdict` then gives the reason",
    ),
    Column("energy_Eh", Kind.NUMBER, "energy (Eh)", "hartree", "mean local energy", fixed(6)),
    Column(
        "error_Eh",
        Kind.NUMBER,
        "error (mEh)",
        "hartree",
        "standard error of `energy_Eh`",
        fixed(3, MILLI),
    ),
    Column(
        "left_Eh",
        Kind.NUMBER,
        "left, estimated (mEh)",
        "hartree",
        "estimate of how far `energy_Eh` lies above the energy at zero variance, from the energy "
        "against the variance of the optimisation; no bound, and empty where they do not lie on a "
        "line",
        fixed(2, MILLI),
    ),
    Column(
        "left_error_Eh",
        Kind.NUMBER,
        "error of left (mEh)",
        "hartree",
        "standard error of `left_Eh`",
        fixed(2, MILLI),
    ),
    Column(
        "variance_Eh2",
        Kind.NUMBER,
        "variance (Eh²)",
        "hartree^2",
        "variance of the local energy, which is 0 for an exact eigenstate",
        _significant(3),
    ),
    Column(
        "tau",
        Kind.NUMBER,
        "τ (records)",
        "records",
        "integrated autocorrelation time of the energy, in records",
        fixed(2),
    ),
    Column("rhat", Kind.NUMBER, "R-hat", "", "split R-hat over walkers", fixed(4)),
)
_AFTER_OBSERVABLES = (
    Column(
        "n_nonfinite",
        Kind.COUNT,
        "not finite",
        "",
        "local energies that are not finite; the mean leaves them out",
    ),
    Column(
        "n_outliers",
        Kind.COUNT,
        "outliers",
        "",
        "local energies far from the median; the mean includes them",
    ),
    Column("pmove", Kind.NUMBER, "accepted", "", "share of moves accepted", fixed(3)),
    Column(
        "hf_Eh",
        Kind.NUMBER,
        "Hartree-Fock (Eh)",
        "hartree",
        "energy of the Hartree-Fock reference",
        fixed(6),
    ),
    Column("hf_method", Kind.TEXT, "method", "", "method of the Hartree-Fock reference"),
    Column("n_opt", Kind.COUNT, "iterations", "", "iterations of the optimisation"),
    Column("n_samples", Kind.COUNT, "records", "", "records of the inference"),
    Column(
        "neighbour",
        Kind.TEXT,
        "starts from",
        "",
        "the run whose optimised parameters this one started from; empty without warm starts",
    ),
    Column(
        "start",
        Kind.TEXT,
        "start",
        "",
        "what the run has started from: `pretrained`, `neighbour`, `joint` (optimised with its "
        "group), or `zero-shot` (the group was not trained for this geometry), with `+ N "
        "iterations` of its own where there are any",
    ),
    Column(
        "wall_s",
        Kind.NUMBER,
        "wall time",
        "s",
        "wall time of the finished stages, interrupted attempts included, and an equal part of "
        "that of the group",
        units.format_duration,
        in_dataset=False,
    ),
    Column(
        "node_h",
        Kind.NUMBER,
        "node hours",
        "h",
        "hours of whole nodes that the finished stages took: wall time times nodes; an equal part "
        "of the group's included",
        _significant(3),
        in_dataset=False,
    ),
    Column(
        "verdict",
        Kind.TEXT,
        "verdict",
        "",
        "`converged`, `not converged: run N more iterations; why`, `not converged: N more records "
        "are needed; why`, `not optimised at this geometry: zero-shot from GROUP`, or `suspect: "
        "why`; of an unfinished run the reason of its state",
    ),
    Column("molecule", Kind.TEXT, "molecule", "", "formula of the nuclei"),
    Column("total_charge", Kind.COUNT, "charge", "", "total charge"),
    Column("spin_2S", Kind.COUNT, "2S", "", "up minus down electrons"),
    Column(
        "pseudopotential",
        Kind.TEXT,
        "pseudopotential",
        "",
        "pseudopotentials, with the elements that have them; empty with all electrons",
        in_dataset=False,
    ),
    Column(
        "error_bootstrap_Eh",
        Kind.NUMBER,
        "error from walkers (Eh)",
        "hartree",
        "standard error of `energy_Eh` from a bootstrap over walkers",
        in_table=False,
    ),
    Column("n_walkers", Kind.COUNT, "walkers", "", "walkers of the inference", in_table=False),
    Column(
        "n_equilibration",
        Kind.COUNT,
        "equilibration",
        "",
        "records of the equilibration, which no figure includes",
        in_table=False,
    ),
)
COLUMNS = (
    *_BEFORE_OBSERVABLES,
    *(column for observable in OBSERVABLES for column in _of_observable(observable)),
    *_AFTER_OBSERVABLES,
)


def parameter_column(name: str, unit: str = "") -> Column:
    """The column of a numeric parameter."""
    return Column(name, Kind.NUMBER, name, unit, f"parameter {name}", "{:g}".format)

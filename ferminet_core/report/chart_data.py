"""The series of a scan's charts: what the printed pictures and those of the page both draw."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ferminet_core import units
from ferminet_core.analysis.literature import PublishedEnergies
from ferminet_core.analysis.scan_table import measured
from ferminet_core.analysis.summary import Summary
from ferminet_core.inputs.scan_columns import MILLI

CHEMICAL_ACCURACY = MILLI * units.CHEMICAL_ACCURACY  # mEh
# The palette of Okabe and Ito, which every kind of colour vision can tell apart. The first list is
# for computed energies, the second for those that they are compared with.
RUN_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")
PUBLISHED_COLOURS = ("#000000", "#56b4e9", "#e69f00", "#009e73", "#cc79a7")
HF_COLOUR = "#888888"
MARKERS = ("o", "s", "D", "^")
DENSE = 15  # a published curve of so many points is drawn as a line without markers
# Colours of the conventional methods (Tol's muted palette), which the basis does not change.
_METHOD_COLOURS = {
    "rhf": "#cc6677",
    "uhf": "#44aa99",
    "ccsd(t)": "#882255",
    "uccsd(t)": "#332288",
    "nevpt2": "#999933",
    "fci": "#117733",
}
# Conventional energies further from the published ones (mEh) do not widen the residual charts.
_FAR = 16.0 * CHEMICAL_ACCURACY


class ConventionalCurve(NamedTuple):
    """Energies of one conventional method in one basis set.

    label: such as "FCI/cc-pVDZ"; basis: number of the basis set among those of the scan; values:
    hartree, by the index of the table's rows, NaN where there is none
    """

    label: str
    colour: str
    basis: int
    values: pd.Series


class Points(NamedTuple):
    """The finished runs of one variant in the order of the parameter: rows of the scan table."""

    variant: str
    rows: pd.DataFrame
    colour: str
    marker: str  # as matplotlib calls it

    @property
    def label(self) -> str:
        """Their name in a legend."""
        return f"FermiNet {self.variant}".strip()


def without_free_atoms(summary: Summary) -> Summary:
    """The summary of a scan of one parameter with the points of the curve alone."""
    on_curve = summary.table[str(summary.parameter)].notna()
    return summary._replace(table=summary.table[on_curve])


def primary_published(published: list[PublishedEnergies]) -> PublishedEnergies | None:
    """The energies to show residuals against: exact before experiment before method."""
    for kind in ("exact", "experiment", "method"):
        for entry in published:
            if entry.kind == kind and entry.values:
                return entry
    return None


def variants(summary: Summary) -> list[Points]:
    """The points of each variant that has any."""
    done = measured(summary.table).sort_values(str(summary.parameter))
    groups = []
    for index, variant in enumerate(summary.table["variant"].unique()):
        colour = RUN_COLOURS[index % len(RUN_COLOURS)]
        rows = done[done["variant"] == variant]
        if not rows.empty:
            groups.append(Points(str(variant), rows, colour, MARKERS[index % len(MARKERS)]))
    return groups


def conventional(summary: Summary) -> list[ConventionalCurve]:
    """The conventional energies of a scan in the rows of its table."""
    table, variables = summary.table, summary.dataset.data_vars.values()
    found = [variable for variable in variables if "method" in variable.attrs]
    bases = list(dict.fromkeys(variable.attrs["basis"] for variable in found))
    return [
        ConventionalCurve(
            label=variable.attrs["label"],
            colour=_METHOD_COLOURS[variable.attrs["method"]],
            basis=bases.index(variable.attrs["basis"]),
            values=pd.Series(variable.values[table.index], table.index),
        )
        for variable in found
    ]


def along(parameter: pd.Series, values: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The points of a curve in order; of several variants the first that has a value."""
    points = pd.DataFrame({"x": parameter, "y": values}).dropna()
    points = points.drop_duplicates("x").sort_values("x")
    return points["x"], points["y"]


def span(values: pd.Series) -> tuple[float, float]:
    """Range of the parameter with a small margin."""
    low, high = float(values.min()), float(values.max())
    margin = 0.02 * (high - low)
    return low - margin, high + margin


def focus(table: pd.DataFrame) -> tuple[float, float] | None:
    """Limits (hartree) of a chart of energies; None with fewer than two results.

    The chart shows the results, and leaves out energies far above them.
    """
    done = measured(table)["energy_Eh"]
    if len(done) < 2:
        return None
    low, high = float(done.min()), float(done.max())
    height = max(high - low, 1e-3)
    return low - 0.15 * height, high + 0.5 * height


def residual_limits(
    done: pd.DataFrame, published: PublishedEnergies, others: list[pd.Series]
) -> tuple[float, float]:
    """Limits of a chart of residuals, mEh.

    They hold all computed residuals with their errors, the band of chemical accuracy, and those
    residuals of conventional methods that are not far.

    Args:
        done: finished rows of the scan table.
        published: the energies that residuals are taken against.
        others: residuals of conventional methods, mEh.
    """
    residual = MILLI * (done["energy_Eh"] - done[published.column])
    error = MILLI * done["error_Eh"]
    band = 1.25 * CHEMICAL_ACCURACY
    near = [value for values in others for value in values if abs(value) < _FAR]
    # Runs without a published value give NaN, which these leave out.
    low = float(np.nanmin([-band, *(residual - error), *near]))
    high = float(np.nanmax([band, *(residual + error), *near]))
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def parameter_label(summary: Summary) -> str:
    """The parameter with its unit, for an axis."""
    unit = f" ({summary.parameter_unit})" if summary.parameter_unit else ""
    return f"{summary.parameter}{unit}"


def short_label(label: str) -> str:
    """A label of published energies without its part in parentheses, for an axis."""
    return f"E({label.partition(' (')[0]})"


def done_of_total(summary: Summary) -> tuple[int, int]:
    """Finished runs, and all runs."""
    return int((summary.table["state"] == "done").sum()), len(summary.table)

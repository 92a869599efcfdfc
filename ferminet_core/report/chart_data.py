"""The series of a scan's charts: what the printed pictures and those of the page both draw."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ferminet_core import units
from ferminet_core.analysis.curves import State, formula
from ferminet_core.analysis.literature import most_trusted
from ferminet_core.analysis.scan_table import measured
from ferminet_core.analysis.summary import Summary
from ferminet_core.inputs.origin import potential_label
from ferminet_core.inputs.scan_columns import MILLI

CHEMICAL_ACCURACY = MILLI * units.CHEMICAL_ACCURACY  # mEh
# The palette of Okabe and Ito, which every kind of colour vision can tell apart. The first list is
# for computed energies, the second for those that they are compared with.
RUN_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")
PUBLISHED_COLOURS = ("#000000", "#56b4e9", "#e69f00", "#009e73", "#cc79a7")
HF_COLOUR = "#888888"
PALE = 0.6  # opacity of what belongs to the second state, third (squared), ...
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
    """The finished runs of one curve in the order of the parameter: rows of the scan table.

    label: in a legend; marker: as matplotlib calls it
    """

    label: str
    rows: pd.DataFrame
    colour: str
    marker: str


class JointPoints(NamedTuple):
    """Energies of a shared wavefunction where it was not trained, in the order of the parameter.

    label: in a legend; rows: with the columns value, energy_Eh and error_Eh
    """

    label: str
    rows: pd.DataFrame
    colour: str


class StateRows(NamedTuple):
    """The runs of one state in the order of the parameter, finished or not, of all variants.

    label: of the state, empty if it is the only one; opacity: of its lines
    """

    state: State
    label: str
    rows: pd.DataFrame
    opacity: float

    def named(self, what: str) -> str:
        """The name of one of its lines in a legend."""
        return f"{what}, {self.label}" if self.label else what


class Base(NamedTuple):
    """Energies that differences are relative to, hartree, by the index of the scan table.

    published: whether they are published energies, and not those of Hartree-Fock
    """

    label: str
    values: pd.Series
    published: bool


def along_parameter(summary: Summary) -> bool:
    """Whether the scan is drawn over its parameter, and not as a list of runs.

    Several molecules at one value each, such as chains of growing length, are a list.
    """
    return len({curve.state for curve in summary.curves}) == 1 or any(
        len(curve.run_ids) > 1 for curve in summary.curves
    )


def panels(summary: Summary) -> list[tuple[str, Summary]]:
    """The parts of a scan that are drawn on one pair of axes, the points of the curves alone.

    Curves of the same nuclei are drawn together, such as those of two spins or charges. Energies of
    other nuclei, or without their cores, differ by far too much. The formula is the heading; it is
    empty for a single part.
    """
    nuclei = list(dict.fromkeys(_nuclei(curve.state) for curve in summary.curves))
    formulas = [formula(symbols) for symbols, _ in nuclei]
    found = []
    for part in nuclei:
        curves = [curve for curve in summary.curves if _nuclei(curve.state) == part]
        run_ids = {run_id for curve in curves for run_id in curve.run_ids}
        table = summary.table[summary.table["run_id"].isin(run_ids)]
        heading = formula(part[0]) if len(nuclei) > 1 else ""
        if formulas.count(heading) > 1:
            heading += f", {potential_label(curves[0].state.potentials)}"
        found.append((heading, summary._replace(table=table, curves=curves)))
    return found


def _nuclei(state: State) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """The nuclei of a state, and the electrons that pseudopotentials replace, by element."""
    return state.symbols, tuple((p.symbol, p.core) for p in state.potentials if p.core)


def states(summary: Summary) -> list[StateRows]:
    """The runs of each state that has a curve, in the rows of the table."""
    labels = {curve.state: curve.label for curve in summary.curves}
    found = []
    for place, (state, label) in enumerate(labels.items()):
        run_ids = {i for curve in summary.curves if curve.state == state for i in curve.run_ids}
        rows = summary.table[summary.table["run_id"].isin(run_ids)]
        rows = rows.sort_values(str(summary.parameter))
        found.append(StateRows(state, label, rows, PALE**place))
    return found


def bases(summary: Summary) -> list[Base]:
    """Energies to show differences from, the most trusted first and Hartree-Fock last.

    Where states have published energies of their own, the first base has the most trusted ones of
    each state.
    """
    table = summary.table
    known = [entry for entry in summary.published if table[entry.column].notna().any()]
    first = most_trusted(known, table["run_id"])
    found = [Base(entry.label, table[entry.column], True) for entry in known if entry is first]
    own = pd.Series(np.nan, table.index)
    names = set()
    for found_state in states(summary) if summary.curves else []:
        rows = found_state.rows
        if entry := most_trusted(known, rows["run_id"]):
            own[rows.index] = rows[entry.column]
            names.add(entry.name)
    if len(names) > 1:
        found.insert(0, Base("published", own, True))
    found += [Base(entry.label, table[entry.column], True) for entry in known if entry is not first]
    return [*found, Base("Hartree-Fock", table["hf_Eh"], False)]


def curve_points(summary: Summary) -> list[Points]:
    """The points of each curve that has any."""
    done = measured(summary.table).sort_values(str(summary.parameter))
    groups = []
    for index, curve in enumerate(summary.curves):
        # Colour and marker together repeat after sixteen curves only.
        colour = RUN_COLOURS[index % len(RUN_COLOURS)]
        marker = MARKERS[(index + index // len(RUN_COLOURS)) % len(MARKERS)]
        rows = done[done["run_id"].isin(curve.run_ids)]
        if not rows.empty:
            groups.append(Points(f"FermiNet {curve.name}".strip(), rows, colour, marker))
    return groups


def joint_points(summary: Summary) -> list[JointPoints]:
    """The energies of shared wavefunctions between the points of each curve, if any."""
    found = []
    for index, curve in enumerate(summary.curves):
        for joint in summary.joint:
            if joint.parameter != summary.parameter or joint.trained.keys().isdisjoint(
                curve.run_ids
            ):
                continue
            rows = joint.points[~joint.points["value"].isin(list(joint.trained.values()))]
            if not rows.empty:
                name = f"joint wavefunction, not optimised there {curve.name}".strip()
                found.append(JointPoints(name, rows, RUN_COLOURS[index % len(RUN_COLOURS)]))
    return found


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
    """The points of a state's curve in order; of several variants the first that has a value."""
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
    done: pd.DataFrame, base: Base, others: Sequence[pd.Series]
) -> tuple[float, float]:
    """Limits of a chart of residuals, mEh.

    They hold all computed residuals with their errors, the band of chemical accuracy, and those
    residuals of conventional methods that are not far.

    Args:
        done: finished rows of the scan table.
        base: the energies that residuals are taken against.
        others: residuals of conventional methods, mEh.
    """
    residual = MILLI * (done["energy_Eh"] - base.values[done.index])
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


def quantity_parameters(summary: Summary) -> list[str]:
    """The columns of quantities.csv with the parameters that a value is taken at."""
    names = [str(name) for name in summary.quantities.columns]
    return names[names.index("variant") + 1 : names.index("value_Eh")]


def quantity_name(summary: Summary, row: pd.Series) -> str:
    """A row of quantities.csv in words: the quantity, and the parameters if there are any."""
    places = row[quantity_parameters(summary)].dropna().items()
    text = ", ".join(f"{name} = {value:g}" for name, value in places)
    return f"{row['quantity']} at {text}" if text else str(row["quantity"])


def short_label(label: str) -> str:
    """A label of published energies without its part in parentheses, for an axis."""
    return f"E({label.partition(' (')[0]})"


def done_of_total(summary: Summary) -> tuple[int, int]:
    """Finished runs, and all runs."""
    return int((summary.table["state"] == "done").sum()), len(summary.table)

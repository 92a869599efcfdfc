"""Charts of a whole scan: its curve or the rows of its runs, quantities, correlation energies."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from ferminet_core import units
from ferminet_core.analysis.potential_curve import Estimate
from ferminet_core.analysis.scan_table import measured
from ferminet_core.analysis.summary import Summary
from ferminet_core.inputs.scan_columns import MILLI
from ferminet_core.report.chart_data import (
    DENSE,
    HF_COLOUR,
    MARKERS,
    PUBLISHED_COLOURS,
    RUN_COLOURS,
    Base,
    ConventionalCurve,
    Points,
    StateRows,
    along,
    along_parameter,
    bases,
    conventional,
    curve_points,
    focus,
    joint_points,
    panels,
    parameter_label,
    quantity_name,
    residual_limits,
    short_label,
    span,
    states,
)
from ferminet_core.report.charts import (
    INK,
    Cell,
    Chart,
    Figure,
    Number,
    Table,
    axis,
    error_bars,
    figure,
    full,
    label,
    line,
    markers,
    numbers,
    plus_minus,
)

# The symbols and dashes are those of the printed pictures.
_SYMBOLS = dict(zip(MARKERS, ("circle", "square", "diamond", "triangle-up"), strict=True))
_DASHES = ("solid", "dash", "dashdot", "dot")
_BASIS_DASHES = ("dot", "dashdot", "dash", "solid")
_BASIS_SYMBOLS = ("cross-thin", "x-thin", "y-down", "y-up")
_UNITS = {"mEh": MILLI, "kcal/mol": units.HARTREE_IN_KCAL_PER_MOL}
_BAND = "rgba(0, 114, 178, 0.14)"
_ROW_PIXELS, _FRAME_PIXELS = 26, 130

# Estimates of the energy at zero variance by run_id.
Estimates = Mapping[str, Estimate]


def scan_charts(summary: Summary, estimates: Estimates) -> list[Chart]:
    """The charts of a scan's energies: a curve and its residuals, or a row for each run.

    Args:
        summary: of the scan.
        estimates: of the energy at zero variance, for the runs that have one.
    """
    if not along_parameter(summary):
        return [_rows_chart(summary, estimates)]
    charts = []
    for number, (heading, panel) in enumerate(panels(summary)):
        for chart in (_curve_chart(panel), _residual_chart(panel, estimates)):
            name = f"{chart.name}-{number}" if number else chart.name
            title = f"{chart.title}: {heading}" if heading else chart.title
            charts.append(chart._replace(name=name, title=title))
    return charts


def published_colour(index: int) -> str:
    """The colour of the published energies at this place in the system file."""
    colour = PUBLISHED_COLOURS[index % len(PUBLISHED_COLOURS)]
    return INK if colour == "#000000" else colour


# --- a curve over one parameter -------------------------------------------------------------------


def _curve_chart(summary: Summary) -> Chart:
    table, parameter = summary.table, str(summary.parameter)
    data = [trace for state in states(summary) for trace in _published_lines(summary, state)]
    for state in states(summary):
        x, y = along(state.rows[parameter], state.rows["hf_Eh"])
        if not y.empty:
            data.append(_compared(state.named("Hartree-Fock"), x, y, HF_COLOUR) | _pale(state))
        for method in conventional(summary):
            x, y = along(state.rows[parameter], method.values[state.rows.index])
            if not y.empty:
                data.append(_conventional(method, x, y, state))
    for joint in joint_points(summary):
        places, values = (numbers(joint.rows[name]) for name in ("value", "energy_Eh"))
        trace = line(label(joint.label), places, values, joint.colour, width=1)
        # A line between few points has kinks.
        mode = "lines+markers" if len(joint.rows) >= DENSE else "markers"
        style = {"mode": mode, "marker": {"size": 4, "color": joint.colour}, "opacity": 0.7}
        data.append(trace | style | {"error_y": error_bars(joint.rows["error_Eh"])})
    for points in curve_points(summary):
        places, values = (numbers(points.rows[name]) for name in (parameter, "energy_Eh"))
        style = {"symbol": _SYMBOLS[points.marker]}
        trace = markers(label(points.label), places, values, points.colour, **style)
        data.append(trace | {"error_y": error_bars(points.rows["error_Eh"])})
    x_axis = axis(label(parameter_label(summary)))
    limits = focus(table)
    y_axis = axis("energy (hartree)", **({"range": list(limits)} if limits else {}))
    return Chart(
        name="curve",
        title="Energy",
        text=_curve_text(summary),
        views=[figure(data, x_axis, y_axis, hovermode="closest")],
        note="Error bars are one standard error; most are smaller than the symbols.",
        table=_curve_table(summary),
    )


def _published_lines(summary: Summary, state: StateRows) -> Iterator[Figure]:
    """The published curves of a state within the range of the parameter."""
    low, high = span(summary.table[str(summary.parameter)])
    shown = {other.state for other in states(summary)}
    for index, entry in enumerate(summary.published):
        curve = entry.curves.get(state.state, np.empty((0, 2)))
        curve = curve[(curve[:, 0] >= low) & (curve[:, 0] <= high)]
        if not len(curve):
            continue
        several = len(shown & entry.curves.keys()) > 1
        name = state.named(entry.label) if several else entry.label
        places, values = (numbers(column) for column in curve.T)
        trace = line(label(name), places, values, published_colour(index), width=1.2)
        # The line between few points is faint: it is only a guide for the eye.
        few = {"mode": "lines+markers", "opacity": 0.8} if len(curve) < DENSE else {}
        pale = _pale(state) if several else {}
        dash = _DASHES[index // len(PUBLISHED_COLOURS) % len(_DASHES)]
        yield trace | few | pale | {"line": {**trace["line"], "dash": dash}}


def _pale(state: StateRows) -> Figure:
    """The opacity of a state's lines; none of the first state's."""
    return {"opacity": state.opacity} if state.opacity < 1 else {}


def _compared(name: str, x: pd.Series, y: pd.Series, colour: str, basis: int = 1) -> Figure:
    """A curve to compare with, with the dash and symbol of its basis set."""
    dash = _BASIS_DASHES[basis % len(_BASIS_DASHES)]
    trace = line(label(name), numbers(x), numbers(y), colour, dash=dash, width=1.2)
    return trace | {"mode": "lines+markers", "marker": _symbol(colour, basis)}


def _symbol(colour: str, basis: int) -> Figure:
    symbol = _BASIS_SYMBOLS[basis % len(_BASIS_SYMBOLS)]
    return {"symbol": symbol, "size": 7, "line": {"width": 1.5, "color": colour}}


def _conventional(curve: ConventionalCurve, x: pd.Series, y: pd.Series, state: StateRows) -> Figure:
    trace = _compared(state.named(curve.label), x, y, curve.colour, curve.basis)
    return trace | _pale(state)


def _curve_text(summary: Summary) -> str:
    done = measured(summary.table)
    if done.empty:
        return "No run is finished yet."
    lowest = done.iloc[int(done["energy_Eh"].argmin())]
    parameter = str(summary.parameter)
    return (
        f"Energies of {len(done)} runs over {parameter_label(summary)}, from "
        f"{done[parameter].min():g} to {done[parameter].max():g}; the lowest is "
        f"{plus_minus(lowest['energy_Eh'], lowest['error_Eh'])} hartree at "
        f"{parameter} = {lowest[parameter]:g}."
    )


def _curve_table(summary: Summary) -> Table:
    """The numbers of the curve, a row for each run."""
    done = measured(summary.table)
    curves = conventional(summary._replace(table=done))
    columns = [str(summary.parameter), "energy (Eh)", "error (Eh)", "Hartree-Fock (Eh)"]
    columns += [f"{curve.label} (Eh)" for curve in curves]
    columns += [f"{entry.label} (Eh)" for entry in summary.published]
    names = [str(summary.parameter), "energy_Eh", "error_Eh", "hf_Eh"]
    published = [entry.column for entry in summary.published]
    rows: list[list[Cell]] = [
        [
            row["run_id"],
            *(_number(row[name]) for name in names),
            *(_number(curve.values.iloc[place]) for curve in curves),
            *(_number(row[name]) for name in published),
        ]
        for place, (_, row) in enumerate(done.iterrows())
    ]
    return Table("Numbers of the curve", ["run", *columns], rows)


def _number(value: float) -> Number:
    return Number("" if math.isnan(value) else f"{value:.9g}", full(value))


def _residual_chart(summary: Summary, estimates: Estimates) -> Chart:
    choices = bases(summary)
    if len(choices) > 1:
        choices = choices[:-1]  # the difference from Hartree-Fock is not a residual
    views = [
        _residual_figure(summary, base, unit, estimates) for base in choices for unit in _UNITS
    ]
    return _difference_chart("residuals", summary, choices, views, estimates)


def _difference_chart(
    name: str, summary: Summary, choices: list[Base], views: list[Figure], estimates: Estimates
) -> Chart:
    """Views of differences from each base in each unit, with text and table."""
    return Chart(
        name=name,
        title="Difference from a reference",
        text=_residual_text(summary.table, choices[0]),
        views=views,
        choices={"Reference": [base.label for base in choices], "Unit": list(_UNITS)},
        note=_band_note(choices),
        table=_residual_table(summary, choices, estimates),
    )


def _residual_figure(summary: Summary, base: Base, unit: str, estimates: Estimates) -> Figure:
    """Every series minus the base; every view has the same series in the same order."""
    parameter, factor = str(summary.parameter), _UNITS[unit]
    data: list[Figure] = []
    others: list[pd.Series] = []
    for state in states(summary):
        rows, own = state.rows, base.values[state.rows.index]
        first = rows.drop_duplicates(parameter)
        for index, other in enumerate(summary.published):
            if rows[other.column].notna().any():
                y = factor * (first[other.column] - own[first.index])
                several = summary.table[other.column].notna().sum() > rows[other.column].count()
                name = label(state.named(other.label) if several else other.label)
                trace = line(
                    name, numbers(first[parameter]), numbers(y), published_colour(index), width=1
                )
                mode = "lines+markers" if y.any() else "lines"  # the base itself lies at zero
                data.append(trace | {"mode": mode, "marker": {"size": 4}} | _pale(state))
        for method in conventional(summary):
            if method.values[rows.index].notna().any():
                difference = method.values[rows.index] - own
                others.append(MILLI * difference)
                drawn = along(rows[parameter], factor * difference)
                data.append(_conventional(method, *drawn, state))
        hartree_fock = factor * (first["hf_Eh"] - own[first.index])
        trace = _compared(state.named("Hartree-Fock"), first[parameter], hartree_fock, HF_COLOUR)
        data.append(trace | {"visible": False} | _pale(state))
    for points in curve_points(summary):
        data += _residual_traces(points, parameter, base, factor, estimates)
    y_axis = axis(f"E − {label(short_label(base.label))} ({unit})")
    if base.published:
        limits = residual_limits(measured(summary.table), base, others)  # in mEh
        y_axis["range"] = [factor / MILLI * limit for limit in limits]
    shapes = _accuracy_band("y", factor) if base.published else []
    x_axis = axis(label(parameter_label(summary)))
    return figure(data, x_axis, y_axis, hovermode="closest", shapes=shapes)


def _residual_traces(
    points: Points, parameter: str, base: Base, factor: float, estimates: Estimates
) -> list[Figure]:
    """Differences of one curve's runs, and of their estimates at zero variance."""
    rows, symbol = points.rows, _SYMBOLS[points.marker]
    difference = numbers(factor * (rows["energy_Eh"] - base.values[rows.index]))
    name, x = label(points.label), numbers(rows[parameter])
    trace = markers(name, x, difference, points.colour, symbol=symbol)
    traces = [trace | {"error_y": error_bars(factor * rows["error_Eh"])}]
    estimated = rows[rows["run_id"].isin(estimates)]
    if not estimated.empty:
        found = [estimates[run_id] for run_id in estimated["run_id"]]
        values = np.array([estimate.value for estimate in found])
        trace = markers(
            label(f"{points.label}, zero-variance estimate"),
            numbers(estimated[parameter]),
            numbers(factor * (values - base.values[estimated.index])),
            points.colour,
            symbol=f"{symbol}-open",
            line={"width": 1.5},
        )
        errors = error_bars(factor * estimate.error for estimate in found)
        traces.append(trace | {"visible": False, "error_y": errors})
    return traces


def _accuracy_band(along: str, factor: float) -> list[Figure]:
    """Chemical accuracy as shapes behind the data, across the whole of the other axis."""
    across = {"y": "x", "x": "y"}[along]
    half = factor * units.CHEMICAL_ACCURACY
    band = {"type": "rect", f"{across}ref": f"{across} domain", f"{across}0": 0, f"{across}1": 1}
    line_ = {f"{along}0": -half, f"{along}1": half, "line": {"width": 0}}
    zero = {"type": "line", f"{across}ref": f"{across} domain", f"{across}0": 0, f"{across}1": 1}
    middle = {f"{along}0": 0, f"{along}1": 0, "line": {"width": 1, "color": INK}}
    below = {"layer": "below"}
    return [{**band, **line_, **below, "fillcolor": _BAND}, {**zero, **middle, **below}]


def _band_note(choices: list[Base]) -> str:
    if not choices[0].published:
        return "The system file names no published energies; differences are from Hartree-Fock."
    half = MILLI * units.CHEMICAL_ACCURACY
    return f"The band is chemical accuracy, ±1 kcal/mol (±{half:.2f} mEh)."


def _residual_text(table: pd.DataFrame, base: Base) -> str:
    done = measured(table)
    difference = (done["energy_Eh"] - base.values[done.index]).dropna()
    if difference.empty:
        return "No finished run has an energy to compare with."
    largest = float(difference.iloc[int(difference.abs().argmax())])
    within = int((difference.abs() <= units.CHEMICAL_ACCURACY).sum())
    text = (
        f"The largest difference from {base.label} is {MILLI * largest:+.3f} mEh "
        f"({units.HARTREE_IN_KCAL_PER_MOL * largest:+.3f} kcal/mol)"
    )
    if not base.published:
        return f"{text}."
    return f"{text}; {within} of {len(difference)} runs lie within chemical accuracy."


def _residual_table(summary: Summary, choices: list[Base], estimates: Estimates) -> Table:
    """Differences of the finished runs from every base, in both units."""
    columns = ["run", "error (mEh)"]
    for base in choices:
        columns += [f"E − {short_label(base.label)} ({unit})" for unit in _UNITS]
    if estimates:
        columns.append("zero-variance estimate − E (mEh)")
    rows = []
    done = measured(summary.table)
    differences = [done["energy_Eh"] - base.values[done.index] for base in choices]
    for place, (_, row) in enumerate(done.iterrows()):
        cells: list[Cell] = [row["run_id"], _decimal(MILLI * row["error_Eh"])]
        for values in differences:
            cells += [_decimal(factor * values.iloc[place]) for factor in _UNITS.values()]
        if estimates:
            found = estimates.get(row["run_id"])
            difference = MILLI * (found.value - row["energy_Eh"]) if found else math.nan
            cells.append(_decimal(difference))
        rows.append(cells)
    return Table("Numbers of the differences", columns, rows)


def _decimal(value: float) -> Number:
    return Number("" if math.isnan(value) else f"{value:.3f}", full(value))


# --- lists of molecules, and quantities of several runs -------------------------------------------


def _rows_chart(summary: Summary, estimates: Estimates) -> Chart:
    """One row for each run, with the difference from a base."""
    choices = bases(summary)
    views = [_rows_figure(summary, base, unit) for base in choices for unit in _UNITS]
    return _difference_chart("rows", summary, choices, views, estimates)


def _rows_figure(summary: Summary, base: Base, unit: str) -> Figure:
    table, factor = summary.table, _UNITS[unit]
    done, names = measured(table), [label(run_id) for run_id in table["run_id"]]
    data = []
    for index, other in enumerate(summary.published):
        if other.values:
            x = numbers(factor * (done[other.column] - base.values[done.index]))
            rows = [label(run_id) for run_id in done["run_id"]]
            style = {"symbol": "line-ns-open", "size": 12, "line": {"width": 2}}
            data.append(markers(label(other.label), x, rows, published_colour(index), **style))
    others = []
    for method in conventional(summary):
        deviation = method.values - base.values
        others.append(MILLI * deviation)
        x, style = numbers(factor * deviation), _symbol(method.colour, method.basis)
        data.append(markers(label(method.label), x, names, method.colour, **style))
    difference = factor * (done["energy_Eh"] - base.values[done.index])
    data += _row_markers(done, "run_id", difference, factor * done["error_Eh"])
    x_axis = axis(f"E − {label(short_label(base.label))} ({unit})")
    if base.published:
        limits = residual_limits(done, base, others)
        x_axis["range"] = [factor / MILLI * limit for limit in limits]
    return _rows(data, names, x_axis, _accuracy_band("x", factor) if base.published else [])


def _row_markers(points: pd.DataFrame, names: str, x: pd.Series, error: pd.Series) -> list[Figure]:
    """Markers with error bars in rows that a column names, a trace for each variant."""
    data = []
    for index, variant in enumerate(points["variant"].unique()):
        mine = points["variant"] == variant
        rows = [label(name) for name in points.loc[mine, names]]
        name = label(f"FermiNet {variant}".strip())
        trace = markers(name, numbers(x[mine]), rows, RUN_COLOURS[index % len(RUN_COLOURS)])
        data.append(trace | {"error_x": error_bars(error[mine])})
    return data


def _rows(data: list[Figure], names: Sequence[str], x_axis: Figure, shapes: list[Figure]) -> Figure:
    """Traces over rows with these names, the first on top."""
    # Every row has its place, also without a point.
    places = {"categoryorder": "array", "categoryarray": names, "range": [len(names) - 0.5, -0.5]}
    y_axis = axis("", type="category", automargin=True, showgrid=False, **places)
    height = _FRAME_PIXELS + _ROW_PIXELS * len(names)
    return figure(data, x_axis, y_axis, shapes=shapes, height=height, hovermode="closest")


def quantities_chart(summary: Summary) -> Chart | None:
    """Each quantity minus its published value; None without any published value."""
    table = summary.quantities
    known = table[table["published_Eh"].notna()]
    if known.empty:
        return None
    known = known.assign(row=[quantity_name(summary, row) for _, row in known.iterrows()])
    views = []
    for unit, factor in (("mEh", MILLI), ("eV", units.HARTREE_IN_EV)):
        data = []
        rows = [label(name) for name in known["row"]]
        hartree_fock = numbers(factor * (known["hf_Eh"] - known["published_Eh"]))
        style = {"symbol": "x-thin", "line": {"width": 2, "color": HF_COLOUR}}
        trace = markers("Hartree-Fock", hartree_fock, rows, HF_COLOUR, **style)
        data.append(trace | {"visible": False})
        difference = factor * (known["value_Eh"] - known["published_Eh"])
        data += _row_markers(known, "row", difference, factor * known["error_Eh"])
        names = [label(name) for name in known["row"].unique()]
        shapes = _accuracy_band("x", factor)
        views.append(_rows(data, names, axis(f"difference from published ({unit})"), shapes))
    deviation = (known["value_Eh"] - known["published_Eh"]).abs()
    within = int((deviation <= units.CHEMICAL_ACCURACY).sum())
    return Chart(
        name="quantities",
        title="Difference from published values",
        text=f"{within} of {len(known)} values lie within chemical accuracy of the published ones.",
        views=views,
        choices={"Unit": ["mEh", "eV"]},
        note="Errors of separate runs are independent. The band is chemical accuracy.",
    )


def correlation_chart(summary: Summary) -> Chart | None:
    """Share of the correlation energy of each run; None if it is not known for any run."""
    shares = summary.derived["correlation"]
    if not shares:
        return None
    rows = [label(run_id) for run_id in shares]
    percent = [share["percent"] for share in shares.values()]
    trace = markers("FermiNet", numbers(percent), rows, RUN_COLOURS[0])
    trace |= {"error_x": error_bars(share["error"] for share in shares.values())}
    whole = {"type": "line", "x0": 100, "x1": 100, "yref": "y domain", "y0": 0, "y1": 1}
    shapes = [{**whole, "line": {"width": 1, "color": INK}, "layer": "below"}]
    cells: list[list[Cell]] = [
        [run_id, _decimal(share["percent"]), _decimal(share["error"])]
        for run_id, share in shares.items()
    ]
    return Chart(
        name="correlation",
        title="Share of the correlation energy",
        text=f"From {min(percent):.2f} to {max(percent):.2f} per cent, over {len(percent)} runs.",
        views=[_rows([trace], rows, axis("correlation energy (%)"), shapes)],
        note="100 (E_HF − E) / (E_HF − E_exact), with both limits from the literature.",
        table=Table("Numbers of the shares", ["run", "per cent", "error"], cells),
    )

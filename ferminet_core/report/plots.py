"""The printed pictures of a scan: its curve with residuals, and the convergence of its variants."""

import itertools
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from ferminet_core.analysis.optimiser_comparison import Trace, curve
from ferminet_core.analysis.scan_table import measured
from ferminet_core.analysis.summary import Summary
from ferminet_core.inputs.scan_columns import MILLI
from ferminet_core.report.chart_data import (
    CHEMICAL_ACCURACY,
    DENSE,
    HF_COLOUR,
    PUBLISHED_COLOURS,
    RUN_COLOURS,
    Base,
    ConventionalCurve,
    StateRows,
    along,
    along_parameter,
    bases,
    conventional,
    curve_points,
    done_of_total,
    focus,
    joint_points,
    panels,
    parameter_label,
    residual_limits,
    short_label,
    span,
    states,
)
from ferminet_core.storage.files import atomic_file

_BLUE = RUN_COLOURS[1]
_PUBLISHED_LINES = ("-", "--", "-.", ":")
# Marker and line of the basis sets of conventional methods.
_BASIS_STYLES = (("+", ":"), ("x", "-."), ("1", "--"), ("2", "-"))
_POINTS: dict[str, Any] = {"ms": 5, "capsize": 2, "zorder": 5}  # computed energies, on top
_JOINT: dict[str, Any] = {"lw": 0.8, "ms": 3, "elinewidth": 0.8, "alpha": 0.7}
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # titles and labels are no TeX: a "$" is a dollar
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ferminet_core",  # the same picture gives the same file
}


def plot_scan(summary: Summary, folder: Path) -> None:
    """Write curve.svg and curve.png.

    A scan of one numeric parameter gives its curves, with residuals below; any other scan gives one
    row for each run. Residuals of a state are relative to its first exact energies, else to the
    first experiment, else to the first of any kind.

    Raises:
        OSError: a file cannot be written.
    """
    with mpl.rc_context(_STYLE):
        _save(_curve_figure(summary) if along_parameter(summary) else _rows_figure(summary), folder)


def write_note(text: str, folder: Path) -> None:
    """Write curve.svg and curve.png with a text in place of the curve.

    Raises:
        OSError: a file cannot be written.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.0, 1.0))
        figure.text(0.5, 0.5, textwrap.fill(text, 80), ha="center", va="center")
        _save(figure, folder)


def _save(figure: Figure, folder: Path) -> None:
    """Write a figure as curve.svg and curve.png."""
    for suffix, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 160})):
        with atomic_file(folder / f"curve.{suffix}") as file:
            figure.savefig(file, format=suffix, bbox_inches="tight", **options)


def plot_convergence(traces: list[Trace], limits: Mapping[str, float], folder: Path) -> None:
    """Write convergence.svg: the error of the energy over iterations and over seconds.

    There is a row of two panels for each geometry of `limits`, and a line for each variant.

    Args:
        traces: the optimisations.
        limits: the energy that errors are relative to, hartree, by geometry.
        folder: of the file.

    Raises:
        OSError: the file cannot be written.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.0, 0.6 + 2.4 * len(limits)), layout="constrained")
        grid = figure.subplots(len(limits), 2, squeeze=False, sharey="row")
        for row, (geometry, energy) in zip(grid, limits.items(), strict=True):
            own = [trace for trace in traces if trace.geometry == geometry]
            for axes, timed in zip(row, (False, True), strict=True):
                _draw_convergence(axes, own, energy, timed)
            row[0].set_ylabel(f"{geometry}: error (mEh)")
        grid[0][0].legend()
        grid[-1][0].set_xlabel("iterations")
        grid[-1][1].set_xlabel("seconds without compilation")
        with atomic_file(folder / "convergence.svg") as file:
            figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})


def _draw_convergence(axes: Axes, traces: list[Trace], energy: float, timed: bool) -> None:
    """Errors of a geometry's optimisations in mEh, on logarithmic axes."""
    axes.axhline(CHEMICAL_ACCURACY, color=_BLUE, alpha=0.3, lw=4)
    for trace, colour in zip(traces, itertools.cycle(RUN_COLOURS)):
        found = curve(trace.energy_Eh, energy)
        # A logarithmic axis cannot show an error below zero, which is noise.
        error = np.where(found.error_Eh > 0, MILLI * found.error_Eh, np.nan)
        across = found.step * trace.seconds if timed else found.step
        axes.plot(across, error, color=colour, lw=1.5, label=_text(trace.variant or "base"))
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):  # matplotlib's own labels of powers are TeX
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(LogFormatter())
    # Smaller errors are noise that happens to be small.
    axes.set_ylim(bottom=MILLI * 1e-4)


def _curve_figure(summary: Summary) -> Figure:
    """Energies over the parameter above, residuals below; a column for each molecule."""
    drawn = panels(summary)
    found = [bases(panel)[0] for _, panel in drawn]
    rows = 2 if any(base.published for base in found) else 1
    figure = Figure(figsize=(7.0 * len(drawn), 6.4 if rows == 2 else 4.6), layout="constrained")
    heights = (2.2, 1.0)[:rows]
    grid = figure.subplots(rows, len(drawn), squeeze=False, sharex="col", height_ratios=heights)
    for (heading, panel), base, column in zip(drawn, found, grid.T, strict=True):
        _draw_energies(column[0], panel)
        column[0].set_title(heading, loc="right", fontsize=11)
        if base.published:
            _draw_residuals(column[1], panel, base)
        elif rows == 2:
            column[1].set_visible(False)
            column[0].tick_params(labelbottom=True)
        column[-1 if base.published else 0].set_xlabel(parameter_label(panel))
    grid[0][0].set_title(_title(summary), loc="left", fontsize=11)
    return figure


def _draw_energies(axes: Axes, summary: Summary) -> None:
    """Published curves, Hartree-Fock and conventional methods, and the computed energies on top."""
    table, parameter = summary.table, str(summary.parameter)
    for state in states(summary):
        _draw_published(axes, summary, state)
    for state in states(summary):
        style: dict[str, Any] = {"color": HF_COLOUR, "lw": 1, "ms": 4, "alpha": state.opacity}
        x, y = along(state.rows[parameter], state.rows["hf_Eh"])
        if not y.empty:
            axes.plot(x, y, "x--", label=_text(state.named("HF")), **style)
        for method in conventional(summary):
            x, y = along(state.rows[parameter], method.values[state.rows.index])
            if not y.empty:
                label = _text(state.named(method.label))
                axes.plot(x, y, label=label, **_style(method), alpha=state.opacity)
    for joint in joint_points(summary):
        axes.errorbar(
            joint.rows["value"],
            joint.rows["energy_Eh"],
            joint.rows["error_Eh"],
            fmt=".-" if len(joint.rows) >= DENSE else ".",  # a line between few points has kinks
            color=joint.colour,
            label=_text(joint.label),
            **_JOINT,
        )
    for points in curve_points(summary):
        axes.errorbar(
            points.rows[parameter],
            points.rows["energy_Eh"],
            points.rows["error_Eh"],
            fmt=points.marker,
            color=points.colour,
            label=_text(points.label),
            **_POINTS,
        )
    if limits := focus(table):
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, limits[0]), min(top, limits[1]))
    axes.set_ylabel("energy (hartree)")
    if entries := axes.get_legend_handles_labels()[0]:
        axes.legend(ncols=1 + len(entries) // 10)
    if measured(table).empty:
        axes.text(0.5, 0.5, "no finished runs yet", transform=axes.transAxes, ha="center")


def _draw_published(axes: Axes, summary: Summary, state: StateRows) -> None:
    """The published curves of a state within the range of the parameter."""
    low, high = span(summary.table[str(summary.parameter)])
    shown = {other.state for other in states(summary)}
    for index, entry in enumerate(summary.published):
        curve = entry.curves.get(state.state, np.empty((0, 2)))
        inside = (curve[:, 0] >= low) & (curve[:, 0] <= high)
        if inside.any():
            # The line between few points is faint: it is only a guide for the eye.
            few = {"marker": ".", "lw": 0.5} if inside.sum() < DENSE else {"lw": 1.2}
            several = len(shown & entry.curves.keys()) > 1
            label = _text(state.named(entry.label) if several else entry.label)
            style = {**_published_style(index), **few, "alpha": state.opacity if several else 1.0}
            axes.plot(*curve[inside].T, label=label, **style)


def _draw_residuals(axes: Axes, summary: Summary, base: Base) -> None:
    """Energy minus the published one in mEh, with the band of chemical accuracy."""
    parameter = str(summary.parameter)
    _accuracy_band(axes.axhspan)
    axes.axhline(0.0, color="black", lw=1)
    others = []
    for state in states(summary):
        rows, own = state.rows, base.values[state.rows.index]
        for index, entry in enumerate(summary.published):
            x, y = along(rows[parameter], MILLI * (rows[entry.column] - own))
            if y.any():  # the base itself lies at zero
                style = {"marker": ".", "lw": 0.5, **_published_style(index)}
                axes.plot(x, y, alpha=state.opacity, **style)
        for method in conventional(summary):
            others.append(MILLI * (method.values[rows.index] - own))
            drawn = along(rows[parameter], others[-1])
            axes.plot(*drawn, **_style(method), alpha=state.opacity)
    for points in curve_points(summary):
        axes.errorbar(
            points.rows[parameter],
            MILLI * (points.rows["energy_Eh"] - base.values[points.rows.index]),
            MILLI * points.rows["error_Eh"],
            fmt=points.marker,
            color=points.colour,
            **_POINTS,
        )
    axes.set_ylim(residual_limits(measured(summary.table), base, others))
    axes.set_ylabel(f"E − {_text(short_label(base.label))}\n(mEh)")
    axes.legend(loc="best")


def _rows_figure(summary: Summary) -> Figure:
    """One row for each run: the residual, or the correlation energy without published energies."""
    table = summary.table
    chosen = bases(summary)[0]
    figure = Figure(figsize=(7.0, 1.6 + 0.32 * len(table)), layout="constrained")
    axes = figure.subplots()
    done = measured(table)
    base, label = chosen.values, f"E − {_text(short_label(chosen.label))} (mEh)"
    if chosen.published:
        _accuracy_band(axes.axvspan)
    else:
        label = "E − E(HF) (mEh)"
    axes.axvline(0.0, color="black", lw=1)
    others = _draw_conventional_rows(axes, summary, base)
    rows = np.array([table.index.get_loc(index) for index in done.index], dtype=int)
    axes.errorbar(
        MILLI * (done["energy_Eh"] - base[done.index]),
        rows,
        xerr=MILLI * done["error_Eh"],
        fmt="o",
        color=RUN_COLOURS[0],
        label="FermiNet",
        **_POINTS,
    )
    names = [
        run_id if state == "done" else f"{run_id} ({state})"
        for run_id, state in zip(table["run_id"], table["state"], strict=True)
    ]
    axes.set_yticks(range(len(table)), names)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    if chosen.published:
        axes.set_xlim(residual_limits(done, chosen, others))
    axes.set_xlabel(label)
    axes.set_title(_title(summary), loc="left", fontsize=11)
    figure.legend(loc="outside lower right", ncols=3)
    return figure


def _draw_conventional_rows(axes: Axes, summary: Summary, base: pd.Series) -> list[pd.Series]:
    """Markers of the conventional methods in the rows of all runs; returns their residuals, mEh."""
    residuals = []
    for method in conventional(summary):
        residuals.append(MILLI * (method.values - base))
        style = {**_style(method), "ls": "", "label": method.label}
        axes.plot(residuals[-1], range(len(summary.table)), **style)
    return residuals


def _accuracy_band(draw: Callable[..., object]) -> None:
    """Shade chemical accuracy with `axhspan` or `axvspan` of some axes."""
    label = f"chemical accuracy (±{CHEMICAL_ACCURACY:.1f} mEh)"
    draw(-CHEMICAL_ACCURACY, CHEMICAL_ACCURACY, color=_BLUE, alpha=0.12, lw=0, label=label)


def _published_style(index: int) -> dict[str, Any]:
    """Colour, and with many published curves line style, of the one at this place."""
    n_colours = len(PUBLISHED_COLOURS)
    line = _PUBLISHED_LINES[index // n_colours % len(_PUBLISHED_LINES)]
    return {"color": PUBLISHED_COLOURS[index % n_colours], "ls": line}


def _style(method: ConventionalCurve) -> dict[str, Any]:
    """How matplotlib draws a conventional curve."""
    marker, line = _BASIS_STYLES[method.basis % len(_BASIS_STYLES)]
    return {"color": method.colour, "marker": marker, "ls": line, "lw": 1, "ms": 5}


def _title(summary: Summary) -> str:
    """The title, with the number of finished runs until all are done."""
    done, total = done_of_total(summary)
    title = _text(summary.title)
    return title if done == total else f"{title}   [{done} of {total} runs done]"


def _text(text: str) -> str:
    """Text of a user's file as matplotlib draws it literally: a legend leaves "_..." out."""
    return f" {text}" if text.startswith("_") else text

"""The picture of a scan: the curve with literature, and what is left of it beside a reference."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ferminet_core import units
from ferminet_core.analysis.literature import Reference
from ferminet_core.analysis.optimiser_comparison import Trace, curve
from ferminet_core.analysis.summary import Summary, energies
from ferminet_core.storage.files import atomic_file

_MILLI = 1000.0
_CHEMICAL_ACCURACY = _MILLI * units.CHEMICAL_ACCURACY  # mEh
# Okabe and Ito's palette, told apart with every kind of colour vision. Vermilion and blue for
# what was computed; the rest for what it is compared with.
RUN_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")
REFERENCE_COLOURS = ("#000000", "#56b4e9", "#e69f00", "#009e73", "#cc79a7")
_REFERENCE_LINES = ("-", "--", "-.", ":")
HF_COLOUR = "#888888"
DENSE = 15  # from so many points on a literature curve is drawn as a line without markers
_MARKERS = ("o", "s", "D", "^")
_STYLE: dict[Any, Any] = {
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
# Colours of the conventional methods (Tol's muted palette), which the basis does not change.
_METHOD_COLOURS = {
    "rhf": "#cc6677",
    "uhf": "#44aa99",
    "ccsd(t)": "#882255",
    "uccsd(t)": "#332288",
    "nevpt2": "#999933",
    "fci": "#117733",
}
# Marker and line of their basis sets.
_BASIS_STYLES = (("+", ":"), ("x", "-."), ("1", "--"), ("2", "-"))
# Conventional energies further (mEh) from the reference do not widen the picture of the residuals.
_FAR = 16.0 * _CHEMICAL_ACCURACY


class ConventionalCurve(NamedTuple):
    """Energies of one conventional method in one basis set.

    label: such as "FCI/cc-pVDZ"; basis: number of the basis set among those of the scan; values:
    hartree, by the index of the table's rows, NaN where there is none
    """

    label: str
    colour: str
    basis: int
    values: pd.Series


def plot_scan(summary: Summary, folder: Path) -> None:
    """Write curve.svg and curve.png.

    A scan of one numeric parameter gives its curve, with residuals below; any other scan one row
    per run. Residuals are against the first exact reference, else the first experiment, else the
    first of any kind.

    Raises:
        OSError: a file cannot be written.
    """
    with mpl.rc_context(_STYLE):
        figure = _curve_figure(summary) if summary.parameter else _rows_figure(summary)
        for suffix, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 160})):
            with atomic_file(folder / f"curve.{suffix}") as file:
                figure.savefig(file, format=suffix, bbox_inches="tight", **options)


def plot_convergence(traces: list[Trace], references: Mapping[str, float], folder: Path) -> None:
    """Write convergence.svg: what is left of the error after so many updates, and seconds.

    A row of two panels per geometry of `references` (hartree), a line per variant.

    Raises:
        OSError: the file cannot be written.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.0, 0.6 + 2.4 * len(references)), layout="constrained")
        grid = figure.subplots(len(references), 2, squeeze=False, sharey="row")
        for row, (geometry, energy) in zip(grid, references.items(), strict=True):
            own = [trace for trace in traces if trace.geometry == geometry]
            for axes, timed in zip(row, (False, True), strict=True):
                _draw_convergence(axes, own, energy, timed)
            row[0].set_ylabel(f"{geometry}: error (mEh)")
        grid[0][0].legend()
        grid[-1][0].set_xlabel("iterations")
        grid[-1][1].set_xlabel("seconds, compilation left out")
        with atomic_file(folder / "convergence.svg") as file:
            figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})


def _draw_convergence(axes: Axes, traces: list[Trace], energy: float, timed: bool) -> None:
    """Errors of a geometry's optimisations in mEh, on logarithmic axes."""
    axes.axhline(_CHEMICAL_ACCURACY, color="#0072b2", alpha=0.3, lw=4)
    for trace, colour in zip(traces, itertools.cycle(RUN_COLOURS)):
        found = curve(trace.energy_Eh, energy)
        # Below the reference a logarithm has nothing to show: noise about it.
        error = np.where(found.error_Eh > 0, _MILLI * found.error_Eh, np.nan)
        across = found.step * trace.seconds if timed else found.step
        axes.plot(across, error, color=colour, lw=1.5, label=trace.variant or "base")
    axes.set_xscale("log")
    axes.set_yscale("log")
    # What lies below is noise that happens to be small.
    axes.set_ylim(bottom=_MILLI * 1e-4)


def primary_reference(references: list[Reference]) -> Reference | None:
    """The reference to show residuals against: exact before experiment before method."""
    for kind in ("exact", "experiment", "method"):
        for reference in references:
            if reference.kind == kind and reference.values:
                return reference
    return None


def _curve_figure(summary: Summary) -> Figure:
    """Energies over the parameter above, residuals below."""
    title = _title(summary)
    # Free atoms beside a curve are no points of it.
    on_curve = summary.table[str(summary.parameter)].notna()
    summary = summary._replace(table=summary.table[on_curve])
    reference = primary_reference(summary.references)
    figure = Figure(figsize=(7.0, 6.4 if reference else 4.6), layout="constrained")
    if reference:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1.0))
        _draw_residuals(lower, summary, reference)
        lower.set_xlabel(parameter_label(summary))
    else:
        upper = figure.subplots()
        upper.set_xlabel(parameter_label(summary))
    _draw_energies(upper, summary)
    upper.set_title(title, loc="left", fontsize=11)
    return figure


def _draw_energies(axes: Axes, summary: Summary) -> None:
    """Literature curves, Hartree-Fock, conventional methods, then what was computed on top."""
    table, parameter = summary.table, str(summary.parameter)
    low, high = span(table[parameter])
    for index, reference in enumerate(summary.references):
        inside = (reference.curve[:, 0] >= low) & (reference.curve[:, 0] <= high)
        if inside.any():
            # Few points are shown as such, the line between them faint: it means nothing.
            few = {"marker": ".", "lw": 0.5} if inside.sum() < DENSE else {"lw": 1.2}
            axes.plot(
                *reference.curve[inside].T, label=reference.label, **_reference_style(index), **few
            )
    first = table.drop_duplicates(parameter).sort_values(parameter)
    if first["hf_Eh"].notna().any():
        axes.plot(first[parameter], first["hf_Eh"], "x--", color=HF_COLOUR, lw=1, ms=4, label="HF")
    for method in conventional(summary):
        drawn = along(table[parameter], method.values)
        axes.plot(*drawn, label=method.label, **_style(method))
    for variant, points, colour, marker in variants(summary):
        axes.errorbar(
            points[parameter],
            points["energy_Eh"],
            points["error_Eh"],
            fmt=marker,
            color=colour,
            ms=5,
            capsize=2,
            zorder=5,
            label=f"FermiNet {variant}".strip(),
        )
    _focus(axes, summary)
    axes.set_ylabel("energy (hartree)")
    if entries := axes.get_legend_handles_labels()[0]:
        axes.legend(ncols=1 + len(entries) // 10)
    if energies(table).empty:
        axes.text(0.5, 0.5, "no finished runs yet", transform=axes.transAxes, ha="center")


def _focus(axes: Axes, summary: Summary) -> None:
    """Keep a reference far above the curve from squeezing it: show what lies near the results."""
    done = energies(summary.table)
    if len(done) < 2:
        return
    low, high = done["energy_Eh"].min(), done["energy_Eh"].max()
    height = max(high - low, 1e-3)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - 0.15 * height), min(top, high + 0.5 * height))


def _draw_residuals(axes: Axes, summary: Summary, reference: Reference) -> None:
    """Energy minus reference in mEh, with the band of chemical accuracy."""
    parameter = str(summary.parameter)
    _accuracy_band(axes.axhspan)
    axes.axhline(0.0, color="black", lw=1)
    _draw_other_references(axes, summary, reference)
    beside = []
    for method in conventional(summary):
        beside.append(_MILLI * (method.values - summary.table[reference.column]))
        axes.plot(*along(summary.table[parameter], beside[-1]), **_style(method))
    for _, points, colour, marker in variants(summary):
        axes.errorbar(
            points[parameter],
            _MILLI * (points["energy_Eh"] - points[reference.column]),
            _MILLI * points["error_Eh"],
            fmt=marker,
            color=colour,
            ms=5,
            capsize=2,
            zorder=5,
        )
    axes.set_ylim(residual_limits(energies(summary.table), reference, beside))
    axes.set_ylabel(f"E − {short_label(reference.label)}\n(mEh)")
    axes.legend(loc="best")


def _draw_other_references(axes: Axes, summary: Summary, reference: Reference) -> None:
    """The other literature values' deviations from the reference, where both are known."""
    parameter, table = str(summary.parameter), summary.table.sort_values(str(summary.parameter))
    for index, other in enumerate(summary.references):
        both = table[table[other.column].notna() & table[reference.column].notna()]
        if other.name == reference.name or both.empty:
            continue
        axes.plot(
            both[parameter],
            _MILLI * (both[other.column] - both[reference.column]),
            marker=".",
            lw=0.5,
            **_reference_style(index),
        )


def _rows_figure(summary: Summary) -> Figure:
    """One row per run: residual against the reference, or correlation energy without one."""
    table = summary.table
    reference = primary_reference(summary.references)
    figure = Figure(figsize=(7.0, 1.6 + 0.32 * len(table)), layout="constrained")
    axes = figure.subplots()
    done = energies(table)
    if reference:
        base, label = table[reference.column], f"E − {short_label(reference.label)} (mEh)"
        _accuracy_band(axes.axvspan)
    else:
        base, label = table["hf_Eh"], "E − E(HF) (mEh)"
    axes.axvline(0.0, color="black", lw=1)
    beside = []
    for method in conventional(summary):
        beside.append(_MILLI * (method.values - base))
        style = {**_style(method), "ls": "", "label": method.label}
        axes.plot(beside[-1], range(len(table)), **style)
    rows = np.array([table.index.get_loc(index) for index in done.index], dtype=int)
    axes.errorbar(
        _MILLI * (done["energy_Eh"] - base[done.index]),
        rows,
        xerr=_MILLI * done["error_Eh"],
        fmt="o",
        color=RUN_COLOURS[0],
        ms=5,
        capsize=2,
        zorder=5,
        label="FermiNet",
    )
    names = [
        run_id if state == "done" else f"{run_id} ({state})"
        for run_id, state in zip(table["run_id"], table["state"], strict=True)
    ]
    axes.set_yticks(range(len(table)), names)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    if reference:
        axes.set_xlim(residual_limits(done, reference, beside))
    axes.set_xlabel(label)
    axes.set_title(_title(summary), loc="left", fontsize=11)
    figure.legend(loc="outside lower right", ncols=3)
    return figure


def _accuracy_band(draw: Callable[..., object]) -> None:
    """Shade chemical accuracy with `axhspan` or `axvspan` of some axes."""
    label = f"chemical accuracy (±{_CHEMICAL_ACCURACY:.1f} mEh)"
    draw(-_CHEMICAL_ACCURACY, _CHEMICAL_ACCURACY, color="#0072b2", alpha=0.12, lw=0, label=label)


def residual_limits(
    done: pd.DataFrame, reference: Reference, beside: list[pd.Series]
) -> tuple[float, float]:
    """Limits in mEh that hold all computed residuals with their errors, the band, and those
    residuals of conventional methods (mEh) that are not far."""
    residual = _MILLI * (done["energy_Eh"] - done[reference.column])
    error = _MILLI * done["error_Eh"]
    band = 1.25 * _CHEMICAL_ACCURACY
    near = [value for values in beside for value in values if abs(value) < _FAR]
    # Runs without a reference value give NaN, which the maximum leaves out.
    low = float(np.nanmin([-band, *(residual - error), *near]))
    high = float(np.nanmax([band, *(residual + error), *near]))
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _reference_style(index: int) -> dict[str, Any]:
    """Colour, and with many references line style, of the reference at this place."""
    n_colours = len(REFERENCE_COLOURS)
    line = _REFERENCE_LINES[index // n_colours % len(_REFERENCE_LINES)]
    return {"color": REFERENCE_COLOURS[index % n_colours], "ls": line}


def variants(summary: Summary) -> list[tuple[str, pd.DataFrame, str, str]]:
    """(variant, finished runs in the parameter's order, colour, marker) of each variant."""
    done = energies(summary.table).sort_values(str(summary.parameter))
    groups = []
    for index, variant in enumerate(summary.table["variant"].unique()):
        colour = RUN_COLOURS[index % len(RUN_COLOURS)]
        marker = _MARKERS[index % len(_MARKERS)]
        points = done[done["variant"] == variant]
        if not points.empty:
            groups.append((str(variant), points, colour, marker))
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


def _style(method: ConventionalCurve) -> dict[str, Any]:
    """How matplotlib draws a conventional curve."""
    marker, line = _BASIS_STYLES[method.basis % len(_BASIS_STYLES)]
    return {"color": method.colour, "marker": marker, "ls": line, "lw": 1, "ms": 5}


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


def parameter_label(summary: Summary) -> str:
    unit = f" ({summary.parameter_unit})" if summary.parameter_unit else ""
    return f"{summary.parameter}{unit}"


def short_label(label: str) -> str:
    """A reference's label without what stands in parentheses, for an axis."""
    return f"E({label.partition(' (')[0]})"


def _title(summary: Summary) -> str:
    """Title, with how much is done as long as that is not all."""
    done, total = int((summary.table["state"] == "done").sum()), len(summary.table)
    return summary.title if done == total else f"{summary.title}   [{done} of {total} runs done]"

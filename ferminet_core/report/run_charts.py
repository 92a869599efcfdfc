"""Charts of one run: its pretraining, its optimisation and its inference."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ferminet_core.analysis import variance_extrapolation
from ferminet_core.analysis.literature import PublishedEnergies
from ferminet_core.analysis.statistics import MIN_BLOCKS, reblock
from ferminet_core.inputs.scan_columns import MILLI
from ferminet_core.report.chart_data import HF_COLOUR, PUBLISHED_COLOURS, RUN_COLOURS
from ferminet_core.report.charts import (
    INK,
    Binned,
    Chart,
    Figure,
    axis,
    binned,
    error_bars,
    figure,
    label,
    line,
    markers,
    numbers,
    plus_minus,
    running_mean,
)
from ferminet_core.report.scan_charts import published_colour

_FAINT = "rgba(0, 114, 178, 0.25)"
_VERMILION, _BLUE, _GREEN = RUN_COLOURS[:3]
_SKY = PUBLISHED_COLOURS[1]  # of noisy series, behind their means
_RUNNING_SHARE = 20  # the running mean is over one of so many parts of a series
_DIGITS = 8  # of an energy in a series: 0.001 mEh of a hundred hartree
_ROLLBACK = re.compile(r"back to step (\d+)")


class Mark(NamedTuple):
    """An event after `step` iterations of a stage."""

    step: int
    kind: str  # restart, rollback or start
    text: str


class Levels(NamedTuple):
    """Energies to draw as lines across a series, hartree."""

    hartree_fock: float
    published: list[tuple[str, float, str]]  # label, energy, colour


def levels(run_id: str, hartree_fock: float, published: Sequence[PublishedEnergies]) -> Levels:
    """The energies to compare a run with; `hartree_fock` is NaN if it is not known."""
    known = [
        (entry.label, entry.values[run_id], published_colour(index))
        for index, entry in enumerate(published)
        if run_id in entry.values
    ]
    return Levels(hartree_fock, known)


def marks(
    provenance: Mapping[str, Any], events: Iterable[Mapping[str, Any]], shift: int = 0
) -> list[Mark]:
    """Restarts and rollbacks of a stage.

    Args:
        provenance: of the stage; its history lists every resume that led to the result.
        events: of the stage's events.jsonl.
        shift: steps before the first entry of the series.
    """
    found = []
    for entry in provenance.get("history", []):
        changes = ", ".join(f"{k} {old} → {new}" for k, (old, new) in entry["changes"].items())
        text = f"continued from step {entry['step']}" + (f" with {changes}" if changes else "")
        found.append(Mark(entry["step"] - shift, "restart", text))
    for event in events:
        text = str(event.get("text", ""))
        if event.get("event") == "note" and (match := _ROLLBACK.search(text)):
            found.append(Mark(int(match[1]) - shift, "rollback", text))
    return [mark for mark in found if mark.step >= 0]


# --- series over iterations -----------------------------------------------------------------------


def stepped(
    name: str, bins: Binned, values: np.ndarray, colour: str, digits: int, shift: int = 0
) -> Figure:
    """A line through the values at the ends of bins, given by the first end and the distance."""
    trace = line(name, [], numbers(values, digits), colour, width=1)
    del trace["x"]
    return trace | {"x0": int(bins.end[0]) - shift, "dx": bins.size}


def series_traces(
    name: str, values: np.ndarray, colour: str, digits: int = 4
) -> tuple[list[Figure], Binned]:
    """The line of a series; where it is drawn in bins, with the range of each bin behind it."""
    bins = binned(values)
    trace = stepped(name, bins, bins.mean, colour, digits)
    if bins.size == 1:
        return [trace], bins
    hidden = {"line": {"width": 0}, "showlegend": False, "hoverinfo": "skip", "legendgroup": name}
    low = stepped("", bins, bins.low, colour, digits) | hidden
    high = stepped("", bins, bins.high, colour, digits) | hidden
    fill = {"fill": "tonexty", "fillcolor": _FAINT}
    return [low, high | fill, trace | {"legendgroup": name}], bins


def bins_note(bins: Binned, what: str) -> str:
    """A sentence on the bins of a series; empty without any."""
    if bins.size == 1:
        return ""
    return f"Points are means of {bins.size} {what}, the band is their range."


def _level_traces(known: Levels, last: int) -> list[Figure]:
    """Horizontal lines across the iterations up to `last`."""
    found: list[tuple[str, float, str]]
    found = [(label(name), energy, colour) for name, energy, colour in known.published]
    if math.isfinite(known.hartree_fock):
        found.insert(0, ("Hartree-Fock", known.hartree_fock, HF_COLOUR))
    return [line(name, [0, last], [e, e], c, dash="dash", width=1.2) for name, e, c in found]


def _mark_traces(found: Sequence[Mark]) -> list[Figure]:
    """Vertical lines at restarts, rollbacks and starts, on an axis of their own."""
    traces = []
    for kind, colour, dash in (
        ("restart", INK, "dot"),
        ("rollback", _VERMILION, "dashdot"),
        ("start", _GREEN, "dash"),
    ):
        mine = [mark for mark in found if mark.kind == kind]
        if mine:
            x = [step for mark in mine for step in (mark.step, mark.step, None)]
            y = [0, 1, None] * len(mine)
            texts = [text for mark in mine for text in [label(mark.text)] * 3]
            trace = line(f"{kind}s", x, y, colour, dash=dash, width=1.2)
            traces.append(trace | {"yaxis": "y2", "text": texts, "hoverinfo": "text"})
    return traces


def over_steps(
    data: list[Figure], y: Figure, found: Sequence[Mark] = (), x: str = "iteration"
) -> Figure:
    """A figure over iterations, with its marks."""
    layout: Figure = {"hovermode": "closest"}
    if found:
        layout["yaxis2"] = {"overlaying": "y", "range": [0, 1], "visible": False}
    return figure([*data, *_mark_traces(found)], axis(x), y, **layout)


def _energy_range(series: np.ndarray, known: Levels) -> Figure:
    """The range of an axis that shows the second half of a series and all levels.

    The first half may lie far outside.
    """
    late = series[series.size // 2 :]
    late = late[np.isfinite(late)]
    if late.size == 0:
        return {}
    seen = [*np.quantile(late, (0.01, 0.99)), *(energy for _, energy, _ in known.published)]
    if math.isfinite(known.hartree_fock):
        seen.append(known.hartree_fock)
    low, high = float(min(seen)), float(max(seen))
    margin = 0.12 * max(high - low, 1e-4)
    return {"range": [low - margin, high + margin]}


# --- optimisation ---------------------------------------------------------------------------------


# Title, unit and kind of axis of the charts of an optimisation, by variable; that of the energy is
# drawn in a form of its own.
OPTIMISATION_SERIES = {
    "variance_Eh2": ("Variance of the local energy", "hartree²", "log"),
    "pmove": ("Accepted moves", "share", "linear"),
    "width": ("Width of a move relative to the distance from the nucleus", "", "linear"),
    "gradient_norm": ("Norm of the gradient", "", "log"),
    "update_norm": ("Norm of the update", "", "log"),
    "learning_rate": ("Learning rate", "", "log"),
    "damping": ("Damping of the curvature", "", "log"),
}


def optimisation_charts(
    name: str, dataset: xr.Dataset, known: Levels, found: Sequence[Mark]
) -> list[Chart]:
    """Energy and the series that show problems, each over iterations.

    Args:
        name: prefix of the charts' names.
        dataset: the optimisation's artefact.
        known: energies to compare with.
        found: restarts and rollbacks.
    """
    if dataset.sizes.get("step", 0) == 0:
        return []
    charts = [_energy_chart(name, dataset["energy_Eh"].to_numpy(), known, found)]
    for variable, (title, unit, kind) in OPTIMISATION_SERIES.items():
        if variable in dataset:
            values = dataset[variable].to_numpy()
            traces, bins = series_traces(title, values, _BLUE)
            y = axis(unit, type=kind)
            text = f"{title}: {_change(values)}."
            view = over_steps(traces, y)
            note = bins_note(bins, "iterations")
            charts.append(Chart(f"{name}-{variable}", title, text, [view], note=note))
    return charts


def _change(values: np.ndarray) -> str:
    """The medians of a series at its beginning and at its end, in words."""
    part = max(1, values.size // 10)
    first, last = (float(np.nanmedian(v)) for v in (values[:part], values[-part:]))
    return f"{first:.3g} in the first tenth of the iterations, {last:.3g} in the last (medians)"


def _energy_chart(name: str, energy: np.ndarray, known: Levels, found: Sequence[Mark]) -> Chart:
    n = energy.size
    window = max(1, n // _RUNNING_SHARE)
    traces, bins = series_traces("energy", energy, _SKY, _DIGITS)
    mean = running_mean(energy, window)[bins.end - 1]
    smooth = stepped("running mean", bins, mean, _VERMILION, _DIGITS)
    smooth["line"]["width"] = 2
    data = [*traces, *_level_traces(known, n), smooth]
    y = axis("energy (hartree)", **_energy_range(energy, known))
    last = energy[-window:]
    last = last[np.isfinite(last)]
    text = f"{n} iterations"
    if last.size:
        blocked = reblock(last)
        text += (
            f"; the mean of the last {window} is {plus_minus(blocked.mean, blocked.error)} hartree"
        )
    return Chart(
        name=f"{name}-energy",
        title="Energy over iterations",
        text=f"{text}.{_mark_text(found)}",
        views=[over_steps(data, y, found)],
        note=f"The running mean is over {window} iterations. {bins_note(bins, 'iterations')}",
    )


def _mark_text(found: Sequence[Mark]) -> str:
    """The first few marks in sentences."""
    first = [f" {mark.text[:1].upper()}{mark.text[1:]}." for mark in found[:5]]
    return "".join(first) + (f" And {len(found) - 5} more." if len(found) > 5 else "")


# The variables of an optimisation that `variance_line` needs.
VARIANCE_LINE_SERIES = ("energy_Eh", "error_Eh", "variance_Eh2")


class VarianceLine(NamedTuple):
    """The extrapolation of a run's optimisation to zero variance, or why there is none."""

    estimate: variance_extrapolation.Extrapolation | None
    reason: str
    chart: Chart | None


def variance_line(name: str, dataset: xr.Dataset) -> VarianceLine:
    """The extrapolation of an optimisation to zero variance, with its chart where it has blocks."""
    series = [dataset[n].to_numpy() for n in VARIANCE_LINE_SERIES]
    try:
        blocks = variance_extrapolation.blocks(*series)
    except variance_extrapolation.ExtrapolationRefusedError as refusal:
        return VarianceLine(None, str(refusal), None)
    try:
        found, reason = variance_extrapolation.extrapolate(blocks), ""
    except variance_extrapolation.ExtrapolationRefusedError as refusal:
        found, reason = None, str(refusal)
    return VarianceLine(found, reason, _variance_chart(name, blocks, found, reason))


def _variance_chart(
    name: str,
    blocks: variance_extrapolation.Blocks,
    found: variance_extrapolation.Extrapolation | None,
    reason: str,
) -> Chart:
    """The blocks with and without those that the line leaves out, and the line."""
    first = found.first_block if found else 0
    data = []
    for label_, part, symbol in (
        ("left out", slice(first), "circle-open"),
        ("blocks", slice(first, None), "circle"),
    ):
        x, y = numbers(blocks.variance[part], 5), numbers(blocks.energy[part], _DIGITS + 1)
        trace = markers(label_, x, y, _BLUE, symbol=symbol)
        data += [trace | {"error_y": error_bars(blocks.error[part])}] if x else []
    x_axis, y_axis = axis("variance (hartree²)", rangemode="tozero"), axis("energy (hartree)")
    text = f"No extrapolation: {reason}."
    if found:
        energy, slope = found.energy, found.slope
        end = float(blocks.variance[first:].max())
        data.append(line("line", [0.0, end], [energy.value, energy.value + slope.value * end], INK))
        estimate = markers("estimate", [0.0], [energy.value], _VERMILION, symbol="square")
        data.append(estimate | {"error_y": error_bars([energy.error])})
        # The blocks that were left out may lie far away.
        inside = np.append(blocks.energy[first:], energy.value)
        low, high = inside.min(), inside.max()
        margin = 0.2 * (high - low) + max(blocks.error[first:].max(), energy.error)
        x_axis["range"] = [-0.05 * end, 1.15 * end]
        y_axis["range"] = [low - margin, high + margin]
        text = (
            f"Estimate of the energy at zero variance: {plus_minus(energy.value, energy.error)} "
            f"hartree; slope {plus_minus(slope.value, slope.error)} per hartree."
        )
    return Chart(
        name=f"{name}-variance-line",
        title="Energy against variance",
        text=text,
        views=[figure(data, x_axis, y_axis, hovermode="closest")],
        note=(
            f"This is an estimate, not an upper bound. Each point is one of "
            f"{variance_extrapolation.N_BLOCKS} stretches of this run's optimisation (mean energy, "
            "median variance). The line is an average over its first block (Fu, Ren and Chen 2024; "
            "Jay and Neil 2021)."
        ),
    )


# --- pretraining and inference --------------------------------------------------------------------


def pretraining_charts(
    name: str, dataset: xr.Dataset, known: Levels, found: Sequence[Mark]
) -> list[Chart]:
    """The misfit of the orbitals and the energies of pretraining; none for a warm start."""
    if "orbital_misfit" not in dataset or dataset.sizes["step"] == 0:
        return []
    misfit = dataset["orbital_misfit"].to_numpy()
    traces, bins = series_traces("misfit", misfit, _BLUE)
    met = "met" if dataset.attrs["converged"] else "not met"
    text = f"Misfit {misfit[-1]:.3g} after {misfit.size} iterations; the criterion was {met}."
    if "scatter" in dataset.attrs:  # runs of earlier versions have none
        text += f" The scatter of log|psi/psi_HF| was {dataset.attrs['scatter']:.3g}."
    misfit_chart = Chart(
        name=f"{name}-misfit",
        title="Misfit of the orbitals",
        text=f"{text}{_mark_text(found)}",
        views=[over_steps(traces, axis("relative misfit", type="log"), found)],
        note=bins_note(bins, "iterations"),
    )
    return [misfit_chart, *_readings_chart(name, dataset, known)]


def _readings_chart(name: str, dataset: xr.Dataset, known: Levels) -> list[Chart]:
    """The energies at the checks of pretraining's criterion, with that of Hartree-Fock."""
    energy, error = (dataset[n].to_numpy() for n in ("energy_Eh", "error_Eh"))
    at = np.flatnonzero(np.isfinite(energy))
    if at.size == 0:
        return []
    trace = markers("energy", (at + 1).tolist(), numbers(energy[at], _DIGITS), _BLUE, size=6)
    data = [
        *_level_traces(known._replace(published=[]), energy.size),
        trace | {"error_y": error_bars(error[at])},
    ]
    last = plus_minus(float(energy[at[-1]]), float(error[at[-1]]))
    return [
        Chart(
            name=f"{name}-readings",
            title="Energy of the pretrained network",
            text=f"The last of {at.size} readings is {last} hartree.",
            views=[over_steps(data, axis("energy (hartree)"))],
            note="Measured whenever the criterion is checked, without walkers far outside of the "
            "molecule.",
        )
    ]


def inference_charts(
    name: str, dataset: xr.Dataset, known: Levels, found: Sequence[Mark]
) -> list[Chart]:
    """The series of energies of the result, and its standard error over block sizes."""
    local = dataset["energy_local"].to_numpy() if "energy_local" in dataset else np.empty((0, 0))
    finite = np.isfinite(local)
    counts = finite.sum(axis=1)
    if np.count_nonzero(counts) < 2:
        return []
    sums = np.sum(local, axis=1, where=finite)
    series = np.divide(sums, counts, out=np.full(counts.size, np.nan), where=counts > 0)
    return [
        _records_chart(name, dataset, series, known, found),
        _blocking_chart(name, dataset, series[counts > 0]),
    ]


def _records_chart(
    name: str, dataset: xr.Dataset, series: np.ndarray, known: Levels, found: Sequence[Mark]
) -> Chart:
    attrs = dataset.attrs
    mean, error = float(attrs["energy_Eh"]), float(attrs["error_Eh"])
    traces, bins = series_traces("records", series, _SKY, _DIGITS)
    before = dataset["equilibration_Eh"].to_numpy() if "equilibration_Eh" in dataset else series[:0]
    if before.size:
        old = binned(before)
        traces.append(stepped("equilibration", old, old.mean, HF_COLOUR, _DIGITS, before.size))
    middle = line("mean", [0, series.size], [mean, mean], _VERMILION, width=2)
    published = _level_traces(known._replace(hartree_fock=math.nan), series.size)
    text = (
        f"{series.size} records of {attrs['n_walkers']} walkers: {plus_minus(mean, error)} "
        f"hartree, after {before.size} records of equilibration; variance "
        f"{attrs['variance_Eh2']:.3g} hartree²."
    )
    return Chart(
        name=f"{name}-records",
        title="Energy over records",
        text=f"{text}{_mark_text(found)}",
        views=[
            over_steps([*traces, *published, middle], axis("energy (hartree)"), found, "record")
        ],
        note=f"Mean over walkers at each record. {bins_note(bins, 'records')}",
    )


def _blocking_chart(name: str, dataset: xr.Dataset, series: np.ndarray) -> Chart:
    attrs, blocked = dataset.attrs, reblock(series)
    sizes = [2**level for level in range(len(blocked.level_errors))]
    errors = MILLI * np.array(blocked.level_errors)
    # Relative error of a standard error from n blocks: 1 / sqrt(2 (n - 1)).
    spread = [1.0 / math.sqrt(2 * (series.size // size - 1)) for size in sizes]
    trace = markers("standard error", sizes, numbers(errors, 5), _BLUE)
    chosen = MILLI * blocked.error
    size = markers(
        "chosen block",
        [blocked.block],
        [chosen],
        _VERMILION,
        symbol="circle-open",
        size=14,
        line={"width": 2},
    )
    data = [trace | {"error_y": error_bars(errors * spread)}, size]
    bootstrap = MILLI * float(attrs.get("error_bootstrap_Eh", math.nan))
    if math.isfinite(bootstrap):
        ends = [sizes[0], sizes[-1]]
        data.append(line("from walkers", ends, [bootstrap] * 2, _GREEN, dash="dash"))
    plateau = "" if blocked.plateau_found else " No plateau was found."
    return Chart(
        name=f"{name}-blocking",
        title="Standard error over block size",
        text=(
            f"{chosen:.3g} mEh from blocks of {blocked.block} records; autocorrelation time "
            f"{attrs['tau']:.2f} records.{plateau}"
        ),
        views=[
            figure(
                data,
                axis("records per block", type="log", tickvals=sizes),
                axis("standard error (mEh)", rangemode="tozero"),
                hovermode="closest",
            )
        ],
        note=f"Block sizes that leave at least {MIN_BLOCKS} blocks (Flyvbjerg and Petersen 1989).",
    )

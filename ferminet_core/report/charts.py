"""Charts and tables of the report: plotly figures as JSON values, with a text for screen readers.

plotly takes all text inside a figure for HTML, so `label` escapes it where a figure is made. The
page adds its colours and fonts (light or dark) when it draws a chart; `INK` stands for the colour
of its text.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

Figure = dict[str, Any]  # "data" and "layout" as plotly has them

INK = "ink"
MAX_POINTS = 500  # of a series; longer ones are drawn as means of bins


class Number(NamedTuple):
    """A number of a table: as it is shown, and with all its digits."""

    text: str
    value: str


Cell = str | Number


class Heading(NamedTuple):
    """The heading of a column.

    key: the column's name in scan.csv or quantities.csv, empty if it has none; meaning: of the
    column, for a tooltip
    """

    text: str
    key: str = ""
    meaning: str = ""


class Table(NamedTuple):
    """A table; the first cell of a row is its heading."""

    title: str
    columns: Sequence[str | Heading]
    rows: Sequence[Sequence[Cell]]

    def headings(self) -> list[tuple[Heading, bool]]:
        """The headings, and whether numbers stand below."""
        return [
            (
                column if isinstance(column, Heading) else Heading(column),
                place > 0 and bool(self.rows) and isinstance(self.rows[0][place], Number),
            )
            for place, column in enumerate(self.columns)
        ]


class Chart(NamedTuple):
    """A figure, or several to choose from.

    name: unique on the page; text: the content in words; note: how the chart was made
    views: one figure for each combination of the choices, the last choice changing fastest
    choices: {label: options}
    """

    name: str
    title: str
    text: str
    views: list[Figure]
    choices: Mapping[str, list[str]] = {}
    note: str = ""
    table: Table | None = None

    def legend(self) -> list[Figure]:
        """The traces of the legend; none where there is only one."""
        shown = [t for t in self.views[0]["data"] if t.get("showlegend", True) and t.get("name")]
        return shown if len(shown) > 1 else []


class Binned(NamedTuple):
    """A series in bins of equal length, of which the first may be shorter; each (bins,).

    end: entries up to the end of each bin; mean, low, high: of the finite entries, NaN without any;
    size: entries of a bin
    """

    end: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    size: int


def binned(series: np.ndarray, most: int = MAX_POINTS) -> Binned:
    """Mean and range of a series (entries,) in at most `most` bins."""
    n = series.size
    size = max(1, -(-n // most))
    end = np.arange(n, 0, -size)[::-1]
    start = np.concatenate([[0], end[:-1]])
    values = np.where(np.isfinite(series), series, np.nan)
    known = np.isfinite(values)
    counts = np.add.reduceat(known, start, dtype=int)
    sums = np.add.reduceat(np.where(known, values, 0.0), start)
    mean = np.divide(sums, counts, out=np.full(counts.size, np.nan), where=counts > 0)
    return Binned(end, mean, np.fmin.reduceat(values, start), np.fmax.reduceat(values, start), size)


def running_mean(series: np.ndarray, window: int) -> np.ndarray:
    """Mean of the finite entries among the last `window` up to each one."""
    known = np.isfinite(series)
    offset = float(np.mean(series[known])) if known.any() else 0.0  # keeps the digits of the sums
    sums = np.cumsum(np.where(known, series - offset, 0.0))
    counts = np.cumsum(known)
    sums[window:] -= sums[:-window].copy()
    counts[window:] -= counts[:-window].copy()
    return offset + np.divide(sums, counts, out=np.full(sums.size, np.nan), where=counts > 0)


def numbers(values: Iterable[float], digits: int | None = None) -> list[float | None]:
    """Values that JSON can hold: None for what is not finite; rounded to `digits` if given."""
    listed = np.fromiter(values, float).tolist()
    if digits is not None:
        listed = [float(f"{value:.{digits}g}") for value in listed]
    return [value if math.isfinite(value) else None for value in listed]


def label(text: str) -> Markup:
    """Text of a user's file as HTML, for a figure and its legend."""
    return Markup(html.escape(text, quote=False))


def rounded(value: float, digits: int = 2) -> str:
    """A number with `digits` significant digits or more, without an exponent."""
    return f"{value:.{_decimals(value, digits)}f}"


def plus_minus(value: float, error: float, digits: int = 2) -> str:
    """Value and error, with the decimals that give the error `digits` significant digits."""
    if not (math.isfinite(error) and error > 0):
        return f"{value:.6g}"
    decimals = _decimals(error, digits)
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def _decimals(value: float, digits: int) -> int:
    if not math.isfinite(value) or value == 0:
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def full(value: object) -> str:
    """A number with all its digits, as in scan.csv; empty if there is none."""
    return "" if value is None or value != value else str(value)


def line(name: str, x: Sequence[Any], y: Sequence[Any], colour: str, **style: Any) -> Figure:
    """A trace of lines; `style` has properties of the line, such as `dash` and `width`."""
    trace = {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y}
    return {**trace, "line": {"color": colour, "width": 1.5, **style}}


def markers(name: str, x: Sequence[Any], y: Sequence[Any], colour: str, **style: Any) -> Figure:
    """A trace of markers; `style` has properties of the markers, such as `symbol` and `size`."""
    trace = {"type": "scatter", "mode": "markers", "name": name, "x": x, "y": y}
    return {**trace, "marker": {"color": colour, "size": 8, **style}}


def error_bars(error: Iterable[float]) -> Figure:
    """plotly's symmetric error bars."""
    return {"type": "data", "array": numbers(error), "thickness": 1.5, "width": 3}


def axis(title: str, **more: Any) -> Figure:
    """An axis with its title."""
    return {"title": {"text": title}, **more}


def figure(data: list[Figure], x: Figure, y: Figure, **layout: Any) -> Figure:
    """Traces on a pair of axes."""
    return {"data": data, "layout": {"xaxis": x, "yaxis": y, **layout}}

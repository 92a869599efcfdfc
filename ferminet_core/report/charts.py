"""Charts of the report: plotly figures as plain JSON, with words for those who do not see them.

All text inside a figure is HTML to plotly; it is escaped where a figure is made. Colours and fonts
of the page (light, dark) are added when a chart is drawn; `INK` stands for that of its text.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Figure = dict[str, Any]  # "data" and "layout" as plotly has them

INK = "ink"
MILLI = 1000.0  # mEh in one hartree
MAX_POINTS = 500  # of a series; longer ones are drawn by the means of bins


class Number(NamedTuple):
    """A number of a table: as it is read, and with all digits."""

    text: str
    value: str


Cell = str | Number


class Table(NamedTuple):
    """columns: headings; keys: the columns' names in scan.csv where they have any, else empty; the
    first cell of a row is its heading."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    keys: Sequence[str] = ()


class Chart(NamedTuple):
    """A figure, or several to choose from.

    name: unique on the page; text: what is seen, for those who do not; note: how it was made
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


class Binned(NamedTuple):
    """A series in bins of equal length, so that it ends with a whole one; each (bins,).

    end: entries up to the end of each bin; mean, low, high: of the finite entries, NaN without any
    """

    end: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    size: int


def binned(series: np.ndarray, most: int = MAX_POINTS) -> Binned:
    """Mean and range of a series (entries,) in at most so many bins; single entries where they are
    fewer."""
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
    """Mean over the last `window` entries up to each one, of those that are finite and there."""
    known = np.isfinite(series)
    offset = float(np.mean(series[known])) if known.any() else 0.0  # no loss of digits in the sums
    sums = np.cumsum(np.where(known, series - offset, 0.0))
    counts = np.cumsum(known)
    sums[window:] -= sums[:-window].copy()
    counts[window:] -= counts[:-window].copy()
    return offset + np.divide(sums, counts, out=np.full(sums.size, np.nan), where=counts > 0)


def numbers(values: Iterable[float], digits: int | None = None) -> list[float | None]:
    """As JSON can hold them: null for what is not finite; rounded to so many digits if given."""
    plain = (float(value) for value in values)
    if digits is not None:
        plain = (float(f"{value:.{digits}g}") for value in plain)
    return [value if math.isfinite(value) else None for value in plain]


def label(text: str) -> str:
    """Text from a user's file for a figure."""
    return html.escape(text, quote=False)


def rounded(value: float, digits: int = 2) -> str:
    """A number with so many digits, and all those before the point; no exponent."""
    return f"{value:.{_decimals(value, digits)}f}"


def plus_minus(value: float, error: float, digits: int = 2) -> str:
    """Value and error with as many decimals as give the error so many digits."""
    if not (math.isfinite(error) and error > 0):
        return f"{value:.6g}"
    decimals = _decimals(error, digits)
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def _decimals(value: float, digits: int) -> int:
    if not math.isfinite(value) or value == 0:
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def full(value: object) -> str:
    """A number with all its digits, as scan.csv has it; empty if there is none."""
    return "" if value is None or value != value else str(value)


def line(name: str, x: Sequence[Any], y: Sequence[Any], colour: str, **style: Any) -> Figure:
    """A trace of lines; `style` has the line's own (`dash`, `width`)."""
    trace = {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y}
    return {**trace, "line": {"color": colour, "width": 1.5, **style}}


def markers(name: str, x: Sequence[Any], y: Sequence[Any], colour: str, **style: Any) -> Figure:
    """A trace of markers; `style` has the markers' own (`symbol`, `size`)."""
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

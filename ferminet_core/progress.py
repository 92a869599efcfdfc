"""How far a stage is: a bar on a terminal, plain lines at growing intervals anywhere else."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

FIRST_INTERVAL = 5.0  # seconds between the first lines; doubled after each, up to
LONGEST_INTERVAL = 60.0


class Reading(NamedTuple):
    """The latest block of steps in a few numbers; None where a stage does not report them."""

    energy: float | None  # hartree
    error: float | None  # hartree, from the spread over walkers: blind to autocorrelation
    pmove: float | None


def read_stats(stats: Mapping[str, Any]) -> Reading:
    """Mean energy with its error, and mean acceptance, of a block of steps.

    Args:
        stats: numbers or arrays over the block's steps; `energy_Eh`, `error_Eh`, `pmove` are read.
    """

    def values(name: str) -> np.ndarray:
        found = np.atleast_1d(np.asarray(stats.get(name, np.nan), dtype=float))
        return found[np.isfinite(found)]

    energy, error, pmove = values("energy_Eh"), values("error_Eh"), values("pmove")
    return Reading(
        float(energy.mean()) if energy.size else None,
        float(np.sqrt(np.sum(error**2)) / error.size) if error.size else None,
        float(pmove.mean()) if pmove.size else None,
    )


def format_duration(seconds: float) -> str:
    """A duration for people: "45 s", "12 min", "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def format_reading(reading: Reading) -> str:
    """Energy with error and acceptance as one short text; empty if there is neither."""
    parts = []
    if reading.energy is not None:
        error = "" if reading.error is None else f" +- {reading.error:.4f}"
        parts.append(f"E = {reading.energy:.4f}{error} Eh")
    if reading.pmove is not None:
        parts.append(f"pmove {reading.pmove:.2f}")
    return ", ".join(parts)


class StageProgress:
    """Shows a stage's progress; a context manager.

    Args:
        stage: name of the stage.
        run_id: which run, so that lines of runs side by side can be told apart.
        total: number of steps; a stage may end before.
        stream: where to write (standard error if None).
    """

    def __init__(self, stage: str, run_id: str, total: int, stream: TextIO | None = None) -> None:
        self.label = f"{run_id} {stage}"
        self.total = total
        self.stream = sys.stderr if stream is None else stream
        self._started = self._last_line = time.monotonic()
        self._interval = FIRST_INTERVAL
        self._first: tuple[float, int] | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self.stream.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=Console(file=self.stream))
            self._task = self._bar.add_task(self.label, total=self.total, note="compiling")
            self._bar.start()
        else:
            self._write("starting")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, reading: Reading) -> None:
        """Report `step` steps done. Lines are held back so that a log stays short."""
        now = time.monotonic()
        # The first block contains the compilation: the rate is counted from its end.
        if self._first is None:
            self._first = (now, step)
        note = self._note(now, step, reading)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, note=note)
        elif now - self._last_line >= self._interval:
            self._write(f"step {step}/{self.total}{', ' + note if note else ''}")
            self._last_line = now
            self._interval = min(2 * self._interval, LONGEST_INTERVAL)

    def finish(self, step: int, reading: Reading) -> None:
        """Report the end: how many steps, how long."""
        elapsed = format_duration(time.monotonic() - self._started)
        text = format_reading(reading)
        self._write(f"done, {step} steps in {elapsed}{', ' + text if text else ''}")

    def _note(self, now: float, step: int, reading: Reading) -> str:
        parts = []
        if self._first is not None and step > self._first[1] and now > self._first[0]:
            rate = (step - self._first[1]) / (now - self._first[0])
            left = format_duration(max(0, self.total - step) / rate)
            parts.append(f"{rate:.3g}/s, {left} left")
        if text := format_reading(reading):
            parts.append(text)
        return ", ".join(parts)

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(f"{self.label}: {text}", markup=False, highlight=False)
        else:
            print(f"{self.label}: {text}", file=self.stream, flush=True)

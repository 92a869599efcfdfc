"""Progress of a stage: a bar on a terminal, plain lines at growing intervals elsewhere."""

import contextlib
import re
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ferminet_core.units import format_duration

FIRST_INTERVAL = 5.0  # seconds between the first lines, doubled after each line up to
LONGEST_INTERVAL = 60.0


class Reading(NamedTuple):
    """Summary of the latest block of steps; None for numbers that a stage does not report."""

    energy: float | None  # hartree
    error: float | None  # hartree, from the spread over walkers: ignores autocorrelation
    pmove: float | None


def read_stats(stats: Mapping[str, Any]) -> Reading:
    """Mean energy with its error, and mean acceptance, of a block of steps.

    Args:
        stats: Numbers or arrays over the block's steps. Reads `energy_Eh`, `error_Eh`, `pmove`.
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


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line (to standard error if `stream` is None), and ignore a closed stream.

    A Ctrl-C may have ended the reader of a pipe. The calculation still has to write a checkpoint.
    """
    with contextlib.suppress(OSError):
        # One write, or the lines of simultaneous runs mix on an unbuffered stream.
        print(f"{line}\n", end="", file=sys.stderr if stream is None else stream, flush=True)


def format_reading(reading: Reading) -> str:
    """Energy with error and acceptance as one short text; empty without both."""
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
        stage: Name of the stage.
        run_id: The run, to distinguish the lines of simultaneous runs.
        total: Number of steps. A stage may end earlier.
        stream: Where to write (standard error if None).
    """

    def __init__(self, stage: str, run_id: str, total: int, stream: TextIO | None = None) -> None:
        self.label = f"{run_id} {stage}"
        self.total = total
        self.stream = sys.stderr if stream is None else stream
        self._started = self._last_line = time.monotonic()
        self._interval = FIRST_INTERVAL
        self._first: tuple[float, int] | None = None
        self._reading = Reading(None, None, None)
        self._noted: dict[str, float] = {}
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

    def note(self, text: str) -> None:
        """Print a note between the progress lines, and each kind of note at most once a minute."""
        now = time.monotonic()
        kind = re.sub(r"[0-9.]+", "", text)
        if now - self._noted.get(kind, -LONGEST_INTERVAL) >= LONGEST_INTERVAL:
            self._noted[kind] = now
            self._write(text)

    def update(self, step: int, total: int, reading: Reading) -> None:
        """Report that `step` of `total` steps are done, in few lines so that a log stays short."""
        now = time.monotonic()
        self.total = total
        if reading.energy is not None:
            self._reading = reading
        # The first block contains the compilation, so the rate counts from its end.
        if self._first is None:
            self._first = (now, step)
        note = self._note(now, step)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, total=total, note=note)
        elif now - self._last_line >= self._interval:
            self._write(f"step {step}/{self.total}{', ' + note if note else ''}")
            self._last_line = now
            self._interval = min(2 * self._interval, LONGEST_INTERVAL)

    def finish(self, step: int, result: Reading) -> None:
        """Report the number of steps, the elapsed time, and the result or else the last block."""
        elapsed = format_duration(time.monotonic() - self._started)
        text = format_reading(self._reading if result.energy is None else result)
        self._write(f"done, {step} steps in {elapsed}{', ' + text if text else ''}")

    def _note(self, now: float, step: int) -> str:
        parts = []
        if self._first is not None and step > self._first[1] and now > self._first[0]:
            rate = (step - self._first[1]) / (now - self._first[0])
            left = format_duration(max(0, self.total - step) / rate)
            parts.append(f"{rate:.3g}/s, {left} left")
        if text := format_reading(self._reading):
            parts.append(text)
        return ", ".join(parts)

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(f"{self.label}: {text}", markup=False, highlight=False)
        else:
            say(f"{self.label}: {text}", self.stream)

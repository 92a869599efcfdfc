"""What a GPU does in eight minutes: times, memory and rates of the parts of an iteration.

    make bench-gpu [REPORT=gpu.jsonl] [ARGS="--seconds 480"]

The most valuable parts come first. Each result is a line of JSON, written when it is there; a later
call does what is missing. A part that fails, or takes longer than its share of the time, has a line
that says so, and the rest goes on. `--retry` repeats those. At the end the results are printed as
a table. Without a GPU `--quick` runs every kind of part at tiny sizes, as a test.

Each time is compared with that of folx and DeepQMC, where these are installed, and with the
prediction of `plan --device h100`. The rates are operations of products and bytes moved per second,
as counted in the compiled program (module `programs`).
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any

import typer

ROOT = Path(__file__).parents[1]

app = typer.Typer(add_completion=False, help=__doc__)

ITERATIONS = ("iteration by kfac", "iteration by spring")
ENERGIES = ("local energy", "local energy by folx")
REST = ("log psi", "sampling", "curvature", "update", "update by spring")
PASSES = ("local energy, TF32 x3", "local energy, BF16 x3")
PEERS = ("local energy by folx, sparse", "iteration by DeepQMC")
# Cases and parts, the most valuable first.
ORDER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("LiH:256", (*ENERGIES, *ITERATIONS)),
    ("N2:1024", (*ENERGIES, *ITERATIONS)),
    ("h2_shared", ("iteration",)),
    ("n2_shared", ("first updates",)),
    ("H10:64", (*ENERGIES, *ITERATIONS)),
    ("N2:64", (*ENERGIES, *ITERATIONS)),
    ("N2:4096", (*ENERGIES, "iteration by kfac")),
    ("LiH:256", (*REST, *PEERS)),
    ("N2:1024", (*REST, *PEERS)),
    ("N2:1024", PASSES),
    ("LiH:4096", (*ENERGIES, *ITERATIONS)),
    ("H10:1024", (*ENERGIES, *ITERATIONS)),
    ("H10:64", (*REST, *PEERS)),
    ("N2:64", (*REST, *PEERS)),
    ("N2:4096", REST),
)
QUICK: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("LiH:4", ("log psi", "local energy", "no such part", "iteration by spring")),
    ("h2_shared", ("iteration", "first updates")),
)
# Seconds until a part is given up; of the process until its first part.
BUDGETS = {"first updates": 150.0, "iteration by DeepQMC": 150.0}
BUDGET, START = 100.0, 120.0


def names(order: Iterable[tuple[str, tuple[str, ...]]]) -> list[str]:
    """All parts in their order."""
    return [f"{case} {part}" for case, parts in order for part in parts]


# --- the report -----------------------------------------------------------------------------------


def read(report: Path) -> list[dict[str, Any]]:
    """The rows of a report; the last line may be a stump of an interrupted call."""
    rows = []
    for line in report.read_text(encoding="utf-8").splitlines() if report.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def append(report: Path, row: dict[str, Any]) -> None:
    """Add a row that survives the end of this machine."""
    with report.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def missing(order: list[str], rows: list[dict[str, Any]], retry: bool) -> list[str]:
    """The parts without a row, or with `retry` without a measurement."""
    done = {row["part"] for row in rows if row["state"] == "measured" or not retry}
    return [name for name in order if name not in done]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, the last of each part."""
    lines = [
        "| part | ms | alone | plan, H100 | kernels | Tflop/s | GB/s | MiB | s to compile | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in {row["part"]: row for row in rows}.values():

        def cell(name: str, scale: float, digits: int, row: dict[str, Any] = row) -> str:
            value = row.get(name)
            return "" if value is None else f"{scale * value:.{digits}f}"

        cells = [
            row["part"],
            cell("seconds", 1e3, 3),
            cell("seconds_alone", 1e3, 3),
            cell("predicted_s", 1e3, 3),
            cell("kernels", 1, 0),
            cell("product_flops_per_s", 1e-12, 3),
            cell("bytes_per_s", 1e-9, 0),
            cell("peak_bytes_of_process", 2**-20, 0),
            cell("compile_s", 1, 1),
            row.get("reason", "compiled before" if row.get("compiled_before") else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# --- the process that measures --------------------------------------------------------------------


class Worker:
    """A process of `gpu_parts`, and the lines that it prints."""

    def __init__(self, parts: list[str], quick: bool, errors: IO[bytes]) -> None:
        self._errors = errors
        command = [sys.executable, "-m", "benchmarks.gpu_parts", json.dumps(parts)]
        self._process = subprocess.Popen(
            [*command, *(["--quick"] if quick else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def line(self, seconds: float) -> dict[str, Any] | None:
        """The next line; None where the process has ended.

        Raises:
            queue.Empty: no line within these seconds.
        """
        end = time.monotonic() + seconds
        while (text := self._lines.get(timeout=max(0.0, end - time.monotonic()))) is not None:
            with contextlib.suppress(json.JSONDecodeError):  # of a library, not of ours
                return dict(json.loads(text))
        return None

    def last_words(self) -> str:
        """The end of its errors."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " ".join(lines[-2:])[-300:]

    def end(self) -> None:
        """End it, and all that it has started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class UnusableError(Exception):
    """Nothing can be measured here."""


def lines_of(worker: Worker, end: float) -> Iterator[dict[str, Any]]:
    """What a process runs on, then its rows; the last may say why a part has none."""
    current, budget = "", START
    while True:
        limit = min(budget, end - time.monotonic())
        try:
            line = worker.line(max(limit, 0.0))
        except queue.Empty:
            if limit == budget and current:
                reason = f"stopped after {budget:.0f} s"
                yield {"part": current, "state": "stopped", "reason": reason}
            return
        if line is None:
            if current:
                reason = f"the process ended: {worker.last_words()}"
                yield {"part": current, "state": "failed", "reason": reason}
            return
        if "begins" in line:
            current = str(line["begins"])
            budget = BUDGETS.get(current.partition(" ")[2], BUDGET)
        else:
            current, budget = "", START
            yield line


def measured(parts: list[str], end: float, quick: bool) -> Iterator[dict[str, Any]]:
    """Rows of parts until a time of `time.monotonic`; none of the part that this time cuts off.

    Raises:
        UnusableError: the process does not start, or JAX does not compute on a GPU.
    """
    left = list(parts)
    while left and time.monotonic() < end:
        about: dict[str, Any] = {}
        with tempfile.TemporaryFile() as errors:
            worker = Worker(left, quick, errors)
            try:
                for line in lines_of(worker, end):
                    if "part" in line:
                        left.remove(line["part"])
                        yield {**line, **about}
                    elif line["platform"] == "cpu" and not quick:
                        raise UnusableError(
                            "JAX computes on CPUs here; --quick measures nothing there"
                        )
                    else:
                        about = line
                if not about and time.monotonic() < end:
                    raise UnusableError(f"no process can measure: {worker.last_words()}")
            finally:
                worker.end()


def commit() -> str:
    """The commit of the measured code; empty without git."""
    with contextlib.suppress(OSError):
        asked = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=ROOT)
        return done.stdout.strip()
    return ""


@app.command()
def main(
    report: Annotated[Path, typer.Option(help="File of the results.")] = Path("gpu.jsonl"),
    seconds: Annotated[float, typer.Option(min=1, help="Of this call, at most.")] = 480.0,
    part: Annotated[list[str] | None, typer.Option(help="One or more parts; default: all.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Repeat what failed.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes, for a test.")] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print the results, measure nothing.")
    ] = False,
) -> None:
    """Measure what is missing, and print all results."""
    end, code = time.monotonic() + seconds, commit()
    left = missing(part or names(QUICK if quick else ORDER), read(report), retry)
    try:
        for row in () if show else measured(left, end, quick):
            append(report, {**row, "commit": code})
            took = f"{1e3 * row['seconds']:.3f} ms" if "seconds" in row else row.get("reason", "")
            print(f"{row['part']}: {took}", file=sys.stderr, flush=True)
    except UnusableError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    rows = read(report)
    print(table(rows))
    rest = missing(part or names(QUICK if quick else ORDER), rows, retry=False)
    if rest:
        print(f"{len(rest)} parts are left; the same command goes on with {rest[0]}")


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.gpu_speed")

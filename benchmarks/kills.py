"""Runs that are killed by SIGKILL, continued, and compared with an undisturbed one.

    .venv/bin/python -m benchmarks.kills --trials 200

Half of the kills come from outside at a random instant, half from inside at a random one of the
writes (`benchmarks.killable`). Each run is then continued by the plain command until it ends; its
artefact must have the very bytes of the undisturbed run's. Every run is a process of its own,
forked from this one once the imports are done: kills land in the work and not in the imports.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from benchmarks.killable import WINDOWS, Windows
from ferminet_core.__main__ import main as command_line
from ferminet_core.jax_setup import prepare_process
from ferminet_core.scan import load_scan, write_specs

SYSTEM = """
name: kills
units: bohr
atoms: [H 0 0 -0.7, H 0 0 0.7]
preset: smoke
overrides:
  network.layers: 1
  optimise.iterations: 40
  optimise.inverse_period: 3
  runtime.block: 2
  checkpoint.every_steps: 2
  inference.keep_every: 10
"""
PARENTS = {
    "reference": (),
    "pretrain": ("reference",),
    "optimise": ("pretrain",),
    "inference": ("optimise", "reference"),
}
# Every stage is killed, those longer that do more.
WEIGHTS = {"reference": 1, "pretrain": 3, "optimise": 3, "inference": 3}
TIMEOUT = 300.0


class Undisturbed(NamedTuple):
    """What a stage does when nobody kills it: artefact's bytes, seconds, counts of windows."""

    content: bytes
    seconds: float
    windows: dict[str, int]


class Child:
    """A process that runs the command line, forked from this one."""

    def __init__(self, arguments: list[str], log: Path, windows: Windows | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.counts = log.with_name("windows.json")
        self.pid = os.fork()
        if self.pid == 0:
            self._run(arguments, log, windows)
        self.code: int | None = None

    def _run(self, arguments: list[str], log: Path, windows: Windows | None) -> NoReturn:
        code = 70
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            if windows is not None:
                windows.patch()
            sys.argv = ["ferminet_core", *arguments]
            try:
                code = command_line()
            except SystemExit as end:
                code = int(end.code or 0)
            if windows is not None:
                self.counts.write_text(json.dumps(windows.counts))
        finally:
            os._exit(code)

    def wait(self, seconds: float = TIMEOUT) -> bool:
        """Wait for the end; whether it came in time. `code` is then the exit code, or minus the
        signal's number."""
        deadline = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                return False
            else:
                time.sleep(0.005)  # a child's end has no other bounded wait
        return True

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()


class Campaign:
    """Runs of one small calculation in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        system = folder / "kills.yaml"
        system.write_text(SYSTEM)
        self.spec = write_specs(load_scan(system), folder)[0]
        self.whole = folder / "whole"
        self.stages: dict[str, Undisturbed] = {}

    def _start(self, stage: str, run: Path, windows: Windows | None = None) -> Child:
        parents = [x for p in PARENTS[stage] for x in (f"--{p}", str(self.whole / f"{p}.zarr.zip"))]
        devices = [] if stage == "reference" else ["--devices", "1"]
        out, work = run / f"{stage}.zarr.zip", run / f"{stage}.work"
        arguments = [stage, str(self.spec), *parents, "--out", str(out), "--work", str(work)]
        return Child([*arguments, *devices], run / "log", windows)

    def measure(self) -> None:
        """Run every stage undisturbed, with a cold and then with a warm compilation cache."""
        for stage in PARENTS:
            for folder in (self.whole, self.folder / "warm"):
                began = time.monotonic()
                child = self._start(stage, folder, Windows("", 0))
                child.wait()
                if child.code:
                    raise RuntimeError(f"{stage}: {(folder / 'log').read_text()}")
            seconds = time.monotonic() - began
            content = (folder / f"{stage}.zarr.zip").read_bytes()
            if content != (self.whole / f"{stage}.zarr.zip").read_bytes():
                raise RuntimeError(f"{stage}: two undisturbed runs differ")
            counts = json.loads(child.counts.read_text())
            self.stages[stage] = Undisturbed(content, seconds, counts)
            print(f"{stage}: {seconds:.1f} s undisturbed, {counts}", file=sys.stderr, flush=True)

    def kill_and_continue(self, rng: random.Random, number: int) -> dict[str, Any]:
        """One run: killed once, then continued to its end."""
        stage = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        whole = self.stages[stage]
        run = self.folder / f"run{number:04d}"
        if number % 2:
            window = rng.choice(WINDOWS)
            child = self._start(stage, run, Windows(window, rng.randint(1, whole.windows[window])))
            child.wait()
            where = f"inside a write: {window}"
        else:
            child = self._start(stage, run)
            if not child.wait(rng.uniform(0.0, whole.seconds)):
                child.kill()
            where = landed(run, stage)
        row = {
            "stage": stage,
            "killed": child.code == -signal.SIGKILL,
            "where": where,
            "landed": landed(run, stage),
            "checkpoint": last_checkpoint(run / f"{stage}.work"),
        }
        again = self._start(stage, run)
        again.wait()
        row["resumed_from"] = resumed_from(run / f"{stage}.work")
        out = run / f"{stage}.zarr.zip"
        row["same"] = again.code == 0 and out.read_bytes() == whole.content
        if row["same"]:
            shutil.rmtree(run)
        return row


def last_checkpoint(work: Path) -> int | None:
    """Step of the newest checkpoint; None if there is none."""
    steps = [int(path.name[:9]) for path in (work / "ckpt").glob("*.zarr.zip")]
    return max(steps, default=None)


def resumed_from(work: Path) -> int | None:
    """Step that the last resume went on from, by the record of events."""
    events = [json.loads(line) for line in (work / "events.jsonl").read_text().splitlines()]
    steps = [int(event["step"]) for event in events if event["event"] == "resume"]
    return steps[-1] if steps else None


def landed(run: Path, stage: str) -> str:
    """Where a kill landed, from the files that are there."""
    work = run / f"{stage}.work"
    if (run / f"{stage}.zarr.zip").exists():
        return "after the end"
    if not work.exists():
        return "imports"
    if (work / "result.zarr.zip").exists():
        return "between result and output"
    if any(work.glob("ckpt/.*.tmp")):
        return "inside the write of a checkpoint"
    step = last_checkpoint(work)
    if step is None:
        return "before the first checkpoint"
    return "after a new checkpoint" if step > 0 else "compilation and first block"


def import_all() -> None:
    """Import what the stages do, and start nothing: JAX's backend begins in the children."""
    from ferminet_core import driver, inference, optimise, pretrain, reference

    assert all((driver, inference, optimise, pretrain, reference))


def run_campaign(trials: int, seed: int) -> list[dict[str, Any]]:
    """`trials` killed and continued runs; progress on standard error."""
    prepare_process(devices=1)
    import_all()
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        campaign = Campaign(Path(temporary))
        campaign.measure()
        rows: list[dict[str, Any]] = []
        number = 0
        while len(rows) < trials:
            row = campaign.kill_and_continue(rng, number)
            number += 1
            if row["killed"]:  # a kill after the end of the process is none
                rows.append(row)
                print(f"{len(rows)}/{trials} {row}", file=sys.stderr, flush=True)
            elif not row["same"]:
                raise RuntimeError(f"an undisturbed run differs: {row}")
    return rows


def print_histogram(rows: list[dict[str, Any]]) -> bool:
    """The kills by place and by stage; whether all held."""
    for key in ("where", "landed", "stage"):
        print(f"kills by {key}:")
        for name, count in sorted(Counter(str(row[key]) for row in rows).items()):
            print(f"  {count:4d}  {name}")
    different = [row for row in rows if not row["same"]]
    back = [
        row
        for row in rows
        if row["checkpoint"] is not None
        and row["landed"] not in ("after the end", "between result and output")
        and (row["resumed_from"] is None or row["resumed_from"] < row["checkpoint"])
    ]
    print(
        f"{len(rows)} runs killed and continued: {len(different)} with another digest, "
        f"{len(back)} that went on from before their last checkpoint"
    )
    for row in (*different, *back):
        print(f"  {row}")
    return not different and not back


def main(
    trials: Annotated[int, typer.Option(help="Runs to kill.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the instants and places.")] = 0,
) -> None:
    """Kill runs anywhere by SIGKILL, continue them, and compare them with undisturbed ones."""
    held = print_histogram(run_campaign(trials, seed))
    print("holds" if held else "does not hold")
    raise typer.Exit(0 if held else 1)


if __name__ == "__main__":
    typer.run(main)

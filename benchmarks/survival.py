"""Runs that are interrupted, continued, and compared with undisturbed ones.

They are killed, stopped, or run out of disk space.

    .venv/bin/python -m benchmarks.survival kill --trials 200
    .venv/bin/python -m benchmarks.survival term --trials 20
    sudo .venv/bin/python -m benchmarks.survival disk

Every run is a process of its own, forked from this one after the imports, so that the interruption
occurs in the work and not in the imports. The plain command then continues it until it ends. Its
artefact must have the same bytes as that of the undisturbed run.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from benchmarks.killable import WINDOWS, Windows
from ferminet_core.__main__ import main as command_line
from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import write_specs
from ferminet_core.parallel.jax_setup import CACHE_VARIABLE, prepare_process
from ferminet_core.storage import checkpoints

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

SYSTEM = """
name: kills
units: bohr
atoms: [H 0 0 0]  # the smallest system: only processes and files matter here
spin: 1
preset: smoke
overrides:
  network.layers: 1
  network.one_electron_width: 16
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
# Every stage is killed; those that write more are killed more often.
WEIGHTS = {"reference": 1, "pretrain": 3, "optimise": 2, "inference": 4}
TIMEOUT = 300.0


class Undisturbed(NamedTuple):
    """An undisturbed stage: bytes of its artefact, seconds, counts of windows."""

    content: bytes
    seconds: float
    windows: dict[str, int]


class Child:
    """A process that runs the command line, forked from this one."""

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        windows: Windows | None = None,
        cache: Path | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.counts = log.with_name("windows.json")
        self.pid = os.fork()
        if self.pid == 0:
            if cache is not None:
                os.environ[CACHE_VARIABLE] = str(cache)
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
        """Wait for the end and return whether it came in time.

        `code` is then the exit code, or minus the number of the signal.
        """
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
        """Send SIGKILL and wait for the end."""
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

    def start(
        self, stage: str, run: Path, windows: Windows | None = None, cache: Path | None = None
    ) -> Child:
        """Start a stage; `cache` is a folder of its own for compiled code."""
        parents = [x for p in PARENTS[stage] for x in (f"--{p}", str(self.whole / f"{p}.zarr.zip"))]
        devices = [] if stage == "reference" else ["--devices", "1"]
        out, work = run / f"{stage}.zarr.zip", run / f"{stage}.work"
        arguments = [stage, str(self.spec), *parents, "--out", str(out), "--work", str(work)]
        return Child([*arguments, *devices], self.folder / "logs" / run.name, windows, cache)

    def log(self, run: Path) -> str:
        """The output of all processes on a run's folder."""
        return (self.folder / "logs" / run.name).read_text(encoding="utf-8")

    def measure(self) -> None:
        """Run every stage undisturbed, with a cold and then with a warm compilation cache."""
        for stage in PARENTS:
            for folder in (self.whole, self.folder / "warm"):
                began = time.monotonic()
                child = self.start(stage, folder, Windows("", 0))
                child.wait()
                if child.code:
                    raise RuntimeError(f"{stage}: {self.log(folder)}")
            seconds = time.monotonic() - began
            content = (folder / f"{stage}.zarr.zip").read_bytes()
            if content != (self.whole / f"{stage}.zarr.zip").read_bytes():
                raise RuntimeError(f"{stage}: two undisturbed runs differ")
            counts = json.loads(child.counts.read_text())
            self.stages[stage] = Undisturbed(content, seconds, counts)
            show(f"{stage}: {seconds:.1f} s undisturbed, {counts}")

    def kill_and_continue(self, rng: random.Random, number: int) -> dict[str, Any]:
        """Kill a run once, and continue it to its end."""
        stage = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        whole = self.stages[stage]
        run = self.folder / f"run{number:04d}"
        if number % 2:
            window = rng.choice(WINDOWS)
            child = self.start(stage, run, Windows(window, rng.randint(1, whole.windows[window])))
            child.wait()
            where = f"inside a write: {window}"
        else:
            child = self.start(stage, run)
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
        row["same"] = self.continues(stage, run)
        row["resumed_from"] = resumed_from(run / f"{stage}.work")
        if row["same"]:
            shutil.rmtree(run)
        return row

    def continues(self, stage: str, run: Path) -> bool:
        """Run a stage to its end; return whether its artefact has the undisturbed run's bytes."""
        again = self.start(stage, run)
        again.wait()
        out = run / f"{stage}.zarr.zip"
        return again.code == 0 and out.read_bytes() == self.stages[stage].content


def last_checkpoint(work: Path) -> int | None:
    """Step of the newest checkpoint; None if there is none."""
    steps = [int(path.name[:9]) for path in (work / "ckpt").glob("*.zarr.zip")]
    return max(steps, default=None)


def resumes(work: Path) -> list[int]:
    """Steps that the resumes continued from, by the record of events."""
    path = work / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [int(event["step"]) for event in found if event["event"] == "resume"]


def resumed_from(work: Path) -> int | None:
    """Step that the last resume continued from."""
    return next(reversed(resumes(work)), None)


def landed(run: Path, stage: str) -> str:
    """Where a kill landed, according to the files."""
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
    """Import what the stages import, and start nothing: JAX's backend starts in the children."""
    from ferminet_core.chemistry import reference
    from ferminet_core.runner import run_stage
    from ferminet_core.stages import inference, optimise, pretrain

    assert all((run_stage, inference, optimise, pretrain, reference))


@contextlib.contextmanager
def measured_campaign() -> Iterator[Campaign]:
    """A campaign with finished undisturbed runs."""
    prepare_process(devices=1)
    import_all()
    with tempfile.TemporaryDirectory() as temporary:
        campaign = Campaign(Path(temporary))
        campaign.measure()
        yield campaign


def show(text: object) -> None:
    """Print to the standard error at once."""
    print(text, file=sys.stderr, flush=True)


def print_histogram(rows: list[dict[str, Any]]) -> bool:
    """Print the kills by place and by stage; return whether all checks hold."""
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


def verdict(held: bool) -> NoReturn:
    """Print the result, and end with exit code 0 or 1."""
    print("holds" if held else "does not hold")
    raise typer.Exit(0 if held else 1)


@app.command()
def kill(
    trials: Annotated[int, typer.Option(help="Runs to kill.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the instants and places.")] = 0,
) -> None:
    """SIGKILL: half from outside at random instants, half from inside at random writes."""
    rng, rows = random.Random(seed), list[dict[str, Any]]()
    with measured_campaign() as campaign:
        number = 0
        while len(rows) < trials:
            row = campaign.kill_and_continue(rng, number)
            number += 1
            if row["killed"]:  # a kill after the end of the process does not count
                rows.append(row)
                show(f"{len(rows)}/{trials} {row}")
            elif not row["same"]:
                raise RuntimeError(f"an undisturbed run differs: {row}")
    verdict(print_histogram(rows))


@app.command()
def term(
    trials: Annotated[int, typer.Option(help="Runs to stop.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the instants.")] = 0,
) -> None:
    """SIGTERM at random instants, every other time before anything is compiled."""
    rng, seconds, held = random.Random(seed), list[float](), True
    with measured_campaign() as campaign:
        for number in range(trials):
            stage = rng.choice(["pretrain", "optimise", "inference"])
            run = campaign.folder / f"term{number}"
            work = run / f"{stage}.work"
            cache = campaign.folder / f"cache{number}" if number % 2 else None
            child = campaign.start(stage, run, cache=cache)
            # After the first checkpoint, which is written before anything is compiled.
            while last_checkpoint(work) is None and not child.wait(0.01):
                pass
            if child.wait(rng.uniform(0.0, campaign.stages[stage].seconds / 2)):
                continue  # it had ended
            os.kill(child.pid, signal.SIGTERM)
            began = time.monotonic()
            child.wait()
            took = time.monotonic() - began
            step = last_checkpoint(work)
            whole = step is not None and checkpoints.load(work / f"ckpt/{step:09d}.zarr.zip")
            same = campaign.continues(stage, run)
            seconds.append(took)
            held &= child.code in (0, 85) and bool(whole) and same
            where = "compiling" if cache and step == 0 else "running"
            show(f"{stage} {where}: exit {child.code} after {took:.2f} s, step {step}, {same=}")
    seconds.sort()
    print(
        f"{len(seconds)} runs ended by SIGTERM: seconds to the exit, median "
        f"{seconds[len(seconds) // 2]:.2f}, largest {seconds[-1]:.2f}"
    )
    verdict(held and len(seconds) >= trials // 2)


@app.command()
def disk(
    points: Annotated[int, typer.Option(help="Points at which the disk fills up.")] = 10,
) -> None:
    """Fill up a disk: a small file system in memory (root has to mount it)."""
    held, reached = True, []
    with measured_campaign() as campaign:
        mount = campaign.folder / "disk"
        mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64M", "none", str(mount)], check=True)
        try:
            for number in range(points):
                stage = ("optimise", "pretrain", "inference")[number % 3]
                run = mount / f"run{number}"
                run.mkdir()
                row = _fill_and_continue(campaign, stage, run, number / points)
                reached.append((stage, row["step"]))
                held &= row["code"] == 74 and row["told"] and row["same"]
                held &= row["resumed_from"] == row["step"]
                show(row)
                shutil.rmtree(run)
        finally:
            subprocess.run(["umount", str(mount)], check=True)
    print(f"{points} full disks; the last checkpoints were {reached}")
    verdict(held)


def _fill_and_continue(campaign: Campaign, stage: str, run: Path, when: float) -> dict[str, Any]:
    """Run a stage whose disk is full after the part `when` of its steps."""
    work = run / f"{stage}.work"
    total = last_checkpoint(campaign.whole / f"{stage}.work") or 0
    if when == 0.0:
        fill(run.parent)
    child = campaign.start(stage, run)
    while when > 0.0 and (last_checkpoint(work) or 0) < when * total and not child.wait(0.002):
        pass
    if when > 0.0:
        fill(run.parent)
    child.wait()
    step = last_checkpoint(work)
    if step is not None:
        checkpoints.load(work / f"ckpt/{step:09d}.zarr.zip")
    said = campaign.log(run).strip().splitlines()[-1]
    (run.parent / "filler").unlink()
    return {
        "stage": stage,
        "code": child.code,
        "step": step,
        "told": "No space left" in said,
        "said": said,
        "same": campaign.continues(stage, run),
        "resumed_from": resumed_from(work),
    }


def fill(mount: Path) -> None:
    """Fill a file system completely."""
    with open(mount / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))


if __name__ == "__main__":
    app()

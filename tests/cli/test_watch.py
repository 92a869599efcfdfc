"""`status --watch`: on a terminal, in a log, and its end."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.stages import Oscillator, in_results, run
from rich.console import Console

from ferminet_core.cli import commands, watch
from ferminet_core.errors import InputError
from ferminet_core.inputs.spec_files import conventional_spec
from ferminet_core.runner import status
from ferminet_core.runner.job import Job
from ferminet_core.runner.status import StageState
from ferminet_core.storage import files


def terminal(height: int = 20) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=150, height=height)


def log() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=150)


def written(console: Console) -> str:
    """What was written, without the sequences that move the cursor and colour the text."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def reader(job: Job) -> Callable[[], dict[Path, list[StageState]]]:
    scan = job.out.parents[2]
    return lambda: {r: status.run_states(r) for r in status.run_folders(scan)}


def acts(*steps: Callable[[], object]) -> Callable[[float], None]:
    """A wait in which the next of these things happens."""
    left = iter(steps)

    def wait(seconds: float) -> None:
        next(left)()

    return wait


def finish(folder: Path) -> None:
    """All that a run leaves, for a look at its state: the artefacts' names."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage in status.STAGES:
        (folder / f"{stage}.zarr.zip").touch()


def scan_that_goes_on(job: Job) -> Callable[[float], None]:
    other = job.out.parents[1] / "r_2"
    return acts(
        lambda: run(job, Oscillator()),
        lambda: finish(other),
        lambda: finish(job.out.parent),
    )


def test_conventional_energies_come_after_the_chain(tmp_path: Path) -> None:
    """Wherever they are earlier, a run is at a stage of the chain; it ends with both."""
    job, console = in_results(tmp_path), log()
    scan, folder = job.out.parents[2], job.out.parent
    (scan / "runs.txt").write_text(f"{job.spec.run_id}\n")
    path = conventional_spec(scan, job.spec.run_id)
    path.parent.mkdir()
    path.write_text("{}")
    artefact = folder / "conventional.zarr.zip"
    folder.mkdir(parents=True, exist_ok=True)
    artefact.touch()

    def finish_the_chain_alone() -> None:
        artefact.unlink()
        finish(folder)

    steps = acts(finish_the_chain_alone, artefact.touch)
    watch.follow(reader(job), 5.0, console, steps)
    lines = written(console).splitlines()
    assert [line.partition(" h2 r_1.4 ")[2] for line in lines[:-1]] == [
        "reference: waiting",
        "conventional: waiting",
        "inference: done",
    ]
    assert lines[-1] == "runs: 1 done"


def test_a_log_gets_a_line_for_each_change(tmp_path: Path) -> None:
    job, console = in_results(tmp_path), log()
    watch.follow(reader(job), 5.0, console, scan_that_goes_on(job))
    lines = written(console).splitlines()
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines] == [
        "h2 r_1.4 reference: waiting",
        "h2 r_2 reference: waiting",
        "h2 r_1.4 inference: waiting",
        "h2 r_2 inference: done",
        "h2 r_1.4 inference: done",
        "runs: 2 done",
    ]


def test_steps_are_told_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, console = Path("results/h2/runs/r_1"), log()
    steps = iter(range(1000))

    def read() -> dict[Path, list[StageState]]:
        step = next(steps)
        state = "running" if step < 130 else "done"
        return {folder: [StageState("r_1", "optimise", state, step, 130, -1.1, 0.01)]}

    clock: Iterator[float] = iter(float(t) for t in range(1000))
    monkeypatch.setattr("ferminet_core.cli.watch.time.monotonic", lambda: next(clock))
    watch.follow(read, 1.0, console, lambda seconds: None)
    found = re.findall(
        r"optimise: (\w+), step (\d+)/130, E = -1.1000 \+- 0.0100 Eh", written(console)
    )
    # A look a second: the first, then one after each minute, and the end.
    assert found == [("running", "0"), ("running", "60"), ("running", "120"), ("done", "130")]


def test_a_terminal_shows_the_table_anew(tmp_path: Path) -> None:
    job, console = in_results(tmp_path), terminal()
    watch.follow(reader(job), 5.0, console, scan_that_goes_on(job))
    frames = re.split(r"(?=runs: )", written(console))[1:]
    counts = [frame.splitlines()[0].strip() for frame in frames]
    assert list(dict.fromkeys(counts)) == [
        "runs: 2 waiting",
        "runs: 1 done, 1 waiting",
        "runs: 2 done",
    ]
    rows = [line.split()[:4] for line in frames[-1].splitlines() if line.startswith("h2")]
    assert rows == [["h2", "r_1.4", "inference", "done"], ["h2", "r_2", "inference", "done"]]


def test_a_low_terminal_shows_what_matters() -> None:
    """Thirty runs, ten lines: what runs or has failed is shown, the rest is counted."""
    states = ["done"] * 20 + ["running", "failed"] + ["waiting"] * 8
    runs = {
        Path(f"results/s/runs/r_{i}"): StageState(f"r_{i}", "optimise", state)
        for i, state in enumerate(states)
    }
    console = terminal(height=10)
    console.print(watch._view(runs, console.height))
    lines = written(console).splitlines()
    assert len(lines) < console.height  # the cursor's line is one more
    assert lines[0] == "runs: 20 done, 8 waiting, 1 failed, 1 running"
    assert [line.split()[1] for line in lines[2:4]] == ["r_20", "r_21"]
    assert lines[-1] == "and 24 more: 20 done, 4 waiting"


def test_a_broken_run_ends_the_watch(tmp_path: Path) -> None:
    """A failed one does not: whoever runs the scan may try it again."""
    job, console = in_results(tmp_path), log()
    finish(job.out.parents[1] / "r_2")
    job.work.mkdir(parents=True)

    def say(state: str) -> Callable[[], None]:
        return lambda: files.write_json(job.work / "status.json", {"state": state, "reason": "x"})

    watch.follow(reader(job), 5.0, console, acts(say("failed"), say("broken")))
    lines = written(console).splitlines()
    assert [line.split(": ")[1] for line in lines[-3:]] == [
        "failed, x",
        "broken, x",
        "1 done, 1 broken",
    ]


# Whoever starts the tests in the background has its children ignore Ctrl-C.
HEEDS_CTRL_C = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("ferminet_core", run_name="__main__", alter_sys=True)
"""


def test_ctrl_c_is_no_failure(tmp_path: Path) -> None:
    scan = in_results(tmp_path).out.parents[2]
    command = [sys.executable, "-c", HEEDS_CTRL_C, "status", str(scan), "--watch", "--every", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        # The second of two runs has been told: the first look is over.
        assert "r_1.4" in process.stdout.readline()
        assert "r_2" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        last = process.stdout.read()
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in last


def test_json_is_for_one_look(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--watch: found with --json; allowed: one of them"):
        commands.status(in_results(tmp_path).out.parents[2], as_json=True, watch=True)


def test_only_runs_in_the_states_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = in_results(tmp_path).out.parents[2]
    finish(scan / "runs" / "r_2")
    commands.status(scan, state="failed,done")
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == "runs: 1 done, 1 waiting"
    assert "r_2" in shown
    assert "r_1.4" not in shown
    commands.status(scan, as_json=True, state="waiting")
    assert [Path(run).name for run in json.loads(capsys.readouterr().out)] == ["r_1.4"]
    with pytest.raises(InputError, match="--state: found 'runing'; did you mean 'running'"):
        commands.status(scan, state="runing")

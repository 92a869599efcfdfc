"""The real thing killed: stages by SIGKILL anywhere, and Snakemake itself; then started again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.workflow import Workflow, events, until

from ferminet_core.runner import status
from ferminet_core.storage import artefacts, lease
from ferminet_core.storage.checkpoints import steps_in

SYSTEM = """
name: killed
units: bohr
atoms: [H 0 0 -0.7, H 0 0 0.7]
preset: smoke
overrides:
  network.layers: 1
  network.one_electron_width: 16
  optimise.iterations: 1500
  checkpoint.every_steps: 100
  runtime.block: 10
"""


@pytest.mark.campaign
@pytest.mark.parametrize("words", ["survival kill", "workflow_survival"])
def test_killed_anywhere_ends_as_if_nothing_had_happened(words: str) -> None:
    """Stages of a run, and the workflow of a shared scan. The commands make longer campaigns."""
    module, *command = words.split()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *command, "--trials", "4", "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "0 with another digest, 0 that went on from before" in done.stdout


class Started:
    """Snakemake in a process group of its own, which a test ends whatever happens."""

    def __init__(self, workflow: Workflow) -> None:
        self.log = workflow.folder / "started.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                workflow.command(), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def end(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()


@pytest.mark.slow
def test_snakemake_and_its_jobs_killed_then_started_again(tmp_path: Path) -> None:
    """First all processes, as when a node goes down; then Snakemake alone, whose job lives on."""
    workflow = Workflow(tmp_path, SYSTEM)
    run = workflow.results / "killed" / "runs" / "killed"
    work = run / "optimise.work"
    started = Started(workflow)
    try:
        until(lambda: len(steps_in(work / "ckpt")) > 1)
        started.end()
        assert list((tmp_path / "workdir" / ".snakemake" / "locks").iterdir()) == []
        # A killed process is gone a moment later.
        until(lambda: status.stage_state(run, "optimise").state == "resumable")
        reached = max(steps_in(work / "ckpt"))

        started = Started(workflow)
        until(lambda: bool(events(work, "resume")))
        assert events(work, "resume")[-1]["step"] == reached
        until(lambda: lease.holder_of(work) is not None)
        started.process.kill()  # Snakemake alone
        started.process.wait()
        holder = lease.holder_of(work)
        assert holder is not None

        # The third waits for the second's orphan, and takes what that has made.
        done = workflow.snakemake()
        assert done.returncode == 0, done.stderr[-3000:]
        assert workflow.jobs() == {}
        assert len(events(work, "done")) == 1
        assert len(events(work, "resume")) == 1
        assert artefacts.load(run / "optimise.zarr.zip").sizes["step"] == 1500
    finally:
        started.end()


@pytest.mark.slow
def test_a_terminal_s_ctrl_c_ends_with_a_checkpoint(tmp_path: Path) -> None:
    """SIGINT to the whole group, as from a keyboard: Snakemake, the shell, tee and the stage."""
    workflow = Workflow(tmp_path, SYSTEM)
    run = workflow.results / "killed" / "runs" / "killed"
    work = run / "optimise.work"
    started = Started(workflow)
    try:
        until(lambda: len(steps_in(work / "ckpt")) > 1)
        os.killpg(started.process.pid, signal.SIGINT)
        assert started.process.wait(timeout=60) != 0
        until(lambda: lease.holder_of(work) is None)
        (stopped,) = events(work, "resumable")
        assert "received SIGINT; continues from step" in stopped["reason"]
        step = max(steps_in(work / "ckpt"))
        assert f"step {step} " in stopped["reason"]
        state = status.stage_state(run, "optimise")
        assert (state.state, state.step) == ("resumable", step)
    finally:
        started.end()

"""A workflow with a shared wavefunction that is killed, continued, and compared with a whole one.

    .venv/bin/python -m benchmarks.workflow_survival --trials 30

Snakemake and all of its processes get SIGKILL at a random instant of a stage, as when a node goes
down; two of three times after the first step of the stage. The same command starts them again until
the scan is finished. Every artefact must have the digest of that of the undisturbed workflow.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.survival import landed, last_checkpoint, print_histogram, resumes, show, verdict
from ferminet_core.storage import artefacts, lease

ROOT = Path(__file__).resolve().parent.parent
# Each geometry makes some iterations of its own in the end. Psiformer and pseudopotential need
# parts of the local energy that a FermiNet of all electrons does not. Two electrons suffice.
SYSTEM = """
name: kills
units: bohr
atoms: [Li 0 0 -R/2, H 0 0 R/2]
parameters: {R: [3.0, 4.0]}
pseudopotential: {Li: ccecp}
preset: smoke
overrides:
  reference.basis: ccecp-cc-pvdz
  network: {kind: psiformer, layers: 1, one_electron_width: 16, attention_heads: 2}
  sharing.walkers: 16
  mcmc: {walkers: 32, burn_in: 10}
  pretrain: {min_iterations: 0, max_iterations: 80, check_every: 20, orbital_tolerance: 0.001}
  optimise.iterations: 60
  checkpoint.every_steps: 2
  runtime.block: 2
sharing: {geometries: all, finish: 20}
"""
# How often each stage is killed in one scan; those that last longest more often.
KILLS = {"joint_pretrain": 5, "joint_optimise": 6, "pretrain": 1, "optimise": 3}


class Campaign:
    """Workflows of one system file, each with a folder of results of its own."""

    def __init__(self, folder: Path, cores: int) -> None:
        self.folder, self.cores = folder, cores
        self.system = folder / "kills.yaml"
        self.system.write_text(SYSTEM)
        # That each stage takes undisturbed: in all, and after its first step.
        self.seconds: dict[str, float] = {}
        self.stepping: dict[str, float] = {}

    def scan(self, name: str) -> Path:
        """The folder of the scan of one workflow."""
        return self.folder / name / "results" / "kills"

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start Snakemake in a process group of its own."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        words = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        words += ["--profile", str(ROOT / "cluster_profiles" / "local"), "--cores", str(self.cores)]
        words += ["--directory", str(place), "--until", "optimise"]  # inference is as without
        words += ["--config", f"system={self.system}", f"results={place / 'results'}"]
        with open(place / "log", "ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)

    def held(self, name: str) -> list[Path]:
        """The work folders that a process holds."""
        works = self.scan(name).glob("*/*/*.work")
        return [work for work in works if lease.holder_of(work) is not None]

    def measure(self) -> None:
        """Run the workflow undisturbed, and measure its stages."""
        process, began, stepped = self.start("whole"), dict[Path, float](), dict[Path, float]()
        while process.poll() is None:
            for work in self.held("whole"):
                now = time.monotonic()
                self.seconds[work.stem] = now - began.setdefault(work, now)
                if last_checkpoint(work):
                    self.stepping[work.stem] = now - stepped.setdefault(work, now)
            time.sleep(0.05)  # the stages end by themselves
        if process.returncode:
            raise RuntimeError((self.folder / "whole" / "log").read_text(encoding="utf-8"))
        show(f"seconds of the stages: {self.seconds}, with steps: {self.stepping}")

    def until_killed(
        self, process: subprocess.Popen[bytes], work: Path, steps: bool, part: float
    ) -> bool:
        """Kill a workflow in a stage that has begun; return False if it ended before.

        Args:
            process: Snakemake.
            work: Work folder of the stage.
            steps: Whether to wait for a step first.
            part: Of the time that the stage takes from here on.
        """
        before, seconds = last_checkpoint(work), self.seconds[work.stem]
        if steps:
            artefact = work.with_suffix(".zarr.zip")
            while last_checkpoint(work) in (None, 0, before) and not artefact.exists():
                if process.poll() is not None:
                    return False
                time.sleep(0.01)  # a file says that a step is done
            seconds = self.stepping.get(work.stem, 0.0)
        try:
            process.wait(part * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return process.returncode == -signal.SIGKILL

    def kill_once(
        self, rng: random.Random, name: str, left: Counter[str], steps: bool
    ) -> dict[str, Any] | None:
        """Start a workflow and kill it in a stage of `left`; None if it ended before.

        The instant is one of the whole stage, or with `steps` one of its steps.
        """
        process, work = self.start(name), None
        while process.poll() is None and work is None:
            work = next((held for held in self.held(name) if left[held.stem] > 0), None)
            time.sleep(0.02)  # a stage says by its lease that it has begun
        if work is None:
            return None
        if not self.until_killed(process, work, steps, rng.random()):
            return None
        left[work.stem] -= 1
        place = landed(work.parent, work.stem)
        return {
            "stage": work.stem,
            "where": f"{work.stem}: {place}",
            "landed": place,
            "work": work,
            "checkpoint": last_checkpoint(work),
            "resumes": len(resumes(work)),
        }

    def kill_and_continue(self, rng: random.Random, name: str, trials: int) -> list[dict[str, Any]]:
        """Kill a workflow at most so often, continue it to its end, and compare."""
        left, rows = Counter(KILLS), list[dict[str, Any]]()
        while len(rows) < trials and left.total():
            row = self.kill_once(rng, name, left, steps=len(rows) % 3 > 0)
            if row is None:
                break
            rows.append(row)
            show(f"{len(rows)} {row}")
        code = self.start(name).wait()
        same = code == 0 and self.digests(name) == self.digests("whole")
        for row in rows:
            found = resumes(row.pop("work"))[row.pop("resumes") :]
            row |= {"same": same, "resumed_from": found[0] if found else None}
        if not same:
            show((self.folder / name / "log").read_text(encoding="utf-8")[-3000:])
        return rows

    def digests(self, name: str) -> dict[str, str]:
        """Digests of all artefacts of a workflow."""
        scan = self.scan(name)
        found = scan.glob("*/*/*.zarr.zip")
        return {str(path.relative_to(scan)): artefacts.digest(path) for path in found}


def main(
    trials: Annotated[int, typer.Option(help="Kills in all.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the instants.")] = 0,
    cores: Annotated[int, typer.Option(help="Cores of the workflow.")] = 1,
    folder: Annotated[Path | None, typer.Option(help="Folder to keep; default: none.")] = None,
) -> None:
    """SIGKILL to Snakemake and its jobs at random instants of the stages of a shared scan."""
    rng, rows = random.Random(seed), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as temporary:
        campaign = Campaign(folder or Path(temporary), cores)
        campaign.measure()
        number = 0
        while len(rows) < trials:
            number += 1
            rows += campaign.kill_and_continue(rng, f"killed{number}", trials - len(rows))
        print(f"{number} workflows, {len(campaign.digests('whole'))} artefacts each")
    verdict(print_histogram(rows))


if __name__ == "__main__":
    typer.run(main)

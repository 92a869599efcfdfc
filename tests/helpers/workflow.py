"""A Snakemake workflow in a folder of its own, and waiting for what it does."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import write_specs
from helpers.paths import ROOT

STAGES = ("reference", "pretrain", "optimise", "inference")
JOINT = ("joint_pretrain", "joint_optimise")
SYSTEM = """
name: test
units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {R: [1.4, 2.0, 3.0]}
preset: smoke
"""


class Workflow:
    """The workflow on a system file and a results folder of its own."""

    def __init__(self, folder: Path, system: str = SYSTEM) -> None:
        self.folder = folder
        self.system = folder / "system.yaml"
        self.system.write_text(system)
        self.results = folder / "results"

    def command(self, *arguments: str, config: Mapping[str, str] | None = None) -> list[str]:
        """Snakemake's command line."""
        values = {"system": str(self.system), "results": str(self.results), **(config or {})}
        # A working folder of its own: Snakemake's records of one test are not the next one's.
        workdir = self.folder / "workdir"
        workdir.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--profile", str(ROOT / "cluster_profiles" / "local"), "--cores", "2"]
        command += ["--directory", str(workdir), *arguments]
        command += ["--config", *(f"{key}={value}" for key, value in values.items())]
        return command

    def snakemake(
        self, *arguments: str, config: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments, config=config)
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
        )

    def jobs(self, *targets: str, **config: str) -> dict[str, int]:
        """Number of jobs of each rule that a run would start now, for the whole scan or files."""
        done = self.snakemake("--dry-run", *targets, config=config)
        assert done.returncode == 0, done.stderr
        output = done.stdout + done.stderr
        if "Nothing to be done" in output:
            return {}
        table = re.search(r"^job +count\n[- ]+\n(.*?)^total", output, re.MULTILINE | re.DOTALL)
        assert table is not None, output
        rows = (line.split() for line in table[1].splitlines())
        return {name: int(count) for name, count in rows if name != "all"}

    def pretend_done(
        self, *run_ids: str, stages: Sequence[str] = STAGES, groups: Sequence[str] = ()
    ) -> None:
        """Write the spec files, and an empty file for each artefact of these runs and groups.

        The empty files are newer than the files that they are made from.
        """
        write_specs(load_scan(self.system), self.results)
        scan = self.results / "test"
        sources = [scan / "runs.txt", *(scan / "spec").rglob("*")]
        clock = max(path.stat().st_mtime for path in sources) + 1
        files = [scan / "runs" / run / f"{stage}.zarr.zip" for run in run_ids for stage in stages]
        files += [scan / "groups" / g / f"{stage}.zarr.zip" for g in groups for stage in JOINT]
        names = ("scan.csv", "scan.zarr.zip", "curve.svg", "curve.png", "report.html")
        files += [scan / name for name in names]
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (clock, clock))


def all_stages(n_runs: int) -> dict[str, int]:
    """The jobs of a scan whose runs are all new."""
    return {"specs": 1, **dict.fromkeys(STAGES, n_runs), "summary": 1}


TIMEOUT = 240.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; a time limit ends a test that would hang."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # poll of a condition in other processes


def events(work: Path, name: str) -> list[dict]:
    path = work / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]

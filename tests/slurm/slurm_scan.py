"""A scan that runs on the test cluster, as a user would run it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.paths import ROOT

from ferminet_core.inputs.spec_files import FROZEN_SCAN

SYSTEM = """
name: cluster
units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {R: [1.4]}
preset: smoke
overrides:
  network.layers: 1
  network.one_electron_width: 16
  optimise.iterations: 1200
  optimise.inverse_period: 3
  checkpoint.every_steps: 200
  runtime.block: 10
"""
SHARED = """
name: cluster
units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {R: [1.4]}
preset: smoke
overrides:
  network: {layers: 1, one_electron_width: 16}
  sharing.walkers: 16
  pretrain: {min_iterations: 0, max_iterations: 50}
  optimise.iterations: 300
  checkpoint.every_steps: 50
  runtime.block: 10
sharing: scan
"""
RUN = "r_1.4"


class Scan:
    """The workflow on a system file and a folder of its own, by the Slurm profile.

    `stage` takes nearly all the time, on two ranks: that of a run, or of a group if it shares.
    """

    def __init__(self, folder: Path, cache: Path, bonds: str = "1.4", shared: bool = False) -> None:
        self.folder, self.cache, self.shared = folder, cache, shared
        self.results = folder / "results"
        self.stage = "joint_optimise" if shared else "optimise"
        owner = Path("groups/shared") if shared else Path("runs") / RUN
        self.run = self.results / "cluster" / owner
        self.work = self.run / f"{self.stage}.work"
        self.artefact = self.run / f"{self.stage}.zarr.zip"
        self.system = folder / "system.yaml"
        self.workdir = folder / "workdir"
        self.workdir.mkdir(parents=True)
        self.system.write_text((SHARED if shared else SYSTEM).replace("1.4", bonds))
        self.process: subprocess.Popen[bytes] | None = None

    def copy_results(self, other: "Scan") -> None:
        """Give another scan these results, as if they had been made from its own system file."""
        ignore = shutil.ignore_patterns(FROZEN_SCAN)
        shutil.copytree(self.results, other.results, ignore=ignore)

    def lengthen(self, iterations: int) -> None:
        """Ask for more iterations; a finished optimisation is then extended."""
        text = self.system.read_text()
        self.system.write_text(re.sub(r"iterations: \d+", f"iterations: {iterations}", text))

    def profile(self, name: str, **changes: str) -> Path:
        """A profile of the project as a user would adapt it; `changes` replace values by key."""
        text = (ROOT / "cluster_profiles" / name / "config.yaml").read_text()
        # This cluster's queue is empty and its files are there at once.
        changes = {"slurm-init-seconds-before-status-checks": "2", "latency-wait": "5", **changes}
        lines = []
        for line in text.splitlines():
            key = line.strip().partition(":")[0]
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}{key}: {changes[key]}" if key in changes else line)
        folder = self.folder / "profile"
        folder.mkdir(exist_ok=True)
        written = "\n".join(lines) + "\n"
        (folder / "config.yaml").write_text(self._joint_ranks(written) if self.shared else written)
        return folder

    def _joint_ranks(self, profile: str) -> str:
        """A profile that gives the stages of a group the keys of `optimise`, as it says."""
        keys = re.search(r"^  optimise:\n((?: {4}.*\n)+)", profile, re.MULTILINE)
        assert keys is not None
        for stage in ("joint_pretrain", "joint_optimise"):
            old = f"  {stage}:\n    mem_mb: 3000\n"
            assert old in profile
            profile = profile.replace(old, f"  {stage}:\n{keys[1]}")
        return profile

    def set_resources(self, profile: Path, text: str) -> None:
        """Add resources of rules, as YAML, to a profile."""
        path = profile / "config.yaml"
        path.write_text(path.read_text().replace("set-resources:\n", f"set-resources:\n{text}"))

    def command(self, profile: Path, *arguments: str) -> list[str]:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--profile", str(profile), "--directory", str(self.workdir), *arguments]
        return [*command, "--config", f"system={self.system}", f"results={self.results}"]

    def environment(self) -> dict[str, str]:
        # Without the number of devices that the tests' own set-up asks for.
        return {**os.environ, "FERMINET_CACHE": str(self.cache), "XLA_FLAGS": ""}

    def start(self, *arguments: str, **changes: str) -> subprocess.Popen[bytes]:
        """Start Snakemake on Slurm in the background."""
        command = self.command(self.profile("slurm", **changes), *arguments)
        with open(self.folder / "snakemake.log", "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=self.environment(),
                cwd=ROOT,
                start_new_session=True,
            )
        return self.process

    def finish(self, seconds: float = 400.0) -> int:
        """Wait for Snakemake; returns its exit code."""
        assert self.process is not None
        return self.process.wait(timeout=seconds)

    def local(self, *arguments: str) -> None:
        """The same scan on this machine alone, as one process with two devices."""
        profile = ROOT / "cluster_profiles" / "local"
        command = self.command(profile, "--cores", "2", *arguments)
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment(), cwd=ROOT, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]

    @property
    def log(self) -> str:
        return (self.folder / "snakemake.log").read_text()

    def stage_log(self, stage: str) -> str:
        return (self.results / "cluster" / "logs" / RUN / f"{stage}.log").read_text()

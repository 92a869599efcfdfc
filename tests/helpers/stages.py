"""Small stages that run in seconds, and the command line called on them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.scan import load_scan
from ferminet_core.parallel import jax_setup
from ferminet_core.runner import run_stage
from ferminet_core.runner.job import Job
from ferminet_core.runner.stopping import Stop
from ferminet_core.stages.base import Step

SYSTEM = """
units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {R: [1.4, 2.0]}
preset: smoke
"""


class Oscillator:
    """A toy stage: mean potential energy of a harmonic oscillator, x^2/2, sampled from |psi|^2.

    `at` is called with each step before it is made; what it raises ends the loop.
    """

    name = "optimise"
    chunk = 1

    def __init__(self, at: Callable[[int], None] = lambda step: None, total: int = 40) -> None:
        self.at, self.total = at, total

    def initial(self) -> dict[str, Any]:
        return {"step": np.asarray(0), "x": np.zeros(1000)}

    def place(self, state: dict[str, Any]) -> dict[str, Any]:
        return state

    def steps(self, state: dict[str, Any]) -> Iterator[Step]:
        for step in range(int(state["step"]) + 10, self.total + 1, 10):
            self.at(step)
            x = np.random.default_rng(step).normal(0.0, np.sqrt(0.5), size=(10, 1000))
            energies = np.mean(x**2 / 2, axis=1)
            state = {"step": np.asarray(step), "x": x[-1] + state["x"]}
            yield Step(step, state, {"energy_Eh": energies, "error_Eh": np.full(10, 0.01)})

    def result(self, state: Any, series: dict[str, np.ndarray]) -> xr.Dataset:
        return xr.Dataset(
            {"walkers": ("walker", state["x"]), "energy_Eh": ("step", series["energy_Eh"])}
        )


def failing(step: int, error: Exception) -> Callable[[int], None]:
    """Raises an error at a step."""

    def at(now: int) -> None:
        if now == step:
            raise error

    return at


def job_for(spec: RunSpec, folder: Path, **parents: Path) -> Job:
    return Job("optimise", spec, folder / "o.zarr.zip", folder / "optimise.work", parents)


def run(job: Job, stage: Oscillator) -> str:
    log = jax_setup.CompileLog()
    return run_stage.run_loop(job, lambda spec, parents: stage, log, Stop())


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ferminet_core", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


SETTINGS = {"checkpoint.every_steps": 10, "checkpoint.keep": 3}


class PowerCutError(Exception):
    """Stands for a process that ends at once: nothing is written any more."""


def spec_of(folder: Path, system: str = SYSTEM, /, **overrides: Any) -> RunSpec:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "h2.yaml"
    path.write_text(system)
    return load_scan(path, overrides={**SETTINGS, **overrides}).runs[0]


def in_results(folder: Path) -> Job:
    """A job whose files lie where those of a scan lie."""
    spec = spec_of(folder)
    scan = folder / "results" / spec.scan
    (scan / "spec").mkdir(parents=True)
    (scan / "runs.txt").write_text(f"{spec.run_id}\nr_2\n")
    place = scan / "runs" / spec.run_id
    return Job("optimise", spec, place / "optimise.zarr.zip", place / "optimise.work")

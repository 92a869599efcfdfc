"""One calculation on several layouts of processes and devices: bits and times.

    .venv/bin/python -m benchmarks.layouts equal [--psiformer]
    .venv/bin/python -m benchmarks.layouts scaling

`equal` runs LiH at `small` through the command line, started by a real MPI launcher. `scaling`
gives each rank a core and its own walkers. It compares two ranks with two separate runs at the same
time, which are the bound of the machine.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import write_specs
from ferminet_core.storage import artefacts

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

SYSTEM = """
units: bohr
atoms: [Li 0 0 0, H 0 0 3.015]
preset: {preset}
variants:
  - {{name: period_1, overrides: {{optimise.inverse_period: 1}}}}
  - {{name: period_5, overrides: {{optimise.inverse_period: 5}}}}
overrides:
  pretrain.min_iterations: {updates}
  pretrain.max_iterations: {updates}
  optimise.iterations: {iterations}
  optimise.delay: 1000  # by default it follows the iterations, which grow here
  inference.samples: {updates}
"""
# After the overrides.
PSIFORMER = """  network.kind: psiformer
  reference.basis: ccecp-cc-pvdz
pseudopotential: ccecp
"""
# Open MPI refuses to run as root, as in a container, unless two variables allow it.
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
LAUNCHER = f"{Path(sys.executable).with_name('mpiexec')} --oversubscribe"
Launcher = Annotated[str, typer.Option(help="Launcher of ranks; `-n` and a number are added.")]


class Layout(NamedTuple):
    """Processes, and devices of each."""

    ranks: int
    devices: int

    def __str__(self) -> str:
        return f"{self.ranks} x {self.devices}"


def start(layout: Layout, launcher: str, *arguments: str | Path) -> None:
    """Run a command of the package on a layout; its output is shown if it fails."""
    words = [sys.executable, "-m", "ferminet_core", *map(str, arguments)]
    words += ["--ranks", str(layout.ranks), "--devices", str(layout.devices)]
    if layout.ranks > 1:
        words = [*shlex.split(launcher), "-n", str(layout.ranks), *words]
    # Without a number of devices from outside, such as that of pytest's set-up here.
    environment = {**os.environ, **AS_ROOT, "XLA_FLAGS": ""}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{shlex.join(words)}\n{done.stdout}{done.stderr}")


class Chain:
    """The stages of one spec in a folder, each on a layout of its own."""

    def __init__(self, spec: Path, folder: Path, launcher: str) -> None:
        self.spec, self.folder, self.launcher = spec, folder, launcher
        folder.mkdir(parents=True, exist_ok=True)

    def artefact(self, stage: str) -> Path:
        """The file of a finished stage."""
        return self.folder / f"{stage}.zarr.zip"

    def run(
        self, stage: str, layout: Layout, parents: dict[str, Path], spec: Path | None = None
    ) -> str:
        """Run a stage; returns the digest of its artefact."""
        options = [str(w) for name, path in parents.items() for w in (f"--{name}", path)]
        files: list[str | Path] = [
            "--out",
            self.artefact(stage),
            "--work",
            self.folder / f"{stage}.work",
        ]
        start(layout, self.launcher, stage, spec or self.spec, *options, *files)
        return artefacts.digest(self.artefact(stage))


def differences(one: Path, two: Path, name: str) -> np.ndarray:
    """Of a series of two artefacts, relative to its largest value."""
    a, b = (artefacts.load(path)[name].to_numpy().astype(float) for path in (one, two))
    return np.abs(a - b) / np.abs(a).max()


def _compare(specs: list[Path], parents: dict[str, Path], folder: Path, launcher: str) -> bool:
    """Optimise and measure one spec on three layouts, and once changing between them.

    Args:
        specs: The same run with growing numbers of iterations; the last is the whole one.
        parents: The artefacts that the stages start from, by stage.
        folder: Folder of all runs.
        launcher: Command that starts ranks.
    """
    one, two, single = Layout(1, 2), Layout(2, 1), Layout(1, 1)
    found: dict[str, list[str]] = {}
    for layout in (one, two, single):
        chain = Chain(specs[-1], folder / str(layout).replace(" ", ""), launcher)
        digests = [chain.run("optimise", layout, {"pretrain": parents["pretrain"]})]
        needed = {"optimise": chain.artefact("optimise"), "reference": parents["reference"]}
        digests.append(chain.run("inference", layout, needed))
        found[str(layout)] = digests
    changing = Chain(specs[-1], folder / "changing", launcher)
    for spec, layout in zip(specs, (one, two, one), strict=True):
        resumed = changing.run("optimise", layout, {"pretrain": parents["pretrain"]}, spec)
    same = found[str(one)] == found[str(two)]
    resumes = resumed == found[str(one)][0]
    artefacts = [folder / x / "optimise.zarr.zip" for x in ("1x2", "1x1")]
    rounding = differences(artefacts[0], artefacts[1], "energy_Eh")
    print(f"{specs[-1].stem}: {one} and {two} the same bits in optimisation and inference: {same}")
    print(
        f"{specs[-1].stem}: continued on {one}, {two}, {one} ranks x devices, the same: {resumes}"
    )
    # Sums in another order differ in their last bits; accepted and rejected moves amplify this.
    print(
        f"{specs[-1].stem}: energies of {single} differ by up to {rounding[:5].max():.1e} of their "
        f"size in the first 5 steps, {rounding.max():.1e} in all"
    )
    return same and resumes


@app.command()
def equal(
    preset: str = "small",
    iterations: Annotated[int, typer.Option(help="Iterations of KFAC.")] = 50,
    updates: Annotated[int, typer.Option(help="Iterations of the pretraining, and records.")] = 100,
    launcher: Launcher = LAUNCHER,
    psiformer: Annotated[
        bool, typer.Option("--psiformer", help="Psiformer with pseudopotentials.")
    ] = False,
) -> None:
    """Compare 1 process x 2 devices, 2 processes x 1 device, 1 device, and changes between them."""
    held = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        growing = []
        for part in (iterations // 3, 2 * iterations // 3, iterations):
            path = folder / f"lih_{part}.yaml"
            # One name for all lengths: one run that continues.
            text = SYSTEM.format(preset=preset, updates=updates, iterations=part)
            path.write_text(f"name: lih\n{text}{PSIFORMER if psiformer else ''}")
            growing.append(write_specs(load_scan(path), folder / str(part)))
        first = Chain(growing[-1][0], folder / "parents", launcher)
        parents = {}
        parents["reference"] = first.artefact("reference")
        words = [sys.executable, "-m", "ferminet_core", "reference", str(first.spec)]
        words += ["--out", str(parents["reference"]), "--work", str(folder / "reference.work")]
        subprocess.run(words, check=True, capture_output=True)
        digests = []
        for layout in (Layout(2, 1), Layout(1, 2)):
            chain = Chain(first.spec, folder / f"pretrain{layout.ranks}", launcher)
            digests.append(chain.run("pretrain", layout, {"reference": parents["reference"]}))
            parents["pretrain"] = chain.artefact("pretrain")
        print(f"pretraining: 1 x 2 and 2 x 1 the same bits: {digests[0] == digests[1]}")
        held &= digests[0] == digests[1]
        for specs in zip(*growing, strict=True):
            held &= _compare(list(specs), parents, folder / specs[-1].stem, launcher)
    print("holds" if held else "does not hold")
    raise typer.Exit(0 if held else 1)


class Load(NamedTuple):
    """A case of `benchmarks.cases` for `scaling`, with so many walkers on each rank."""

    case: str
    walkers: int
    iterations: int


LOADS = (Load("LiH", 256, 150), Load("N2", 16, 12))


def _side_by_side(load: Load, count: int, ranks: int, launcher: str) -> list[dict[str, Any]]:
    """`count` separate calculations at a time, each of `ranks` ranks; every process on a core."""
    words = [sys.executable, "-m", "benchmarks.rate", json.dumps(load._asdict()), str(ranks)]
    if ranks > 1:
        words = [*shlex.split(launcher), "--bind-to", "core", "-n", str(ranks), *words]
    processes = []
    for number in range(count):
        pinned = words if ranks > 1 else ["taskset", "--cpu-list", str(number), *words]
        environment = {**os.environ, **AS_ROOT, "XLA_FLAGS": ""}
        processes.append(
            subprocess.Popen(pinned, stdout=subprocess.PIPE, text=True, env=environment)
        )
    found = []
    for process in processes:
        text, _ = process.communicate()
        if process.returncode:
            sys.exit(f"{shlex.join(words)} ended with {process.returncode}")
        found.append(json.loads(text.splitlines()[-1]))
    return found


@app.command()
def scaling(
    repeats: Annotated[int, typer.Option(help="Pairs of measurements.")] = 3,
    launcher: Launcher = LAUNCHER,
) -> None:
    """Weak scaling: two ranks with twice the walkers, and two separate runs at the same time."""
    held = True
    for load in LOADS:
        ratios, ceilings, last = [], [], {}
        for _ in range(repeats):
            apart = [run["iterations_s"] for run in _side_by_side(load, 2, 1, launcher)]
            (last,) = _side_by_side(load, 1, 2, launcher)
            together, separate = float(np.mean(last["iterations_s"])), float(np.mean(apart))
            ratios.append(separate / together)
            # Two ranks wait for the slower one in each iteration, whatever slowed it.
            ceilings.append(separate / float(np.mean(np.max(apart, axis=0))))
        efficiency = float(np.median(ratios))
        held &= efficiency >= 0.9
        share = 100 * last["collective_s"] / together
        print(
            f"{load.case}, {load.walkers} walkers a rank: {together:.3f} s an iteration; "
            f"efficiency {efficiency:.2f} of two separate runs ({min(ratios):.2f} to "
            f"{max(ratios):.2f}), of at most {np.median(ceilings):.2f} by how much single "
            f"iterations vary here\n  averages of {last['collective_bytes'] / 2**20:.2f} MiB alone "
            f"take {share:.1f} % of an iteration, agreeing on stops {1e3 * last['agree_s']:.1f} ms "
            f"a block, gathering the state {1e3 * last['gather_s']:.1f} ms a "
            "checkpoint"
        )
    print("holds" if held else "does not hold")
    raise typer.Exit(0 if held else 1)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.layouts")

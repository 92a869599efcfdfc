"""A scan by one wavefunction, side by side with the same scan by others: errors and seconds.

    .venv/bin/python -m benchmarks.sharing systems/h2.yaml --seeds 3

The scan is that of the system file, with every variant that it has. Each run is made in this
process, on one core, with the stages and settings of the workflow. A row has the energies above the
reference's (mEh), the processor seconds of each part without compiling, and the walkers times
updates.
"""

import csv
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr

from ferminet_core.inputs.run_spec import GroupSpec, RunSpec
from ferminet_core.inputs.scan import Scan, load_scan
from ferminet_core.inputs.warm_starts import generations
from ferminet_core.parallel import jax_setup

app = typer.Typer(add_completion=False, help=__doc__)


class Clock:
    """Processor seconds of the steps of stages, by part; compilation and the first step apart."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, part: str, stage: Any) -> xr.Dataset:
        """The result of a stage, whose steps count for this part."""
        from ferminet_core.stages.base import Recorder

        state, recorder, spent, done = stage.initial(), Recorder(), 0.0, 0
        began: float | None = None
        first = 0
        for step in stage.steps(state):
            if began is None:
                first = step.step
            else:
                spent += time.process_time() - began
                done = step.step - first
            state = step.state
            recorder.add(step.stats)
            began = time.process_time()
        # The first block compiles: it counts as much as its share of the others.
        scale = (done + first) / done if done else 1.0
        self.seconds[part] = self.seconds.get(part, 0.0) + spent * scale
        found: xr.Dataset = stage.result(state, recorder.series())
        return found


def labelled(found: xr.Dataset, spec: RunSpec, stage: str) -> xr.Dataset:
    """A stage's result with the attributes that the runner adds and other stages read."""
    return found.assign_attrs(stage=stage, run_id=spec.run_id, spec=spec.model_dump_json())


def optimised(
    scan: Scan, runs: Mapping[str, RunSpec], references: Callable[[RunSpec], xr.Dataset], c: Clock
) -> Iterator[tuple[RunSpec, xr.Dataset]]:
    """Every run of one variant with the artefact of its optimisation, neighbours first."""
    from ferminet_core.stages.joint_optimise import JointOptimise
    from ferminet_core.stages.joint_pretrain import JointPretrain
    from ferminet_core.stages.optimise import Optimise
    from ferminet_core.stages.pretrain import Pretrain
    from ferminet_core.stages.shared_start import SharedStart
    from ferminet_core.stages.warm_start import WarmStart

    def joint(spec: GroupSpec) -> xr.Dataset:
        found = [references(run) for run in spec.runs()]
        pretrained = c.run("pretrain", JointPretrain(spec, *found))
        done = c.run("optimise", JointOptimise(spec, pretrained))
        return labelled(done, spec, "joint_optimise")

    groups = {
        g.run_id: joint(g) for g in scan.groups if g.run_id in {r.group for r in runs.values()}
    }
    done: dict[str, xr.Dataset] = {}
    order = generations({name: run.neighbour for name, run in runs.items()}) or {}
    for name in sorted(runs, key=lambda name: order.get(name, 0)):
        run, reference = runs[name], references(runs[name])
        stage: Any = Pretrain(run, reference) if not (run.group or run.neighbour) else None
        if run.group:
            stage = SharedStart(run, reference, groups[run.group])
        elif run.neighbour:
            stage = WarmStart(run, reference, done[run.neighbour])
        start = labelled(c.run("pretrain", stage), run, "pretrain")
        done[name] = labelled(c.run("optimise", Optimise(run, start)), run, "optimise")
        yield run, done[name]


def literature(scan: Scan) -> list[dict[str, str]]:
    """The rows of the first published energies of the scan that claim to be exact, or the first."""
    kinds = sorted(scan.literature, key=lambda entry: entry.kind != "exact")
    if not kinds:
        return []
    entry = kinds[0]
    with open(entry.file, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if _matches(row, entry.where)]
    (column, parameter), *_ = entry.match.items()
    return [{"parameter": parameter, "at": row[column], "value": row[entry.value]} for row in rows]


def _matches(row: Mapping[str, str], where: Mapping[str, Any]) -> bool:
    return all(row.get(key) == str(value) for key, value in where.items())


def exact(rows: list[dict[str, str]], run: RunSpec) -> float:
    """The published energy of a run's geometry, hartree; NaN without one."""
    for row in rows:
        if np.isclose(float(row["at"]), run.parameters.get(row["parameter"], np.nan), atol=1e-9):
            return float(row["value"])
    return float("nan")


def table(scan: Scan, variant: str, solved: dict[str, xr.Dataset]) -> Iterator[str]:
    """The lines of one variant."""
    from ferminet_core.chemistry import hartree_fock
    from ferminet_core.stages.inference import Inference

    def reference(run: RunSpec) -> xr.Dataset:
        key = run.molecule.fingerprint
        if key not in solved:
            solved[key] = hartree_fock.solve(run.molecule, run.config.reference)
        return solved[key]

    runs = {run.run_id: run for run in scan.runs if run.variant == variant}
    rows, clock, errors, walker_updates = literature(scan), Clock(), [], 0
    for run, found in optimised(scan, runs, reference, clock):
        own = int(found.attrs["n_iterations"]) - int(found.attrs.get("n_joint_iterations", 0))
        walker_updates += own * run.config.mcmc.walkers
        result = clock.run("inference", Inference(run, found, reference(run))).attrs
        excess = 1e3 * (result["energy_Eh"] - exact(rows, run))
        errors.append(excess)
        numbers = f"{excess:.2f}({1e3 * result['error_Eh']:.2f})"
        yield f"| {variant or 'base'} | {run.run_id} | {result['energy_Eh']:.6f} | {numbers} |"
    for group in scan.groups:
        if group.run_id in {run.group for run in runs.values()}:
            sharing, updates = group.config.sharing, group.config.optimise.iterations
            walker_updates += len(group.members) * sharing.walkers * updates
    spent = ", ".join(f"{part} {seconds:.0f}" for part, seconds in clock.seconds.items())
    worst, mean = np.nanmax(np.abs(errors)), np.nanmean(np.abs(errors))
    yield (
        f"| {variant or 'base'} | mean {mean:.2f}, worst {worst:.2f} mEh | {spent} s | "
        f"{walker_updates / 1e3:.0f}k walker-updates |"
    )


@app.command()
def main(
    system: Annotated[Path, typer.Argument(help="System file.")],
    seeds: Annotated[int, typer.Option(help="Repetitions with seeds 0, 1, ...")] = 1,
    variant: Annotated[list[str] | None, typer.Option(help="Of the file; default: all.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE")] = None,
) -> None:
    """Print the table of a scan."""
    jax_setup.prepare_process(1)
    jax_setup.configure_jax("float32")
    solved: dict[str, xr.Dataset] = {}
    print("| variant | run | energy (Eh) | above the reference (mEh) |\n|---|---|---|---|")
    for seed in range(seeds):
        scan = load_scan(system, overrides=[*(overrides or ()), f"seed={seed}"])
        names = dict.fromkeys(run.variant for run in scan.runs)
        for name in variant or names:
            for line in table(scan, "" if name == "base" else name, solved):
                print(line, flush=True)


if __name__ == "__main__":
    app()

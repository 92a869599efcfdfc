r"""Variants of the optimisation side by side: the energy left after equal updates and seconds.

    .venv/bin/python -m benchmarks.ablation N2 --updates 800 \
        --variant "optimise.norm_constraint=1e-3" \
        --variant "optimise.norm_constraint=1e-2 optimise.momentum=0.95"

A case is pretrained once, and every variant starts from the same wavefunction, with the settings of
`small`, SPRING and one core. `--set` is for settings of all variants, as mcmc.walkers. Variants
take turns, so that a machine that slows down slows all of them. A row gives means over a stretch of
updates: the energy above the reference's, with the error over walkers, the median of the variance,
the median length of the updates, and the processor seconds so far, without compiling. Energies are
those of the series, of walkers that follow a moving wavefunction.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr

from benchmarks.cases import CASES, Case
from ferminet_core.inputs.overrides import command_line, resolve
from ferminet_core.parallel import jax_setup

# Lowest published energies of the cases, hartree; sources are in systems/literature.
LOWEST = {"LiH": -8.070548, "H10": -5.6655, "N2": -109.5424}
STRETCHES = 8  # rows of a variant

app = typer.Typer(add_completion=False, help=__doc__)


def settings(text: str) -> dict[str, Any]:
    """The overrides of a variant, from `KEY=VALUE KEY=VALUE ...`."""
    return command_line(text.split())


def start(case: Case, fixed: dict[str, Any]) -> tuple[Any, xr.Dataset]:
    """The spec and the pretraining's artefact that all variants start from."""
    from ferminet_core.chemistry import hartree_fock
    from ferminet_core.stages.base import run
    from ferminet_core.stages.pretrain import Pretrain

    spec = case.spec(**fixed)
    config = resolve("small", {"optimise.optimiser": "spring", **fixed}, str)
    spec = spec.model_copy(update={"config": config})
    stage = Pretrain(spec, hartree_fock.solve(spec.molecule, spec.config.reference))
    return spec, stage.result(*run(stage))


def rows(
    name: str, spec: Any, pretrained: xr.Dataset, own: dict[str, Any], updates: int
) -> Iterator[str]:
    """The table's rows of a variant; each is computed when it is asked for."""
    from ferminet_core.stages.base import Recorder
    from ferminet_core.stages.optimise import Optimise

    chosen = {**own, "optimise.iterations": updates, "runtime.block": max(1, updates // 100)}
    config = resolve("small", {"optimise.optimiser": "spring", **chosen}, str)
    stage = Optimise(spec.model_copy(update={"config": config}), pretrained)
    length, seen, seconds, recorder = updates // STRETCHES, 0, 0.0, Recorder()
    steps = stage.steps(stage.initial())
    next(steps)  # compiles; its one update counts for nothing
    began = time.process_time()
    for step in steps:
        recorder.add(step.stats)
        if step.step // length == seen and step.step < updates:
            continue
        seconds += time.process_time() - began
        seen = step.step // length
        series = {key: values[-length:] for key, values in recorder.series().items()}
        excess = series["energy_Eh"].mean() - LOWEST[name]
        error = np.sqrt(np.sum(series["error_Eh"] ** 2)) / series["error_Eh"].size
        variance, norm = (np.median(series[key]) for key in ("variance_Eh2", "update_norm"))
        cells = f"{1e3 * excess:.1f}({1e3 * error:.1f}) | {variance:.3f} | {norm:.3f}"
        yield f"{step.step} | {cells} | {seconds:.0f} |"
        began = time.process_time()


@app.command()
def main(
    case: Annotated[str, typer.Argument(help="LiH, H10 or N2.")],
    variant: Annotated[list[str], typer.Option(help='Settings, as "KEY=VALUE KEY=VALUE".')],
    updates: Annotated[int, typer.Option(help="Of each variant.")] = 800,
    fixed: Annotated[str, typer.Option("--set", help="Settings of all variants.")] = "",
) -> None:
    """Print the table of a case."""
    jax_setup.prepare_process(1)
    jax_setup.configure_jax("float32")
    shared = settings(fixed)
    own = {text: {**shared, **settings(text)} for text in variant}
    spec, pretrained = start(CASES[case], shared)
    print("| variant | updates | energy left (mEh) | variance (hartree^2) | step | seconds |")
    print("|---|---|---|---|---|---|", flush=True)
    running = {text: rows(case, spec, pretrained, chosen, updates) for text, chosen in own.items()}
    while running:
        for text, found in list(running.items()):
            with contextlib.suppress(StopIteration):
                print(f"| {text or 'as it is'} | {next(found)}", flush=True)
                continue
            del running[text]


if __name__ == "__main__":
    app()

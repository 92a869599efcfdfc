"""Coverage of the 95 % intervals of short inferences of H2.

    .venv/bin/python -m benchmarks.coverage

Optimises a small network once and measures its energy many times, each time with other random
numbers. The truth is the mean over all repeats, whose own error is a tenth of one repeat's.
"""

from typing import Annotated

import jax
import numpy as np
import typer
from scipy.stats import t as student

import ferminet_core
from ferminet_core.analysis.statistics import reblock
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.parallel import jax_setup
from ferminet_core.stages import base
from ferminet_core.stages.inference import Inference, State

LOWEST, HIGHEST = 0.90, 0.99

app = typer.Typer(add_completion=False, help=__doc__)


class Repeated(Inference):
    """An inference whose compiled call serves all seeds: they enter as an argument."""

    _executable = None

    def _compile(self, state: State) -> object:
        self._executable = self._executable or super()._compile(state)
        return self._executable

    def energies(self, spec: RunSpec, seed: int) -> np.ndarray:
        """The means over walkers of one repeat (record,), hartree."""
        config = spec.config.model_copy(update={"seed": seed})
        other = spec.model_copy(update={"config": config})
        self.key = jax.random.key(other.stage_seed(self.name))
        _, series = base.run(self)
        return np.asarray(series["energy_Eh"])


def covered(means: np.ndarray, errors: np.ndarray, factors: np.ndarray | float) -> float:
    """The share of intervals mean +- factor * error that hold the mean of all."""
    return float(np.mean(np.abs(means - means.mean()) <= factors * errors))


@app.command()
def main(
    repeats: Annotated[int, typer.Option(help="Inferences.")] = 100,
    samples: Annotated[int, typer.Option(help="Records of each.")] = 200,
    thin: Annotated[int, typer.Option(help="Moves between two records.")] = 3,
) -> None:
    """Print the coverage of E +- 2 errors and of the interval of Student's t."""
    jax_setup.prepare_process(1)
    jax_setup.configure_jax("float32")
    config = ferminet_core.configuration(
        "smoke",
        optimise={"iterations": 300},
        inference={"samples": samples, "thin": thin},
    )
    molecule = ferminet_core.molecule(["H 0 0 -0.7", "H 0 0 0.7"], units="bohr")
    run = ferminet_core.run(molecule, config, until="optimise")
    stage = Repeated(run.spec, run.dataset("optimise"), run.dataset("reference"))
    blocked = [reblock(stage.energies(run.spec, 1000 + seed)) for seed in range(repeats)]
    means = np.array([found.mean for found in blocked])
    errors = np.array([found.error for found in blocked])
    quantiles = np.array([student.ppf(0.975, found.n_blocks - 1) for found in blocked])
    pulls = (means - means.mean()) / errors
    by_student = covered(means, errors, quantiles)
    print(f"{repeats} inferences of {samples} records, {thin} moves apart")
    print(f"E = {means.mean():.6f} hartree, errors of {1e3 * errors.mean():.3f} mEh")
    print(f"standard deviation of (E - mean) / error: {pulls.std(ddof=1):.2f}")
    print(f"within 2 errors: {100 * covered(means, errors, 2.0):.0f} %")
    print(f"within the 95 % interval of Student's t: {100 * by_student:.0f} %")
    held = LOWEST <= by_student <= HIGHEST
    print("holds" if held else "does not hold")
    raise typer.Exit(0 if held else 1)


if __name__ == "__main__":
    app()

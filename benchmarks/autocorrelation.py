"""Autocorrelation times with moves scaled by `mcmc.length` and with moves of one length.

    .venv/bin/python -m benchmarks.autocorrelation results/lih/runs/r_3.015 ...

Samples |psi|^2 of finished optimisations. tau is the variance of a walker's mean, times the number
of records, over the variance of one record. It is printed for the squared distances of the
electrons from the origin, for the number of electrons within 1/Z of a nucleus, and for log|psi|^2.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ferminet_core.parallel import jax_setup
from ferminet_core.storage import artefacts

WALKERS, RECORDS, MOVES, TUNING = 128, 1000, 10, 60
# With nuclei of such a small charge the length is that of their 1s shell everywhere: a constant.
TINY = 1e-6

app = typer.Typer(add_completion=False, help=__doc__)


def records(run: Path) -> Callable[[bool], tuple[np.ndarray, float]]:
    """A function that measures (record, quantity, walker) and the acceptance of a kind of moves."""
    import jax
    import jax.numpy as jnp

    from ferminet_core.inputs.run_spec import RunSpec
    from ferminet_core.stages import datasets
    from ferminet_core.vmc import mcmc
    from ferminet_core.wavefunction import networks

    optimised = artefacts.load(run / "optimise.zarr.zip")
    spec = RunSpec.model_validate_json(str(optimised.attrs["spec"]))
    params = datasets.params(optimised, spec, jnp.float32)
    nuclei = datasets.nuclei(spec.molecule, spec.config, jnp.float32)
    start = mcmc.walkers(jnp.asarray(optimised["walkers"].values[:WALKERS]))

    spins = spec.molecule.electrons
    log_psi = networks.log_psi(params, nuclei.positions, spins)

    @jax.jit
    def quantities(x: jax.Array) -> jax.Array:
        r_ae = jnp.linalg.norm(x[:, :, None] - nuclei.positions, axis=-1)
        in_cores = jnp.sum(r_ae < 1.0 / nuclei.charges, (1, 2))
        return jnp.stack([jnp.sum(x**2, (1, 2)), in_cores, 2.0 * log_psi(x)])

    def measure(scaled: bool) -> tuple[np.ndarray, float]:
        lengths = nuclei if scaled else nuclei._replace(charges=TINY * nuclei.charges)
        kernel: Any = jax.jit(mcmc.make_kernel(log_psi, lengths, spins, MOVES))
        state, width, pmoves, found = start, jnp.asarray(0.1 if scaled else 0.1 * TINY), [], []
        for i in range(TUNING + RECORDS):
            state, info = kernel(jax.random.key(i), state, width)
            if i < TUNING:
                width = mcmc.adapt_width(width, jnp.mean(info.accepted), 0.525)
            else:
                pmoves.append(float(jnp.mean(info.accepted)))
                found.append(np.asarray(quantities(state.electrons)))
        return np.stack(found), float(np.mean(pmoves))

    return measure


def tau(series: np.ndarray) -> np.ndarray:
    """Autocorrelation time of each quantity of (record, quantity, walker)."""
    means = series.mean(axis=0)
    return np.asarray(len(series) * means.var(axis=-1, ddof=1) / series.var(axis=(0, 2)))


@app.command()
def main(runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")]) -> None:
    """Print a table of runs and of the two kinds of moves."""
    jax_setup.prepare_process(1)
    jax_setup.configure_jax("float32")
    print("| run | moves | accepted | tau of r^2 | of the cores | of log psi^2 |")
    print("|---|---|---|---|---|---|")
    for run in runs:
        measure = records(run)
        for name, scaled in (("even", False), ("scaled", True)):
            series, accepted = measure(scaled)
            taus = " | ".join(f"{value:.1f}" for value in tau(series))
            print(f"| {run.parent.parent.name} {run.name} | {name} | {accepted:.2f} | {taus} |")


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.autocorrelation")

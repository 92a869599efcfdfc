"""Accuracy of single precision, and memory of many walkers.

    .venv/bin/python -m benchmarks.accuracy precision [--case LiH]
    .venv/bin/python -m benchmarks.accuracy memory [--case N2] [--walkers 4096]

The network is pretrained for a while: a random network has local energies that never occur in a
calculation.
"""

import resource
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.cases import CASES, Case
from ferminet_core.parallel import jax_setup

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

PRETRAINING = 300  # iterations
MIB = 1024.0  # kilobytes of ru_maxrss


def pretraining(case: Case, precision: str) -> Any:
    """The pretraining stage of a case."""
    from ferminet_core.chemistry import hartree_fock
    from ferminet_core.stages.pretrain import Pretrain

    settings = {
        "runtime.precision": precision,
        "pretrain.min_iterations": PRETRAINING,
        "pretrain.max_iterations": PRETRAINING,
        "pretrain.check_every": PRETRAINING,
    }
    spec = case.spec(**settings)
    return Pretrain(spec, hartree_fock.solve(spec.molecule, spec.config.reference))


def deviations(case: Case) -> np.ndarray:
    """E_L of each walker in float32 minus E_L in float64, hartree."""
    import jax
    import jax.numpy as jnp

    from ferminet_core.stages.base import run
    from ferminet_core.vmc.hamiltonian import local_energy

    stage = pretraining(case, "float64")
    state, _ = run(stage)
    electrons = jnp.concatenate([state.reference.electrons, state.network.electrons])

    def energies(dtype: Any) -> np.ndarray:
        params, walkers, nuclei = jax.tree.map(
            lambda x: x.astype(dtype), (state.params, electrons, stage.nuclei)
        )
        found = local_energy(params, walkers, nuclei, stage.spins, stage.chunk)
        assert found.dtype == dtype
        return np.asarray(found, float)

    return energies(jnp.float32) - energies(jnp.float64)


@app.command()
def precision(
    case: Annotated[list[str] | None, typer.Option(help="LiH, H10 or N2; default: all.")] = None,
) -> None:
    """Print errors of local energies in float32, mEh: of their mean, and of single walkers."""
    jax_setup.prepare_process(1)
    jax_setup.configure_jax("float64")
    print("| case | walkers | mean | rms | 99 of 100 below | largest |\n|---|---|---|---|---|---|")
    for name in case or list(CASES):
        found = 1e3 * deviations(CASES[name])
        numbers = (
            found.mean(),
            np.sqrt(np.mean(found**2)),
            np.quantile(np.abs(found), 0.99),
            np.abs(found).max(),
        )
        cells = " | ".join(f"{x:.4f}" for x in numbers)
        print(f"| {name} | {len(found)} | {cells} |", flush=True)


@app.command()
def memory(
    case: Annotated[str, typer.Option(help="LiH, H10 or N2.")] = "N2",
    walkers: Annotated[int, typer.Option(help="Walkers in one call.")] = 4096,
) -> None:
    """Print the largest memory of this process during the local energies of many walkers."""
    jax_setup.prepare_process(2)
    jax_setup.configure_jax("float32")
    import jax

    from ferminet_core.parallel import mesh
    from ferminet_core.vmc.hamiltonian import local_energy

    stage = pretraining(CASES[case]._replace(walkers=walkers), "float32")
    state = stage.initial()
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
    split: Any = mesh.SPLIT
    energies = mesh.per_device(
        lambda params, electrons: local_energy(
            params, electrons, stage.nuclei, stage.spins, stage.chunk
        ),
        stage.mesh,
        (mesh.REPLICATED, split),
        split,
    )
    electrons = np.concatenate([state.reference.electrons, state.network.electrons])
    electrons = mesh.place(stage.mesh, electrons, split)
    found = jax.block_until_ready(energies(state.params, electrons))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
    print(
        f"{case}, {found.size} walkers in pieces of {stage.chunk}: largest memory {peak:.0f} MiB, "
        f"{peak_before:.0f} MiB before"
    )


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.accuracy")

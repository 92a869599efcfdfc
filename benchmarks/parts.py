"""Times of an iteration and of its parts, in seconds; a worker of `benchmarks.speed`.

One JSON object describes the case:

    .venv/bin/python -m benchmarks.parts '{"case": "LiH", "devices": 2, "iterations": 200}'
    ... '{"case": "N2", "devices": 1, "iterations": 50, "settings": {"mcmc.walkers": 4096}}'
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from ferminet_core.parallel import jax_setup

MIN_SECONDS = 3.0  # of repetitions of each part
MIN_REPEATS = 5


Clock = Callable[[], float]


def repeated(
    call: Callable[[], Any], count: int | None = None, clock: Clock = time.perf_counter
) -> list[float]:
    """Seconds of single calls after one that compiles: `count`, or for some seconds if None."""
    import jax

    jax.block_until_ready(call())
    times: list[float] = []
    while len(times) < (count or MIN_REPEATS) or (count is None and sum(times) < MIN_SECONDS):
        began = clock()
        jax.block_until_ready(call())
        times.append(clock() - began)
    return times


def iteration_seconds(stage: Any, state: Any, clock: Clock = time.perf_counter) -> list[float]:
    """Seconds per iteration in blocks of the stage's own loop, without the block that compiles."""
    times, step = [], int(state.step)
    began = clock()
    for done in stage.steps(state):
        now = clock()
        times.append((now - began) / (done.step - step))
        step, began = done.step, now
    return times[1:]


def part_calls(stage: Any, state: Any) -> dict[str, Callable[[], Any]]:
    """The parts of an iteration, each a compiled call on all devices."""
    import jax
    import jax.numpy as jnp

    from ferminet_core.parallel import mesh
    from ferminet_core.vmc import mcmc
    from ferminet_core.vmc.energy import energy_gradient
    from ferminet_core.vmc.hamiltonian import local_energy
    from ferminet_core.vmc.optimisers import kfac
    from ferminet_core.wavefunction import networks

    nuclei, spins = stage.nuclei, stage.spins
    preconditioner = stage.optimiser.preconditioner
    replicated: Any = mesh.REPLICATED
    split: Any = mesh.SPLIT

    def sampling(params: Any, walkers: Any, width: Any) -> Any:
        log_psi = networks.log_psi(params, nuclei.positions, spins)
        kernel = mcmc.make_kernel(log_psi, nuclei, spins, stage.config.mcmc.steps)
        return kernel(jax.random.key(0), walkers, width)

    def energies(params: Any, electrons: Any) -> Any:
        return local_energy(params, electrons, nuclei, spins, stage.chunk)

    def gradient(params: Any, electrons: Any) -> Any:
        deviation = jnp.linspace(-1.0, 1.0, electrons.shape[0], dtype=electrons.dtype)
        return energy_gradient(params, electrons, nuclei, spins, deviation)

    def curvature(params: Any, electrons: Any, optimiser: Any) -> Any:
        batch = (nuclei.positions, electrons)
        return kfac.update_curvature(preconditioner, optimiser, params, batch)

    def inverse(optimiser: Any) -> Any:
        return preconditioner.maybe_update_inverse_cache(optimiser)

    def update(params: Any, optimiser: Any) -> Any:
        return preconditioner.apply(jax.tree.map(jnp.ones_like, params), optimiser)

    def compiled(function: Any, in_specs: Any, out_specs: Any) -> Any:
        return mesh.per_device(function, stage.mesh, in_specs, out_specs)

    params, electrons, optimiser = state.params, state.walkers.electrons, state.optimiser
    walkers_specs = mcmc.Walkers(split, split)
    run_sampling = compiled(
        sampling, (replicated, walkers_specs, replicated), (walkers_specs, mcmc.Info(split))
    )
    run_energies = compiled(energies, (replicated, split), split)
    run_gradient = compiled(gradient, (replicated, split), replicated)
    run_curvature = compiled(curvature, (replicated, split, replicated), replicated)
    run_inverse = compiled(inverse, (replicated,), replicated)
    run_update = compiled(update, (replicated, replicated), replicated)
    return {
        "sampling": lambda: run_sampling(params, state.walkers, state.width),
        "local energy": lambda: run_energies(params, electrons),
        "gradient": lambda: run_gradient(params, electrons),
        "curvature": lambda: run_curvature(params, electrons, optimiser),
        "inverse": lambda: run_inverse(optimiser),
        "update": lambda: run_update(params, optimiser),
    }


def optimise_stage(spec: Any) -> Any:
    """The optimisation of a run, started from a network that was not pretrained."""
    from ferminet_core.chemistry import hartree_fock
    from ferminet_core.stages.optimise import Optimise
    from ferminet_core.stages.pretrain import Pretrain

    pretrain = Pretrain(spec, hartree_fock.solve(spec.molecule, spec.config.reference))
    return Optimise(spec, pretrain.result(pretrain.initial(), {}))


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Times of one case; `job`: case, iterations, parts (whether to time them), settings."""
    import jax

    from benchmarks.cases import CASES, CHAINS

    case = {**CASES, **CHAINS}[job["case"]]
    settings = {"optimise.iterations": job["iterations"], **job.get("settings", {})}
    stage = optimise_stage(case.spec(**settings))
    state = stage.initial()
    found = {"iteration": iteration_seconds(stage, state)}
    if job.get("parts"):
        found |= {name: repeated(call) for name, call in part_calls(stage, state).items()}
    return {
        "seconds": found,
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "chunk": stage.chunk,
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Time the case of the command line, and print JSON."""
    job = json.loads(sys.argv[1])
    jax_setup.prepare_process(job["devices"])
    log = jax_setup.configure_jax("float32")
    found = measure(job)
    print(json.dumps({**found, "jax": log.summary()}), flush=True)


if __name__ == "__main__":
    main()

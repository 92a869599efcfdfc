"""Times of an iteration and of its parts, in seconds; a worker of `benchmarks.speed`.

One JSON object describes the case:

    .venv/bin/python -m benchmarks.parts '{"case": "LiH", "devices": 2, "iterations": 200}'
    ... '{"case": "N2", "devices": 1, "iterations": 50, "settings": {"mcmc.walkers": 4096}}'

Another network, with the sizes of another preset than the case's:

    ... '{"case": "N2", "devices": 1, "iterations": 100, "preset": "small",
          "settings": {"network.kind": "psiformer"}}'
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

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


class Part(NamedTuple):
    """A part of an iteration: a function on each device, the layout of what it takes and gives."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    in_specs: Any
    out_specs: Any


def common_parts(stage: Any, state: Any) -> dict[str, Part]:
    """The parts of an iteration of a run that all optimisers have."""
    import jax

    from ferminet_core.parallel import mesh
    from ferminet_core.vmc import mcmc
    from ferminet_core.vmc.hamiltonian import local_energy
    from ferminet_core.wavefunction import networks

    nuclei, spins = stage.nuclei, stage.spins
    replicated: Any = mesh.REPLICATED
    split: Any = mesh.SPLIT

    def log_psi(params: Any, electrons: Any) -> Any:
        return networks.log_psi(params, nuclei.positions, spins)(electrons)

    def sampling(params: Any, walkers: Any, width: Any) -> Any:
        log_psi = networks.log_psi(params, nuclei.positions, spins)
        kernel = mcmc.make_kernel(log_psi, nuclei, spins, stage.config.mcmc.steps)
        return kernel(jax.random.key(0), walkers, width)

    def energies(params: Any, electrons: Any) -> Any:
        return local_energy(params, electrons, nuclei, spins, stage.chunk)

    at, own = (state.params, state.walkers.electrons), (replicated, split)
    walkers = mcmc.Walkers(split, split)
    moved = (walkers, mcmc.Info(split))
    move = (state.params, state.walkers, state.width)
    return {
        "log psi": Part(log_psi, at, own, split),
        "sampling": Part(sampling, move, (replicated, walkers, replicated), moved),
        "local energy": Part(energies, at, own, split),
    }


def parts(stage: Any, state: Any) -> dict[str, Part]:
    """The parts of an iteration of a run by KFAC."""
    import jax
    import jax.numpy as jnp

    from ferminet_core.parallel import mesh
    from ferminet_core.vmc.optimisers import kfac

    nuclei, preconditioner = stage.nuclei, stage.optimiser.preconditioner
    replicated: Any = mesh.REPLICATED
    split: Any = mesh.SPLIT

    def sweep(params: Any, electrons: Any, optimiser: Any) -> Any:
        deviation = jnp.linspace(-1.0, 1.0, electrons.shape[0], dtype=electrons.dtype)
        batch = (nuclei.positions, electrons)
        return kfac.sweep(preconditioner, optimiser, params, batch, deviation)

    def update(params: Any, optimiser: Any) -> Any:
        gradient, rate = jax.tree.map(jnp.ones_like, params), jnp.ones(())
        return kfac.natural_step(preconditioner, optimiser, gradient, rate, 1.0)

    params, electrons, optimiser = state.params, state.walkers.electrons, state.optimiser
    own = (replicated, split, replicated)
    return {
        **common_parts(stage, state),
        "curvature": Part(sweep, (params, electrons, optimiser), own, replicated),
        "update": Part(update, (params, optimiser), (replicated, replicated), replicated),
    }


def part_calls(stage: Any, state: Any) -> dict[str, Callable[[], Any]]:
    """The parts of an iteration, each a compiled call on all devices."""
    from ferminet_core.parallel import mesh

    def call(part: Part) -> Callable[[], Any]:
        compiled = mesh.per_device(part.function, stage.mesh, part.in_specs, part.out_specs)
        return lambda: compiled(*part.arguments)

    # Log psi alone is a tenth of the sampling.
    return {name: call(p) for name, p in parts(stage, state).items() if name != "log psi"}


def optimise_stage(spec: Any) -> Any:
    """The optimisation of a run, started from a network that was not pretrained."""
    from ferminet_core.chemistry import hartree_fock
    from ferminet_core.stages.optimise import Optimise
    from ferminet_core.stages.pretrain import Pretrain

    pretrain = Pretrain(spec, hartree_fock.solve(spec.molecule, spec.config.reference))
    return Optimise(spec, pretrain.result(pretrain.initial(), {}))


def iteration(stage: Any) -> Part:
    """A whole iteration of an optimisation, of a run or of a group."""
    from ferminet_core.parallel.mesh import REPLICATED

    layout = (stage.specs, REPLICATED)
    return Part(stage._iteration, (stage.initial(), stage.inputs), layout, layout)


def shared_groups(system: Path, settings: Iterable[str] = ()) -> list[Any]:
    """The groups of a shared scan."""
    from ferminet_core.inputs.scan import load_scan

    return list(load_scan(system, overrides=list(settings)).groups)


def shared_stage(system: Path, settings: Iterable[str] = (), pretrained: bool = False) -> Any:
    """The joint optimisation of a scan's group.

    Args:
        system: the system file
        settings: KEY=VALUE
        pretrained: whether its network is pretrained first, or random
    """
    from ferminet_core.chemistry import hartree_fock
    from ferminet_core.stages.joint_optimise import JointOptimise
    from ferminet_core.stages.joint_pretrain import JointPretrain

    (group,) = shared_groups(system, settings)
    references = [hartree_fock.solve(run.molecule, run.config.reference) for run in group.runs()]
    pretrain = JointPretrain(group, *references)
    state = pretrain.initial()
    for step in pretrain.steps(state) if pretrained else ():
        state = step.state
    return JointOptimise(group, pretrain.result(state, {}))


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Times of one case.

    `job`: case, iterations, parts (whether to time them), preset, settings
    """
    import jax

    from benchmarks.cases import ATOMS, CASES, CHAINS

    case = {**CASES, **CHAINS, **ATOMS}[job["case"]]
    case = case._replace(preset=job.get("preset", case.preset))
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

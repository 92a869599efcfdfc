"""Local energies and updates on one device and on all of a process; prints JSON.

For a process with many host devices: `python -m helpers.many_devices`, in the folder of the tests.
H2 with 32 walkers, a small network, double precision.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.programs import count
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.parallel.mesh import REPLICATED, SPLIT, fetch, per_device, place
from ferminet_core.planning import plan
from ferminet_core.planning.machines import GPUS, Layout
from ferminet_core.stages import datasets
from ferminet_core.vmc.energy import clip_energies
from ferminet_core.vmc.hamiltonian import local_energy, potential_energy
from ferminet_core.vmc.optimisers import spring
from ferminet_core.vmc.optimisers.choice import make_optimiser
from ferminet_core.vmc.optimisers.protocol import Sample
from ferminet_core.wavefunction import networks
from helpers import groups

WALKERS, SPINS, CHUNK = 32, (1, 1), 1000


def spec_of(optimiser: str, bond: float = 1.4) -> RunSpec:
    """A run of H2."""
    config = groups.settings(
        mcmc={"walkers": WALKERS, "burn_in": 0}, optimise={"optimiser": optimiser, "iterations": 1}
    )
    molecule = groups.hydrogen(bond)
    return RunSpec(scan="s", run_id="r", geometry="r", molecule=molecule, config=config)


def measured(electrons: jax.Array, nuclei: Any) -> Sample:
    """What an update takes; the potential energy stands for the local one and compiles at once."""
    deviation, _ = clip_energies(potential_energy(electrons, nuclei), 5.0, "mean")
    return Sample(electrons, nuclei, deviation)


def energies(mesh: Mesh) -> tuple[Any, Any]:
    """Local energies, and the messages."""
    spec = spec_of("spring")
    nuclei = datasets.nuclei(spec.molecule, spec.config, jnp.float64)
    params, electrons = start(spec, nuclei, 1)

    def energies(params: Any, electrons: jax.Array) -> jax.Array:
        return local_energy(params, electrons, nuclei, SPINS, CHUNK)

    return compiled(energies, mesh, (REPLICATED, SPLIT), SPLIT, (params, electrons[0]))


def of_run(optimiser: str, mesh: Mesh) -> tuple[Any, Any]:
    """The step of an optimiser, and the messages."""
    spec = spec_of(optimiser)
    nuclei = datasets.nuclei(spec.molecule, spec.config, jnp.float64)
    chosen = make_optimiser(spec.config.optimise, SPINS, CHUNK)
    params, electrons = start(spec, nuclei, 1)
    state = chosen.init(params, electrons[0][: WALKERS // mesh.size], nuclei)

    def update(params: Any, electrons: jax.Array, state: Any) -> Any:
        return chosen.update(state, params, measured(electrons, nuclei), jnp.asarray(0.05)).step

    specs = (REPLICATED, SPLIT, REPLICATED)
    return compiled(update, mesh, specs, REPLICATED, (params, electrons[0], state))


def of_group(mesh: Mesh) -> tuple[Any, Any]:
    """One step for two geometries, and the messages."""
    bonds = (1.4, 3.0)
    config = spec_of("spring").config.optimise
    runs = [spec_of("spring", bond) for bond in bonds]
    nuclei = [datasets.nuclei(s.molecule, s.config, jnp.float64) for s in runs]
    params, electrons = start(spec_of("spring"), nuclei[0], len(bonds))

    def update(params: Any, first: jax.Array, second: jax.Array, state: Any) -> Any:
        found = []
        for own, at in zip((first, second), nuclei, strict=True):

            def log_psi(theta: Any, walker: jax.Array, at: Any = at) -> jax.Array:
                return networks.apply(theta, walker, at.positions, SPINS)[1]

            rows = spring.log_derivatives(log_psi, params, own, CHUNK)
            found.append((rows, measured(own, at).deviation))
        rows, deviations = (jnp.stack(x) for x in zip(*found, strict=True))
        weights, rate = jnp.full(len(bonds), 1 / len(bonds)), jnp.asarray(0.05)
        return spring.natural_step(config, state, params, rows, deviations, weights, rate).step

    specs = (REPLICATED, SPLIT, SPLIT, REPLICATED)
    arguments = (params, electrons[0], electrons[1], spring.initial(params))
    return compiled(update, mesh, specs, REPLICATED, arguments)


def start(spec: RunSpec, nuclei: Any, many: int) -> tuple[Any, jax.Array]:
    """A random network, and walkers about the nuclei, (geometry, walker, electron, 3)."""
    key = jax.random.key(0)
    params = networks.init(key, spec.config.network, SPINS, len(nuclei.charges), jnp.float64)
    noise = np.random.default_rng(1).normal(size=(many, WALKERS, 2, 3))
    return params, jnp.asarray(noise + np.asarray(nuclei.positions))


def compiled(
    function: Any, mesh: Mesh, specs: Any, outputs: Any, arguments: Any
) -> tuple[list[float], dict[str, int]]:
    """The numbers that a function returns, and the bytes of its messages by kind."""
    placed = place(mesh, arguments, specs)
    executable = per_device(function, mesh, specs, outputs).lower(*placed).compile()
    leaves = jax.tree.leaves(fetch(executable(*placed)))
    found: dict[str, int] = {}
    for (kind, size), times in count(str(executable.as_text())).messages.items():
        found[kind] = found.get(kind, 0) + times * size
    return np.concatenate([np.ravel(x) for x in leaves]).tolist(), found


def planned(optimiser: str, devices: int) -> list[float]:
    """Bytes of each message of an iteration by `plan`."""
    layout = Layout(1, devices)
    return plan.messages(spec_of(optimiser), "optimise", GPUS["h100"], layout)


def main() -> None:
    """Both numbers of devices, all kinds of updates."""
    jax.config.update("jax_enable_x64", True)
    devices = jax.devices()
    functions: dict[str, Callable[[Mesh], tuple[Any, Any]]] = {
        "energies": energies,
        "kfac": functools.partial(of_run, "kfac"),
        "spring": functools.partial(of_run, "spring"),
        "joint": of_group,
    }
    report: dict[str, Any] = {"devices": len(devices)}
    for name, function in functions.items():
        one, _ = function(Mesh(devices[:1], (AXIS,)))
        many, messages = function(Mesh(devices, (AXIS,)))
        report[name] = {"one": one, "many": many, "messages": messages}
    for name in ("kfac", "spring"):
        report[name]["planned"] = planned(name, len(devices))
    print(json.dumps(report))


if __name__ == "__main__":
    main()

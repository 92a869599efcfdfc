"""Times of KFAC iterations of DeepQMC, in seconds; a worker of `benchmarks.speed`.

It runs in an environment of its own.

One JSON object describes the case (`Case`); the last line printed is one JSON object with the
times. Everything but the sizes is as in DeepQMC's own `task=train_ferminet ansatz=ferminet
hamil=qc_forward_laplacian`, except that its ten-move sampler for FermiNet replaces the thirty-move
one of Psiformer that the task names. Its Psiformer has one dense layer after each attention, as the
paper's equations have and this project; by itself it takes two.
"""

import importlib.metadata
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

PACKAGES = ("deepqmc", "jax", "folx", "kfac-jax", "dm-haiku")
WARM_UP = 3  # calls that compile, or meet arrays laid out otherwise than later ones


@dataclass(frozen=True)
class Case:
    """What is computed, and how.

    positions: bohr; multiplicity: 2S + 1; moves: of the walkers per iteration
    chunk: walkers per pass of the local energy, over all devices; all at once if None
    sparsity: folx's sparsity_threshold, 0 for dense Jacobians (DeepQMC's choice)
    devices: host devices, each with its share of the walkers
    network: ferminet or psiformer; attention_heads: of the latter
    repeats: calls that time the local energy and the sampling alone
    """

    symbols: list[str]
    positions: list[list[float]]
    multiplicity: int
    walkers: int
    layers: int
    one_electron_width: int
    two_electron_width: int
    determinants: int
    moves: int
    iterations: int
    repeats: int
    chunk: int | None = None
    sparsity: int = 0
    devices: int = 1
    network: str = "ferminet"
    attention_heads: int = 0

    def __post_init__(self) -> None:
        if self.walkers % (self.chunk or self.devices) or (self.chunk or 0) % self.devices:
            # DeepQMC would leave out the remaining walkers without a message.
            raise ValueError("devices must divide the chunk, and the chunk the walkers")


@dataclass(frozen=True)
class Parts:
    """DeepQMC's objects for a case, and their initial arrays."""

    hamiltonian: Any
    ansatz: Any
    molecules: Any
    sampler: Any
    optimiser: Callable[..., Any]
    loss: Callable[..., Any]
    parameters: Any
    walkers: Any


def overrides(case: Case) -> list[str]:
    """Of DeepQMC's configuration files."""
    from pyscf.data.elements import charge

    gnn = "ansatz.omni_factory.gnn_factory"
    sampler = "task.sampler_factory.elec_sampler"
    chunk = "null" if case.chunk is None else case.chunk
    layer = f"{gnn}.layer_factory.update_features.0"
    attention = [
        f"{layer}.num_heads={case.attention_heads}",
        f"{layer}.mlp_factory.hidden_layers=[log,1]",
    ]
    return [
        "task=train_ferminet",
        f"ansatz={case.network}",
        "hamil=qc_forward_laplacian",
        "task/sampler_factory/elec_sampler=decorr_metropolis_ferminet",
        f"hamil.mol.coords={case.positions}",
        f"hamil.mol.charges={[charge(symbol) for symbol in case.symbols]}",
        "hamil.mol.charge=0",
        f"hamil.mol.spin={case.multiplicity - 1}",
        "hamil.mol.unit=bohr",
        f"hamil.laplacian_factory.sparsity_threshold={case.sparsity}",
        f"ansatz.n_determinants={case.determinants}",
        f"ansatz.omni_factory.embedding_dim={case.one_electron_width}",
        f"{gnn}.n_interactions={case.layers}",
        f"{gnn}.two_particle_stream_dim={case.two_electron_width}",
        f"{sampler}.samplers.0.length={case.moves}",
        f"+task.loss_function_factory.local_energy_batch_size={chunk}",
        "task.workdir=unused",
        *(attention if case.network == "psiformer" else []),
    ]


def build(case: Case) -> Parts:
    """DeepQMC's own constructors, called as its `train` does."""
    import jax
    import jax.numpy as jnp
    from deepqmc.app import instantiate_ansatz
    from deepqmc.parallel import split_rng_key_to_devices
    from deepqmc.sampling import initialize_sampler_state
    from deepqmc.wf.base import init_wf_params
    from hydra import compose, initialize_config_module
    from hydra.utils import instantiate

    with initialize_config_module("deepqmc.conf", version_base=None):
        config = compose("config", overrides(case))
    hamiltonian = instantiate(config.hamil, _convert_="all")
    ansatz = instantiate_ansatz(hamiltonian, instantiate(config.ansatz, _convert_="all"))
    network_key, order_key, walker_key = jax.random.split(jax.random.PRNGKey(0), 3)
    factory = instantiate(config.task.sampler_factory, _convert_="all")
    molecules, sampler = factory(order_key, hamiltonian, ansatz, [hamiltonian.mol], 1, 1)
    parameters = init_wf_params(network_key, hamiltonian, ansatz)
    walkers = initialize_sampler_state(
        split_rng_key_to_devices(walker_key),
        sampler,
        parameters,
        case.walkers,
        jnp.stack([hamiltonian.mol.coords]),
    )
    return Parts(
        hamiltonian,
        ansatz,
        molecules,
        sampler,
        instantiate(config.task.opt, _convert_="all"),
        instantiate(config.task.loss_function_factory, _convert_="all"),
        parameters,
        walkers,
    )


def lap_times(steps: Iterator[Any]) -> Iterator[tuple[float, Any]]:
    """Seconds of each step of an iterator, and its results, once their arrays are computed."""
    import jax

    began = time.perf_counter()
    for found in steps:
        jax.block_until_ready(found)
        yield time.perf_counter() - began, found
        began = time.perf_counter()


def iterations(case: Case, parts: Parts) -> list[float]:
    """Seconds of whole iterations by DeepQMC's training loop, without observables or files."""
    import jax
    import numpy as np
    from deepqmc.fit import fit_wf
    from deepqmc.parallel import split_rng_key_to_devices
    from deepqmc.types import TrainState

    loop = fit_wf(
        split_rng_key_to_devices(jax.random.PRNGKey(1)),
        parts.hamiltonian,
        parts.ansatz,
        parts.optimiser,
        parts.molecules,
        parts.sampler,
        range(WARM_UP + case.iterations),
        # Copies: KFAC donates its arguments.
        TrainState(*jax.tree.map(lambda x: x.copy(), (parts.walkers, parts.parameters)), None),
        None,
        parts.loss,
        [],
    )
    steps = list(lap_times((state, stats) for _, state, _, stats, _ in loop))
    state, stats = steps[-1][1]
    if not all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, stats))):
        raise FloatingPointError("DeepQMC's parameters are no longer finite")
    return [seconds for seconds, _ in steps[WARM_UP:]]


def sampling(case: Case, parts: Parts) -> tuple[list[float], Any]:
    """Seconds of the moves of one iteration, and the walkers' configurations at the end."""
    import jax
    from deepqmc.parallel import pmap, rng_iterator, split_rng_key_to_devices

    sample = pmap(parts.sampler.sample)
    index = parts.molecules.sample()
    state = parts.walkers

    def steps() -> Iterator[Any]:
        nonlocal state
        keys = rng_iterator(split_rng_key_to_devices(jax.random.PRNGKey(2)))
        for key in itertools.islice(keys, WARM_UP + case.repeats):
            state, configurations, _ = sample(key, state, parts.parameters, index)
            yield configurations

    found = list(lap_times(steps()))
    return [seconds for seconds, _ in found[WARM_UP:]], found[-1][1]


def local_energies(case: Case, parts: Parts, configurations: Any) -> tuple[list[float], float]:
    """Seconds of the local energy of all walkers, and its mean, hartree."""
    import jax
    from deepqmc.loss.energy import compute_local_energy
    from deepqmc.parallel import pmap, split_rng_key_to_devices

    @pmap
    def energies(key: jax.Array, parameters: Any, configurations: Any) -> jax.Array:
        return compute_local_energy(
            key, parts.hamiltonian, parts.ansatz.apply, parameters, configurations, case.chunk
        )[0]

    keys = split_rng_key_to_devices(jax.random.PRNGKey(3))
    calls = WARM_UP + case.repeats
    found = list(lap_times(energies(keys, parts.parameters, configurations) for _ in range(calls)))
    values = found[-1][1]
    if values.size != case.walkers:
        raise RuntimeError(f"{values.size} local energies of {case.walkers} walkers")
    return [seconds for seconds, _ in found[WARM_UP:]], float(values.mean())


def measure(case: Case) -> dict[str, Any]:
    """All times of a case."""
    import deepqmc  # noqa: F401  # before JAX, so that it can forbid TF32
    import jax

    # All later rounds find everything compiled; no compared time includes compilation.
    jax.config.update("jax_compilation_cache_dir", f"{sys.prefix}/compiled")
    if jax.device_count() != case.devices:
        raise RuntimeError(f"{jax.device_count()} devices, {case.devices} wanted")
    parts = build(case)
    sampling_s, configurations = sampling(case, parts)
    energy_s, energy = local_energies(case, parts, configurations)
    iteration_s = iterations(case, parts)
    return {
        "iteration_s": iteration_s,
        "local_energy_s": energy_s,
        "sampling_s": sampling_s,
        "median_iteration_s": statistics.median(iteration_s),
        "parameters": sum(x[0].size for x in jax.tree.leaves(parts.parameters)),
        "dtypes": sorted({str(x.dtype) for x in jax.tree.leaves(parts.parameters)}),
        "mean_energy_Eh": energy,
        "devices": jax.device_count(),
        "device_kind": jax.devices()[0].device_kind,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    print(json.dumps(measure(Case(**json.loads(sys.argv[1])))), flush=True)

"""Times of two forward Laplacians on one network; a worker of `benchmarks.speed`.

They are that of folx and that of this project.

One JSON object describes the case (`Case`); the last line printed is one JSON object with the
times. Both codes compute the kinetic energy of each walker, -1/2 (lap psi)/psi, from the same
parameters. They take turns, so changes in the machine's speed affect both.
"""

import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

    Energies = Callable[[Any, jax.Array, Any], jax.Array]

PACKAGES = ("folx", "jax", "jaxtyping", "ferminet-core")
CHECKED = 4  # walkers compared in double precision
EXACT, ROUNDED = 1e-9, 1e-4  # median relative deviation allowed in double and single precision


@dataclass(frozen=True)
class Case:
    """What is computed, and how.

    positions: bohr; spins: (n_up, n_down)
    chunk: walkers per pass of folx on each device, all at once if None; own_chunk: of the project
    sparsity: folx's sparsity_threshold; 0 keeps every Jacobian dense. folx recommends 6 for
        FermiNet. Few electrons do better with 0, so a comparison should try both.
    devices: host devices, each with its share of the walkers
    """

    symbols: list[str]
    positions: list[list[float]]
    spins: list[int]
    walkers: int
    layers: int
    one_electron_width: int
    two_electron_width: int
    determinants: int
    repeats: int
    own_chunk: int
    chunk: int | None = 1
    sparsity: float = 6
    devices: int = 1

    def __post_init__(self) -> None:
        if self.walkers % self.devices:
            raise ValueError("devices must divide the walkers")


def inputs_of_network(electrons: "jax.Array", nuclei: "jax.Array") -> Any:
    """`features.features` for electrons apart from each other and from the nuclei.

    The project's guards against null vectors choose by the data, where folx gives up sparsity.
    """
    import jax.numpy as jnp

    from ferminet_core.wavefunction.features import Features

    ae = electrons[:, None, :] - nuclei
    ee = electrons[:, None, :] - electrons
    same = jnp.eye(electrons.shape[0], dtype=electrons.dtype)
    r_ae = jnp.sqrt(jnp.sum(ae**2, axis=-1))
    r_ee = jnp.sqrt(jnp.sum(ee**2, axis=-1) + same) * (1 - same)
    return Features(ae, r_ae, ee, r_ee)


def log_psi(
    params: Any, electrons: "jax.Array", nuclei: "jax.Array", spins: tuple[int, int]
) -> "jax.Array":
    """log|psi| of `networks.apply` for one walker, written so that folx can follow it.

    The project's sum of determinants has a derivative rule of its own, a black box to folx, which
    knows `slogdet`.
    """
    import jax
    import jax.numpy as jnp

    from ferminet_core.wavefunction import ansatz, envelopes, ferminet, layers

    f = inputs_of_network(electrons, nuclei)
    h = ferminet.streams(params, f, spins)
    blocks = []
    for s, linear, envelope in zip(
        ansatz.spin_slices(spins), params["orbitals"], params["envelope"], strict=True
    ):
        decay = envelopes.apply(envelope, f.ae[s], f.r_ae[s])
        values = layers.dense(linear, h[s]).reshape(decay.shape) * decay
        blocks.append(jnp.moveaxis(values, -2, -3))
    signs, logs = jnp.linalg.slogdet(ansatz.assemble(blocks))
    shift = jax.lax.stop_gradient(jnp.max(logs))
    psi = jnp.sum(params["determinants"]["w"] * signs * jnp.exp(logs - shift))
    return jnp.log(jnp.abs(psi)) + shift


def energies(spins: tuple[int, int], chunk: int | None, sparsity: float) -> "Energies":
    """Local energies of walkers by folx, this many walkers per pass (all at once if None)."""
    import folx
    import jax
    import jax.numpy as jnp

    from ferminet_core.vmc.hamiltonian import potential_energy

    def found(params: Any, electrons: "jax.Array", nuclei: Any) -> "jax.Array":
        def kinetic(walker: "jax.Array") -> "jax.Array":
            def log(x: "jax.Array") -> "jax.Array":
                return log_psi(params, x, nuclei.positions, spins)

            parts = folx.forward_laplacian(log, sparsity)(walker)
            return -0.5 * (parts.laplacian + jnp.sum(parts.jacobian.dense_array**2))

        if chunk is None:
            kinetics = jax.vmap(kinetic)(electrons)
        else:
            kinetics = jax.lax.map(kinetic, electrons, batch_size=chunk)
        return kinetics + potential_energy(electrons, nuclei)

    return found


def by_folx(case: Case) -> "Energies":
    """Local energies of walkers by folx."""
    return energies((case.spins[0], case.spins[1]), case.chunk, case.sparsity)


def by_own(case: Case) -> "Energies":
    """Local energies of walkers by the project."""
    from ferminet_core.vmc.hamiltonian import local_energy

    spins = (case.spins[0], case.spins[1])
    return lambda params, electrons, nuclei: local_energy(
        params, electrons, nuclei, spins, case.own_chunk
    )


def on_devices(function: "Energies", arrays: tuple[Any, Any, Any]) -> "Callable[[], jax.Array]":
    """The same function, compiled, with its arguments on the devices.

    Parameters and nuclei are on all devices, and walkers are spread over them, before any timing.
    """
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    everywhere, split = PartitionSpec(), PartitionSpec("walkers")
    specs, mesh = (everywhere, split, everywhere), Mesh(jax.devices(), ("walkers",))
    placed = [
        jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(arrays, specs, strict=True)
    ]
    compiled = jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
    )
    return lambda: compiled(*placed)


def inputs(case: Case, dtype: Any) -> tuple[Any, "jax.Array", Any]:
    """Random parameters, walkers with their electrons about the nuclei, and the nuclei."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from pyscf.data.elements import charge

    from ferminet_core.inputs.config import NetworkConfig
    from ferminet_core.vmc.hamiltonian import Nuclei
    from ferminet_core.wavefunction import networks

    sizes = ("layers", "one_electron_width", "two_electron_width", "determinants")
    config = NetworkConfig(**{name: getattr(case, name) for name in sizes})
    spins = (case.spins[0], case.spins[1])
    params = networks.init(jax.random.key(0), config, spins, len(case.symbols), dtype)
    homes = np.repeat(case.positions, [charge(symbol) for symbol in case.symbols], axis=0)
    if len(homes) != sum(spins):
        raise ValueError(f"{len(homes)} electrons are neutral, {sum(spins)} were given")
    # Up and down in turns along the molecule, then sorted with the spin-up electrons first.
    homes = np.concatenate([homes[::2], homes[1::2]])
    noise = np.random.default_rng(1).normal(size=(case.walkers, *homes.shape))
    charges = [charge(symbol) for symbol in case.symbols]
    nuclei = Nuclei(jnp.asarray(case.positions, dtype), jnp.asarray(charges, dtype))
    return params, jnp.asarray(homes + noise, dtype), nuclei


def deviation(found: "jax.Array", expected: "jax.Array") -> float:
    """Median relative deviation; a walker near a node may lose more digits than others."""
    import numpy as np

    return float(np.median(np.abs(found - expected) / np.abs(expected)))


def check(case: Case) -> float:
    """log|psi| and local energies of a few walkers agree in double precision, or it fails."""
    import jax
    import jax.numpy as jnp

    from ferminet_core.wavefunction import networks

    with jax.enable_x64(True):
        params, electrons, nuclei = inputs(case, jnp.float64)
        few, spins = electrons[:CHECKED], (case.spins[0], case.spins[1])
        plain = jax.jit(jax.vmap(lambda x: log_psi(params, x, nuclei.positions, spins)))(few)
        value = deviation(plain, networks.apply(params, few, nuclei.positions, spins)[1])
        folx, own = (jax.jit(f(case))(params, few, nuclei) for f in (by_folx, by_own))
        worst = max(value, deviation(folx, own))
    if not worst < EXACT:
        raise RuntimeError(f"folx and the project differ by {worst:.1e} in double precision")
    return worst


def measure(case: Case) -> dict[str, Any]:
    """Check, compile, and time both codes in turns."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_matmul_precision", "highest")
    # All later rounds find everything compiled; no compared time includes compilation.
    jax.config.update("jax_compilation_cache_dir", f"{sys.prefix}/compiled")
    if jax.device_count() != case.devices:
        raise RuntimeError(f"{jax.device_count()} devices, {case.devices} wanted")
    exact = check(case)
    arrays = inputs(case, jnp.float32)
    calls = {name: on_devices(f(case), arrays) for name, f in (("folx", by_folx), ("own", by_own))}
    values: dict[str, Any] = {}
    compile_s: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        began = time.perf_counter()
        values[name] = jax.block_until_ready(call())
        compile_s[name] = time.perf_counter() - began
        jax.block_until_ready(call())
    rounded = deviation(values["folx"], values["own"])
    if not rounded < ROUNDED:
        raise RuntimeError(f"folx and the project differ by {rounded:.1e} in single precision")
    for _ in range(case.repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - began)
    return {
        "seconds": times["folx"],
        "own_seconds": times["own"],
        "median_s": statistics.median(times["folx"]),
        "own_median_s": statistics.median(times["own"]),
        "first_call_s": compile_s,
        "deviation_float64": exact,
        "deviation_float32": rounded,
        "parameters": sum(x.size for x in jax.tree.leaves(arrays[0])),
        "devices": jax.device_count(),
        "device_kind": jax.devices()[0].device_kind,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    print(json.dumps(measure(Case(**json.loads(sys.argv[1])))), flush=True)

"""What all networks have in common: psi = e^J sum_k w_k det phi_k.

A network turns the electrons into one stream h_i, which changes its order with the electrons of one
spin. Linear maps of h_i times envelopes give orbitals phi_kj(r_i; all others) (Pfau et al., Phys.
Rev. Research 2, 033429, 2020, eq. 7), and J is an optional electron-electron cusp factor.

Electrons are ordered spin up first. Everything is a plain function over a tree of arrays and takes
any leading axes of walkers; the nuclei are an argument, so one compiled executable serves a whole
scan.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ferminet_core.inputs.config import NetworkConfig
from ferminet_core.parallel import platform
from ferminet_core.wavefunction import envelopes
from ferminet_core.wavefunction.determinants import log_sum_determinants
from ferminet_core.wavefunction.features import Features, features
from ferminet_core.wavefunction.layers import Layers, Params, init_dense

Spins = tuple[int, int]


def spin_slices(spins: Spins) -> list[slice]:
    """Slices of the electron axis that hold the electrons of each spin present."""
    slices = (slice(0, spins[0]), slice(spins[0], sum(spins)))
    return [s for s, n in zip(slices, spins, strict=True) if n > 0]


def orbitals_per_spin(config: NetworkConfig, spins: Spins) -> list[int]:
    """Number of orbitals (columns of the determinant's rows) of each spin present."""
    present = [n for n in spins if n > 0]
    return [sum(spins)] * len(present) if config.determinant_form == "dense" else present


def init(
    key: jax.Array,
    config: NetworkConfig,
    spins: Spins,
    n_nuclei: int,
    width: int,
    dtype: jnp.dtype,
) -> Params:
    """Random parameters of all that follows a stream of a width.

    Returns:
        {"orbitals": [per spin], "envelope": [per spin], "determinants": {"w"}, "jastrow"?,
        "log_inputs"?}. "log_inputs" holds no numbers: its presence says that the inputs of the
        network are scaled (`features.log_scaled`).
    """
    k = config.determinants
    orbitals, envelope = [], []
    for n_orbitals in orbitals_per_spin(config, spins):
        key, orbital_key = jax.random.split(key)
        orbitals.append(init_dense(orbital_key, width, k * n_orbitals, config.orbital_bias, dtype))
        envelope.append(envelopes.init(config.envelope, n_nuclei, k, n_orbitals, dtype))
    params: Params = {
        "orbitals": orbitals,
        "envelope": envelope,
        "determinants": {"w": jnp.ones((k,), dtype)},
    }
    if config.jastrow:
        params["jastrow"] = {"parallel": jnp.ones((), dtype), "antiparallel": jnp.ones((), dtype)}
    if config.inputs == "log":
        params["log_inputs"] = {}
    return params


def orbitals(
    params: Params, h: jax.Array, f: Features, spins: Spins, layers: Layers
) -> list[jax.Array]:
    """Orbitals of each spin present: (..., determinant, electron of that spin, orbital).

    Args:
        params: "orbitals" and "envelope" of `init`
        h: the stream, (..., electron, width)
        f: of the electrons and nuclei, not scaled
        spins: (n_up, n_down)
        layers: functions that apply the parameters
    """
    result, slices = [], spin_slices(spins)
    linear = layers.per_spin(params["orbitals"], [h[..., s, :] for s in slices])
    for s, values, envelope in zip(slices, linear, params["envelope"], strict=True):
        decay = envelopes.apply(envelope, f.ae[..., s, :, :], f.r_ae[..., s, :], layers.scale)
        values = values.reshape(decay.shape) * decay
        result.append(jnp.moveaxis(values, -2, -3))
    return result


def joined_spins(params: Params, spins: Spins) -> Params:
    """On a GPU and with equally many electrons of both spins, the orbitals' layers in one tree.

    One product then serves both. A loop that evaluates psi many times joins them once.
    """
    if platform.on_cpu() or spins[0] != spins[1]:
        return params
    joined = jax.tree.map(lambda *x: jnp.stack(x), *params["orbitals"])
    return {**params, "orbitals": joined}


def assemble(blocks: list[jax.Array]) -> jax.Array:
    """One square matrix per determinant from the orbitals of each spin.

    Dense rows are stacked; blocks of one spin each stand on the diagonal, since
    det(up) det(down) = det(diag(up, down)).
    """
    n = sum(b.shape[-2] for b in blocks)
    rows, start = [], 0
    for block in blocks:
        columns = block.shape[-1]
        if columns < n:
            before, after = start, n - start - columns
            block = jnp.pad(block, [(0, 0)] * (block.ndim - 1) + [(before, after)])
        rows.append(block)
        start += columns
    return jnp.concatenate(rows, axis=-2)


def jastrow(
    params: Params,
    r_ee: jax.Array,
    spins: Spins,
    scale: Callable[[jax.Array, jax.Array], jax.Array] = jnp.multiply,
) -> jax.Array:
    """Electron-electron cusp factor, J = -sum_{i<j} c a^2 / (a + r_ij), c = 1/4 or 1/2 (Kato 1957).

    dJ/dr at r = 0 is 1/4 for parallel and 1/2 for antiparallel spins for any a.

    Args:
        params: {"parallel", "antiparallel"}, the lengths a (bohr)
        r_ee: (..., electron, electron), bohr
        spins: (n_up, n_down)
        scale: product of an input and a parameter (see `Layers`)

    Returns:
        J (...)
    """
    ones = jnp.ones(r_ee.shape[:-2], r_ee.dtype)
    lengths = {name: scale(ones, a)[..., None, None] for name, a in params.items()}
    c, a = jastrow_pairs(lengths, spins, r_ee.dtype)
    return -0.5 * jnp.sum(c * a**2 / (a + r_ee), axis=(-2, -1))


def jastrow_pairs(params: Params, spins: Spins, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Cusp c and length a of every ordered pair, (electron, electron); c = 0 on the diagonal."""
    up = jnp.arange(sum(spins)) < spins[0]
    parallel = up[:, None] == up
    c = jnp.where(parallel, 0.25, 0.5) * (1 - jnp.eye(sum(spins)))
    a = jnp.where(parallel, jnp.abs(params["parallel"]), jnp.abs(params["antiparallel"]))
    return c.astype(dtype), a


def sign_and_log(
    params: Params,
    blocks: list[jax.Array],
    electrons: jax.Array,
    nuclei: jax.Array,
    spins: Spins,
    layers: Layers,
) -> tuple[jax.Array, jax.Array]:
    """Sign and log|psi| (...) from the orbitals of each spin."""
    matrices = assemble(blocks)
    ones = jnp.ones(matrices.shape[:-2], matrices.dtype)
    weights = layers.scale(ones, params["determinants"]["w"])
    sign, log = log_sum_determinants(matrices, weights)
    if "jastrow" in params:
        r_ee = features(electrons, nuclei).r_ee
        log = log + jastrow(params["jastrow"], r_ee, spins, layers.scale)
    return sign, log

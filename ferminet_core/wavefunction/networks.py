"""FermiNet: log|psi| and its sign (Pfau et al., Phys. Rev. Research 2, 033429, 2020, section II).

The one-electron stream h_i and the two-electron stream h_ij pass through dense layers; the
one-electron layers also see the means of both streams over the electrons of each spin (eqs. 3 to
5). Linear maps of the last h_i times envelopes give orbitals phi_kj(r_i; all others), and psi is a
sum over k of determinants of them (eq. 7), times an optional electron-electron cusp factor.

Electrons are ordered spin up first. Everything is a plain function over a tree of arrays and takes
any leading axes of walkers; the nuclei are an argument, so one compiled executable serves a whole
scan.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ferminet_core.inputs.config import NetworkConfig
from ferminet_core.parallel import platform
from ferminet_core.wavefunction import envelopes
from ferminet_core.wavefunction.determinants import log_sum_determinants
from ferminet_core.wavefunction.features import (
    Features,
    features,
    log_scaled,
    one_electron_input,
    two_electron_input,
)

Params = dict[str, Any]
Spins = tuple[int, int]
# electrons (..., electron, 3), bohr -> sign (...) and log|psi| (...)
SignedLog = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def spin_slices(spins: Spins) -> list[slice]:
    """Slices of the electron axis that hold the electrons of each spin present."""
    slices = (slice(0, spins[0]), slice(spins[0], sum(spins)))
    return [s for s, n in zip(slices, spins, strict=True) if n > 0]


def orbitals_per_spin(config: NetworkConfig, spins: Spins) -> list[int]:
    """Number of orbitals (columns of the determinant's rows) of each spin present."""
    present = [n for n in spins if n > 0]
    return [sum(spins)] * len(present) if config.determinant_form == "dense" else present


# --- parameters -----------------------------------------------------------------------------------


def _init_dense(key: jax.Array, n_in: int, n_out: int, bias: bool, dtype: jnp.dtype) -> Params:
    """Normal weights of variance 1/n_in, and small biases.

    With this variance tanh units stay in their linear range.
    """
    w_key, b_key = jax.random.split(key)
    params = {
        "w": jax.random.normal(w_key, (n_in, n_out), dtype) / jnp.sqrt(jnp.asarray(n_in, dtype))
    }
    if bias:
        params["b"] = jax.random.normal(b_key, (n_out,), dtype) * 0.1
    return params


def init(
    key: jax.Array,
    config: NetworkConfig,
    spins: Spins,
    n_nuclei: int,
    dtype: jnp.dtype = jnp.float32,
) -> Params:
    """Random parameters of a network for `spins` = (n_up, n_down) electrons and `n_nuclei` nuclei.

    Returns:
        {"layers": [{"one", "two"}], "orbitals": [per spin], "envelope": [per spin],
        "determinants": {"w"}, "jastrow"?, "log_inputs"?}; dense weights are (inputs, outputs). The
        last layer has no two-electron part, since nothing would read it. "log_inputs" holds no
        numbers: its presence says that the inputs are scaled.
    """
    n_spins = sum(n > 0 for n in spins)
    one, two = 4 * n_nuclei, 4
    layers = []
    for index in range(config.layers):
        key, one_key, two_key = jax.random.split(key, 3)
        n_in = one * (1 + n_spins) + two * n_spins
        layer = {"one": _init_dense(one_key, n_in, config.one_electron_width, config.bias, dtype)}
        one = config.one_electron_width
        if index < config.layers - 1:
            layer["two"] = _init_dense(two_key, two, config.two_electron_width, config.bias, dtype)
            two = config.two_electron_width
        layers.append(layer)
    k = config.determinants
    orbitals, envelope = [], []
    for n_orbitals in orbitals_per_spin(config, spins):
        key, orbital_key = jax.random.split(key)
        orbitals.append(_init_dense(orbital_key, one, k * n_orbitals, config.orbital_bias, dtype))
        envelope.append(envelopes.init(config.envelope, n_nuclei, k, n_orbitals, dtype))
    params = {
        "layers": layers,
        "orbitals": orbitals,
        "envelope": envelope,
        "determinants": {"w": jnp.ones((k,), dtype)},
    }
    if config.jastrow:
        params["jastrow"] = {"parallel": jnp.ones((), dtype), "antiparallel": jnp.ones((), dtype)}
    if config.inputs == "log":
        params["log_inputs"] = {}
    return params


def bounded(params: Params) -> Params:
    """The parameters with every envelope's decay at least `envelopes.LEAST_DECAY`."""
    return {**params, "envelope": [envelopes.bounded(e) for e in params["envelope"]]}


# --- streams --------------------------------------------------------------------------------------


class Layers(NamedTuple):
    """The functions that apply the parameters.

    KFAC exchanges these for forms that it can read (module `kfac`).

    Attributes:
        dense: (params, x) -> x W + b over the last axis.
        scale: (x, s) -> x s, s broadcast over leading axes.
        one_electron: (params, h, means, pair_means) -> a one-electron layer before its tanh.
    """

    dense: Callable[[Params, jax.Array], jax.Array]
    scale: Callable[[jax.Array, jax.Array], jax.Array]
    one_electron: Callable[[Params, jax.Array, list[jax.Array], list[jax.Array]], jax.Array]


def dense(params: Params, x: jax.Array) -> jax.Array:
    """x W + b over the last axis."""
    y = x @ params["w"]
    return y + params["b"] if "b" in params else y


def split_weights(w: jax.Array, n_one: int, n_two: int, n_spins: int) -> list[jax.Array]:
    """Rows of a one-electron layer's weights by input.

    The inputs are [h_i, mean h per spin, mean h_ij per spin].
    """
    sizes = [n_one] * (1 + n_spins) + [n_two] * n_spins
    edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return [w[a:b] for a, b in itertools.pairwise(edges)]


def factored_layer(
    params: Params, h: jax.Array, means: list[jax.Array], pair_means: list[jax.Array]
) -> jax.Array:
    """One-electron layer before its tanh.

    The weights of the spin means are applied once, not for each electron.

    Args:
        params: {"w", "b"?}
        h: (..., electron, width)
        means: per spin (..., width)
        pair_means: per spin (..., electron, two-electron width)
    """
    blocks = split_weights(params["w"], h.shape[-1], pair_means[0].shape[-1], len(means))
    n_spins = len(means)
    shared = jnp.concatenate(means, axis=-1) @ jnp.concatenate(blocks[1 : 1 + n_spins])
    if "b" in params:
        shared = shared + params["b"]
    own = jnp.concatenate([h, *pair_means], axis=-1) @ jnp.concatenate(
        [blocks[0], *blocks[1 + n_spins :]]
    )
    return own + shared[..., None, :]


def joined_layer(
    params: Params, h: jax.Array, means: list[jax.Array], pair_means: list[jax.Array]
) -> jax.Array:
    """`factored_layer` as one product with all inputs of each electron."""
    shared = [jnp.broadcast_to(m[..., None, :], h.shape) for m in means]
    return dense(params, jnp.concatenate([h, *shared, *pair_means], axis=-1))


def one_electron_layer(
    params: Params, h: jax.Array, means: list[jax.Array], pair_means: list[jax.Array]
) -> jax.Array:
    """`factored_layer` in the form that suits the devices."""
    form = factored_layer if platform.on_cpu() else joined_layer
    return form(params, h, means, pair_means)


PLAIN = Layers(dense, jnp.multiply, one_electron_layer)


def residual(x: jax.Array, y: jax.Array) -> jax.Array:
    """y + x where the widths match, else y."""
    return x + y if x.shape[-1] == y.shape[-1] else y


def streams(
    params: Params,
    f: Features,
    spins: Spins,
    layers: Layers = PLAIN,
) -> jax.Array:
    """The last layer's one-electron stream (..., electron, width)."""
    slices = spin_slices(spins)
    if "log_inputs" in params:
        f = log_scaled(f)
    h, pair = one_electron_input(f), two_electron_input(f)
    for layer in params["layers"]:
        means = [jnp.mean(h[..., s, :], axis=-2) for s in slices]
        pair_means = [jnp.mean(pair[..., s, :], axis=-2) for s in slices]
        h = residual(h, jnp.tanh(layers.one_electron(layer["one"], h, means, pair_means)))
        if "two" in layer:
            pair = residual(pair, jnp.tanh(layers.dense(layer["two"], pair)))
    return h


# --- orbitals and determinants --------------------------------------------------------------------


def orbitals(
    params: Params,
    electrons: jax.Array,
    nuclei: jax.Array,
    spins: Spins,
    layers: Layers = PLAIN,
) -> list[jax.Array]:
    """Orbitals of each spin present: (..., determinant, electron of that spin, orbital)."""
    f = features(electrons, nuclei)
    h = streams(params, f, spins, layers)
    return orbital_values(params, h, f.ae, f.r_ae, spins, layers)


def orbital_values(
    params: Params,
    h: jax.Array,
    ae: jax.Array,
    r_ae: jax.Array,
    spins: Spins,
    layers: Layers = PLAIN,
) -> list[jax.Array]:
    """Orbitals as `orbitals` gives them.

    Args:
        params: from `init`
        h: (..., electron, width), the last layer's one-electron stream
        ae: (..., electron, nucleus, 3), r_i - R_m, bohr
        r_ae: (..., electron, nucleus), bohr
        spins: (n_up, n_down)
        layers: functions that apply the parameters
    """
    result = []
    for s, linear, envelope in zip(
        spin_slices(spins), params["orbitals"], params["envelope"], strict=True
    ):
        values = layers.dense(linear, h[..., s, :])
        decay = envelopes.apply(envelope, ae[..., s, :, :], r_ae[..., s, :], layers.scale)
        values = values.reshape(decay.shape) * decay
        result.append(jnp.moveaxis(values, -2, -3))
    return result


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


def apply(
    params: Params,
    electrons: jax.Array,
    nuclei: jax.Array,
    spins: Spins,
    layers: Layers = PLAIN,
) -> tuple[jax.Array, jax.Array]:
    """Sign and log|psi|.

    Args:
        params: from `init`
        electrons: (..., electron, 3), bohr, spin up first
        nuclei: (nucleus, 3), bohr
        spins: (n_up, n_down)
        layers: functions that apply the parameters

    Returns:
        sign (...) and log|psi| (...).
    """
    blocks = orbitals(params, electrons, nuclei, spins, layers)
    matrices = assemble(blocks)
    ones = jnp.ones(matrices.shape[:-2], matrices.dtype)
    weights = layers.scale(ones, params["determinants"]["w"])
    sign, log = log_sum_determinants(matrices, weights)
    if "jastrow" in params:
        r_ee = features(electrons, nuclei).r_ee
        log = log + jastrow(params["jastrow"], r_ee, spins, layers.scale)
    return sign, log


def signed_log(params: Params, nuclei: jax.Array, spins: Spins) -> SignedLog:
    """`apply` with parameters, nuclei (nucleus, 3) and spins closed over."""
    return lambda electrons: apply(params, electrons, nuclei, spins)


def log_psi(params: Params, nuclei: jax.Array, spins: Spins) -> Callable[[jax.Array], jax.Array]:
    """log|psi| (...) as a function of electrons (..., electron, 3) alone."""
    return lambda electrons: apply(params, electrons, nuclei, spins)[1]

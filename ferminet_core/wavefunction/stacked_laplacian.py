"""The forward Laplacian in few large operations: the form for GPUs.

The mathematics is that of `forward_laplacian`, and so are the results, to rounding. A GPU waits for
the launch of every kernel. Here a stream is one array whose first axis, the rows, holds the value,
the Laplacian and the derivatives, so that one product with the weights serves all of them. A core
of a CPU takes about as long for either form. CPUs keep the other one, and with it the bits of
earlier runs.

Rows of one walker: 0 the value, 1 the Laplacian, then the derivatives with respect to the
coordinates (a, q) of the moved electron q, 3 n of them. The pairs' stream has 5 rows: value,
Laplacian, and the derivatives with respect to the pair vector.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ferminet_core.wavefunction import envelopes
from ferminet_core.wavefunction.ansatz import Spins, assemble, spin_slices
from ferminet_core.wavefunction.derivatives import LogPsi, of_rows, with_jastrow
from ferminet_core.wavefunction.features import distance
from ferminet_core.wavefunction.forward_laplacian import vector_input
from ferminet_core.wavefunction.layers import Params, residual


def _tanh(terms: Sequence[jax.Array], layer: Params, previous: jax.Array) -> jax.Array:
    """The rows of tanh of the terms' sum plus the layer's bias, and the residual connection."""
    # Rows are taken before they are added: a kernel then reads only those that it needs.
    value, laplacian, derivatives = (sum(x[r] for x in terms) for r in (0, 1, slice(2, None)))
    y = jnp.tanh(value + layer["b"] if "b" in layer else value)
    slope = 1 - y**2
    laplacian = slope * (laplacian - 2 * y * jnp.sum(derivatives**2, axis=0))
    return residual(previous, jnp.concatenate([y[None], laplacian[None], slope * derivatives]))


def _one_electron_rows(ae: jax.Array, log: bool) -> jax.Array:
    """The inputs of r_i - R_m: (row, electron, 4 * nucleus)."""
    n = ae.shape[0]
    x = vector_input(ae, log)
    own = jnp.moveaxis(x.jacobian, 2, 0).reshape(3, 1, n, -1)
    moved = (jnp.eye(n, dtype=ae.dtype)[:, :, None] * own).reshape(3 * n, n, -1)
    return jnp.concatenate([x.value.reshape(1, n, -1), x.laplacian.reshape(1, n, -1), moved])


def _pair_rows(electrons: jax.Array, log: bool) -> jax.Array:
    """The inputs of r_i - r_j: (row, i, j, 4). The derivatives of a pair (i, i) are zero."""
    x = vector_input(electrons[:, None, :] - electrons[None, :, :], log)
    off_diagonal = 1 - jnp.eye(electrons.shape[0], dtype=electrons.dtype)
    jacobian = jnp.moveaxis(x.jacobian, 2, 0) * off_diagonal[:, :, None]
    return jnp.concatenate([x.value[None], x.laplacian[None], jacobian])


def _pair_means(pair: jax.Array, slices: list[slice]) -> jax.Array:
    """The means over the electrons j of each spin of h_ij: (row, i, spin * width)."""
    n = pair.shape[1]
    weights = jnp.stack([jnp.zeros(n).at[s].set(1.0 / (s.stop - s.start)) for s in slices])
    weights = weights.astype(pair.dtype)  # (spin, j)
    means = jnp.stack([jnp.mean(pair[:, :, s], axis=2) for s in slices], axis=2)  # (row, i, spin)
    # Both electrons of a pair contribute the same Laplacian, and opposite derivatives.
    own = jnp.eye(n, dtype=pair.dtype)[:, :, None, None] * means[2:, None]
    others = jnp.moveaxis(pair[2:], 2, 1)[:, :, :, None] * weights.T[:, None, :, None]
    moved = (own - others).reshape(3 * n, *means.shape[1:])
    rows = jnp.concatenate([means[:1], 2 * means[1:2], moved])
    return rows.reshape(*rows.shape[:2], -1)


def _one_electron_layer(
    params: Params, h: jax.Array, pair_means: jax.Array, slices: list[slice]
) -> jax.Array:
    width, shared = h.shape[-1], h.shape[-1] * (1 + len(slices))
    w = params["w"]
    own = jnp.concatenate([w[:width], w[shared:]])
    # Without the barrier the stream would be written twice, alone and next to the pairs' means.
    x = jax.lax.optimization_barrier(jnp.concatenate([h, pair_means], axis=-1))
    h = x[..., :width]
    means = jnp.concatenate([jnp.mean(h[:, s], axis=1) for s in slices], axis=-1)
    return _tanh([x @ own, (means @ w[width:shared])[:, None]], params, h)


def _streams(params: Params, electrons: jax.Array, ae: jax.Array, spins: Spins) -> jax.Array:
    """The last layer's one-electron stream, (row, electron, width)."""
    slices = spin_slices(spins)
    log = "log_inputs" in params
    h, pair = _one_electron_rows(ae, log), _pair_rows(electrons, log)
    for layer in params["layers"]:
        means = _pair_means(pair, slices)
        h = _one_electron_layer(layer["one"], h, means, slices)
        if "two" in layer:
            pair = _tanh([pair @ layer["two"]["w"]], layer["two"], pair)
    return h


def _orbitals(params: Params, h: jax.Array, ae: jax.Array, spins: Spins) -> jax.Array:
    """The rows of the determinants' matrices, (determinant, row, electron, orbital)."""
    n, blocks = sum(spins), []
    r_ae = distance(ae)
    for s, linear, envelope in zip(
        spin_slices(spins), params["orbitals"], params["envelope"], strict=True
    ):
        e, de, lap_e = envelopes.derivatives(envelope, ae[s], r_ae[s])
        x = (h[:, s] @ linear["w"]).reshape(-1, *e.shape)  # (row, i, K, orbital)
        value = x[0] + linear["b"].reshape(e.shape[1:]) if "b" in linear else x[0]
        is_own = jnp.eye(n, dtype=e.dtype)[:, s, None, None]  # (q, i)
        moved = x[2:].reshape(3, n, *e.shape)
        own = jnp.sum(is_own * moved, axis=1)  # (3, i, K, orbital)
        moved = moved * e + is_own * (value * de)[:, None]
        laplacian = x[1] * e + 2 * jnp.sum(own * de, axis=0) + value * lap_e
        rows = jnp.concatenate([(value * e)[None], laplacian[None], moved.reshape(-1, *e.shape)])
        blocks.append(rows.transpose(2, 0, 1, 3))
    return assemble(blocks)


def log_psi_derivatives(
    params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins
) -> LogPsi:
    """log|psi|, its gradient and (lap psi)/psi of walkers: see `forward_laplacian`."""

    def matrices(walker: jax.Array) -> jax.Array:
        ae = walker[:, None, :] - nuclei
        return _orbitals(params, _streams(params, walker, ae, spins), ae, spins)

    psi = of_rows(jax.vmap(matrices)(electrons), params["determinants"]["w"])
    return with_jastrow(params, psi, electrons, spins)

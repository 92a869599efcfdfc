"""Forward Laplacian: value, gradient and Laplacian carried through FermiNet in one sweep.

Every quantity is carried as (value, Jacobian, Laplacian) with respect to all electron coordinates,
as in Li et al., arXiv:2307.08214. The sweep uses the structure of FermiNet:

* h_ij depends on r_i - r_j only, so the two-electron stream carries three derivatives, and
  d h_ij / d r_j = -d h_ij / d r_i;
* inputs and envelopes of electron i depend on r_i only;
* the means over spins are the same for every electron;
* determinants of matrices far from singular need one product with the inverse; the others need
  products of pivots (module `determinants`).

Axes, for one walker up to the matrices: i, j = electrons; a = x, y, z; q = electron that is moved;
the last axis is the layer's width. In this order the electrons of a spin are contiguous, and so are
the operands of all sums and products, down to the traces over determinants. On CPUs such loops are
vectorised, and only the product with the weights needs a transposition.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ferminet_core.wavefunction import envelopes
from ferminet_core.wavefunction.ansatz import Spins, assemble, spin_slices
from ferminet_core.wavefunction.derivatives import (
    LogPsi,
    Matrices,
    of_matrices,
    safe_inverse,
    total,
    with_jastrow,
)
from ferminet_core.wavefunction.features import distance, log_scale
from ferminet_core.wavefunction.layers import Params, residual, split_weights


class Jet(NamedTuple):
    """A function of the electrons with its derivatives.

    value: (electron, width); jacobian: (electron, 3, moved electron, width); laplacian: like value
    """

    value: jax.Array
    jacobian: jax.Array
    laplacian: jax.Array


class PairJet(NamedTuple):
    """A function of r_i - r_j and its derivatives, which are zero on the diagonal.

    Attributes:
        value: (i, j, width).
        jacobian: (i, 3, j, width), the derivative with respect to r_i.
        laplacian: (i, j, width), with respect to the pair vector.
    """

    value: jax.Array
    jacobian: jax.Array
    laplacian: jax.Array


def _tanh(x: Jet | PairJet, previous: Jet | PairJet) -> tuple[jax.Array, jax.Array, jax.Array]:
    """tanh and the residual connection; sums of squares run over all derivative axes."""
    y = jnp.tanh(x.value)
    slope = 1 - y**2
    # Added one by one, as in `total`.
    squares = x.jacobian[:, 0] ** 2 + x.jacobian[:, 1] ** 2 + x.jacobian[:, 2] ** 2
    spread = slope[:, None]
    if squares.ndim > x.value.ndim:
        squares, spread = jnp.sum(squares, axis=1), spread[:, None]
    return (
        residual(previous.value, y),
        residual(previous.jacobian, spread * x.jacobian),
        residual(previous.laplacian, slope * (x.laplacian - 2 * y * squares)),
    )


class _Input(NamedTuple):
    """Inputs of vectors v: value (..., 4), derivative with respect to v (..., 3, 4), Laplacian."""

    value: jax.Array
    jacobian: jax.Array
    laplacian: jax.Array


def vector_input(vector: jax.Array, log: bool) -> _Input:
    """(v, |v|), or both scaled by s = log(1 + r)/r, with derivatives.

    With L = log(1 + r): ds/dr = (L' - s)/r, and

        d(v_b s)/dv_a = s delta_ab + s' v_a v_b / r,    lap(v_b s) = (v_b / r) (L'' + 2 s').
    """
    r = distance(vector)[..., None]
    inverse = safe_inverse(r)
    unit = vector * inverse
    identity = jnp.broadcast_to(jnp.eye(3, dtype=vector.dtype), (*vector.shape, 3))
    if not log:
        return _Input(
            jnp.concatenate([vector, r], axis=-1),
            jnp.concatenate([identity, unit[..., None]], axis=-1),
            jnp.concatenate([jnp.zeros_like(vector), 2 * inverse], axis=-1),
        )
    scale, slope = log_scale(r), 1 / (1 + r)
    bend = jnp.where(r == 0, 0.0, slope**2)  # 0 like all derivatives of `distance` there
    scale_slope = (slope - scale) * inverse
    tensor = scale[..., None] * identity + (scale_slope * vector)[..., None] * unit[..., None, :]
    return _Input(
        jnp.concatenate([vector * scale, jnp.log1p(r)], axis=-1),
        jnp.concatenate([tensor, (slope * unit)[..., None]], axis=-1),
        jnp.concatenate([unit * (2 * scale_slope - bend), 2 * slope * inverse - bend], axis=-1),
    )


def _pair_input(electrons: jax.Array, log: bool) -> PairJet:
    """The inputs of r_i - r_j with derivatives."""
    n = electrons.shape[0]
    pair = vector_input(electrons[:, None, :] - electrons[None, :, :], log)
    off_diagonal = 1 - jnp.eye(n, dtype=electrons.dtype)
    jacobian = jnp.moveaxis(pair.jacobian, 2, 1) * off_diagonal[:, None, :, None]
    return PairJet(pair.value, jacobian, pair.laplacian)


def _pair_layer(params: Params, pair: PairJet) -> PairJet:
    bias = params.get("b", 0.0)
    linear = PairJet(
        pair.value @ params["w"] + bias, pair.jacobian @ params["w"], pair.laplacian @ params["w"]
    )
    return PairJet(*_tanh(linear, pair))


def _one_electron_input(ae: jax.Array, log: bool) -> _Input:
    """The inputs of r_i - R_m: value (i, width), own derivative (i, 3, width), Laplacian."""
    n = ae.shape[0]
    x = vector_input(ae, log)
    jacobian = jnp.moveaxis(x.jacobian, 2, 1)
    return _Input(x.value.reshape(n, -1), jacobian.reshape(n, 3, -1), x.laplacian.reshape(n, -1))


def _pair_means(pair: PairJet, slices: list[slice]) -> Jet:
    """The means over the electrons j of each spin of h_ij, (electron, spin * width)."""
    n = pair.value.shape[0]
    weight = jnp.stack(
        [jnp.zeros(n).at[s].set(1.0 / (s.stop - s.start)) for s in slices], axis=-1
    ).astype(pair.value.dtype)
    # Both electrons of a pair contribute the same Laplacian, and opposite derivatives.
    own = jnp.stack([jnp.mean(pair.jacobian[:, :, s], axis=2) for s in slices], axis=2)
    is_own = jnp.eye(n, dtype=bool)[:, None, :, None, None]
    others = -pair.jacobian[:, :, :, None] * weight[:, :, None]
    means = Jet(
        jnp.stack([jnp.mean(pair.value[:, s], axis=1) for s in slices], axis=1),
        jnp.where(is_own, own[:, :, None], others),
        jnp.stack([2 * jnp.mean(pair.laplacian[:, s], axis=1) for s in slices], axis=1),
    )
    return Jet(*(x.reshape(*x.shape[:-2], -1) for x in means))


def _first_layer(params: Params, x: _Input, pair: PairJet, slices: list[slice]) -> Jet:
    """First one-electron layer: the Jacobian of its input is diagonal in the electrons."""
    w = split_weights(params["w"], x.value.shape[-1], pair.value.shape[-1], len(slices))
    n_spins = len(slices)
    means_of_pairs = _pair_means(pair, slices)
    from_pairs = Jet(*(m @ jnp.concatenate(w[1 + n_spins :]) for m in means_of_pairs))
    value = x.value @ w[0] + from_pairs.value + params.get("b", 0.0)
    laplacian = x.laplacian @ w[0] + from_pairs.laplacian
    own = x.jacobian @ w[0]
    means = []
    for s, block in zip(slices, w[1 : 1 + n_spins], strict=True):
        scaled = block / (s.stop - s.start)
        value = value + jnp.sum(x.value[s], axis=0) @ scaled
        laplacian = laplacian + jnp.sum(x.laplacian[s], axis=0) @ scaled
        means.append(x.jacobian[s] @ scaled)
    diagonal = jnp.eye(own.shape[0], dtype=own.dtype)[:, None, :, None]
    moved = jnp.swapaxes(jnp.concatenate(means), 0, 1)
    jacobian = from_pairs.jacobian + diagonal * own[:, :, None] + moved
    # No residual connection is possible unless the widths match; its Jacobian is then diagonal too.
    previous = Jet(x.value, diagonal * x.jacobian[:, :, None], x.laplacian)
    return Jet(*_tanh(Jet(value, jacobian, laplacian), previous))


def _layer(params: Params, h: Jet, pair_means: Jet, slices: list[slice]) -> Jet:
    """A one-electron layer after the first."""
    n_spins = len(slices)
    n, width = h.value.shape[0], pair_means.value.shape[-1] // n_spins
    w = split_weights(params["w"], h.value.shape[-1], width, n_spins)
    own = jnp.concatenate([w[0], *w[1 + n_spins :]])
    x = Jet(*(jnp.concatenate(pieces, axis=-1) for pieces in zip(h, pair_means, strict=True)))
    # Value and Laplacian join other rows: a product with a single row is slow.
    means = [
        jnp.concatenate([total(rows[s]) / (s.stop - s.start) for s in slices], axis=-1)
        for rows in (h.value[:, None], h.laplacian[:, None], h.jacobian.reshape(n, 3 * n, -1))
    ]
    shared = jnp.concatenate(means) @ jnp.concatenate(w[1 : 1 + n_spins])
    value, laplacian = jnp.stack([x.value, x.laplacian]) @ own + shared[:2, None]
    moved = shared[2:].reshape(3, n, -1)
    linear = Jet(value + params.get("b", 0.0), x.jacobian @ own + moved, laplacian)
    return Jet(*_tanh(linear, h))


def _streams(params: Params, electrons: jax.Array, ae: jax.Array, spins: Spins) -> Jet:
    """The last layer's one-electron stream with its derivatives."""
    slices = spin_slices(spins)
    log = "log_inputs" in params
    pair = _pair_input(electrons, log)
    first, *others = params["layers"]
    h = _first_layer(first["one"], _one_electron_input(ae, log), pair, slices)
    for previous, layer in zip(params["layers"], others, strict=False):
        pair = _pair_layer(previous["two"], pair)
        h = _layer(layer["one"], h, _pair_means(pair, slices), slices)
    return h


def _orbitals(params: Params, h: Jet, ae: jax.Array, r_ae: jax.Array, spins: Spins) -> Matrices:
    """Orbitals from the stream and the envelopes, which depend on their own electron only."""
    values, jacobians, laplacians = [], [], []
    n = sum(spins)
    for s, linear, envelope in zip(
        spin_slices(spins), params["orbitals"], params["envelope"], strict=True
    ):
        e, de, lap_e = envelopes.derivatives(envelope, ae[s], r_ae[s])
        shape = e.shape  # (i, K, orbital)
        w = linear["w"]
        value = (h.value[s] @ w + linear.get("b", 0.0)).reshape(shape)
        laplacian = (h.laplacian[s] @ w).reshape(shape)
        i = np.arange(s.start, s.stop)
        own = (jnp.swapaxes(h.jacobian[i, :, i], 0, 1) @ w).reshape(de.shape)
        # (i, 3, q, K, orbital) -> (K, orbital, i, 3, q)
        jacobian = (h.jacobian[s] @ w).reshape(-1, 3, n, *shape[1:])
        jacobian = jacobian.transpose(3, 4, 0, 1, 2) * jnp.moveaxis(e, 0, 2)[..., None, None]
        from_envelope = jnp.moveaxis(value * de, (0, 1), (3, 2))[..., None]
        jacobian = jacobian + jnp.eye(n, dtype=e.dtype)[s, None] * from_envelope
        if shape[2] < n:  # A block goes on the diagonal, as in `ansatz.assemble`.
            jacobian = jnp.pad(jacobian, [(0, 0), (s.start, n - s.stop), *[(0, 0)] * 3])
        values.append(value * e)
        jacobians.append(jacobian)
        laplacians.append(laplacian * e + 2 * jnp.sum(own * de, axis=0) + value * lap_e)
    return Matrices(
        assemble([jnp.moveaxis(v, 0, 1) for v in values]),
        jnp.concatenate(jacobians, axis=2).reshape(-1, n, 3 * n * n),
        assemble([jnp.moveaxis(x, 0, 1) for x in laplacians]),
    )


def log_psi_derivatives(
    params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins
) -> LogPsi:
    """log|psi|, its gradient and (lap psi)/psi of walkers.

    Args:
        params: from `ferminet.init`
        electrons: (walker, electron, 3), bohr
        nuclei: (nucleus, 3), bohr
        spins: (n_up, n_down)
    """

    def matrices(walker: jax.Array) -> Matrices:
        ae = walker[:, None, :] - nuclei
        r_ae = distance(ae)
        h = _streams(params, walker, ae, spins)
        return _orbitals(params, h, ae, r_ae, spins)

    psi = of_matrices(jax.vmap(matrices)(electrons), params["determinants"]["w"])
    return with_jastrow(params, psi, electrons, spins)

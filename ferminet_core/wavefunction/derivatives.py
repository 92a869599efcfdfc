"""log|psi| with gradient and Laplacian, from the determinants' matrices with theirs.

Determinants of matrices far from singular need one product with the inverse. The others need
products of pivots (module `determinants`). Axes are those of `forward_laplacian`.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ferminet_core.parallel import platform
from ferminet_core.wavefunction.ansatz import Spins, jastrow_pairs
from ferminet_core.wavefunction.determinants import (
    cofactors,
    eliminate,
    factorise,
    invert,
    log_sum,
    log_sum_determinants,
    mend,
    second_cofactors,
)
from ferminet_core.wavefunction.features import distance
from ferminet_core.wavefunction.layers import Params

# Up to this size products of matrices are written as sums, which on a CPU is faster than a call for
# each product (LiH).
LARGEST_SUMMED = 8


class LogPsi(NamedTuple):
    """log|psi| and its derivatives, with a first axis of walkers, or of one.

    Attributes:
        sign: of psi.
        log: log|psi|.
        gradient: grad log|psi| (electron, 3), bohr^-1.
        laplacian_ratio: (lap psi) / psi, bohr^-2.
    """

    sign: jax.Array
    log: jax.Array
    gradient: jax.Array
    laplacian_ratio: jax.Array


class Matrices(NamedTuple):
    """The determinants' matrices [electron, orbital] with their derivatives.

    value, laplacian: (determinant, electron, orbital)
    jacobian: (determinant, orbital, (electron, 3, moved electron))
    """

    value: jax.Array
    jacobian: jax.Array
    laplacian: jax.Array


def safe_inverse(r: jax.Array) -> jax.Array:
    """1 / r, and 0 where r is 0."""
    return jnp.where(r == 0, 0.0, 1.0 / jnp.where(r == 0, 1.0, r))


def total(terms: Iterable[jax.Array]) -> jax.Array:
    """The sum of the terms, written out: XLA vectorises this on CPUs, not a sum over an axis."""
    return functools.reduce(jnp.add, terms)


def _by_elimination(m: Matrices, weights: jax.Array) -> LogPsi:
    """`of_matrices` of one walker whose matrices may be singular."""
    sign, log = log_sum_determinants(m.value, weights)
    e = eliminate(m.value)
    scale = jnp.broadcast_to(log, weights.shape)
    first = cofactors(e, scale) * (sign * weights)[:, None]
    second = second_cofactors(e, scale) * (sign * weights)[:, None, None]
    k, n = m.value.shape[:2]
    jacobian = m.jacobian.reshape(k, n, n, 3 * n).transpose(0, 2, 3, 1)
    rotated = e.left @ jacobian.reshape(k, n, 3 * n * n)
    c = (rotated.reshape(k, 3 * n * n, n) @ e.right).reshape(k, n, 3 * n, n)
    diagonal = jnp.einsum("kpqp->kqp", c)
    gradient = jnp.einsum("kp,kqp->q", first, diagonal)
    crossed = jnp.sum(c * jnp.swapaxes(c, 1, 3), axis=2)
    quadratic = jnp.swapaxes(diagonal, 1, 2) @ diagonal - crossed
    linear = jnp.einsum("kpi,kij,kjp->kp", e.left, m.laplacian, e.right)
    laplacian = jnp.sum(first * linear) + jnp.sum(second * quadratic)
    return LogPsi(sign, log, gradient.reshape(3, -1).T, laplacian)


def _by_inverses(m: Matrices, weights: jax.Array) -> tuple[LogPsi, jax.Array]:
    """`of_matrices`, and which walkers' matrices are all far from singular.

    With X_q = dM_q M^-1: d_q log det M = tr X_q, and
    (lap det M) / det M = tr(M^-1 lap M) + sum_q ((tr X_q)^2 - tr(X_q X_q)).
    """
    i = invert(m.value)
    sign, log = log_sum(i.sign, i.log, weights)
    share = weights * i.sign * jnp.exp(i.log - log[:, None]) * sign[:, None]
    w, k, n = m.value.shape[:3]
    # x[..., j, i, q] = (X_q)_ij
    if n <= LARGEST_SUMMED:
        x = total(i.inverse[:, :, o, :, None] * m.jacobian[:, :, o, None] for o in range(n))
    else:
        x = jnp.swapaxes(i.inverse, -2, -1) @ m.jacobian
    x = x.reshape(w, k, n, n, 3 * n)
    traces = total(x[:, :, e, e] for e in range(n))
    squares = total(x[:, :, e] * x[:, :, :, e] for e in range(n))
    linear = jnp.sum(i.inverse * jnp.swapaxes(m.laplacian, -2, -1), axis=(-2, -1))
    linear = linear + jnp.sum(traces**2, axis=-1) - jnp.sum(squares, axis=(-2, -1))
    gradient = jnp.sum(share[..., None] * traces, axis=1)
    gradient = jnp.swapaxes(gradient.reshape(w, 3, n), 1, 2)
    return LogPsi(sign, log, gradient, jnp.sum(share * linear, axis=1)), jnp.all(i.good, axis=1)


def of_matrices(m: Matrices, weights: jax.Array) -> LogPsi:
    """Gradient and Laplacian of log|sum_k w_k det M_k| of walkers from those of the matrices."""
    found, good = _by_inverses(m, weights)
    one_by_one = jax.vmap(_by_elimination, (0, None))
    return mend(found, good, lambda some: one_by_one(some, weights), m)


def _of_one(m: jax.Array, weights: jax.Array) -> LogPsi:
    """log|sum_k w_k det M_k| with derivatives from the rows (determinant, row, electron, orbital).

    With X = dM M^-1, d det M = det M tr X and d^2 det M = det M ((tr X)^2 - tr X^2). In terms of
    Y = dM M'^-1, z = dM v and `Factors` the terms with 1/u^2 cancel. No division by u is left:

        d det M = det M' ((u/s) tr Y + (s - u) w.z)
        d^2 det M = det M' ((u/s) ((tr Y)^2 - tr Y^2) + 2 (s - u) (tr Y w.z - w.Y z))
    """
    k, _, n, _ = m.shape
    f = factorise(m[:, 0])
    ratio, gap = f.small / f.large, f.large - f.small
    sign, log = log_sum(f.sign * jnp.sign(ratio), f.log + jnp.log(jnp.abs(ratio)), weights)
    share = weights * f.sign * jnp.exp(f.log - log) * sign
    products = (m[:, 1:].reshape(k, -1, n) @ f.inverse).reshape(k, -1, n, n + 1)
    y, z = products[..., :n], products[..., n]
    trace = jnp.trace(y, axis1=-2, axis2=-1)
    along = z @ f.row[:, :, None]
    first = ratio[:, None] * trace + gap[:, None] * along[..., 0]
    # Row times column, one by one: a transposed copy would cost as much as the product before.
    squares = sum(jnp.sum(y[:, 1:, e] * y[:, 1:, :, e], axis=-1) for e in range(n))
    crossed = jnp.sum(f.row[:, None, :, None] * y[:, 1:] * z[:, 1:, None], axis=(-2, -1))
    second = ratio[:, None] * (trace[:, 1:] ** 2 - squares)
    second = second + 2 * gap[:, None] * (trace[:, 1:] * along[:, 1:, 0] - crossed)
    gradient = (share @ first[:, 1:]).reshape(3, n).T
    return LogPsi(sign, log, gradient, share @ (first[:, 0] + jnp.sum(second, axis=-1)))


def of_rows(m: jax.Array, weights: jax.Array) -> LogPsi:
    """log|psi| of walkers from rows (walker, determinant, row, electron, orbital), for GPUs.

    Rows are those of `stacked_laplacian`: the value, the Laplacian, and the derivatives with
    respect to the coordinates (a, q) of the moved electron q.
    """
    return jax.vmap(_of_one, (0, None))(m, weights)


def from_rows(m: jax.Array, weights: jax.Array) -> LogPsi:
    """`of_rows` in the form that suits the devices."""
    if not platform.on_cpu():
        return of_rows(m, weights)
    jacobian = m[:, :, 2:].transpose(0, 1, 4, 3, 2)  # (walker, determinant, orbital, i, (a, q))
    jacobian = jacobian.reshape(*jacobian.shape[:3], -1)
    return of_matrices(Matrices(m[:, :, 0], jacobian, m[:, :, 1]), weights)


def with_jastrow(params: Params, psi: LogPsi, electrons: jax.Array, spins: Spins) -> LogPsi:
    """psi of walkers times exp(J), if the parameters have a Jastrow factor.

    The gradients add, and lap(psi e^J) / (psi e^J) = lap psi/psi + 2 grad.grad J + lap J +
    |grad J|^2.
    """
    if "jastrow" not in params:
        return psi
    return jax.vmap(lambda p, x: _times_jastrow(params["jastrow"], p, x, spins))(psi, electrons)


def _times_jastrow(lengths: Params, psi: LogPsi, electrons: jax.Array, spins: Spins) -> LogPsi:
    c, a = jastrow_pairs(lengths, spins, electrons.dtype)
    vector = electrons[:, None, :] - electrons[None, :, :]
    r = distance(vector)
    inverse = safe_inverse(r)
    slope = c * a**2 / (a + r) ** 2
    gradient = jnp.sum((slope * inverse)[..., None] * vector, axis=1)
    laplacian = jnp.sum(-2 * slope / (a + r) + 2 * slope * inverse)
    cross = jnp.sum(psi.gradient * gradient)
    return LogPsi(
        psi.sign,
        psi.log - 0.5 * jnp.sum(c * a**2 / (a + r)),
        psi.gradient + gradient,
        psi.laplacian_ratio + 2 * cross + laplacian + jnp.sum(gradient**2),
    )

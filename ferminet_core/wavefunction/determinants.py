"""Sums of determinants, correct in value and derivatives even where a determinant is singular.

psi = sum_k w_k det A_k. The derivative of a determinant is its cofactor matrix. It does not vanish
where the determinant does, and A^-1 det A cannot give it there. Pfau et al. 2020 (appendix on
numerically stable gradients) use the singular value decomposition. Gaussian elimination with
complete pivoting suffices and is cheaper: it gives G, H of unit determinant and a diagonal D, with
G A H = D up to the order of rows and columns. Then

    det(A + B) = +-det(D + G B H),

and its derivatives are sums of products of pivots that leave out one or two of them. No step
divides by a vanishing pivot.

Nearly all matrices are far from singular. For these the inverse is as good and costs a fraction
(`invert`, which reports the matrices for which it is not). The elimination treats only the others
(`mend`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ferminet_core.parallel import platform

# Larger matrices take longer to compile (5 s for 14, 12 s for 30) and gain less (1.7 at 20).
LARGEST_UNROLLED = 16


class Elimination(NamedTuple):
    """G A H = diag(pivots) for matrices A (..., n, n), in the order of the choice of pivots.

    Attributes:
        left: G (..., pivot, row of A), |det| = 1.
        right: H (..., column of A, pivot), |det| = 1.
        pivots: (..., n), zero beyond the rank of A.
        sign: (...), det A = sign * prod(pivots).
    """

    left: jax.Array
    right: jax.Array
    pivots: jax.Array
    sign: jax.Array


def parity(order: jax.Array) -> jax.Array:
    """Sign of the permutations order (..., n), from the number of inversions."""
    n = order.shape[-1]
    inverted = (order[..., :, None] > order[..., None, :]) & (
        jnp.arange(n)[:, None] < jnp.arange(n)
    )
    return 1.0 - 2.0 * (jnp.sum(inverted, axis=(-2, -1)) % 2)


def signed_log(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sign and log|det A| (...) of matrices (..., n, n); (0, -inf) where A is singular.

    By Gaussian elimination with partial pivoting. A GPU has one kernel that factorises all of them.
    """
    if a.shape[-1] <= LARGEST_UNROLLED and platform.on_cpu():
        return _signed_log_unrolled(a)
    found = jnp.linalg.slogdet(a)
    return found.sign, found.logabsdet


@jax.jit
def _signed_log_unrolled(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`signed_log` for small matrices on a CPU.

    The matrices lie along the last axis, so that each of the n steps is a few operations on long
    vectors; LAPACK, called once for each matrix, took 2.7 to 8 times as long for n up to
    `LARGEST_UNROLLED`.
    """
    n = a.shape[-1]
    x = jnp.moveaxis(a.reshape(-1, n, n), 0, -1)  # (row, column, matrix)
    pivots, exchanged = [], jnp.zeros(x.shape[-1:], bool)
    while x.shape[0] > 1:
        column = x[:, 0]
        chosen = jnp.argmax(jnp.abs(column), axis=0)
        is_row = jnp.arange(x.shape[0])[:, None] == chosen
        row = jnp.sum(jnp.where(is_row[:, None], x, 0.0), axis=0)
        # The first row takes the place of the chosen one.
        rest = jnp.where(is_row[1:, None], x[:1], x[1:])
        pivots.append(row[0])
        exchanged = exchanged ^ (chosen != 0)
        factor = rest[:, 0] / jnp.where(row[0] == 0, 1.0, row[0])
        x = rest[:, 1:] - factor[:, None] * row[1:]
    diagonal = jnp.stack([*pivots, x[0, 0]])
    sign = jnp.where(exchanged, -1.0, 1.0) * jnp.prod(jnp.sign(diagonal), axis=0)
    log = jnp.sum(jnp.log(jnp.abs(diagonal)), axis=0)
    return sign.astype(a.dtype).reshape(a.shape[:-2]), log.reshape(a.shape[:-2])


class Inverse(NamedTuple):
    """Inverses and determinants of matrices.

    Attributes:
        inverse: (..., n, n).
        sign: (...), of the determinant.
        log: (...), log|det|.
        good: (...), whether the inverse is accurate: after scaling of rows and columns no pivot is
            below 3 sqrt(eps).
    """

    inverse: jax.Array
    sign: jax.Array
    log: jax.Array
    good: jax.Array


def _scale(x: jax.Array, axis: int) -> jax.Array:
    """The largest size along an axis, 1 where all is zero."""
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    return jnp.where(largest == 0, 1.0, largest)


def invert(a: jax.Array) -> Inverse:
    """Gauss-Jordan inverses with partial pivoting of matrices (..., n, n).

    Each step exchanges one row with one column, in place: after step k row p_k and column k hold
    the inverse of that pair. The matrices lie along the last axis, so that a step is a few
    operations on long vectors. A small pivot leaves a relative error of eps / pivot in the
    derivatives of the determinant, hence the bound in `good`.
    """
    n = a.shape[-1]
    x = jnp.moveaxis(a.reshape(-1, n, n), 0, -1)  # (row, column, matrix)
    rows = _scale(x, 1)
    columns = _scale(x / rows, 0)
    index = jnp.arange(n)

    def step(carry: Any, k: jax.Array) -> tuple[Any, Any]:
        x, free = carry
        column = jax.lax.dynamic_index_in_dim(x, k, axis=1, keepdims=False)
        chosen = jnp.argmax(jnp.where(free, jnp.abs(column), -1.0), axis=0)
        is_row = index[:, None] == chosen
        is_column = (index == k)[:, None]
        row = jnp.sum(jnp.where(is_row[:, None], x, 0.0), axis=0)
        pivot = jnp.sum(jnp.where(is_row, column, 0.0), axis=0)
        row = jnp.where(is_column, 1.0, row) / jnp.where(pivot == 0, 1.0, pivot)
        others = jnp.where(is_column, 0.0, x) - column[:, None] * row
        return (jnp.where(is_row[:, None], row, others), free & ~is_row), (chosen, pivot)

    start = (x / rows / columns, jnp.ones(x.shape[1:], bool))
    (x, _), (order, pivots) = jax.lax.scan(step, start, index)
    # inverse[k, p_j] = x[p_k, j]
    place = jnp.sum(jnp.where(order[:, None] == index[:, None], index[:, None, None], 0), axis=0)
    x = jnp.take_along_axis(x, order[:, None], axis=0)
    x = jnp.take_along_axis(x, place[None], axis=1)
    x = x / jnp.swapaxes(columns, 0, 1) / jnp.swapaxes(rows, 0, 1)
    scales = jnp.log(rows[:, 0]) + jnp.log(columns[0])
    log = jnp.sum(jnp.log(jnp.abs(pivots)) + scales, axis=0)
    negative = jnp.sum(pivots < 0, axis=0) % 2
    sign = parity(order.T) * (1.0 - 2.0 * negative)
    bound = 3.0 * jnp.finfo(a.dtype).eps ** 0.5
    good = (jnp.min(jnp.abs(pivots), axis=0) > bound) & jnp.isfinite(log)
    batch = a.shape[:-2]
    return Inverse(
        jnp.moveaxis(x, -1, 0).reshape(a.shape),
        sign.astype(a.dtype).reshape(batch),
        log.reshape(batch),
        good.reshape(batch),
    )


class Factors(NamedTuple):
    """M = P^T L U, taken apart so that one pivot u may vanish.

    U' is U with the smallest pivot u replaced by the size s of the largest. With v the column of
    U'^-1 and w the row of M'^-1 that belong to this pivot,

        det M = det M' u / s,    M^-1 = M'^-1 + (s / u) (s - u) v w^T.

    Attributes:
        inverse: (matrix, n, n + 1), M'^-1 with v as its last column.
        row: (matrix, n), w.
        small, large: (matrix,), u and s.
        sign, log: (matrix,), of det M'.
    """

    inverse: jax.Array
    row: jax.Array
    small: jax.Array
    large: jax.Array
    sign: jax.Array
    log: jax.Array


def factorise(m: jax.Array) -> Factors:
    """`Factors` of matrices (matrix, n, n), by LU with partial pivoting: few kernels on a GPU."""
    n = m.shape[-1]
    lu, _, permutation = jax.lax.linalg.lu(m)
    pivots = jnp.diagonal(lu, axis1=-2, axis2=-1)
    size = jnp.abs(pivots)
    large = jnp.max(size, axis=-1, keepdims=True)
    large = jnp.where(large == 0, 1.0, large)  # all orbitals may underflow far from the nuclei
    is_small = jnp.arange(n) == jnp.argmin(size, axis=-1)[:, None]
    small = jnp.sum(jnp.where(is_small, pivots, 0.0), axis=-1)
    # Another pivot of zero: the matrix has rank n - 2. The first derivatives of the determinant
    # vanish, but not the second ones, in which the stand-in cancels.
    least = jnp.finfo(m.dtype).tiny ** 0.25 * large
    kept = jnp.where(is_small, large, jnp.where(size < least, least, pivots))
    exchange = (permutation[:, :, None] == jnp.arange(n)).astype(m.dtype)
    right = jax.lax.linalg.triangular_solve(
        lu, exchange, left_side=True, lower=True, unit_diagonal=True
    )
    right = jnp.concatenate([right, is_small[:, :, None].astype(m.dtype)], axis=-1)
    upper = jnp.where(jnp.eye(n, dtype=bool), kept[:, :, None], lu)
    inverse = jax.lax.linalg.triangular_solve(upper, right, left_side=True)
    row = jnp.sum(jnp.where(is_small[:, :, None], inverse[:, :, :n], 0.0), axis=1)
    sign = parity(permutation) * jnp.prod(jnp.sign(kept), axis=-1)
    log = jnp.sum(jnp.log(jnp.abs(kept)), axis=-1)
    return Factors(inverse, row, small, large[:, 0], sign, log)


def mend(found: Any, good: jax.Array, compute: Callable[[Any], Any], inputs: Any) -> Any:
    """`found`, with the entries that are not good replaced by those of `compute`.

    Up to one entry in eight is computed separately. If there are more, all entries are computed.

    Args:
        found: a tree of arrays with the entries along their first axis
        good: (entry,)
        compute: inputs of some entries -> a tree like `found`
        inputs: a tree of arrays with the entries along their first axis
    """
    few = max(1, good.shape[0] // 8)

    def leave() -> Any:
        return found

    def some() -> Any:
        (where,) = jnp.nonzero(~good, size=few, fill_value=good.shape[0])
        computed = compute(jax.tree.map(lambda x: x.at[where].get(mode="clip"), inputs))
        return jax.tree.map(lambda x, y: x.at[where].set(y, mode="drop"), found, computed)

    def everything() -> Any:
        def choose(x: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.where(good.reshape(good.shape + (1,) * (x.ndim - 1)), x, y)

        return jax.tree.map(choose, found, compute(inputs))

    bad = jnp.sum(~good)
    return jax.lax.switch((bad > 0).astype(int) + (bad > few), [leave, some, everything])


def eliminate(a: jax.Array) -> Elimination:
    """Two-sided Gauss-Jordan elimination with complete pivoting of matrices (..., n, n).

    Rows and columns stay in place during the elimination (masks instead of swaps: a gather in every
    step costs more than the arithmetic), and are brought into pivot order once at the end.
    """
    n = a.shape[-1]
    index = jnp.arange(n)
    eye = jnp.broadcast_to(jnp.eye(n, dtype=a.dtype), a.shape)
    free = jnp.ones(a.shape[:-1], bool)

    def step(carry: Any, _: None) -> tuple[Any, Any]:
        work, left, right, rows_free, columns_free = carry
        # Used rows and columns hold exact zeros; -1 keeps them out also when all that is left is
        # zero.
        score = jnp.where(rows_free[..., :, None] & columns_free[..., None, :], jnp.abs(work), -1.0)
        largest = jnp.argmax(score.reshape(*score.shape[:-2], -1), axis=-1)
        is_row = index == (largest // n)[..., None]
        is_column = index == (largest % n)[..., None]
        column = jnp.sum(jnp.where(is_column[..., None, :], work, 0.0), axis=-1)
        row = jnp.sum(jnp.where(is_row[..., :, None], work, 0.0), axis=-2)
        pivot = jnp.sum(jnp.where(is_row, column, 0.0), axis=-1)
        inverse = jnp.where(pivot == 0, 0.0, 1.0 / jnp.where(pivot == 0, 1.0, pivot))[..., None]
        below = jnp.where(is_row, 0.0, column * inverse)
        next_row = jnp.where(is_column, 0.0, row * inverse)
        left_row = jnp.sum(jnp.where(is_row[..., :, None], left, 0.0), axis=-2)
        right_column = jnp.sum(jnp.where(is_column[..., None, :], right, 0.0), axis=-1)
        left = left - below[..., :, None] * left_row[..., None, :]
        right = right - right_column[..., :, None] * next_row[..., None, :]
        rows_free, columns_free = rows_free & ~is_row, columns_free & ~is_column
        work = work - below[..., :, None] * row[..., None, :]
        work = jnp.where(rows_free[..., :, None] & columns_free[..., None, :], work, 0.0)
        return (work, left, right, rows_free, columns_free), (is_row, is_column, pivot)

    carry, (rows, columns, pivots) = jax.lax.scan(step, (a, eye, eye, free, free), None, length=n)
    rows, columns = jnp.moveaxis(rows, 0, -2), jnp.moveaxis(columns, 0, -2)
    sign = parity(jnp.argmax(rows, axis=-1)) * parity(jnp.argmax(columns, axis=-1))
    left = rows.astype(a.dtype) @ carry[1]
    right = carry[2] @ jnp.swapaxes(columns.astype(a.dtype), -2, -1)
    return Elimination(left, right, jnp.moveaxis(pivots, 0, -1), sign.astype(a.dtype))


def _log_leave_one_out(pivots: jax.Array) -> jax.Array:
    """log|prod of all pivots but d_i| for pivots (..., n); -inf where another pivot is zero."""
    logs = jnp.log(jnp.abs(pivots))
    zero = jnp.zeros_like(logs[..., :1])
    before = jnp.concatenate([zero, jnp.cumsum(logs, axis=-1)[..., :-1]], axis=-1)
    after = jnp.concatenate(
        [jnp.cumsum(logs[..., ::-1], axis=-1)[..., ::-1][..., 1:], zero], axis=-1
    )
    return before + after


def cofactors(e: Elimination, log_scale: jax.Array) -> jax.Array:
    """rho (..., n): exp(-log_scale) times the signed product of all pivots but i.

    d det[B] = sum_i rho_i C_ii, where C = G B H is the direction B in pivot order.
    """
    signs = jnp.where(e.pivots < 0, -1.0, 1.0).astype(e.pivots.dtype)
    overall = (e.sign * jnp.prod(signs, axis=-1))[..., None]
    return overall * signs * jnp.exp(_log_leave_one_out(e.pivots) - log_scale[..., None])


def second_cofactors(e: Elimination, log_scale: jax.Array) -> jax.Array:
    """exp(-log_scale) times the signed product of all pivots but i and j: (..., n, n), diagonal 0.

    d^2 det[B, B] = sum_ij rho_ij (C_ii C_jj - C_ij C_ji).
    """
    n = e.pivots.shape[-1]
    diagonal = jnp.eye(n, dtype=bool)
    signs = jnp.where(e.pivots < 0, -1.0, 1.0).astype(e.pivots.dtype)
    overall = (e.sign * jnp.prod(signs, axis=-1))[..., None, None]
    others = jnp.where(diagonal, 1.0, e.pivots[..., None, :])  # row i: pivots with d_i left out
    products = jnp.exp(_log_leave_one_out(others) - log_scale[..., None, None])
    rho = overall * signs[..., :, None] * signs[..., None, :] * products
    return jnp.where(diagonal, 0.0, rho)


def _adjugate_by_factors(matrices: jax.Array, log_scale: jax.Array) -> jax.Array:
    """det M M^-1 = det M' ((u/s) M'^-1 + (s - u) v w^T), with no division by u (`Factors`)."""
    f = factorise(matrices)
    inverse, column = f.inverse[:, :, :-1], f.inverse[:, :, -1:]
    outer = column * f.row[:, None] * (f.large - f.small)[:, None, None]
    found = inverse * (f.small / f.large)[:, None, None] + outer
    return found * (f.sign * jnp.exp(f.log - log_scale))[:, None, None]


def _adjugate_by_elimination(a: jax.Array, log_scale: jax.Array) -> jax.Array:
    e = eliminate(a)
    return (e.right * cofactors(e, log_scale)[..., None, :]) @ e.left


@jax.custom_jvp
def scaled_adjugate(a: jax.Array, log_scale: jax.Array) -> jax.Array:
    """exp(-log_scale) adj(A) of matrices (..., n, n); d det A[B] = tr(adj(A) B)."""
    matrices, scales = a.reshape(-1, *a.shape[-2:]), log_scale.reshape(-1)
    if not platform.on_cpu():
        return _adjugate_by_factors(matrices, scales).reshape(a.shape)
    i = invert(matrices)
    found = i.inverse * (i.sign * jnp.exp(i.log - scales))[:, None, None]
    inputs = (matrices, scales)
    return mend(found, i.good, lambda x: _adjugate_by_elimination(*x), inputs).reshape(a.shape)


@scaled_adjugate.defjvp
def _scaled_adjugate_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    a, log_scale = primals
    direction, d_log_scale = tangents
    e = eliminate(a)
    value = (e.right * cofactors(e, log_scale)[..., None, :]) @ e.left
    rho = second_cofactors(e, log_scale)
    c = e.left @ direction @ e.right
    diagonal = jnp.einsum("...ij,...jj->...i", rho, c)
    d_adj = jnp.eye(a.shape[-1], dtype=a.dtype) * diagonal[..., None] - rho * c
    tangent = e.right @ d_adj @ e.left - value * d_log_scale[..., None, None]
    return value, tangent


def log_sum(signs: jax.Array, logs: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sign and logarithm of sum_k weights_k signs_k exp(logs_k) over the last axis."""
    largest = jnp.max(logs, axis=-1, keepdims=True)
    shift = jnp.where(jnp.isfinite(largest), largest, 0.0)
    total = jnp.sum(weights * signs * jnp.exp(logs - shift), axis=-1)
    return jnp.sign(total), jnp.log(jnp.abs(total)) + shift[..., 0]


@jax.custom_jvp
def log_sum_determinants(matrices: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sign and log|psi| of psi = sum_k w_k det A_k.

    Args:
        matrices: (..., determinant, n, n)
        weights: (determinant,), or with the leading axes of the matrices

    Returns:
        sign (...) and log|psi| (...); (0, -inf) where psi vanishes.
    """
    signs, logs = signed_log(matrices)
    return log_sum(signs, logs, weights)


@log_sum_determinants.defjvp
def _log_sum_determinants_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    matrices, weights = primals
    d_matrices, d_weights = tangents
    sign, log = log_sum_determinants(matrices, weights)
    scale = jnp.broadcast_to(log[..., None], matrices.shape[:-2])
    adjugate = scaled_adjugate(matrices, scale) * sign[..., None, None, None]
    products = jnp.sum(jnp.swapaxes(adjugate, -2, -1) * d_matrices, axis=(-2, -1))
    d_log = jnp.sum(weights * products, axis=-1)
    # det A_k / psi, expanded along the first row.
    ratios = jnp.sum(adjugate[..., :, 0] * matrices[..., 0, :], axis=-1)
    d_log = d_log + jnp.sum(ratios * d_weights, axis=-1)
    return (sign, log), (jnp.zeros_like(sign), d_log)

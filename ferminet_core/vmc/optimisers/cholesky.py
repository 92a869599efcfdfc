"""Cholesky factors of matrices that rounding may have left indefinite."""

import jax
import jax.numpy as jnp


def factor(matrix: jax.Array, damping: jax.Array | float) -> jax.Array:
    """Lower Cholesky factor of the symmetric matrix + damping 1, (n, n).

    A few parameters that all walkers depend on strongly give the optimisers' matrices eigenvalues
    of which the rounding in float32 exceeds the damping, and they are positive no more. Then ten
    times the damping is added, or as many times ten as that takes: more than the matrix's trace
    never is. A matrix with NaN has a factor with NaN.
    """
    one = jnp.eye(matrix.shape[0], dtype=matrix.dtype)

    def attempt(added: jax.Array) -> tuple[jax.Array, jax.Array]:
        damped = matrix + added * one
        return added, jax.lax.linalg.cholesky(damped, symmetrize_input=False)

    def failed(last: tuple[jax.Array, jax.Array]) -> jax.Array:
        added, found = last
        return ~jnp.all(jnp.isfinite(found)) & (added < jnp.trace(matrix))

    start = attempt(jnp.asarray(damping, matrix.dtype))
    return jax.lax.while_loop(failed, lambda last: attempt(10.0 * last[0]), start)[1]

"""Cholesky factors of matrices that rounding may have made indefinite."""

import jax
import jax.numpy as jnp


def factor(matrix: jax.Array, damping: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """Lower Cholesky factor of the symmetric matrix + damping 1, (n, n), and the damping added.

    A few parameters on which all walkers depend strongly give SPRING's matrix large
    eigenvalues. Their rounding in float32 can exceed the damping, and the matrix is then no longer
    positive definite. In that case ten times the damping is added, and ten times more until the
    factorisation succeeds, up to the trace of the matrix. A matrix with NaN has a factor with NaN.
    """
    one = jnp.eye(matrix.shape[0], dtype=matrix.dtype)

    def attempt(added: jax.Array) -> tuple[jax.Array, jax.Array]:
        damped = matrix + added * one
        return added, jax.lax.linalg.cholesky(damped, symmetrize_input=False)

    def failed(last: tuple[jax.Array, jax.Array]) -> jax.Array:
        added, found = last
        return ~jnp.all(jnp.isfinite(found)) & (added < jnp.trace(matrix))

    start = attempt(jnp.asarray(damping, matrix.dtype))
    added, found = jax.lax.while_loop(failed, lambda last: attempt(10.0 * last[0]), start)
    return found, added

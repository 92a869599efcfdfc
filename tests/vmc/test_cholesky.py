"""Cholesky factors where rounding has left a matrix indefinite."""

import jax.numpy as jnp
import numpy as np

from ferminet_core.vmc.optimisers import cholesky


def test_rounding_that_leaves_the_matrix_indefinite_costs_damping_not_the_run() -> None:
    """One parameter outweighs all others in the rows by far.

    In float32 the rounding of their products is larger than the damping.
    """
    rng = np.random.default_rng(0)
    n = 64
    rows = rng.normal(size=(n, 20))
    rows[:, 0] = 300.0 * (1.0 + 1e-3 * rng.normal(size=n))
    gram = jnp.asarray(rows @ rows.T, jnp.float32)
    setting = 1e-3  # SPRING's damping
    plain = jnp.linalg.cholesky(gram + setting * jnp.eye(n, dtype=gram.dtype))
    assert not jnp.isfinite(plain).all()
    found, said = cholesky.factor(gram, setting)
    lower = np.asarray(found, float)
    added = lower @ lower.T - np.asarray(gram, float)
    damping = np.median(np.diag(added))
    # Ten or more times the setting, but no more than rounding asks for: n eps trace / n.
    size = float(jnp.finfo(gram.dtype).eps * jnp.trace(gram))
    assert 5 * setting < damping < 10 * size
    assert abs(float(said) - damping) < size
    assert np.abs(added - damping * np.eye(n)).max() < size


def test_no_damping_is_added_where_none_is_needed() -> None:
    gram = np.diag(np.arange(1.0, 5.0))
    expected = np.sqrt(gram + 1e-3 * np.eye(4))
    found, damping = cholesky.factor(jnp.asarray(gram), 1e-3)
    np.testing.assert_allclose(found, expected)
    assert float(damping) == 1e-3
    # What is no number is left for the optimisation to see; the search ends.
    lost, _ = cholesky.factor(jnp.asarray(gram).at[2, 1].set(jnp.nan), 1e-3)
    assert not jnp.isfinite(lost).all()

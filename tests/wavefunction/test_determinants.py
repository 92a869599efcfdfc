"""Determinants and their derivatives against the Leibniz polynomial, singular matrices included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.oracles import leibniz

from ferminet_core.parallel import platform
from ferminet_core.wavefunction.determinants import (
    eliminate,
    invert,
    log_sum_determinants,
    mend,
    scaled_adjugate,
    signed_log,
)


def matrix_of_rank(rank: int, n: int = 4) -> jax.Array:
    """A random n x n matrix of the given rank."""
    left, right = jax.random.normal(jax.random.key(rank), (2, n, n))
    scale = jnp.where(jnp.arange(n) < rank, 1.0, 0.0)
    return left @ (scale[:, None] * right)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 17])
def test_sign_and_log_of_determinants_against_lapack(n: int) -> None:
    matrices = jax.random.normal(jax.random.key(n), (3, 40, n, n))
    matrices = matrices.at[0, 0, 0].set(0.0)  # of one matrix a whole row
    sign, log = signed_log(matrices)
    expected = np.linalg.slogdet(matrices)
    np.testing.assert_array_equal(sign, expected[0])
    # Rounding of float64 times n and the condition number.
    np.testing.assert_allclose(log, expected[1], rtol=0, atol=1e-11)
    assert set(np.unique(sign)) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4])
def test_elimination_diagonalises_at_every_rank(rank: int) -> None:
    a = matrix_of_rank(rank)
    e = eliminate(a)
    # Rounding of float64 with entries of order one.
    np.testing.assert_allclose(e.left @ a @ e.right, np.diag(e.pivots), atol=1e-13)
    assert np.sum(np.abs(e.pivots) > 1e-12) == rank
    np.testing.assert_allclose(e.sign * np.prod(e.pivots), np.linalg.det(a), atol=1e-13)


def test_inverses_with_rows_and_columns_of_very_different_size() -> None:
    a = np.random.default_rng(0).normal(size=(2, 3, 5, 5))
    a *= 10.0 ** np.linspace(-30, 0, 5)[:, None] * 10.0 ** np.linspace(3, -9, 5)
    found = invert(jnp.asarray(a))
    sign, log = np.linalg.slogdet(a)
    assert found.good.all()
    np.testing.assert_array_equal(found.sign, sign)
    np.testing.assert_allclose(found.log, log, rtol=1e-13)
    # Rounding of float64 times the condition number of the scaled matrices, below a thousand.
    product = np.einsum("...ij,...jk->...ik", found.inverse, a)
    size = np.einsum("...ij,...jk->...ik", np.abs(found.inverse), np.abs(a))
    assert (np.abs(product - np.eye(5)) < 1e-12 * size).all()


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4])
def test_singular_matrices_are_told_apart(rank: int) -> None:
    assert bool(invert(matrix_of_rank(rank)).good) == (rank == 4)


def test_a_matrix_that_is_no_number_is_not_good() -> None:
    a = jnp.stack([jnp.eye(3), jnp.eye(3).at[1, 1].set(jnp.nan), jnp.eye(3).at[0, 2].set(jnp.inf)])
    assert invert(a).good.tolist() == [True, False, False]


@pytest.mark.parametrize("n_bad", [0, 1, 2, 3, 16])
def test_mending_replaces_the_bad_entries_only(n_bad: int) -> None:
    """None, few (at most one in eight, computed by themselves), and many."""
    x = jnp.arange(16.0)
    good = jnp.arange(16) >= n_bad
    found = mend({"a": x, "b": x[:, None]}, good, lambda y: {"a": -y, "b": -y[:, None]}, x)
    expected = np.where(np.arange(16) >= n_bad, np.arange(16), -np.arange(16))
    np.testing.assert_array_equal(found["a"], expected)
    np.testing.assert_array_equal(found["b"][:, 0], expected)


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4])
def test_adjugate_and_its_derivative_at_every_rank(
    rank: int, on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "on_cpu", lambda: on_cpu)
    a, b = matrix_of_rank(rank), matrix_of_rank(4)
    log_scale = jnp.asarray(0.3)

    def found(x: jax.Array) -> jax.Array:
        return scaled_adjugate(x[None], log_scale[None])[0]

    # The derivative's rule computes the value in its own way.
    value, (same, tangent) = found(a), jax.jvp(found, (a,), (b,))
    exact = jax.grad(leibniz)(a).T * jnp.exp(-0.3)
    d_exact = jax.jvp(lambda x: jax.grad(leibniz)(x).T, (a,), (b,))[1] * jnp.exp(-0.3)
    # Rounding: products of three entries of order ten.
    np.testing.assert_allclose(value, exact, atol=1e-11)
    np.testing.assert_allclose(same, exact, atol=1e-11)
    np.testing.assert_allclose(tangent, d_exact, atol=1e-11)


@pytest.mark.parametrize("singular", [False, True])
def test_log_of_a_sum_of_determinants_to_second_order(singular: bool) -> None:
    first = matrix_of_rank(2 if singular else 4)
    matrices = jnp.stack([first, matrix_of_rank(4) + 1.0])
    weights = jnp.asarray([0.7, -1.3])

    def exact(m: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.log(jnp.abs(jnp.sum(w * jax.vmap(leibniz)(m))))

    sign, log = log_sum_determinants(matrices, weights)
    assert sign == jnp.sign(jnp.sum(weights * jax.vmap(leibniz)(matrices)))
    np.testing.assert_allclose(log, exact(matrices, weights), rtol=1e-12)
    arguments = (0, 1)
    found = jax.grad(lambda m, w: log_sum_determinants(m, w)[1], arguments)(matrices, weights)
    expected = jax.grad(exact, arguments)(matrices, weights)
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, atol=1e-10)  # rounding of ratios of order one
    log_psi = jax.jit(lambda m, w: log_sum_determinants(m, w)[1])
    found2 = jax.hessian(log_psi, arguments)(matrices, weights)
    expected2 = jax.hessian(jax.jit(exact), arguments)(matrices, weights)
    for f, e in zip(jax.tree.leaves(found2), jax.tree.leaves(expected2), strict=True):
        np.testing.assert_allclose(f, e, atol=1e-9)  # the same, squared


def test_single_precision_survives_determinants_far_below_its_range() -> None:
    # det A = 1e-60 underflows float32; its logarithm and cofactor ratios do not.
    a = (1e-15 * jnp.asarray(matrix_of_rank(4))).astype(jnp.float32)[None]
    _, log = log_sum_determinants(a, jnp.ones(1, jnp.float32))
    gradient = jax.grad(lambda m: log_sum_determinants(m, jnp.ones(1, jnp.float32))[1])(a)
    exact = np.linalg.inv(np.asarray(a[0], np.float64)).T
    assert np.isfinite(log)
    # float32 rounding times the matrix's condition number (about 20).
    np.testing.assert_allclose(gradient[0], exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())


def test_all_determinants_zero_is_a_node_not_a_nan() -> None:
    sign, log = log_sum_determinants(jnp.zeros((2, 3, 3)), jnp.ones(2))
    assert sign == 0
    assert log == -jnp.inf

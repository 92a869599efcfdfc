"""The Jacobian of the space warp; the warp itself is tested with the warm start."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferminet_core.vmc.space_warp import log_jacobian, space_warp

BEFORE = np.array([[0.0, 0.0, -0.7], [0.0, 0.0, 0.7], [1.1, 0.3, 0.2]])
AFTER = BEFORE + np.array([[0.05, -0.02, -0.15], [0.0, 0.03, 0.2], [0.1, 0.1, -0.1]])


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


jacobian = jax.jit(log_jacobian)


def electrons(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(20, 4, 3)))


def test_numpy_and_jax_arrays_are_warped_alike() -> None:
    x = electrons(0)
    expected = space_warp(np.asarray(x), BEFORE, AFTER)
    found = space_warp(x, jnp.asarray(BEFORE), jnp.asarray(AFTER))
    assert isinstance(expected, np.ndarray)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_the_jacobian_is_that_of_all_coordinates_together() -> None:
    """Against central differences of the whole map of a walker, (12, 12)."""
    x = np.asarray(electrons(1))
    found = jacobian(jnp.asarray(x), jnp.asarray(BEFORE), jnp.asarray(AFTER))
    h = 1e-5
    for walker, value in zip(x, found, strict=True):
        flat = walker.ravel()
        columns = [
            (
                space_warp((flat + e).reshape(4, 3), BEFORE, AFTER)
                - space_warp((flat - e).reshape(4, 3), BEFORE, AFTER)
            ).ravel()
            / (2 * h)
            for e in h * np.eye(12)
        ]
        expected = np.linalg.slogdet(np.stack(columns, axis=1))[1]
        assert abs(value - expected) < 1e-8


def test_it_agrees_with_automatic_differentiation_of_a_walker() -> None:
    before, after = jnp.asarray(BEFORE), jnp.asarray(AFTER)
    x = electrons(2)
    derivative = jax.jit(jax.vmap(jax.jacrev(lambda r: space_warp(r, before, after))))
    expected = np.linalg.slogdet(np.asarray(derivative(x)).reshape(-1, 12, 12))[1]
    np.testing.assert_allclose(jacobian(x, before, after), expected, rtol=0, atol=1e-12)


def test_a_translation_keeps_the_volume() -> None:
    before = jnp.asarray(BEFORE)
    found = jacobian(electrons(3), before, before + jnp.array([0.3, -0.2, 0.5]))
    np.testing.assert_allclose(found, 0.0, atol=1e-14)

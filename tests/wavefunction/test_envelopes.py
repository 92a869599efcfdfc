"""The bound on the decay of envelopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferminet_core.wavefunction import envelopes

FLOOR = envelopes.LEAST_DECAY
AXES = {"isotropic": (), "diagonal": (3,), "anisotropic": (3, 3)}


@pytest.mark.parametrize("kind", list(AXES))
def test_no_direction_decays_more_slowly_than_the_bound(kind: envelopes.Kind) -> None:
    sigma = 0.4 * jax.random.normal(jax.random.key(0), (2, 3, 4, *AXES[kind]))
    found = envelopes.bounded({"pi": jnp.ones((2, 3, 4)), "sigma": sigma})
    x = jax.random.normal(jax.random.key(1), (200, 1, 2, 3))
    r = jnp.linalg.norm(x, axis=-1)
    least = envelopes.decay(found, x, r).value / r[..., None, None]
    assert least.min() >= FLOOR * (1 - 1e-12)
    if kind == "isotropic":
        expected = np.sign(sigma) * np.maximum(np.abs(sigma), FLOOR)
        np.testing.assert_array_equal(found["sigma"], expected)


@pytest.mark.parametrize("kind", list(AXES))
def test_envelopes_within_the_bound_do_not_change(kind: envelopes.Kind) -> None:
    start = envelopes.init(kind, 2, 3, 4, jnp.float32)
    sigma = -1.7 * start["sigma"] + 0.1 * jax.random.normal(
        jax.random.key(2), (2, 3, 4, *AXES[kind])
    )
    if kind == "diagonal":
        sigma = jnp.where(jnp.abs(sigma) < FLOOR, 1.0, sigma)
    found = envelopes.bounded({**start, "sigma": sigma.astype(jnp.float32)})
    np.testing.assert_array_equal(found["sigma"], sigma.astype(jnp.float32))


@pytest.mark.parametrize("kind", list(AXES))
def test_a_decay_that_is_no_number_stays_visible(kind: envelopes.Kind) -> None:
    start = envelopes.init(kind, 1, 1, 1, jnp.float32)
    found = envelopes.bounded({**start, "sigma": start["sigma"] * jnp.nan})
    assert np.isnan(found["sigma"]).all()

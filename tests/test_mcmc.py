"""The sampler on densities whose moments are known."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from ferminet_core import mcmc
from ferminet_core.hamiltonian import Nuclei

SIGMA = jnp.asarray([[1.0, 0.5, 2.0], [0.7, 0.7, 1.5]])
# A heavy nucleus off the centre: steps that change tenfold within the density.
NUCLEI = Nuclei(jnp.asarray([[0.3, 0.0, -0.5], [0.0, 0.4, 1.0]]), jnp.asarray([8.0, 1.0]))


def gaussian(electrons: jax.Array) -> jax.Array:
    return -0.5 * jnp.sum((electrons / SIGMA) ** 2, axis=(-2, -1))


def test_moments_of_a_gaussian_within_errors() -> None:
    n = 4000
    state = mcmc.walkers(jnp.zeros((n, 2, 3)))
    width = jnp.asarray(0.6)
    # The slowest coordinate (2.0 wide) forgets its start after some (2.0 / 0.6)^2 accepted moves.
    state, _ = mcmc.sample(jax.random.key(0), state, gaussian, NUCLEI, width, 400)
    state, info = mcmc.sample(jax.random.key(1), state, gaussian, NUCLEI, width, 50)
    x = np.asarray(state.electrons)
    mean_sigmas = x.mean(0) / (SIGMA / np.sqrt(n))
    variance_sigmas = (x.var(0) - SIGMA**2) / (SIGMA**2 * np.sqrt(2 / n))
    # Twelve independent standard normal deviations: P(any beyond 4) = 8e-4.
    assert np.abs(mean_sigmas).max() < 4
    assert np.abs(variance_sigmas).max() < 4
    assert 0.1 < info.accepted.mean() < 0.9


def test_length_is_the_distance_to_a_nucleus_and_its_1s_radius_there() -> None:
    found = mcmc.length(NUCLEI.positions + jnp.asarray([[0, 0, 0], [0, 0, 3.0]]), NUCLEI)
    np.testing.assert_allclose(found, [1 / 8, np.sqrt(10.0)])


def test_proposal_ratio_against_normal_densities() -> None:
    width, (old, step) = 0.4, jax.random.normal(jax.random.key(0), (2, 7, 2, 3))
    before = mcmc.length(old, NUCLEI)
    new = old + width * before[..., None] * step
    after = mcmc.length(new, NUCLEI)

    def log_q(to: jax.Array, at: jax.Array, scale: jax.Array) -> np.ndarray:
        return np.sum(stats.norm.logpdf(to, at, width * scale[..., None]), axis=(-2, -1))

    expected = log_q(old, new, after) - log_q(new, old, before)
    # float64 sums of terms of up to some hundred.
    np.testing.assert_allclose(mcmc.log_proposal_ratio(step, before, after), expected, atol=1e-11)


def test_samples_do_not_depend_on_how_walkers_are_split() -> None:
    electrons = jax.random.normal(jax.random.key(0), (8, 2, 3))
    whole = mcmc.walkers(electrons)
    key, width = jax.random.key(1), jnp.asarray(0.5)
    together, _ = mcmc.sample(key, whole, gaussian, NUCLEI, width, 20)
    halves = [
        mcmc.sample(key, mcmc.Walkers(electrons[s], whole.number[s]), gaussian, NUCLEI, width, 20)[
            0
        ]
        for s in (slice(0, 4), slice(4, 8))
    ]
    split = np.concatenate([h.electrons for h in halves])
    np.testing.assert_array_equal(together.electrons, split)


def test_a_density_that_is_no_number_is_never_entered_and_can_be_left() -> None:
    def walled(electrons: jax.Array) -> jax.Array:
        log = gaussian(electrons)
        return jnp.where(electrons[:, 0, 0] > 0, log, jnp.nan)

    start = jnp.ones((200, 2, 3)).at[:5, 0, 0].set(-0.2)
    state, _ = mcmc.sample(
        jax.random.key(2), mcmc.walkers(start), walled, NUCLEI, jnp.asarray(0.5), 100
    )
    assert (state.electrons[:, 0, 0] > 0).all()


def test_width_settles_at_the_target_acceptance() -> None:
    state, width = mcmc.walkers(jnp.zeros((500, 2, 3))), jnp.asarray(20.0)
    pmoves = []
    sample = jax.jit(lambda key, s, w: mcmc.sample(key, s, gaussian, NUCLEI, w, 5))
    for step in range(150):
        state, info = sample(jax.random.key(step), state, width)
        pmoves.append(float(info.accepted.mean()))
        width = mcmc.adapt_width(width, jnp.asarray(pmoves[-1]), 0.525)
    # Binomial noise of 2500 moves is 0.01, and 50 iterations average it.
    assert abs(np.mean(pmoves[-50:]) - 0.525) < 0.02

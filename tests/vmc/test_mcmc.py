"""The sampler on densities whose moments are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ferminet_core.vmc import mcmc
from ferminet_core.vmc.hamiltonian import Nuclei

SPINS = (1, 1)
SIGMA = jnp.asarray([[1.0, 0.5, 2.0], [0.7, 0.7, 1.5]])
# A heavy nucleus off the centre: steps that change tenfold within the density.
NUCLEI = Nuclei(jnp.asarray([[0.3, 0.0, -0.5], [0.0, 0.4, 1.0]]), jnp.asarray([8.0, 1.0]))


def gaussian(electrons: jax.Array) -> jax.Array:
    """log|psi|; |psi|^2 is a Gaussian with the standard deviations `SIGMA`."""
    return -0.25 * jnp.sum((electrons / SIGMA) ** 2, axis=(-2, -1))


def kernel_of(log_psi: mcmc.LogPsi, moves: int) -> mcmc.Kernel:
    return mcmc.make_kernel(log_psi, NUCLEI, SPINS, moves)


def test_moments_of_a_gaussian_within_errors() -> None:
    n = 4000
    state = mcmc.walkers(jnp.zeros((n, 2, 3)))
    width = jnp.asarray(0.6)
    # The slowest coordinate (2.0 wide) forgets its start after some (2.0 / 0.6)^2 accepted moves.
    state, _ = kernel_of(gaussian, 400)(jax.random.key(0), state, width)
    state, info = kernel_of(gaussian, 50)(jax.random.key(1), state, width)
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
    found = mcmc.log_proposal_ratio(step, before, after).sum(axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_samples_do_not_depend_on_how_walkers_are_split() -> None:
    electrons = jax.random.normal(jax.random.key(0), (8, 2, 3))
    whole = mcmc.walkers(electrons)
    key, width = jax.random.key(1), jnp.asarray(0.5)
    kernel = kernel_of(gaussian, 20)
    together, _ = kernel(key, whole, width)
    halves = [
        kernel(key, mcmc.Walkers(electrons[s], whole.number[s]), width)[0]
        for s in (slice(0, 4), slice(4, 8))
    ]
    split = np.concatenate([h.electrons for h in halves])
    np.testing.assert_array_equal(together.electrons, split)


def test_a_density_that_is_no_number_is_never_entered_and_can_be_left() -> None:
    def walled(electrons: jax.Array) -> jax.Array:
        log = gaussian(electrons)
        return jnp.where(electrons[:, 0, 0] > 0, log, jnp.nan)

    start = jnp.ones((200, 2, 3)).at[:5, 0, 0].set(-0.2)
    state, _ = kernel_of(walled, 100)(jax.random.key(2), mcmc.walkers(start), jnp.asarray(0.5))
    assert (state.electrons[:, 0, 0] > 0).all()


def test_width_settles_at_the_target_acceptance() -> None:
    state, width = mcmc.walkers(jnp.zeros((500, 2, 3))), jnp.asarray(20.0)
    pmoves = []
    kernel = jax.jit(kernel_of(gaussian, 5))
    for step in range(150):
        state, info = kernel(jax.random.key(step), state, width)
        pmoves.append(float(info.accepted.mean()))
        width = mcmc.adapt_width(width, jnp.asarray(pmoves[-1]), 0.525)
    # Binomial noise of 2500 moves is 0.01, and 50 iterations average it.
    assert abs(np.mean(pmoves[-50:]) - 0.525) < 0.02


@pytest.mark.parametrize("moves", [1, 2, 1000])
def test_electrons_pass_between_atoms_far_apart_in_the_right_proportion(moves: int) -> None:
    """Two atoms 30 bohr apart, a distance that no Gaussian step spans.

    Each electron (two up, one down) is in a Gaussian about either atom. The weight of a pattern is
    a product of one weight for each electron at the second atom, and of one if the pair 0, 2 is
    together. All are known in closed form.
    """
    atoms = Nuclei(jnp.asarray([[0.0, 0.0, 0.0], [30.0, 0.0, 0.0]]), jnp.asarray([1.0, 1.0]))
    second, together = jnp.asarray([0.5, 3.0, 1.2]), 0.2

    def log_psi(electrons: jax.Array) -> jax.Array:
        there = electrons[..., 0] > 15.0
        centres = jnp.where(there[..., None], atoms.positions[1], atoms.positions[0])
        inside = -0.5 * jnp.sum((electrons - centres) ** 2, axis=(-2, -1))
        weights = jnp.sum(jnp.where(there, jnp.log(second), 0.0), axis=-1)
        pair = jnp.where(there[..., 0] == there[..., 2], jnp.log(together), 0.0)
        return 0.5 * (inside + weights + pair)

    n = 1000
    state, width = mcmc.walkers(jnp.zeros((n, 3, 3))), jnp.asarray(0.3)
    # A relocation in ten moves, and a few of these move every electron: 100 of them forget the
    # start many times over.
    kernel = mcmc.make_kernel(log_psi, atoms, (2, 1), moves)

    def call(state: mcmc.Walkers, key: jax.Array) -> tuple[mcmc.Walkers, None]:
        return kernel(key, state, width)[0], None

    keys = jax.random.split(jax.random.key(0), 1000 // moves)
    state, _ = jax.jit(lambda s: jax.lax.scan(call, s, keys))(state)
    there = np.asarray(state.electrons[..., 0] > 15.0)
    expected, found = [], []
    for pattern in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(pattern, second, 1.0))
        expected.append(weight * (together if pattern[0] == pattern[2] else 1.0))
        found.append(np.all(there == np.asarray(pattern, bool), axis=-1).sum())
    # Independent walkers: chi-squared of 7 degrees of freedom, which exceeds 24.3 once in 1000.
    share = np.asarray(expected) / np.sum(expected)
    assert np.sum((np.asarray(found) - n * share) ** 2 / (n * share)) < 24.3
    # Within the atoms too: each coordinate's variance is 1, known to sqrt(2 / 3 n); 4 of these.
    inside = np.asarray(state.electrons) - np.where(there[..., None], [30.0, 0.0, 0.0], 0.0)
    assert np.abs(inside.var((0, 1)) - 1.0).max() < 4 * np.sqrt(2 / (3 * n))


def test_two_moves_a_call_reach_the_other_atom_of_a_stretched_molecule() -> None:
    """H2+ at 8 bohr with psi = exp(-|r - A|) + exp(-|r - B|): half of the walkers at each atom."""
    atoms = Nuclei(jnp.asarray([[0.0, 0.0, -4.0], [0.0, 0.0, 4.0]]), jnp.ones(2))

    def log_psi(electrons: jax.Array) -> jax.Array:
        r = jnp.linalg.norm(electrons[..., 0, None, :] - atoms.positions, axis=-1)
        return jax.nn.logsumexp(-r, axis=-1)

    n = 1000
    state, width = mcmc.walkers(jnp.tile(atoms.positions[0], (n, 1, 1))), jnp.asarray(0.3)
    kernel = jax.jit(mcmc.make_kernel(log_psi, atoms, (1, 0), 2))
    for step in range(150):  # 30 relocations; half of them stay, and nearly all are accepted
        state, _ = kernel(jax.random.key(step), state, width)
    there = float((state.electrons[:, 0, 2] > 0).mean())
    # A binomial share: 0.5 with the standard deviation 0.016; 4 of these.
    assert abs(there - 0.5) < 0.064


@pytest.mark.parametrize("moves", [1, 2, 10, 15])
def test_acceptance_is_that_of_the_gaussian_moves_alone(moves: int) -> None:
    """Tiny steps are all accepted, and relocations all rejected."""

    def log_psi(electrons: jax.Array) -> jax.Array:
        near = jnp.linalg.norm(electrons - NUCLEI.positions[0], axis=-1) < 0.1
        return jnp.where(jnp.all(near, axis=-1), 0.0, -jnp.inf)

    start = jnp.tile(NUCLEI.positions[0] + jnp.asarray([[0.01, 0, 0], [0, 0.01, 0]]), (8, 1, 1))
    kernel = jax.jit(mcmc.make_kernel(log_psi, NUCLEI, (2, 0), moves))
    for step in range(30):
        state, info = kernel(jax.random.key(step), mcmc.walkers(start), jnp.asarray(1e-9))
        np.testing.assert_array_equal(info.accepted, 1.0)
        assert (state.electrons != start).any()


def test_an_electron_carried_has_the_same_place_at_another_nucleus_and_a_way_back() -> None:
    atoms = Nuclei(jnp.asarray([[0.0, 0, 0], [4.0, 0, 0], [0, 5.0, 0]]), jnp.ones(3))
    electrons = 0.3 * jax.random.normal(jax.random.key(0), (200, 3, 3)) + atoms.positions
    drawn = mcmc._draw_relocation(jax.random.key(1), jnp.arange(200), (2, 1), 3)
    proposal, bias = mcmc._relocate(electrons, drawn, atoms)
    returns = np.isfinite(bias.sum(axis=-1))
    old, new = np.asarray(electrons), np.asarray(proposal)
    moved = np.any(old != new, axis=-1)
    assert set(moved.sum(-1)) == {1, 2}  # carried, exchanged
    for before, after, which, back in zip(old, new, moved, returns, strict=True):
        offsets = after[which][:, None] - np.asarray(atoms.positions)
        place = before[which][:, None] - np.asarray(atoms.positions)
        if which.sum() == 1:
            near = [int(np.linalg.norm(x[0], axis=-1).argmin()) for x in (place, offsets)]
            np.testing.assert_allclose(offsets[0, near[1]], place[0, near[0]], atol=1e-6)
            assert near[0] != near[1]
            assert back
        else:
            assert which[2]
            assert back
            np.testing.assert_array_equal(after[which], before[which][::-1])


def test_an_electron_that_arrives_nearer_to_a_third_nucleus_has_no_way_back() -> None:
    """Nuclei so close that this happens, against a search over all pairs of them."""
    positions = np.asarray([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.4, 1.2, 0.0]])
    atoms = Nuclei(jnp.asarray(positions), jnp.ones(3))
    electrons = jax.random.normal(jax.random.key(3), (500, 2, 3))
    drawn = mcmc._draw_relocation(jax.random.key(4), jnp.arange(500), (2, 0), 3)
    proposal, bias = mcmc._relocate(electrons, drawn, atoms)
    returns = np.isfinite(bias.sum(axis=-1))
    seen, stayed = set(), 0
    for before, after, back in zip(
        np.asarray(electrons), np.asarray(proposal), returns, strict=True
    ):
        if np.array_equal(before, after):
            stayed += 1
            continue
        ((which,),) = np.nonzero(np.any(before != after, axis=-1))
        home, arrived = (
            int(np.linalg.norm(x[which] - positions, axis=-1).argmin()) for x in (before, after)
        )
        reverse = before[which] - after[which]  # a carriage back would be by this much
        possible = np.abs(positions - positions[arrived] - reverse).max(axis=-1) < 1e-6
        assert bool(back) == (arrived != home and bool(possible[home]))
        seen.add(bool(back))
    assert seen == {True, False}
    assert 200 < stayed < 300  # half without a pair to exchange: 4 times sqrt(500) / 2

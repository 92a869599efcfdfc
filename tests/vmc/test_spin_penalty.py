"""The spin penalty against S_- S_+ applied to spins one by one, and its share of the iteration."""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from ferminet_core.parallel.collectives import AXIS
from ferminet_core.parallel.mesh import REPLICATED, SPLIT, per_device
from ferminet_core.vmc import spin_penalty
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.vmc.mcmc import Walkers, walkers
from ferminet_core.vmc.observables import total_spin

Psi = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
Terms = dict[tuple[tuple[int, ...], tuple[int, ...]], float]
NO_NUCLEI = Nuclei(jnp.zeros((0, 3)), jnp.zeros(0))
# Ratios of determinants reach a hundred, and some hundred of them are added in float64.
ROUNDING = 1e-9


def orbitals(x: jax.Array) -> jax.Array:
    """Four linearly independent orbitals, (..., 4)."""
    angles = x @ jnp.asarray([[0.3, 1.1, -0.7, 0.2], [0.9, -0.4, 0.5, 1.3], [-0.2, 0.6, 1.2, 0.8]])
    return jnp.exp(-0.3 * jnp.sum(x**2, axis=-1, keepdims=True)) * jnp.cos(angles + jnp.arange(4.0))


def choices(count: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(4), count))


def determinants(x: jax.Array, count: int) -> jax.Array:
    """All determinants of `count` of the four orbitals, (walker, choice)."""
    values = orbitals(x)[:, :, np.array(choices(count))]  # (walker, electron, choice, orbital)
    return jnp.linalg.det(jnp.moveaxis(values, 1, 2))


def wavefunction(spins: tuple[int, int], weights: np.ndarray) -> Psi:
    """A sum of products of a spin-up and a spin-down determinant: weights (up, down)."""

    @jax.jit
    def psi(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        up, down = x[:, : spins[0]], x[:, spins[0] :]
        value = jnp.einsum(
            "wu,ud,wd->w", determinants(up, spins[0]), weights, determinants(down, spins[1])
        )
        return jnp.sign(value), jnp.log(jnp.abs(value))

    return psi


def chosen(spins: tuple[int, int], terms: Terms) -> Psi:
    """The sum of a few products, given by their orbitals."""
    weights = np.zeros([len(choices(n)) for n in spins])
    for (up, down), weight in terms.items():
        weights[choices(spins[0]).index(up), choices(spins[1]).index(down)] = weight
    return wavefunction(spins, weights)


def random_psi(spins: tuple[int, int]) -> Psi:
    """All pairs of determinants with random weights: all spins mixed."""
    shape = [len(choices(n)) for n in spins]
    return wavefunction(spins, np.random.default_rng(sum(spins)).normal(size=shape))


def electrons_for(spins: tuple[int, int], count: int = 6) -> jax.Array:
    return jax.random.normal(jax.random.key(5), (count, sum(spins), 3))


def amplitude(psi: Psi, electrons: jax.Array, spin: tuple[int, ...]) -> jax.Array:
    """The antisymmetric function of places and spins (1: up) whose up electrons come first."""
    order = sorted(range(len(spin)), key=lambda i: -spin[i])
    pairs = itertools.combinations(order, 2)
    sign = (-1) ** sum(i > j for i, j in pairs)
    found, log = psi(electrons[:, jnp.asarray(order)])
    return sign * found * jnp.exp(log)


def turned(spin: tuple[int, ...], index: int) -> tuple[int, ...]:
    return (*spin[:index], 1 - spin[index], *spin[index + 1 :])


def lowered_and_raised(psi: Psi, electrons: jax.Array, spins: tuple[int, int]) -> jax.Array:
    """(S_- S_+ psi) / psi: every spin turned down in turn, after every spin turned up."""
    start = (1,) * spins[0] + (0,) * spins[1]
    total = jnp.zeros(len(electrons))
    for b in range(len(start)):
        if start[b]:
            continue  # S_- leads to spin down
        above = turned(start, b)
        for a in range(len(above)):
            if above[a]:  # S_+ leads to spin up
                total += amplitude(psi, electrons, turned(above, a))
    return total / amplitude(psi, electrons, start)


def local_values(psi: Psi, electrons: jax.Array, spins: tuple[int, int]) -> jax.Array:
    """`raised` for each spin-down electron, (spin-down electron, walker)."""
    raised = jax.jit(functools.partial(spin_penalty.raised, psi, electrons, spins))
    downs = range(spins[0], sum(spins))
    return jnp.stack([raised(jnp.full(len(electrons), down)) for down in downs])


@pytest.mark.parametrize("spins", [(1, 1), (2, 1), (2, 2), (3, 1)])
def test_the_mean_over_spin_down_electrons_is_the_operator(spins: tuple[int, int]) -> None:
    psi, electrons = random_psi(spins), electrons_for(spins)
    expected = lowered_and_raised(psi, electrons, spins)
    assert float(jnp.std(expected)) > 0.1  # a mixture, whose local value depends on the places
    values = local_values(psi, electrons, spins)
    np.testing.assert_allclose(jnp.mean(values, axis=0), expected, rtol=ROUNDING, atol=ROUNDING)
    half = 0.5 * (spins[0] - spins[1])
    squared = total_spin.evaluate(psi, electrons, NO_NUCLEI, spins)
    np.testing.assert_allclose(squared - half * (half + 1), expected, rtol=ROUNDING, atol=ROUNDING)


EIGENFUNCTIONS: dict[str, tuple[tuple[int, int], Terms, int]] = {
    "singlet pair": ((1, 1), {((0,), (1,)): 1.0, ((1,), (0,)): 1.0}, 0),
    "triplet pair": ((1, 1), {((0,), (1,)): 1.0, ((1,), (0,)): -1.0}, 2),
    "restricted doublet": ((2, 1), {((0, 1), (0,)): 1.0}, 0),
    # Four or three orbitals, each with one electron: the places alone change the sign.
    "quartet": (
        (2, 1),
        {((0, 1), (2,)): 1.0, ((0, 2), (1,)): -1.0, ((1, 2), (0,)): 1.0},
        3,
    ),
    "singlet": ((2, 2), {((0, 1), (0, 2)): 1.0, ((0, 2), (0, 1)): 1.0}, 0),
    "triplet": ((2, 2), {((0, 1), (0, 2)): 1.0, ((0, 2), (0, 1)): -1.0}, 2),
    "quintet": (
        (2, 2),
        {
            ((0, 1), (2, 3)): 1.0,
            ((0, 2), (1, 3)): -1.0,
            ((0, 3), (1, 2)): 1.0,
            ((1, 2), (0, 3)): 1.0,
            ((1, 3), (0, 2)): -1.0,
            ((2, 3), (0, 1)): 1.0,
        },
        6,
    ),
    "restricted triplet": ((3, 1), {((0, 1, 2), (0,)): 1.0}, 0),
    "quintet with S_z = 1": (
        (3, 1),
        {
            ((0, 1, 2), (3,)): 1.0,
            ((0, 1, 3), (2,)): -1.0,
            ((0, 2, 3), (1,)): 1.0,
            ((1, 2, 3), (0,)): -1.0,
        },
        4,
    ),
}


@pytest.mark.parametrize("name", EIGENFUNCTIONS)
def test_eigenfunctions_have_their_eigenvalue(name: str) -> None:
    """S (S + 1) - M (M + 1) at every walker; 0 whichever electron is drawn."""
    spins, terms, expected = EIGENFUNCTIONS[name]
    electrons = electrons_for(spins)
    values = local_values(chosen(spins, terms), electrons, spins)
    np.testing.assert_allclose(jnp.mean(values, axis=0), expected, atol=ROUNDING)
    if expected == 0:
        np.testing.assert_allclose(values, 0.0, atol=ROUNDING)


def test_each_spin_down_electron_is_drawn_as_often() -> None:
    """Each walker has its own stream, and each iteration draws again."""
    spins, count = (3, 2), 1000
    number = jnp.arange(count)
    first, second = (spin_penalty.draw_down(jax.random.key(i), number, spins) for i in range(2))
    for drawn in (first, second):
        assert set(np.asarray(drawn)) == {3, 4}
        # Five standard deviations of a fair coin's mean.
        assert abs(float(jnp.mean(drawn == 4)) - 0.5) < 5 * 0.5 / np.sqrt(count)
    assert abs(float(jnp.mean(first == second)) - 0.5) < 5 * 0.5 / np.sqrt(count)


def test_the_draw_does_not_depend_on_the_devices() -> None:
    spins = (2, 2)
    psi, start = random_psi(spins), walkers(electrons_for(spins, 8))

    def added(start: Walkers, strength: jax.Array, key: jax.Array) -> jax.Array:
        return spin_penalty.added_energy(psi, start, spins, strength, key)

    specs = (SPLIT, REPLICATED, REPLICATED)
    one, two = (
        per_device(added, Mesh(jax.devices()[:n], (AXIS,)), specs, SPLIT)(
            start, jnp.asarray(0.1), jax.random.key(1)
        )
        for n in (1, 2)
    )
    # Another electron's value differs by much more than rounding.
    values = 0.1 * local_values(psi, start.electrons, spins)
    assert float(jnp.min(jnp.abs(values[0] - values[1]))) > 1e-3
    np.testing.assert_allclose(one, two, rtol=ROUNDING)


def test_without_a_strength_nothing_is_evaluated() -> None:
    calls: list[int] = []

    def psi(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        jax.debug.callback(lambda: calls.append(1))
        return jnp.ones(len(x)), jnp.full(len(x), -jnp.inf)  # a node: the ratios are no numbers

    spins = (2, 2)
    added = jax.jit(
        lambda start, strength: spin_penalty.added_energy(
            psi, start, spins, strength, jax.random.key(0)
        )
    )
    start = walkers(electrons_for(spins))
    assert not added(start, jnp.asarray(0.0)).any()
    jax.effects_barrier()
    assert not calls
    assert np.isnan(added(start, jnp.asarray(0.1))).all()
    jax.effects_barrier()
    assert len(calls) == 1 + spins[0]

"""Correlated differences of a wavefunction whose energy is known in closed form.

The hydrogen molecular ion with the sum of two 1s functions: independent samples of |psi|^2 come
from rejection, and E(R) is that of the textbooks (Pauling 1928).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferminet_core.analysis.correlated_differences import (
    Difference,
    LowOverlapError,
    difference,
    effective,
)
from ferminet_core.vmc.space_warp import log_jacobian, space_warp

JACOBIAN = jax.jit(log_jacobian)
COUNT = 5000


def energy(r: float) -> float:
    """<H>, hartree, of the sum of 1s functions at a distance r, bohr."""
    overlap = math.exp(-r) * (1 + r + r**2 / 3)
    coulomb = (1 - (1 + r) * math.exp(-2 * r)) / r
    exchange = (1 + r) * math.exp(-r)
    return -0.5 + 1 / r - (coulomb + exchange) / (1 + overlap)


def nuclei(r: float) -> np.ndarray:
    return np.array([[0.0, 0.0, -r / 2], [0.0, 0.0, r / 2]])


def distances(x: np.ndarray, r: float) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.linalg.norm(x - centre, axis=-1) for centre in nuclei(r))
    return a, b


def log_psi(x: np.ndarray, r: float) -> np.ndarray:
    a, b = distances(x, r)
    overlap = math.exp(-r) * (1 + r + r**2 / 3)
    # The normalisation: a wavefunction's own depends on the geometry, and must not matter.
    return np.log(np.exp(-a) + np.exp(-b)) - 0.7 * r + math.log(2 + 2 * overlap)


def local_energy(x: np.ndarray, r: float) -> np.ndarray:
    a, b = distances(x, r)
    left, right = np.exp(-a), np.exp(-b)
    return -0.5 - (left / b + right / a) / (left + right) + 1 / r


def sample(r: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Independent samples of |psi|^2, (count, 3), by rejection from |1s_a|^2 + |1s_b|^2."""
    found = np.zeros((0, 3))
    while len(found) < count:
        radius = rng.gamma(3.0, 0.5, size=2 * count)
        direction = rng.normal(size=(2 * count, 3))
        x = radius[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True)
        x += nuclei(r)[rng.integers(2, size=2 * count)]
        a, b = distances(x, r)
        left, right = np.exp(-a), np.exp(-b)
        keep = rng.random(2 * count) < (left + right) ** 2 / (2 * (left**2 + right**2))
        found = np.concatenate([found, x[keep]])
    return found[:count]


class Drawn(NamedTuple):
    logs: np.ndarray
    energies: np.ndarray


def drawn(x: np.ndarray, centre: float, ends: tuple[float, float]) -> Drawn:
    """log w and local energies (record, walker, 2) of 50 records."""
    logs, energies = [], []
    for end in ends:
        before, after = nuclei(centre), nuclei(end)
        warped = space_warp(x, before, after)
        jacobian = JACOBIAN(jnp.asarray(x)[:, None], jnp.asarray(before), jnp.asarray(after))
        logs.append(2 * (log_psi(warped, end) - log_psi(x, centre)) + np.asarray(jacobian))
        energies.append(local_energy(warped, end))
    shape = (50, -1, 2)
    return Drawn(np.stack(logs, axis=-1).reshape(shape), np.stack(energies, axis=-1).reshape(shape))


def measure(seed: int, ends: tuple[float, float], centre: float = 2.0) -> Difference:
    x = sample(centre, COUNT, np.random.default_rng(seed))
    return difference(*drawn(x, centre, ends))


@pytest.mark.parametrize("ends", [(1.99, 2.01), (1.7, 2.3), (2.0, 2.5)])
def test_the_difference_is_exact_within_its_error(ends: tuple[float, float]) -> None:
    exact = energy(ends[1]) - energy(ends[0])
    found = [measure(seed, ends) for seed in range(12)]
    pulls = np.array([(each.value - exact) / each.error for each in found])
    assert abs(pulls.mean()) < 3.5 / math.sqrt(12)
    assert 0.6 < pulls.std(ddof=1) < 1.5
    apart = local_energy(sample(2.0, COUNT, np.random.default_rng(1)), 2.0).std()
    independent = math.sqrt(2 / COUNT) * apart
    assert found[0].error < 0.5 * independent


def test_the_bias_of_the_slope_is_of_second_order() -> None:
    """With the same walkers the noise of two steps cancels, and the curve's own bias is left."""
    x = sample(2.0, 20_000, np.random.default_rng(5))

    def slope(h: float) -> float:
        return difference(*drawn(x, 2.0, (2.0 - h, 2.0 + h))).value / (2 * h)

    def exact(h: float) -> float:
        return (energy(2.0 + h) - energy(2.0 - h)) / (2 * h)

    assert abs((exact(0.2) - exact(0.1)) / (exact(0.1) - exact(0.05)) - 4.0) < 0.1
    assert abs(slope(0.2) - slope(0.1) - (exact(0.2) - exact(0.1))) < 5e-4
    # Between the program's step and one of a half, the bias is far below the error.
    assert abs(slope(0.01) - slope(0.005)) < 1e-5


def test_a_constant_factor_of_psi_changes_nothing() -> None:
    logs, energies = drawn(sample(2.0, 5000, np.random.default_rng(2)), 2.0, (1.9, 2.1))
    found, shifted = (
        difference(logs, energies),
        difference(logs + np.array([300.0, -200.0]), energies),
    )
    np.testing.assert_allclose(shifted, found, rtol=1e-9)


def test_the_error_is_that_of_correlated_series() -> None:
    """Each sample four times in a row: as many independent ones are a quarter."""
    logs, energies = drawn(sample(2.0, COUNT, np.random.default_rng(3)), 2.0, (1.9, 2.1))
    every = difference(logs, energies)
    repeated = difference(np.repeat(logs, 4, axis=0), np.repeat(energies, 4, axis=0))
    np.testing.assert_allclose(repeated, every, rtol=1e-9)


def test_an_infinite_sample_is_left_out_at_both_ends() -> None:
    logs, energies = drawn(sample(2.0, 5000, np.random.default_rng(4)), 2.0, (1.9, 2.1))
    energies[3, 4, 1] = np.nan
    logs[5, 6, 0] = np.inf
    found = difference(logs, energies)
    assert np.isfinite(found).all()
    exact = energy(2.1) - energy(1.9)
    assert abs(found.value - exact) < 5 * found.error


def test_too_little_overlap_is_refused() -> None:
    logs, energies = drawn(sample(2.0, 5000, np.random.default_rng(6)), 2.0, (2.0, 9.0))
    with pytest.raises(LowOverlapError, match="overlap too little"):
        difference(logs * 30, energies)


def test_the_effective_share() -> None:
    assert effective(np.full(10, 3.0)) == pytest.approx(1.0)
    assert effective(np.where(np.arange(10) < 4, 0.0, -1e3)) == pytest.approx(0.4)
    assert effective(np.where(np.arange(10) < 4, 0.0, -np.inf)) == pytest.approx(0.4)

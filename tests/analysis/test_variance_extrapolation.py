"""The extrapolation to zero variance on a model with two states, where its answer is known."""

import contextlib
import re

import numpy as np
import pytest
from helpers.series import ar1

from ferminet_core.analysis.variance_extrapolation import (
    Blocks,
    ExtrapolationRefusedError,
    blocks,
    extrapolate,
)

GROUND, GAP = -2.0, 0.4  # hartree
N_WALKERS = 256


def excited_share(iterations: int = 3000, first: float = 0.02, last: float = 1e-4) -> np.ndarray:
    """The weight p of the excited state in each iteration."""
    return np.geomspace(first, last, iterations)


def optimisation(
    seed: int, iterations: int = 3000, first: float = 0.02, last: float = 1e-4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies, errors and variances of cos(t) |0> + sin(t) |1> with a shrinking p = sin(t)^2.

    E - E_0 = gap p and sigma^2 = gap^2 p (1 - p), so that E = E_0 + sigma^2 / gap up to p^2; the
    walkers are independent and normally distributed.
    """
    rng = np.random.default_rng(seed)
    p = excited_share(iterations, first, last)
    variance = GAP**2 * p * (1 - p)
    error = np.sqrt(variance / N_WALKERS)
    energy = GROUND + GAP * p + error * rng.standard_normal(iterations)
    measured = variance * rng.chisquare(N_WALKERS - 1, iterations) / (N_WALKERS - 1)
    return energy, np.sqrt(measured / N_WALKERS), measured


def test_line_of_two_states_without_noise() -> None:
    p = np.geomspace(0.02, 1e-4, 12)
    variance = GAP**2 * p
    found = extrapolate(Blocks(GROUND + GAP * p, np.full(12, 1e-6), variance))
    # 1e-9 is rounding next to errors of 1e-6.
    assert found.energy.value == pytest.approx(GROUND, abs=1e-9)
    assert found.slope.value == pytest.approx(1 / GAP, rel=1e-6)
    assert (found.first_block, found.energy.model < 1e-9) == (0, True)
    # The error at zero of a straight line through points of equal error, averaged over windows,
    # each of which leaves out one block more than the one before and weighs less by a factor of e.
    lines = []
    for start in range(7):
        x = variance[start:] - variance[start:].mean()
        lines.append(1e-12 * (1 / x.size + variance[start:].mean() ** 2 / (x @ x)))
    weights = np.exp(-np.arange(7.0))
    expected = np.sqrt(weights @ lines / weights.sum())
    # Rounding as above, of chi^2.
    assert found.energy.statistical == pytest.approx(expected, rel=1e-6)


def test_estimates_scatter_about_the_ground_state_as_their_errors_say() -> None:
    found = []
    for seed in range(60):
        with contextlib.suppress(ExtrapolationRefusedError):
            found.append(extrapolate(blocks(*optimisation(seed))))
    # chi^2 refuses one in 60 by chance; six or more then have a probability of 6e-4.
    assert len(found) >= 55
    # The curvature in p^2 shifts the estimates, as it does without noise.
    p = excited_share()
    variance = GAP**2 * p * (1 - p)
    quiet = extrapolate(blocks(GROUND + GAP * p, np.sqrt(variance / N_WALKERS), variance))
    shift = (quiet.energy.value - GROUND) / quiet.energy.error
    assert 0 < shift < 1
    pulls = np.array([(e.energy.value - GROUND) / e.energy.error for e in found])
    # A mean of 60 unit normals has an error of 0.13, their standard deviation one of 0.09.
    assert abs(pulls.mean() - shift) < 4 * 0.13
    assert abs(pulls.std() - 1) < 4 * 0.09
    # dE / d sigma^2 = 1 / (gap (1 - 2 p)), with p = 0.0154 in the first block that counts.
    slopes = np.array([e.slope.value for e in found])
    error = 4 * np.mean([e.slope.error for e in found]) / np.sqrt(len(found))
    assert 1 / GAP - error < slopes.mean() < 1 / GAP / (1 - 2 * 0.0154) + error
    # Nearer than the last tenth of the optimisation, which lies above by the gap times p: by the
    # shift and four errors of the mean.
    bound = quiet.energy.error * (shift + 4 * 0.13)
    assert bound < 0.25 * GAP * p[-300:].mean()
    assert abs(np.mean([e.energy.value for e in found]) - GROUND) < bound


def test_a_beginning_off_the_line_is_left_out() -> None:
    found = blocks(*optimisation(1))
    off = found._replace(energy=found.energy + np.where(np.arange(12) < 3, 0.01, 0.0))
    estimate = extrapolate(off)
    # The noise may speak for a later beginning, never for one of the three: they lie off by 0.01,
    # a hundred errors.
    assert 3 <= estimate.first_block <= 6  # the last window has six of the twelve blocks
    assert abs(estimate.energy.value - GROUND) < 4 * estimate.energy.error


def test_autocorrelation_widens_the_errors() -> None:
    ratios = []
    for seed in range(20):
        energy, error, variance = optimisation(seed, iterations=12000)
        # tau = (1 + 0.9) / (1 - 0.9) = 19
        slow = np.sqrt(1 - 0.81) * ar1(0.9, energy.size, 1, seed + 100)[0]
        plain = blocks(energy, error, variance)
        correlated = blocks(energy + error * slow, error, variance)
        ratios.append(correlated.error[0] / plain.error[0])  # the same factor for all blocks
    # The sum of both noises: sqrt(1 + 19) times the error of the independent one. Reblocking 6000
    # iterations in blocks of 128 (46 of them, or 23 of 256) lacks tau / (4 * 128) = 4 %, and the
    # factor of independent iterations, at least 1, is too large by up to 3 %. Single ratios scatter
    # by 1 / sqrt(2 * 45) = 11 % to 15 %: 3.3 % for the mean of 20, and three of it.
    assert np.mean(ratios) == pytest.approx(np.sqrt(20), rel=0.04 + 0.03 + 3 * 0.033)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iterations": 239}, "239 iterations are too few (at least 240 are needed)"),
        ({"first": 2e-4, "last": 1.5e-4}, "variances differ by no more than a factor of 1.3"),
    ],
)
def test_uninformative_series_are_refused(change: dict[str, float], reason: str) -> None:
    with pytest.raises(ExtrapolationRefusedError, match=re.escape(reason)):
        extrapolate(blocks(*optimisation(0, **change)))  # type: ignore[arg-type]


def test_iterations_that_are_not_finite_are_left_out() -> None:
    energy, error, variance = optimisation(0)
    inserted = [np.insert(series, 700, np.nan) for series in (energy, error, variance)]
    for all_blocks, finite in zip(blocks(*inserted), blocks(energy, error, variance), strict=True):
        np.testing.assert_array_equal(all_blocks, finite)


def test_other_laws_are_refused() -> None:
    found = blocks(*optimisation(0))
    with pytest.raises(ExtrapolationRefusedError, match="rises while the variance falls"):
        extrapolate(found._replace(energy=GROUND - found.variance / GAP))
    bent = GROUND + 3 * np.sqrt(found.variance)
    with pytest.raises(ExtrapolationRefusedError, match="not lie on a straight line"):
        extrapolate(found._replace(energy=bent))
    with pytest.raises(ExtrapolationRefusedError, match="no errors"):
        extrapolate(found._replace(error=np.zeros(12)))

"""The extrapolation to zero variance on a model with two states, where its answer is known."""

import re

import numpy as np
import pytest

from ferminet_core.analysis.variance_extrapolation import (
    Blocks,
    ExtrapolationRefusedError,
    blocks,
    extrapolate,
)

GROUND, GAP = -2.0, 0.4  # hartree
N_WALKERS = 256


def optimisation(
    seed: int, iterations: int = 3000, first: float = 0.02, last: float = 1e-4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies, errors and variances of cos(t) |0> + sin(t) |1> with a shrinking p = sin(t)^2.

    E - E_0 = gap p and sigma^2 = gap^2 p (1 - p), so that E = E_0 + sigma^2 / gap up to p^2; the
    walkers are independent and normally distributed.
    """
    rng = np.random.default_rng(seed)
    p = np.geomspace(first, last, iterations)
    variance = GAP**2 * p * (1 - p)
    error = np.sqrt(variance / N_WALKERS)
    energy = GROUND + GAP * p + error * rng.standard_normal(iterations)
    measured = variance * rng.chisquare(N_WALKERS - 1, iterations) / (N_WALKERS - 1)
    return energy, np.sqrt(measured / N_WALKERS), measured


def test_line_of_two_states_without_noise() -> None:
    p = np.geomspace(0.02, 1e-4, 12)
    variance = GAP**2 * p
    found = extrapolate(Blocks(GROUND + GAP * p, np.full(12, 1e-6), variance))
    # 1e-9 is rounding beside errors of 1e-6.
    assert found.energy.value == pytest.approx(GROUND, abs=1e-9)
    assert found.slope.value == pytest.approx(1 / GAP, rel=1e-6)
    assert (found.first_block, found.energy.model < 1e-9) == (0, True)
    # The error of a straight line through points of equal error, at zero.
    x = variance - variance.mean()
    line = 1e-6 * np.sqrt(1 / 12 + variance.mean() ** 2 / (x @ x))
    assert found.energy.statistical == pytest.approx(line, rel=0.1)  # other windows weigh a little


def test_estimates_scatter_about_the_ground_state_as_their_errors_say() -> None:
    found = [extrapolate(blocks(*optimisation(seed))) for seed in range(60)]
    pulls = np.array([(e.energy.value - GROUND) / e.energy.error for e in found])
    # A mean of 60 unit normals has an error of 0.13; the curvature in p^2 shifts it by 0.3.
    assert abs(pulls.mean() - 0.3) < 4 * 0.13
    # Their standard deviation has an error of 0.09.
    assert abs(pulls.std() - 1) < 4 * 0.09
    slopes = np.array([e.slope.value for e in found])
    assert slopes.mean() == pytest.approx(1 / GAP, rel=0.05)
    # Nearer than the last tenth of the optimisation, which lies above by the gap times p.
    last = np.mean([optimisation(seed)[0][-300:].mean() for seed in range(60)]) - GROUND
    assert abs(np.mean([e.energy.value for e in found]) - GROUND) < 0.2 * last


def test_a_beginning_off_the_line_is_left_out() -> None:
    found = blocks(*optimisation(1))
    off = found._replace(energy=found.energy + np.where(np.arange(12) < 3, 0.01, 0.0))
    estimate = extrapolate(off)
    # The noise may speak for a later beginning, never for one of the three: they lie off by 0.01,
    # a hundred errors.
    assert 3 <= estimate.first_block <= 6  # the last window has six of the twelve blocks
    assert abs(estimate.energy.value - GROUND) < 4 * estimate.energy.error


def test_autocorrelation_widens_the_errors() -> None:
    energy, error, variance = optimisation(2)
    noise = np.random.default_rng(3).standard_normal(energy.size)
    slow = np.zeros_like(noise)
    for i in range(1, noise.size):  # tau = (1 + 0.9) / (1 - 0.9) = 19
        slow[i] = 0.9 * slow[i - 1] + np.sqrt(1 - 0.81) * noise[i]
    plain = blocks(energy, error, variance)
    correlated = blocks(energy + error * slow, error, variance)
    # The sum of both noises: sqrt(1 + 19) times the independent one's error, to a third or so.
    assert np.median(correlated.error / plain.error) == pytest.approx(np.sqrt(20), rel=0.35)


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


def test_other_laws_are_refused() -> None:
    found = blocks(*optimisation(0))
    with pytest.raises(ExtrapolationRefusedError, match="rises while the variance falls"):
        extrapolate(found._replace(energy=GROUND - found.variance / GAP))
    bent = GROUND + 3 * np.sqrt(found.variance)
    with pytest.raises(ExtrapolationRefusedError, match="not lie on a straight line"):
        extrapolate(found._replace(energy=bent))
    energy, error, variance = optimisation(0)
    with pytest.raises(ExtrapolationRefusedError, match="not finite"):
        blocks(np.where(np.arange(3000) == 7, np.nan, energy), error, variance)
    with pytest.raises(ExtrapolationRefusedError, match="no errors"):
        extrapolate(found._replace(error=np.zeros(12)))

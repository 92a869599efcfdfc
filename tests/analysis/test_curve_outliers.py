"""Points off their curve are found, and smooth curves give no false alarm."""

import numpy as np
import pandas as pd
import pytest
from helpers.paths import ROOT

from ferminet_core.analysis.curve_outliers import MIN_POINTS, deviations

LITERATURE = ROOT / "systems" / "literature" / "h2_curve.csv"


def morse(distance: np.ndarray, depth: float = 0.17, stiffness: float = 1.03) -> np.ndarray:
    return depth * (1.0 - np.exp(-stiffness * (distance - 1.4))) ** 2 - 1.0 - depth


def sigmas(distance: np.ndarray, energy: np.ndarray, error: np.ndarray) -> np.ndarray:
    return np.array([d.sigmas for d in deviations(distance, energy, error) if d is not None])


def test_smooth_curves_raise_no_alarm() -> None:
    """Morse curves of many depths, stiffnesses, grids and errors.

    Predictions average over how rough the curve may be, and are wider than those of one who knows.
    Claimed is less than one point in 10 000 beyond 5 errors: with 0.1 expected of 1000 points, 2 or
    more have a probability of 0.5 %. Beyond 2 errors at most the normal 4.6 % may lie, and three
    standard deviations of that number more.
    """
    rng = np.random.default_rng(4)
    found = []
    for _ in range(110):
        n_points = int(rng.integers(MIN_POINTS, 22))
        ends = rng.uniform(0.6, 1.2), rng.uniform(3.0, 7.0)
        grid = np.linspace(*ends, n_points), np.geomspace(*ends, n_points)
        distance = grid[int(rng.integers(2))]
        error = 10 ** rng.uniform(-5, -3) * rng.uniform(0.6, 1.6, n_points)
        energy = morse(distance, rng.uniform(0.05, 0.4), rng.uniform(0.6, 1.8))
        found.append(sigmas(distance, energy + error * rng.standard_normal(n_points), error))
    z = np.abs(np.concatenate(found))
    assert z.size > 900
    assert np.count_nonzero(z > 5.0) <= 1
    assert np.count_nonzero(z > 2.0) <= 0.0455 * z.size + 3.0 * np.sqrt(0.0455 * z.size)


@pytest.mark.parametrize("step", [1, 2, 4, 6])
def test_the_exact_curve_of_h2_raises_no_alarm(step: int) -> None:
    """Sims and Hagstrom 2006, 0.4 to 6 bohr, with noise of 0.05 mEh.

    Beyond 4 errors lies one point in 16 000 by chance.
    """
    table = pd.read_csv(LITERATURE)
    exact = table[table["source"] == "Sims2006"].sort_values("R_bohr")[::step]
    error = np.full(len(exact), 5e-5)
    noise = error * np.random.default_rng(step).standard_normal(len(exact))
    z = sigmas(exact["R_bohr"].to_numpy(), exact["value"].to_numpy() + noise, error)
    assert np.abs(z).max() < 4.0


def test_one_point_off_its_curve_is_found_and_its_neighbours_are_not() -> None:
    distance = np.linspace(0.8, 6.0, 16)
    error = np.full(16, 1e-4)
    for seed in range(10):
        energy = morse(distance) + error * np.random.default_rng(seed).standard_normal(16)
        energy[8] += 3e-3
        # In any order.
        order = np.random.default_rng(seed).permutation(16)
        shuffled = deviations(distance[order], energy[order], error[order])
        found = dict(zip(order.tolist(), shuffled, strict=True))
        off = found.pop(8)
        assert off is not None
        assert off.sigmas > 5.0
        assert abs(off.value - 3e-3) < 4.0 * off.error
        assert all(d is None or abs(d.sigmas) < 5.0 for d in found.values())


def test_the_error_of_a_prediction_is_that_of_its_scatter() -> None:
    """Curves drawn from the process itself, with a length on the grid: rms z = 1.

    900 points, correlated in twos or threes: a relative scatter of sqrt(3 / 1800) = 4 %, and four
    of it above 1. The average over other lengths and scales may widen the errors, but not to twice
    those of one who knows the process. Twice as wide errors have rms z = 0.5, and four of its
    scatter are 0.08.
    """
    rng = np.random.default_rng(9)
    x = np.linspace(1.0, np.e**2, 14)
    distance = np.abs(np.subtract.outer(np.log(x), np.log(x)))
    r = np.sqrt(7.0) * distance / 0.8
    covariance = (1 + r + 0.4 * r**2 + r**3 / 15) * np.exp(-r) + 1e-6 * np.eye(14)
    factor = np.linalg.cholesky(covariance)
    draws = [factor @ rng.standard_normal(14) for _ in range(90)]
    z = np.concatenate([sigmas(x, draw, np.full(14, 1e-3)) for draw in draws])
    assert 0.5 * (1 + 4 * 0.04) < np.sqrt(np.mean(z**2)) < 1 + 4 * 0.04


def test_nothing_is_said_of_ends_and_short_curves() -> None:
    distance = np.linspace(0.8, 6.0, 7)
    found = deviations(distance, morse(distance), np.full(7, 1e-4))
    assert [d is None for d in found] == [True, True, False, False, False, True, True]
    short = deviations(distance[:5], morse(distance[:5]), np.full(5, 1e-4))
    assert short == [None] * 5
    # An angle may be zero or negative, and a curve constant.
    angle = np.linspace(-30.0, 30.0, 9)
    flat = deviations(angle, np.full(9, -1.0), np.zeros(9))
    assert all(d is None or d.value == pytest.approx(0.0, abs=1e-12) for d in flat)

"""Bond length, frequency and non-parallelity error of curves for which they are known."""

import numpy as np
import pytest

from ferminet_core.analysis.potential_curve import (
    CurveMinimum,
    Differences,
    Estimate,
    FitRefusedError,
    fit_minimum,
    non_parallelity,
    reduced_mass,
)
from ferminet_core.units import HARTREE_IN_INVERSE_CM

DEPTH, STIFFNESS, BOND = 0.17, 1.03, 1.4  # about H2: hartree, 1/bohr, bohr
MASS = reduced_mass("H", "H")
# V'' = 2 D a^2 at the minimum of a Morse curve
FREQUENCY = STIFFNESS * np.sqrt(2 * DEPTH / MASS) * HARTREE_IN_INVERSE_CM
GRID = np.array([0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0])


def morse(distance: np.ndarray) -> np.ndarray:
    return DEPTH * (1 - np.exp(-STIFFNESS * (distance - BOND))) ** 2 - 1.0 - DEPTH


def noisy_fit(error: float, seed: int, grid: np.ndarray = GRID) -> CurveMinimum:
    noise = error * np.random.default_rng(seed).standard_normal(grid.size)
    return fit_minimum(grid, morse(grid) + noise, np.full(grid.size, error), MASS, seed)


def test_dense_exact_curve_gives_the_morse_parameters() -> None:
    grid = np.arange(1.1, 1.75, 0.05)
    fit = fit_minimum(grid, morse(grid), np.zeros(grid.size), MASS)
    # Degree 6 over +-0.3 bohr: the seventh-order term is below 1e-5 bohr.
    assert fit.bond_length.value == pytest.approx(BOND, abs=1e-5)
    assert fit.frequency.value == pytest.approx(FREQUENCY, rel=1e-4)
    assert fit.energy.value == pytest.approx(-1.0 - DEPTH, abs=1e-7)


def test_a_thousand_points_give_one_good_fit() -> None:
    """All windows of a fine grid would take hours, and favour wide ones that fit badly."""
    fits = [noisy_fit(2e-4, seed, np.linspace(0.8, 8.0, 1000)) for seed in range(4)]
    pulls = np.array([(fit.bond_length.value - BOND) / fit.bond_length.error for fit in fits])
    # rms 1 for honest errors, with a scatter of 35 % over 4, and three of it.
    assert np.sqrt(np.mean(pulls**2)) < 2.06
    assert np.median([fit.bond_length.error for fit in fits]) < noisy_fit(2e-4, 0).bond_length.error


@pytest.mark.parametrize("error", [2e-5, 2e-4])
def test_errors_of_the_fit_cover_the_truth(error: float) -> None:
    n_series = 40
    fits = [noisy_fit(error, seed) for seed in range(n_series)]

    def pulls(quantity: str, truth: float) -> np.ndarray:
        estimates: list[Estimate] = [getattr(fit, quantity) for fit in fits]
        return np.array([(e.value - truth) / e.error for e in estimates])

    for quantity, truth in (
        ("bond_length", BOND),
        ("frequency", FREQUENCY),
        ("energy", -1.0 - DEPTH),
    ):
        z = pulls(quantity, truth)
        # Normal errors leave 4.6 % outside two errors; 3 sigma of the binomial over 40 adds 10 %.
        assert np.mean(np.abs(z) < 2.0) >= 0.85, quantity
        # rms 1 for honest errors, with a scatter of 11 % over 40; the model error, which is a
        # spread and not a standard error, makes them too large but not by an order.
        assert 0.15 < np.sqrt(np.mean(z**2)) < 1.35, quantity


def test_statistical_errors_scale_with_the_energies() -> None:
    # A cubic in (R - R0) / R, which all models contain: chi^2 and with it the weights stay the same
    # as noise and errors grow together.
    x = (GRID - BOND) / GRID
    noise = np.random.default_rng(1).standard_normal(GRID.size)

    def cubic(error: float) -> CurveMinimum:
        energy = -1.0 + 0.35 * x**2 - 0.05 * x**3 + error * noise
        return fit_minimum(GRID, energy, np.full(GRID.size, error), MASS, 1)

    small, large = cubic(1e-6), cubic(3e-6)
    # The minimum is linear in the noise but for its shift, 1e-4 of x in the widest of the models: a
    # second-order energy of 0.35 * 1e-8, or 0.2 % of the error of 3e-6, and four of it.
    assert large.energy.statistical / small.energy.statistical == pytest.approx(3.0, rel=0.008)
    assert small.bond_length.error >= small.bond_length.statistical
    assert small == cubic(1e-6)


def test_order_of_the_points_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(GRID.size)
    error = np.full(GRID.size, 1e-4)
    assert fit_minimum(GRID[order], morse(GRID)[order], error, MASS) == fit_minimum(
        GRID, morse(GRID), error, MASS
    )


@pytest.mark.parametrize(
    ("grid", "error", "reason"),
    [
        (np.array([1.2, 1.3, 1.4, 1.5]), 1e-4, "needs at least 5 points, found 4"),
        (np.linspace(1.5, 3.0, 7), 1e-4, "lies at the end of the grid"),
        (np.linspace(0.6, 1.3, 7), 1e-4, "lies at the end of the grid"),
        (np.linspace(1.2, 1.6, 7), 0.5, "errors are too large"),
    ],
)
def test_refusals_give_a_plain_reason(grid: np.ndarray, error: float, reason: str) -> None:
    with pytest.raises(FitRefusedError, match=reason):
        fit_minimum(grid, morse(grid), np.full(grid.size, error), MASS)


def test_numbers_that_are_none_are_refused() -> None:
    energy = morse(GRID)
    energy[2] = np.nan
    with pytest.raises(FitRefusedError, match="not a number"):
        fit_minimum(GRID, energy, np.full(GRID.size, 1e-4), MASS)


def test_reduced_mass() -> None:
    # Half of the hydrogen atom's mass: 1.00782503 u / 2 = 918.576 electron masses.
    assert reduced_mass("H", "H") == pytest.approx(918.576, abs=1e-3)
    assert reduced_mass("N", "H") == reduced_mass("H", "N")
    with pytest.raises(FitRefusedError, match="no isotope mass is known for Xe"):
        reduced_mass("Xe", "H")


def test_non_parallelity_of_known_deviations() -> None:
    result = non_parallelity(np.array([1.0, 3.0, -2.0]) * 1e-3, np.full(3, 1e-5))
    assert result.value == pytest.approx(5e-3)
    # Two independent ends: sqrt(2) errors; 2000 resamples give it to 1.6 %, five of it.
    assert result.error == pytest.approx(np.sqrt(2) * 1e-5, rel=0.08)
    assert result.n_points == 3
    with pytest.raises(ValueError, match="two points"):
        non_parallelity(np.ones(1), np.ones(1))


def test_non_parallelity_of_noise_alone() -> None:
    # Expected range of two standard normal numbers: 2 / sqrt(pi) = 1.128 (scatter 1.9 %).
    result = non_parallelity(np.zeros(2), np.ones(2))
    assert result.noise == pytest.approx(2 / np.sqrt(np.pi), rel=0.08)


GRIDS = {
    "coarse": GRID,
    "six": np.array([1.1, 1.25, 1.4, 1.55, 1.7, 2.0]),
    "near": np.array([1.0, 1.2, 1.3, 1.4, 1.5, 1.7, 2.0]),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("scatter", [1, 4])
def test_points_that_scatter_widen_the_errors(grid: np.ndarray, scatter: int) -> None:
    """The energies scatter by a factor more than their errors say, as those of separate networks.

    In 30 series of a coverage of 95 % or more, 4 or more lie outside with a probability of 6 %, and
    6 or more with one of 0.3 %. Without the factor 6 to 16 of 30 lay outside at a scatter of 4.
    """
    error, n_series = 1e-4, 30
    rng = np.random.default_rng(7)
    fits = []
    for seed in range(n_series):
        energy = morse(grid) + scatter * error * rng.standard_normal(grid.size)
        fits.append(fit_minimum(grid, energy, np.full(grid.size, error), MASS, seed))
    for quantity, truth in (("bond_length", BOND), ("frequency", FREQUENCY)):
        found: list[Estimate] = [getattr(fit, quantity) for fit in fits]
        outside = sum(abs(e.value - truth) > 2 * e.error for e in found)
        assert outside <= 5, quantity
    # chi^2 per degree of freedom of 2 degrees is below a tenth of its mean in one of ten series.
    factors = [fit.scatter for fit in fits]
    assert min(factors) >= 1.0
    if scatter == 4:
        assert np.median(factors) > 1.5


def slopes(error: float, seed: int) -> Differences:
    """Differences of the Morse curve across each point of the grid, with slopes of this error."""
    start, end = GRID - 0.01, GRID + 0.01
    noise = 0.02 * error * np.random.default_rng(seed).standard_normal(GRID.size)
    return Differences(start, end, morse(end) - morse(start) + noise, np.full(9, 0.02 * error))


def test_slopes_make_the_errors_smaller_and_honest() -> None:
    n_series, error = 12, 2e-4
    alone, both = [], []
    for seed in range(n_series):
        energy = morse(GRID) + error * np.random.default_rng(seed).standard_normal(GRID.size)
        known = slopes(error, 1000 + seed)
        alone.append(fit_minimum(GRID, energy, np.full(GRID.size, error), MASS))
        both.append(fit_minimum(GRID, energy, np.full(GRID.size, error), MASS, 0, known))
    for quantity, truth in (("bond_length", BOND), ("frequency", FREQUENCY)):
        found: list[Estimate] = [getattr(fit, quantity) for fit in both]
        pulls = np.array([(each.value - truth) / each.error for each in found])
        # rms 1 for honest errors, with a scatter of 20 % over 12, and three of it.
        assert 0.3 < np.sqrt(np.mean(pulls**2)) < 1.6, quantity
        before: list[Estimate] = [getattr(fit, quantity) for fit in alone]
        ratio = np.median([b.error / a.error for a, b in zip(before, found, strict=True)])
        assert ratio < 0.8, quantity


def test_no_differences_change_nothing() -> None:
    energy, error = morse(GRID), np.full(GRID.size, 1e-4)
    nothing = Differences(*np.zeros((4, 0)))
    assert fit_minimum(GRID, energy, error, MASS, 0, nothing) == fit_minimum(
        GRID, energy, error, MASS
    )


def test_a_long_difference_counts_as_it_is() -> None:
    """Not as a slope in its middle: both ends enter the fit."""
    energy, error = morse(GRID), np.full(GRID.size, 1e-4)
    long = Differences(GRID[:-1], GRID[1:], np.diff(morse(GRID)), np.full(8, 1e-7))
    fit = fit_minimum(GRID, energy, error, MASS, 0, long)
    assert fit.bond_length.value == pytest.approx(BOND, abs=1e-3)
    assert fit.bond_length.statistical < 1e-4

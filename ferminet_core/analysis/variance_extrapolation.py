"""The energy at zero variance, estimated from the series of one optimisation (NumPy only).

An eigenstate has no variance. Near one, the excess energy and the variance are both of second order
in the error of the wavefunction. They are proportional while the character of the error stays the
same, as it does for the wavefunctions that an optimisation passes through. The line through their
energies over their variances, extrapolated to zero, estimates the energy that the run would reach.
The estimate is not an upper bound.

Sources, cited below by name:
    Fu, Ren and Chen, Mach. Learn.: Sci. Technol. 5, 015016 (2024), doi:10.1088/2632-2153/ad1f75:
        the extrapolation from the series of a neural network's optimisation.
    Jay and Neil, Phys. Rev. D 103, 114502 (2021): averaging over fit windows.
"""

import itertools
from typing import NamedTuple

import numpy as np

from ferminet_core.analysis.potential_curve import Estimate, model_average
from ferminet_core.analysis.statistics import reblock

N_BLOCKS = 12
MIN_ITERATIONS = 20 * N_BLOCKS
# This part of the optimisation is left out: it still depends on pretraining.
_SKIPPED = 1.0 / 20.0
_LEAST_BLOCKS = 6  # of a window: four more than the line has parameters
MIN_SPREAD = 2.0  # largest variance of the window's blocks over the smallest
# Of the best window's chi^2 per degree of freedom; with 4 to 10 of them exceeded once in 60 cases
# or less by chance.
MAX_CHI_SQUARED = 3.0
# A slope that is negative by more standard errors is not noise: another law holds.
_NEGATIVE_SIGMAS = 2.0


class ExtrapolationRefusedError(Exception):
    """The series does not allow an extrapolation; the message gives the reason."""


class Blocks(NamedTuple):
    """Blocks of an optimisation, each array (blocks,).

    Attributes:
        energy: hartree.
        error: standard error of the energy, hartree.
        variance: of the local energy, hartree squared.
    """

    energy: np.ndarray
    error: np.ndarray
    variance: np.ndarray


class Extrapolation(NamedTuple):
    """The line E = energy + slope * variance.

    energy: hartree; slope: 1 / hartree; first_block: where the most likely window begins
    """

    energy: Estimate
    slope: Estimate
    first_block: int


def blocks(energy: np.ndarray, error: np.ndarray, variance: np.ndarray) -> Blocks:
    """Means over twelve stretches of an optimisation.

    Each stretch is longer than the one before by the same factor, since the variance falls about as
    a power of the iterations. The variance of a stretch is the median over its iterations, which
    single walkers near a node do not move. It may be a fixed part of the mean variance; the energy
    at zero stays the same. The error of an energy is that from the spread over walkers, times the
    factor by which the reblocked error of the second half of the series exceeds it there.

    Args:
        energy: (iterations,), hartree.
        error: (iterations,), standard errors over walkers, hartree.
        variance: (iterations,), of the local energy over walkers, hartree squared.

    Iterations with a number that is not finite are left out.

    Raises:
        ExtrapolationRefusedError: fewer than 240 iterations.
    """
    finite = np.isfinite(energy) & np.isfinite(error) & np.isfinite(variance)
    energy, error, variance = energy[finite], error[finite], variance[finite]
    n = energy.size
    if n < MIN_ITERATIONS:
        raise ExtrapolationRefusedError(
            f"{n} iterations are too few (at least {MIN_ITERATIONS} are needed)"
        )
    edges = np.round(np.geomspace(_SKIPPED * n, n, N_BLOCKS + 1)).astype(int)
    parts = [slice(first, last) for first, last in itertools.pairwise(edges)]
    factor = _correlation_factor(energy[n // 2 :], error[n // 2 :])
    return Blocks(
        np.array([energy[part].mean() for part in parts]),
        factor * np.array([_error_of_mean(error[part]) for part in parts]),
        np.array([np.median(variance[part]) for part in parts]),
    )


def _correlation_factor(energy: np.ndarray, error: np.ndarray) -> float:
    """Factor by which the error of a mean exceeds that of independent iterations; at least 1.

    A parabola is subtracted first: the fall of the energy is not noise.
    """
    independent = _error_of_mean(error)
    if independent == 0.0:
        return 1.0
    place = np.linspace(-1.0, 1.0, energy.size)
    trend = np.polynomial.Polynomial.fit(place, energy, 2)
    return max(1.0, reblock(energy - trend(place)).error / independent)


def _error_of_mean(error: np.ndarray) -> float:
    """Standard error of the mean of independent values with these errors."""
    return float(np.sqrt(np.sum(error**2))) / error.size


def extrapolate(found: Blocks) -> Extrapolation:
    """The straight line through the last blocks, averaged over where they begin.

    Every window of at least six blocks up to the last is fitted, weighted by the energies' errors,
    and weighs exp(-AIC / 2) with AIC = chi^2 + 2 parameters + 2 blocks left out (Jay and Neil
    2021): blocks from before the law holds are left out for their misfit. The spread between the
    windows is the model error.

    Raises:
        ExtrapolationRefusedError: the variances hardly differ, the blocks do not lie on a line, or
            the energy rises while the variance falls.
    """
    if (found.error <= 0).any():
        raise ExtrapolationRefusedError("the energies have no errors")
    n_starts = found.energy.size - _LEAST_BLOCKS + 1
    fits = [_fit_line(*(series[start:] for series in found)) for start in range(n_starts)]
    chi_squared = np.array([fit.chi_squared for fit in fits])
    aic = chi_squared + 2 * 2 + 2 * np.arange(n_starts)
    best = int(aic.argmin())
    weights = np.exp(-0.5 * (aic - aic[best]))
    weights /= weights.sum()
    energy, slope = (
        model_average(weights, np.array([fit.values[i] for fit in fits]), _variances(fits, i))
        for i in range(2)
    )
    variance = found.variance[best:]
    spread = variance.max() / variance.min() if variance.min() > 0 else 1.0
    if spread < MIN_SPREAD:
        raise ExtrapolationRefusedError(
            f"the blocks' variances differ by no more than a factor of {spread:.1f} "
            f"(at least {MIN_SPREAD:g} is needed)"
        )
    reduced = chi_squared[best] / (variance.size - 2)
    if reduced > MAX_CHI_SQUARED:
        raise ExtrapolationRefusedError(
            f"the blocks do not lie on a straight line (chi^2 per degree of freedom {reduced:.1f})"
        )
    if slope.value < -_NEGATIVE_SIGMAS * slope.error:
        raise ExtrapolationRefusedError("the energy rises while the variance falls")
    return Extrapolation(energy, slope, best)


class _Line(NamedTuple):
    values: np.ndarray  # (2,) energy at zero, slope
    covariance: np.ndarray  # (2, 2)
    chi_squared: float


def _fit_line(energy: np.ndarray, error: np.ndarray, variance: np.ndarray) -> _Line:
    # In units of the largest variance, so that both columns are of the same size.
    unit = float(variance.max()) or 1.0
    offset = energy[-1]  # total energies are large compared with their differences
    design = np.vander(variance / unit, 2, increasing=True) / error[:, None]
    target = (energy - offset) / error
    covariance = np.linalg.pinv(design.T @ design)
    found = covariance @ (design.T @ target)
    residual = target - design @ found
    scale = np.array([1.0, 1.0 / unit])
    return _Line(
        found * scale + [offset, 0.0],
        covariance * np.outer(scale, scale),
        float(residual @ residual),
    )


def _variances(fits: list[_Line], index: int) -> np.ndarray:
    return np.array([fit.covariance[index, index] for fit in fits])

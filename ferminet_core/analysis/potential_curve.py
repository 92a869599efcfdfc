"""Constants of a diatomic molecule from its potential energy curve with error bars (NumPy only).

Sources, cited below by name:
    Simons, Parr and Finlan, J. Chem. Phys. 59, 3229 (1973): the expansion in (R - R0) / R.
    Jay and Neil, Phys. Rev. D 103, 114502 (2021): averaging over models and over fit windows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ferminet_core.units import ATOMIC_MASS_UNIT_IN_ELECTRON_MASSES, HARTREE_IN_INVERSE_CM

# Masses of the most abundant isotopes in atomic mass units (Wapstra, Audi and Thibault,
# Nucl. Phys. A 729, 337 (2003)).
_ISOTOPE_MASS = {
    "H": 1.00782503207,
    "He": 4.00260325415,
    "Li": 7.01600455,
    "Be": 9.0121822,
    "B": 11.0093054,
    "C": 12.0,
    "N": 14.0030740048,
    "O": 15.99491461956,
    "F": 18.99840322,
    "Ne": 19.9924401754,
    "Na": 22.9897692809,
    "Mg": 23.9850417,
    "Al": 26.98153863,
    "Si": 27.9769265325,
    "P": 30.97376163,
    "S": 31.972071,
    "Cl": 34.96885268,
    "Ar": 39.9623831225,
    "K": 38.96370668,
    "Ca": 39.96259098,
    "Sc": 44.9559119,
    "Ti": 47.9479463,
    "V": 50.9439595,
    "Cr": 51.9405075,
    "Mn": 54.9380451,
    "Fe": 55.9349375,
    "Co": 58.933195,
    "Ni": 57.9353429,
    "Cu": 62.9295975,
    "Zn": 63.9291422,
    "Ga": 68.9255736,
    "Ge": 73.9211778,
    "As": 74.9215965,
    "Se": 79.9165213,
    "Br": 78.9183371,
    "Kr": 83.911507,
}

MIN_POINTS = 5
_DEGREES = range(3, 7)
# With slopes, the polynomials and not the noise limit the frequency, and more can be determined.
_DEGREES_WITH_DIFFERENCES = range(3, 9)
_N_RESAMPLES = 300
# A finer grid is thinned to so many points. The number of windows grows with its square, and a
# polynomial that is a little off would win by the number of points that it does not leave out.
_MOST_POINTS = 40
# Relative weight below which a model cannot move the average by a noticeable part of its error.
_LEAST_WEIGHT = 1e-3
# Degrees of freedom of a fit whose chi^2 tells the scatter of the points: at least 2, and a quarter
# of the points. The smallest of many chi^2 of few degrees of freedom is small by chance.
_LEAST_FREEDOM, _FREEDOM_SHARE = 2, 4
# Hartree. Smaller errors are rounding, not statistics; this keeps the weights finite.
_LEAST_ERROR = 1e-8


class FitRefusedError(Exception):
    """The points do not determine a minimum; the message gives the reason."""


class Estimate(NamedTuple):
    """A fitted quantity with its errors.

    statistical: from the errors of the energies; model: from the choice of fit
    """

    value: float
    statistical: float
    model: float

    @property
    def error(self) -> float:
        """The sum of both errors in quadrature."""
        return float(np.hypot(self.statistical, self.model))


class CurveMinimum(NamedTuple):
    """The minimum of a potential curve."""

    bond_length: Estimate  # r_e, bohr
    frequency: Estimate  # harmonic omega_e, cm^-1
    energy: Estimate  # hartree
    n_models: int  # pairs of window and degree with a noticeable weight
    used: tuple[float, ...]  # bond lengths of all points in the windows of these, bohr
    scatter: float  # by how many of their errors the best fit misses the points; at least 1


class Differences(NamedTuple):
    """Differences of the energies of two bond lengths each, arrays (difference,).

    Two near bond lengths give a slope, and a fit counts with the change between them, so that no
    bias of the slope enters. They are independent of each other and of the energies.
    """

    start: np.ndarray  # bond lengths, bohr
    end: np.ndarray
    value: np.ndarray  # E(end) - E(start), hartree
    error: np.ndarray

    def within(self, low: float, high: float) -> "Differences":
        """Those with their middle between two bond lengths."""
        middle = (self.start + self.end) / 2
        inside = (middle >= low) & (middle <= high)
        return Differences(*(column[inside] for column in self))


class NonParallelity(NamedTuple):
    """Largest minus smallest deviation of two curves; hartree."""

    value: float
    error: float
    noise: float  # mean of `value` if the curves were exactly parallel
    n_points: int


def reduced_mass(first: str, second: str) -> float:
    """Reduced mass of two atoms' most abundant isotopes, in electron masses.

    Raises:
        FitRefusedError: an element beyond krypton.
    """
    try:
        masses = [
            _ISOTOPE_MASS[symbol] * ATOMIC_MASS_UNIT_IN_ELECTRON_MASSES
            for symbol in (first, second)
        ]
    except KeyError as error:
        raise FitRefusedError(f"no isotope mass is known for {error.args[0]}") from error
    return masses[0] * masses[1] / (masses[0] + masses[1])


def fit_minimum(
    distance: np.ndarray,
    energy: np.ndarray,
    error: np.ndarray,
    mass: float,
    seed: int = 0,
    differences: Differences | None = None,
) -> CurveMinimum:
    """Bond length, harmonic frequency and energy at the minimum of a diatomic's curve.

    Polynomials of degree 3 to 6 in (R - R0) / R (Simons, Parr and Finlan 1973) are fitted,
    weighted by the errors, to every window of at least 5 neighbouring points around the lowest
    one; with differences to every window of at least 5 data, up to degree 8. Each fit weighs
    exp(-AIC / 2) with AIC = chi^2 + 2 parameters + 2 data left out (Jay and Neil 2021); the spread
    between the fits is the model error. The statistical error comes from refitting normally
    distributed resamples of energies and differences. Where even the best fit leaves a chi^2 per
    degree of freedom above 1, the points scatter by more than their errors, or lie too far apart
    for the polynomials: the errors are multiplied by its root first. A grid of more than 40 points
    is thinned (`_thinned`).

    Args:
        distance: (points,) bond lengths, bohr, all different.
        energy: (points,) hartree.
        error: (points,) standard errors of the energies, hartree.
        mass: reduced mass, in electron masses.
        seed: of the resamples.
        differences: of energies, fitted together with them; those of a window lie in it.

    Raises:
        FitRefusedError: fewer than 5 points, no minimum between them, or errors too large for one.
    """
    order = np.argsort(distance)
    distance, energy, error = (np.asarray(a, float)[order] for a in (distance, energy, error))
    _bracketed_minimum(distance, energy, error)
    error = np.maximum(error, _LEAST_ERROR)
    distance, energy, error = _thinned(distance, energy, error)
    lowest = _bracketed_minimum(distance, energy, error)
    rng = np.random.default_rng(seed)
    samples = _resampled(energy, error, rng)
    if differences is None:
        differences = Differences(*np.zeros((4, 0)))
    differences = differences._replace(error=np.maximum(differences.error, _LEAST_ERROR))
    resampled = differences._replace(value=_resampled(differences.value, differences.error, rng))
    n_data = distance.size + differences.value.size
    fits = _fits(_Part(distance, samples, error, resampled), lowest, mass)
    scatter = _scatter(fits, n_data)
    weights = _weights(fits, scatter, n_data)
    keep = weights > _LEAST_WEIGHT
    weights = weights[keep] / weights[keep].sum()
    values = np.array([fit.values for fit in fits])[keep]  # (models, quantity, measured, resamples)
    variances = scatter**2 * np.nanvar(values[:, :, 1:], axis=2, ddof=1)
    bond_length, frequency, minimum = (
        model_average(weights, values[:, q, 0], variances[:, q]) for q in range(3)
    )
    # All windows contain the lowest point, so the points in any of them are neighbours.
    kept = [fit.window for fit, noticeable in zip(fits, keep, strict=True) if noticeable]
    widest = slice(min(w.start for w in kept), max(w.stop for w in kept))
    used = tuple(distance[widest].tolist())
    return CurveMinimum(bond_length, frequency, minimum, len(kept), used, scatter)


def _resampled(values: np.ndarray, error: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(values, 1 + resamples): column 0 holds the measured values, the others the resamples."""
    noise = rng.standard_normal((values.size, _N_RESAMPLES))
    return np.asarray(values[:, None] + error[:, None] * np.insert(noise, 0, 0.0, axis=1))


def _fits(points: "_Part", lowest: int, mass: float) -> list["_WindowFit"]:
    """The fits of all windows and degrees that have a minimum.

    Args:
        points: All points of the curve.
        lowest: The index of the lowest one.
        mass: In electron masses.

    Raises:
        FitRefusedError: None of them has.
    """
    fits: list[_WindowFit] = []
    for window in _windows(points.distance.size, lowest):
        part = points.within(window)
        for degree in part.degrees():
            fit = _fit_window(part, window, points.distance[lowest], degree, mass)
            fits += [fit] if fit else []
    if not fits:
        raise FitRefusedError("the errors are too large to locate a minimum between the points")
    return fits


def _weights(fits: Sequence["_WindowFit"], scatter: float, n_data: int) -> np.ndarray:
    """exp(-AIC / 2) of each fit, relative to the best one."""
    n_used = np.array([fit.n_used for fit in fits])
    n_parameters = np.array([fit.degree + 1 for fit in fits])
    chi_squared = np.array([fit.chi_squared for fit in fits]) / scatter**2
    aic = chi_squared + 2 * n_parameters + 2 * (n_data - n_used)
    return np.asarray(np.exp(-0.5 * (aic - aic.min())))


def _scatter(fits: Sequence["_WindowFit"], n_data: int) -> float:
    """The root of the smallest chi^2 per degree of freedom, if it exceeds 1, else 1.

    A window that is too wide for its degree misfits without any scatter, so the best fit decides.
    """
    freedom = np.array([fit.n_used - fit.degree - 1 for fit in fits])
    least = min(max(_LEAST_FREEDOM, n_data // _FREEDOM_SHARE), int(freedom.max()))
    enough = freedom >= max(least, 1)
    if not enough.any():
        return 1.0
    chi_squared = np.array([fit.chi_squared for fit in fits])
    return max(1.0, float(np.sqrt(np.min(chi_squared[enough] / freedom[enough]))))


def _bracketed_minimum(distance: np.ndarray, energy: np.ndarray, error: np.ndarray) -> int:
    """The index of the lowest point of a curve with points on both sides of it.

    Raises:
        FitRefusedError: there is none, or too few points.
    """
    n_points = distance.size
    if n_points < MIN_POINTS:
        raise FitRefusedError(f"a fit needs at least {MIN_POINTS} points, found {n_points}")
    if not (np.isfinite(energy).all() and np.isfinite(error).all()):
        raise FitRefusedError("an energy or its error is not a number")
    lowest = int(np.argmin(energy))
    if lowest in (0, n_points - 1):
        raise FitRefusedError(
            f"the lowest energy lies at the end of the grid ({distance[lowest]:g} bohr): "
            "the points do not bracket a minimum"
        )
    return lowest


def _thinned(
    distance: np.ndarray, energy: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A fine grid (points,) as at most `_MOST_POINTS` independent points; a coarse one as it is.

    Each new point is the value in the middle of a parabola through three or more neighbours.
    """
    if distance.size <= _MOST_POINTS:
        return distance, energy, error
    points = []
    groups = min(_MOST_POINTS, distance.size // 3)
    for part in np.array_split(np.arange(distance.size), groups):
        middle = distance[part].mean()
        design = np.vander(distance[part] - middle, 3, increasing=True) / error[part, None]
        inverse = np.linalg.pinv(design)
        offset = energy[part[0]]  # total energies are large compared with their differences
        value = offset + inverse[0] @ ((energy[part] - offset) / error[part])
        points.append((middle, value, np.linalg.norm(inverse[0])))
    thinned = np.array(points).T
    return thinned[0], thinned[1], thinned[2]


class _WindowFit(NamedTuple):
    values: np.ndarray  # (r_e, omega_e, energy) x (measured and resamples)
    chi_squared: float
    window: slice  # of the points
    degree: int
    n_used: int  # energies and differences


class _Part(NamedTuple):
    """Points of a curve in order, with energies and differences (value, 1 + resamples)."""

    distance: np.ndarray
    samples: np.ndarray
    error: np.ndarray
    differences: Differences

    def within(self, window: slice) -> "_Part":
        """The points of a window, and the differences between them."""
        distance = self.distance[window]
        inside = self.differences.within(distance[0], distance[-1])
        return _Part(distance, self.samples[window], self.error[window], inside)

    def degrees(self) -> list[int]:
        """The polynomials that these data determine."""
        n_differences = self.differences.start.size
        degrees = _DEGREES_WITH_DIFFERENCES if n_differences else _DEGREES
        n_data = self.distance.size + n_differences
        return [degree for degree in degrees if n_data >= max(MIN_POINTS, degree + 1)]


def _windows(n_points: int, lowest: int) -> list[slice]:
    """All windows with neighbours on both sides of the lowest point."""
    return [
        slice(first, last + 1) for first in range(lowest) for last in range(lowest + 1, n_points)
    ]


def _fit_window(
    part: _Part, window: slice, centre: float, degree: int, mass: float
) -> _WindowFit | None:
    """Fit a polynomial to a window of all resamples; None where too many have no minimum inside."""

    def powers(distance: np.ndarray) -> np.ndarray:
        return np.vander((distance - centre) / distance, degree + 1, increasing=True)

    differences = part.differences
    offset = part.samples[:, 0].min()  # total energies are large compared with the well
    design = np.concatenate(
        [powers(part.distance), powers(differences.end) - powers(differences.start)]
    )
    samples = np.concatenate([part.samples - offset, differences.value])
    error = np.concatenate([part.error, differences.error])
    coefficients, *_ = np.linalg.lstsq(
        design / error[:, None], samples / error[:, None], rcond=None
    )
    residual = (samples[:, 0] - design @ coefficients[:, 0]) / error
    x = (part.distance - centre) / part.distance
    stationary, curvature, energy = _polynomial_minimum(coefficients, x[0], x[-1])
    # x is monotonic in R, so both have their minimum at the same place, where
    # d2E/dR2 = d2E/dx2 (dx/dR)^2.
    bond_length = centre / (1.0 - stationary)
    force_constant = curvature * (centre / bond_length**2) ** 2
    frequency = HARTREE_IN_INVERSE_CM * np.sqrt(force_constant / mass)
    values = np.array([bond_length, frequency, energy + offset])
    found = np.isfinite(values).all(axis=0)
    # A few resamples without a minimum are the tail of a wide distribution; more make its
    # standard deviation meaningless.
    if not found[0] or found.mean() < 0.95:
        return None
    return _WindowFit(values, float(residual @ residual), window, degree, samples.shape[0])


def _polynomial_minimum(
    coefficients: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place, second derivative and value of each polynomial's lowest point inside (low, high).

    Args:
        coefficients: (degree + 1, polynomials), lowest power first.
        low: the lower end of the interval.
        high: the upper end of the interval.

    Returns:
        Three arrays (polynomials,); NaN where the lowest point is an end of the interval.
    """
    grid = np.linspace(low, high, 201)
    values = np.polynomial.polynomial.polyval(grid, coefficients)  # (polynomials, grid)
    lowest = values.argmin(axis=1)
    x = grid[lowest]
    first = np.polynomial.polynomial.polyder(coefficients)
    second = np.polynomial.polynomial.polyder(coefficients, 2)

    def at(polynomials: np.ndarray, points: np.ndarray) -> np.ndarray:
        return np.polynomial.polynomial.polyval(points, polynomials, tensor=False)

    inside = (lowest > 0) & (lowest < grid.size - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(4):  # from a grid point half a step away, Newton doubles the digits
            x = np.where(inside, x - at(first, x) / at(second, x), np.nan)
    curvature = at(second, x)
    good = inside & (curvature > 0.0) & (x > low) & (x < high)
    return (
        np.where(good, x, np.nan),
        np.where(good, curvature, np.nan),
        np.where(good, at(coefficients, x), np.nan),
    )


def model_average(weights: np.ndarray, values: np.ndarray, variances: np.ndarray) -> Estimate:
    """The average of a quantity over models, with both its errors (Jay and Neil 2021).

    Args:
        weights: (models,), with the sum 1.
        values: (models,), the quantity in each model.
        variances: (models,), statistical variances of `values`.
    """
    mean = float(weights @ values)
    spread = float(weights @ (values - mean) ** 2)
    return Estimate(mean, float(np.sqrt(weights @ variances)), float(np.sqrt(spread)))


def non_parallelity(deviation: np.ndarray, error: np.ndarray, seed: int = 0) -> NonParallelity:
    """Non-parallelity error: largest minus smallest deviation from a reference curve.

    Args:
        deviation: (points,) energy minus reference, hartree.
        error: (points,) standard errors, hartree.
        seed: of the 2000 normally distributed resamples behind `error` and `noise`.

    Raises:
        ValueError: fewer than two points.
    """
    deviation, error = np.asarray(deviation, float), np.asarray(error, float)
    if deviation.size < 2:
        raise ValueError("a non-parallelity error needs at least two points")
    noise = error * np.random.default_rng(seed).standard_normal((2000, deviation.size))
    return NonParallelity(
        value=float(np.ptp(deviation)),
        error=float(np.ptp(deviation + noise, axis=1).std(ddof=1)),
        noise=float(np.ptp(noise, axis=1).mean()),
        n_points=deviation.size,
    )

"""The prediction of each point of an energy curve from its neighbours (NumPy only).

The curve without the point is modelled as a Gaussian process. The error of its prediction accounts
for the distance of the neighbours and for the curvature between them.

Sources, cited below by name:
    Rasmussen and Williams, Gaussian Processes for Machine Learning (MIT Press, 2006).
"""

from typing import NamedTuple

import numpy as np

# With fewer points the neighbours cannot tell the error of a point from the curvature.
MIN_POINTS = 6
# Neighbours on either side that predict a point. Points further away add little, and steep walls
# should not set the length scale of the flat parts.
N_NEIGHBOURS = 5
# Lengths of the correlation in units of the width of the window, and standard deviations in units
# of those of the residuals from a straight line: wide enough that the likelihood decides, not the
# grid.
_LENGTHS = np.geomspace(0.1, 3.0, 8)
_SCALES = np.geomspace(0.3, 100.0, 6)
# Errors below this share of the curve's height are rounding; it keeps the matrices regular.
_LEAST_ERROR = 1e-7


class Deviation(NamedTuple):
    """Energy minus its prediction from the neighbours, and the error of the difference; hartree."""

    value: float
    error: float

    @property
    def sigmas(self) -> float:
        """The deviation in units of its error."""
        return self.value / self.error


def deviations(
    parameter: np.ndarray, energy: np.ndarray, error: np.ndarray
) -> list[Deviation | None]:
    """The deviation of each point of a curve from the prediction by its neighbours.

    Universal kriging with a straight line for the mean and the Matern covariance of index 7/2
    (Rasmussen and Williams 2006, equations 2.41, 2.42 and 4.14), from up to `N_NEIGHBOURS` points
    on either side. The prediction is averaged over length and scale of the covariance with their
    restricted likelihoods as weights. The likelihoods do not include the point, so a bad point
    cannot hide by making the curve look rough. Where the neighbours determine little, as on a
    sparse grid, the error is large. Where all parameters are positive, as bond lengths are, their
    logarithm is the coordinate: repulsive walls are then about as smooth as the rest.

    Args:
        parameter: (points,), all different, in any unit and order.
        energy: (points,), hartree, finite.
        error: (points,), standard errors of the energies, hartree, finite.

    Returns:
        One entry for each point, in the given order. It is None for the two outermost points at
        either end, which have fewer than two neighbours on one side, and for all points of a curve
        of fewer than `MIN_POINTS`.
    """
    n_points = len(parameter)
    found: list[Deviation | None] = [None] * n_points
    if n_points < MIN_POINTS:
        return found
    x = np.log(parameter) if np.min(parameter) > 0 else np.asarray(parameter, float)
    order = np.argsort(x)
    x, y, sigma = x[order], np.asarray(energy, float)[order], np.asarray(error, float)[order]
    sigma = np.maximum(sigma, _LEAST_ERROR * np.ptp(y) or _LEAST_ERROR)
    for i in range(2, n_points - 2):
        window = np.arange(max(0, i - N_NEIGHBOURS), min(n_points, i + N_NEIGHBOURS + 1))
        window = window[window != i]
        mean, spread = _predict(x[window], y[window], sigma[window], x[i])
        found[order[i]] = Deviation(float(y[i] - mean), float(np.hypot(spread, sigma[i])))
    return found


def _matern(distance: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Matern correlation of index 7/2, of functions that are three times differentiable."""
    r = np.sqrt(7.0) * distance / length
    return (1.0 + r + 0.4 * r**2 + r**3 / 15.0) * np.exp(-r)


def _predict(x: np.ndarray, y: np.ndarray, sigma: np.ndarray, target: float) -> tuple[float, float]:
    """Mean and standard deviation at `target` of the curve through the points x, y."""
    n_points = x.size
    centre = x.mean()
    line = np.stack([np.ones(n_points), x - centre], axis=1)
    # Contrasts that are free of any straight line: the restricted likelihood is theirs.
    contrasts = np.linalg.qr(line, mode="complete")[0][:, 2:]
    residual = contrasts.T @ y
    scale = max(float(np.sqrt(np.mean(residual**2))), float(sigma.mean()))
    grid = np.meshgrid(np.ptp(x) * _LENGTHS, scale * _SCALES)
    length, height = (values.reshape(-1, 1, 1) for values in grid)
    covariance = height**2 * _matern(np.abs(x[:, None] - x), length) + np.diag(sigma**2)
    factor = np.linalg.cholesky(contrasts.T @ covariance @ contrasts)
    n_models = len(length)
    right = np.broadcast_to(residual[:, None], (n_models, n_points - 2, 1))
    whitened = np.linalg.solve(factor, right)
    log_weight = -np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    log_weight -= 0.5 * (whitened**2).sum(axis=(1, 2))
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    # The kriging equations, with a multiplier for each coefficient of the line.
    system = np.zeros((n_models, n_points + 2, n_points + 2))
    system[:, :n_points, :n_points] = covariance
    system[:, :n_points, n_points:] = line
    system[:, n_points:, :n_points] = line.T
    towards = np.empty((n_models, n_points + 2))
    towards[:, :n_points] = height[:, 0] ** 2 * _matern(np.abs(x - target), length[:, 0])
    towards[:, n_points:] = 1.0, target - centre
    solution = np.linalg.solve(system, towards[..., None])[..., 0]
    means = solution[:, :n_points] @ y
    variances = height[:, 0, 0] ** 2 - (solution * towards).sum(axis=1)
    mean = float(weight @ means)
    return mean, float(np.sqrt(weight @ (np.maximum(variances, 0.0) + (means - mean) ** 2)))

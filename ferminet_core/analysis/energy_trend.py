"""The trend of the energy at the end of an optimisation, and what more iterations may gain.

NumPy only.

Sources, cited below by name:
    Jay and Neil, Phys. Rev. D 103, 114502 (2021): the choice of a fit window.
    Wilks, Ann. Math. Statist. 9, 60 (1938): limits from ratios of likelihoods.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from ferminet_core.analysis.statistics import reblock

# Of `gain_limit`. Blocks of the series, after this part of it, and the least of a fit.
_BLOCKS, _SKIPPED, _LEAST_BLOCKS = 16, 1.0 / 50.0, 6
# The laws: decay times, powers and offsets, in units of the sum of rates. The slowest decay is
# nearly a straight line.
_DECAYS = np.geomspace(1.0 / 8.0, 16.0, 57)
_POWERS = np.arange(0.25, 3.1, 0.25)
_OFFSETS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
# No optimisation follows a law exactly, and laws between those of the list exist: share of the
# distance from the last energy, and of the gain. With it, laws between the listed ones are judged
# as those of the list.
_MODEL_ERROR = 0.2
# Rise of chi^2 at the limit. It would be 2.7 for a known law, at 95 %. Here the best of more than a
# hundred laws fits some of the noise, so that the true one lies above it. With 5, a gain above the
# accuracy was excluded in 1 to 5 % of the series of each law, most often for a straight line (400
# series each of `test_energy_trend`); with 4 in up to 8 %.
_LEVEL = 5.0
# Below any number of a calculation: hartree, and a share of the sum of rates.
_LEAST_NOISE, _LEAST_SUM = 1e-12, 1e-6


class Trend(NamedTuple):
    """The energy over the iterations with the last half of the sum of rates; hartree.

    length: number of these iterations; fall: of a straight line over them; fall_error: its error
    remaining: the predicted further fall; more: iterations until it is below the bar, at the
    average rate of the last half of the iterations
    """

    length: int
    fall: float
    fall_error: float
    remaining: float
    more: float


def energy_trend(energy: np.ndarray, bar: float, rate: np.ndarray | None = None) -> Trend:
    """The trend of the energy over the last half of the sum of rates; 2 `MIN_BLOCKS` or more steps.

    Time is the sum of rates, so that an energy that is flat because the rate died has not settled:
    the last half then begins while the rate was alive. c + a exp(-t / T), with t counted from the
    end, is fitted for every T of a grid from an eighth of this half to four times the half, where
    it is nearly straight. The weight of a fit is exp(-chi^2 / 2). The noise in chi^2 is that of the
    best fit's residuals, reblocked to include their correlation. The remainder is the average of a,
    where positive; the number of iterations until a exp(-t / T) is below the bar is the median.
    Early, faster decays are left out with the first half. If the decay is slower than exponential,
    a is only the next part of the remainder: for 1/t, the fall if the run were twice as long.

    The fall is that of a straight line. The variance of its slope is that of one iteration over the
    sum of squares of the time, 12 noise^2 / length^3 for a constant rate.

    Args:
        energy: (step,) hartree.
        bar: the remainder that does not matter, hartree.
        rate: (step,) learning rate in any unit; NaN or None if it is not known.
    """
    n_steps = len(energy)
    if rate is None or np.isnan(rate).any():
        rate = np.ones(n_steps)
    total = np.cumsum(rate)
    half = total[-1] / 2 * (1 + 1e-9)  # beyond the rounding of the sums
    start = min(int(np.searchsorted(total, half, "right")), n_steps - n_steps // 2)
    tail = np.asarray(energy, float)[start:]
    # In iterations at the average rate of the last half.
    time = (total[start:] - total[-1]) / rate[n_steps - n_steps // 2 :].mean()
    span = 1.0 - time[0]
    decays = np.geomspace(span / 8.0, 4.0 * span, 33)
    slope = _regress(time[None], tail)[0][0]
    amplitudes, residuals = _regress(np.exp(-time / decays[:, None]), tail)
    squares = (residuals**2).sum(axis=1)
    # Of one iteration, if iterations were independent.
    noise = reblock(residuals[squares.argmin()]).error * math.sqrt(tail.size)
    weights = np.exp(-0.5 * (squares - squares.min()) / max(noise, _LEAST_NOISE) ** 2)
    weights /= weights.sum()
    amplitudes = np.maximum(amplitudes, 0.0)
    more = decays * np.log(np.maximum(amplitudes, bar) / bar)
    order = np.argsort(more)
    median = min(int(np.searchsorted(np.cumsum(weights[order]), 0.5)), decays.size - 1)
    return Trend(
        length=tail.size,
        fall=-float(slope) * span,
        fall_error=noise * span / math.sqrt(float(((time - time.mean()) ** 2).sum())),
        remaining=float(weights @ amplitudes),
        more=float(more[order[median]]),
    )


def _regress(regressors: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits of values (time,) by a constant and one regressor (time,) at a time.

    Returns:
        Slopes (regressor,) and residuals (regressor, time).
    """
    regressors = regressors - regressors.mean(axis=1, keepdims=True)
    values = values - values.mean()
    slopes = regressors @ values / (regressors**2).sum(axis=1)
    return slopes, values - slopes[:, None] * regressors


def gain_limit(
    energy: np.ndarray,
    error: np.ndarray | None,
    rate: np.ndarray | None,
    end: tuple[float, float],
) -> float:
    """Upper limit, at 95 %, of what as many more iterations gain, if the energy follows one law.

    The laws are c + a exp(-s / T) and c + a (s + s0)^-p with a >= 0, where s is the sum of rates.
    Each is fitted to the means of blocks that are longer by the same factor from one to the next,
    and to the energy of the inference, which belongs to the end. Early blocks, from before one law
    holds, are left out where that lowers chi^2 + 2 blocks left out (Jay and Neil 2021). The limit
    is the largest gain of any law for which chi^2 stays within `_LEVEL` of its minimum (Wilks
    1938). Laws that do not fit therefore count for nothing, and of laws that fit the worst counts.

    More iterations are taken to have the average rate of the last tenth, but at least to add half
    of the sum so far. An energy that is flat because the rate died would otherwise gain nothing.

    A second fall, slower than the law that the early blocks show, is seen only by its own size: one
    that gains 0.9 of the accuracy under noise that hides it stays unseen in four of ten cases.

    Args:
        energy: (step,) hartree, finite; 2 `MIN_BLOCKS` steps or more.
        error: (step,) standard errors over walkers, hartree, which give the relative noise of the
            iterations; None if it is all the same. The size is that of the second half.
        rate: (step,) learning rate in any unit; NaN or None if it is not known.
        end: energy and standard error of the inference, hartree; NaN if they are not known.

    Returns:
        hartree, 0 or more.
    """
    energy, n_steps = np.asarray(energy, float), len(energy)
    if rate is None or np.isnan(rate).any():
        rate = np.ones(n_steps)
    total = np.concatenate([[0.0], np.cumsum(rate, dtype=float)]) / rate.sum(dtype=float)
    # In units of the sum of rates, as all of the following.
    late = n_steps - n_steps // 10 - 1
    horizon = max(n_steps * (1.0 - total[late]) / (n_steps - late), 0.5)
    first = max(1.0, _SKIPPED * n_steps)
    edges = np.unique(np.round(np.geomspace(first, n_steps, _BLOCKS + 1)).astype(int))
    spans = list(itertools.pairwise(edges))
    means, errors = _means(energy, error, spans)
    # Eight places in each block, over which a law is averaged.
    inside = (np.arange(8) + 0.5) / 8.0
    places = np.array(
        [np.interp(a + inside * (b - a), np.arange(n_steps + 1), total) for a, b in spans]
    )
    if all(map(math.isfinite, end)):
        means, errors = np.append(means, end[0]), np.append(errors, end[1])
        places = np.vstack([places, np.ones(8)])
    errors = np.maximum(errors, _LEAST_NOISE)
    last = np.average(means[-2:], weights=errors[-2:] ** -2.0)
    errors = np.hypot(errors, _MODEL_ERROR * (means - last))
    laws, gains = _laws(places, horizon)
    limits = [
        _limit(laws[:, cut:], gains, means[cut:], errors[cut:], 2.0 * cut)
        for cut in range(len(spans) - _LEAST_BLOCKS + 1)
    ]
    return min(limits)[1]


def _means(
    energy: np.ndarray, error: np.ndarray | None, spans: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """The means (span,) of the energy over spans of iterations, and their errors."""
    noise = _noise(energy, error)
    means = [energy[a:b].mean() for a, b in spans]
    errors = [math.sqrt(float((noise[a:b] ** 2).sum())) / (b - a) for a, b in spans]
    return np.array(means), np.array(errors)


def _noise(energy: np.ndarray, error: np.ndarray | None) -> np.ndarray:
    """The noise (step,) whose sum of squares gives the error of a mean of correlated iterations.

    A parabola is subtracted first: the fall of the energy is not noise.
    """
    half = slice(len(energy) // 2, None)
    place = np.linspace(-1.0, 1.0, len(energy[half]))
    residuals = energy[half] - np.polynomial.Polynomial.fit(place, energy[half], 2)(place)
    found = reblock(residuals).error * math.sqrt(place.size)
    if error is None or not (np.isfinite(error).all() and (error[half] > 0).all()):
        return np.full(len(energy), found)
    # Correlation adds to the error over walkers, and never takes from it.
    return error * max(1.0, found / math.sqrt(float((error[half] ** 2).mean())))


def _laws(places: np.ndarray, horizon: float) -> tuple[np.ndarray, np.ndarray]:
    """The laws with 1 at the end: their means over the blocks (law, block), and their gains (law,).

    Args:
        places: (block, place) sums of rates, 1 at the end.
        horizon: the sum of rates of the further iterations.
    """
    places = np.maximum(places, _LEAST_SUM)
    laws = [np.exp((1.0 - places) / decay).mean(axis=1) for decay in _DECAYS]
    gains = [-math.expm1(-horizon / decay) for decay in _DECAYS]
    for power, offset in itertools.product(_POWERS, _OFFSETS):
        laws.append((((places + offset) / (1.0 + offset)) ** -power).mean(axis=1))
        gains.append(1.0 - (1.0 + horizon / (1.0 + offset)) ** -power)
    return np.array(laws), np.array(gains)


def _limit(
    laws: np.ndarray, gains: np.ndarray, means: np.ndarray, errors: np.ndarray, penalty: float
) -> tuple[float, float]:
    """Fits of all laws to the blocks: the lowest chi^2 plus the penalty, and the limit of the gain.

    The gain of a law has a normal error, besides the share that the law itself is wrong by. Where
    even the best law fits badly, errors are larger than stated.
    """
    weights = errors**-2.0
    laws = laws - np.average(laws, axis=1, weights=weights)[:, None]
    means = means - np.average(means, weights=weights)
    # Not 0 where all laws are flat, since the rate was 0: the limit is then beyond all measure.
    norms = np.maximum(laws**2 @ weights, np.finfo(float).tiny)
    amplitudes = laws @ (weights * means) / norms
    squares = ((means - amplitudes[:, None] * laws) ** 2) @ weights
    found = amplitudes * gains
    sigmas = np.hypot(gains / np.sqrt(norms), _MODEL_ERROR * found)
    lowest = float((squares + (np.minimum(found, 0.0) / sigmas) ** 2).min())
    scale = max(1.0, lowest / (means.size - 3))
    room = _LEVEL - (squares - lowest) / scale
    limits = found + sigmas * np.sqrt(scale * np.maximum(room, 0.0))
    return lowest + penalty, float(np.max(limits[room >= 0.0], initial=0.0))

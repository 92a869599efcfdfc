"""Rules on the series of the optimisation: does the energy still fall, and can it be trusted?

They use the series and measured numbers, the accuracy that the scan is for, and the meaning of the
rate (NumPy only). `verdict` combines their findings.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ferminet_core.analysis.energy_trend import Trend, energy_trend, gain_limit
from ferminet_core.analysis.findings import (
    CLEAR_SIGMAS,
    Finding,
    Weight,
    acceptance,
    bar_of,
    milli,
    number,
    round_up,
)
from ferminet_core.analysis.run_start import RunStart, Series
from ferminet_core.analysis.statistics import MIN_BLOCKS, ROUNDING_SPREAD, reblock
from ferminet_core.analysis.variance_extrapolation import (
    ExtrapolationRefusedError,
    blocks,
    extrapolate,
)

# The series of the optimisation that the rules use. Results may lack those that are not needed.
_NEEDED = ("energy_Eh", "variance_Eh2", "pmove", "n_nonfinite", "n_frozen")
SERIES = (*_NEEDED, "error_Eh", "learning_rate")

# Exceeded by noise with a probability of 1e-3 (normal, one-sided).
TREND_SIGMAS = 3.0
# Hartree. The rate of KFAC and SPRING is a step of imaginary time, in which the part of an excited
# state in the energy decays as exp(-2 gap time); few molecules have lower excitations.
GAP = 0.25
# Least excess energy per variance, 1 / hartree: half of the smallest ratio among the runs of the
# benchmarks that lie clearly above a known energy (neon: 8 mEh at 1.2 hartree^2; lighter atoms and
# molecules have more).
LEAST_SLOPE = 0.003
# Below this share of the sum of rates, the last half of the iterations changed little.
DEAD_RATE = 0.1
# The iterations that a verdict asks for, in lengths of the optimisation. A series predicts no
# further than the upper limit, and an extension below the lower one shows nothing new.
MOST_MORE = 9.0
LEAST_MORE = 0.1
# Iterations of a run of a group after the joint ones. Fewer show neither a trend nor its error.
LEAST_OWN = 100
# Factor by which the typical variance must rise to be more than a fluctuation of the network, and
# the least factor of a fall: even a small part of an optimisation lowers it by more than a tenth.
VARIANCE_RISE, VARIANCE_FALL = 1.5, 1.1
# Single local energies may overflow, as on a node; with a larger share the gradient is biased.
MAX_NONFINITE = 1e-3
# Below any number of a calculation, hartree^2; it keeps logarithms finite.
_LEAST_VARIANCE = 1e-24


class Left(NamedTuple):
    """Estimate of the energy above that at zero variance, and its error; hartree."""

    value: float
    error: float


def optimisation_findings(
    optimisation: Mapping[str, np.ndarray],
    inference: Mapping[str, Any],
    accuracy: float,
    start: RunStart,
    rate_is_time: bool,
) -> tuple[list[Finding], Left | None]:
    """Findings on the series of an optimisation, and the estimate of what is left.

    A run of a group with iterations of its own is judged by these. Where they are few, or noise
    hides what they do, those of the joint optimisation count as well.

    Args:
        optimisation: `SERIES` over the iterations (step,), hartree; empty if they are lost.
        inference: attributes of the inference.
        accuracy: hartree, that the scan is for.
        start: what the run has started from.
        rate_is_time: whether the learning rate is a step of imaginary time, per hartree.
    """
    if start.untrained:
        reason = f"zero-shot from {start.group}"
        return [Finding("start", {}, reason, Weight.UNTRAINED)], None
    series = _finite(optimisation)
    left = _zero_variance(series, inference)
    own = _finite(start.own_part(optimisation)) if start.group and start.own else series
    if not own or own["energy_Eh"].size == 0:
        return [Finding("trend", {}, "the series of the optimisation cannot be read")], left
    # These begin where another optimisation has ended.
    continued = bool(start.group and start.own) or bool(inference.get("neighbour"))
    settings = inference, accuracy, left, rate_is_time, continued
    found = list(_of_energies(own, own, *settings))
    if own is not series and start.joint:
        together = list(_of_energies(series, own, *settings))
        undecided = any(finding.iterations for finding in found)
        settled = not any(finding.reason for finding in together)
        if start.own < LEAST_OWN or (undecided and settled):
            found = together
    walkers = number(inference, "n_walkers")
    if start.walkers and own is series:
        walkers = start.walkers
    return [*_of_walkers(own, walkers), *found], left


def _finite(series: Series) -> dict[str, np.ndarray]:
    """The series without iterations that are not finite; empty if a needed one is missing."""
    if not series.keys() >= set(_NEEDED):
        return {}
    finite = np.isfinite(series["energy_Eh"]) & np.isfinite(series["variance_Eh2"])
    return {name: values[finite] for name, values in series.items()}


def _last_half(n_steps: int) -> slice:
    return slice(n_steps - max(1, n_steps // 2), None)


def _of_walkers(series: Series, walkers: float) -> Iterator[Finding]:
    """Findings on the walkers of the optimisation, of which there were so many."""
    half = _last_half(series["energy_Eh"].size)
    yield acceptance("optimisation", float(series["pmove"][half].mean()), Weight.DOUBTFUL)
    yield _frozen(series["n_frozen"][half])
    yield _nonfinite(series["n_nonfinite"][half], walkers)


def _of_energies(
    series: Series,
    last: Series,
    inference: Mapping[str, Any],
    accuracy: float,
    left: Left | None,
    rate_is_time: bool,
    continued: bool,
) -> Iterator[Finding]:
    """Findings on the energies and variances of the optimisation.

    `last` are those of its iterations that the inference has to agree with.
    """
    n_steps = series["energy_Eh"].size
    if n_steps < 2 * MIN_BLOCKS:
        reason = f"{n_steps} iterations are too few to show a trend"
        more = round_up(MOST_MORE * n_steps)
        yield Finding("trend", {}, reason, Weight.UNCONVERGED, more)
        return
    rate = _rates(series)
    trend = energy_trend(series["energy_Eh"], bar_of(inference, accuracy), rate)
    end = number(inference, "energy_Eh"), number(inference, "error_Eh")
    gain = gain_limit(series["energy_Eh"], series.get("error_Eh"), rate, end)
    time = float(rate[-trend.length :].sum()) if rate_is_time else math.nan
    found = [
        _trend(trend, gain, n_steps, time, inference, accuracy),
        _left(n_steps, inference, accuracy, left),
    ]
    yield from found
    yield _sum_of_rates(rate, any(finding.reason for finding in found))
    if last["energy_Eh"].size >= 2 * MIN_BLOCKS:
        half = _last_half(last["energy_Eh"].size)
        yield _tail(last["energy_Eh"][half], trend, inference, accuracy)
    if n_steps >= 4 * MIN_BLOCKS:
        yield _variance(series["variance_Eh2"], inference, continued)


def _rates(series: Mapping[str, np.ndarray]) -> np.ndarray:
    """The learning rate of each iteration, per hartree; NaN where it was not recorded."""
    rate = np.asarray(series.get("learning_rate", np.nan), float)
    rate = np.broadcast_to(rate, series["energy_Eh"].shape)
    usable = np.isfinite(rate).all() and (rate >= 0).all() and rate[rate.size // 2 :].sum() > 0
    return rate if usable else np.full(rate.shape, np.nan)


def _trend(
    trend: Trend,
    gain: float,
    n_steps: int,
    time: float,
    inference: Mapping[str, Any],
    accuracy: float,
) -> Finding:
    """The energy must not fall any more, and the noise must be small enough to show that.

    The energy falls if a straight line falls by more than 3 of its errors and the remainder is
    above the bar (see `bar_of`). Noise could hide a fall if the limit of the gain of as many more
    iterations exceeds the accuracy; the noise decreases as the square root of the length. The gain
    is only a part of the remainder, 1 - exp(-2 GAP time), if the imaginary time over the iterations
    of the trend is known (else NaN). An energy that rises needs smaller steps, not more of them.

    The estimate of what is left (`_left`) does not speak against the noise: it takes for granted
    that the energy falls with the variance, and a slow fall hardly changes the variance.
    """
    bar = bar_of(inference, accuracy)
    kept = ("fall", "fall_error", "remaining")
    numbers = {f"{k}_Eh": v for k, v in trend._asdict().items() if k in kept}
    numbers |= {"bar_Eh": bar, "gain_limit_Eh": gain}
    clear = TREND_SIGMAS * trend.fall_error
    moved = (
        f"by {milli(abs(trend.fall))} +- {milli(trend.fall_error)} mEh over the last "
        f"{trend.length} iterations"
    )
    if -trend.fall > max(clear, bar):
        return Finding("trend", numbers, f"the energy rose {moved}")
    falls = trend.fall > clear
    seen = 1.0 if math.isnan(time) else -math.expm1(-2.0 * GAP * time)
    possible = gain / seen
    if falls and trend.remaining > bar:
        more = trend.more
        reason = f"the energy fell {moved}, and {milli(trend.remaining)} mEh remain"
    elif possible > accuracy:
        more = n_steps * ((possible / accuracy) ** 2 - 1.0)
        reason = f"noise could hide a fall of up to {milli(possible)} mEh"
        if seen < 0.5:
            reason += f", as the rates of the last {trend.length} iterations sum to {time:.2g}"
    else:
        return Finding("trend", numbers)
    return Finding("trend", numbers, reason, Weight.UNCONVERGED, _iterations(more, n_steps))


def _iterations(more: float, n_steps: int) -> int:
    """The iterations to ask for, within `LEAST_MORE` and `MOST_MORE`."""
    return round_up(n_steps * min(max(more / n_steps, LEAST_MORE), MOST_MORE))


def _zero_variance(series: Mapping[str, np.ndarray], inference: Mapping[str, Any]) -> Left | None:
    """The energy of the inference above that at zero variance, where the series give an estimate.

    See `variance_extrapolation`.
    """
    if "error_Eh" not in series:
        return None
    try:
        line = extrapolate(blocks(series["energy_Eh"], series["error_Eh"], series["variance_Eh2"]))
    except ExtrapolationRefusedError:
        return None
    value = number(inference, "energy_Eh") - line.energy.value
    error = math.hypot(line.energy.error, number(inference, "error_Eh"))
    return Left(value, error) if math.isfinite(value) and math.isfinite(error) else None


def _left(
    n_steps: int, inference: Mapping[str, Any], accuracy: float, left: Left | None
) -> Finding:
    """What is left, by the energy against the variance, may not clearly exceed the accuracy.

    Where the series give no estimate, the variance alone gives the least that is left. The excess
    falls about as one over the iterations.
    """
    variance = number(inference, "variance_Eh2")
    least = LEAST_SLOPE * variance
    numbers = {"least_Eh": least} | ({} if left is None else left._asdict())
    if left is not None and left.value - left.error > accuracy:
        value = left.value
        reason = (
            f"an estimated {milli(value)} +- {milli(left.error)} mEh are left, by the energy "
            "against the variance"
        )
    elif least > accuracy:
        value = least
        reason = (
            f"a variance of {variance:.2g} hartree^2 leaves an estimated {milli(value)} mEh or more"
        )
    else:
        return Finding("left", numbers)
    more = _iterations(n_steps * (value / accuracy - 1.0), n_steps)
    return Finding("left", numbers, reason, Weight.UNCONVERGED, more)


def _sum_of_rates(rate: np.ndarray, unconverged: bool) -> Finding:
    """The sum of rates. A small share of the last half is a reason if the energy has not settled.

    It is then the cause, which more iterations do not remove.
    """
    if np.isnan(rate).any():
        return Finding("rates", {})
    share = float(rate[rate.size - rate.size // 2 :].sum() / rate.sum())
    reason = ""
    if share < DEAD_RATE and unconverged:
        reason = (
            f"the rate died early: the last half of the iterations has {100 * share:.2g} % of the "
            "sum of rates; raise optimise.delay"
        )
    numbers = {"sum": float(rate.sum()), "share_of_last_half": share}
    return Finding("rates", numbers, reason, Weight.UNCONVERGED)


def _tail(
    energy: np.ndarray, trend: Trend, inference: Mapping[str, Any], accuracy: float
) -> Finding:
    """Optimisation and inference sample the same wavefunction and must agree, apart from the trend.

    If they disagree, the walkers of one of them do not sample |psi|^2. The tolerance is 5 standard
    errors plus the trend plus two of its errors, and at least the bar.
    """
    mean = reblock(energy)
    difference = number(inference, "energy_Eh") - mean.mean
    error = math.hypot(mean.error, number(inference, "error_Eh"))
    moved = abs(trend.fall) + 2.0 * trend.fall_error
    numbers = {"difference_Eh": difference, "error_Eh": error}
    if not abs(difference) > max(CLEAR_SIGMAS * error + moved, bar_of(inference, accuracy)):
        return Finding("tail", numbers)
    side = "above" if difference > 0 else "below"
    reason = (
        f"the energy of the inference lies {milli(abs(difference))} +- {milli(error)} mEh {side} "
        "that of the last half of the optimisation"
    )
    return Finding("tail", numbers, reason, Weight.UNTRUSTED)


def _variance(variance: np.ndarray, inference: Mapping[str, Any], continued: bool) -> Finding:
    """The variance of the local energy, zero for an eigenstate, must fall and not rise again.

    The rule compares means of its logarithm, which single spikes do not move, over quarters of the
    optimisation. The variance has risen if the last quarter exceeds the lowest of the others by a
    factor of 1.5 and by 5 errors: steps are too large. If it has not fallen by a factor of 1.1 from
    the first quarter to the last, nothing was optimised, whether the energy moves or not. Two cases
    are exempt from that: a warm start, or the own iterations of a run of a group, may begin at the
    end, and a variance of rounding errors cannot fall further.
    """
    floor = max(_LEAST_VARIANCE, (ROUNDING_SPREAD * number(inference, "energy_Eh")) ** 2)
    logarithms = np.log(np.maximum(np.asarray(variance, float), floor))
    quarters = [reblock(part) for part in np.array_split(logarithms, 4)]
    first, last = quarters[0], quarters[-1]
    lowest = min(quarters[:-1], key=lambda quarter: quarter.mean)
    rise, rise_error = last.mean - lowest.mean, math.hypot(last.error, lowest.error)
    fall = first.mean - last.mean
    numbers = {"rise": math.exp(rise), "rise_relative_error": rise_error, "fall": math.exp(fall)}
    may_fall = not continued and last.mean > math.log(100.0 * floor)
    reason = ""
    if rise > max(math.log(VARIANCE_RISE), CLEAR_SIGMAS * rise_error):
        reason = f"the variance of the local energy rose by a factor of {math.exp(rise):.2g}"
    elif may_fall and fall < math.log(VARIANCE_FALL):
        reason = "the optimisation did not lower the variance of the local energy"
    return Finding("variance", numbers, reason)


def _frozen(n_frozen: np.ndarray) -> Finding:
    """Walkers that did not move over a whole window bias every gradient towards their places."""
    count = int(n_frozen.max())
    reason = f"{count} walkers did not move in the last half of the optimisation" if count else ""
    return Finding("frozen", {"n_frozen": count}, reason)


def _nonfinite(n_nonfinite: np.ndarray, walkers: float) -> Finding:
    """The share of local energies that are not finite; see `MAX_NONFINITE`."""
    share = float(n_nonfinite.mean()) / walkers
    wrong = share > MAX_NONFINITE
    reason = f"{100 * share:.2g} % of the optimisation's local energies are not finite"
    return Finding("nonfinite", {"share": share}, reason if wrong else "")

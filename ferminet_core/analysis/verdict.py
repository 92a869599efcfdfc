"""The verdict on a finished run: converged, not converged, or suspect (NumPy only).

The rules use series and measured numbers, one setting, the accuracy that the scan is for, and the
meaning of the rate. Each rule gives a `Finding`, with a reason if something is wrong. A finding has
one of three weights:

UNTRUSTED    The walkers do not sample |psi|^2, or numbers are missing. The energy is then not
             variational: its convergence cannot be judged, and more iterations do not help.
UNCONVERGED  More iterations would lower the energy, or more records its error. This comes before
             doubts about the error bar or the state, since both are measured again.
DOUBTFUL     The energy is an upper bound of that of a state. Its error may be wrong, as where
             walkers disagree, or the state may not be the one that was asked for.

The heaviest finding decides: "suspect" for the first and the third weight, "not converged" with
the iterations or records that are missing for the second, and "converged" without any. The reasons
of lighter findings follow, but an untrusted energy gets no statement on its convergence.

Sources, cited below by name:
    Sokal, in Functional Integration (Plenum, 1997): lengths of series in autocorrelation times.
    Roberts, Gelman and Gilks, Ann. Appl. Probab. 7, 110 (1997): acceptance and speed.
"""

import enum
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ferminet_core.analysis.curve_outliers import Deviation
from ferminet_core.analysis.statistics import MIN_BLOCKS, ROUNDING_SPREAD, reblock
from ferminet_core.analysis.variance_extrapolation import (
    ExtrapolationRefusedError,
    blocks,
    extrapolate,
)
from ferminet_core.inputs.config import RECORDS_PER_CALL

# The series of the optimisation that the rules use. Results may lack those that are not needed.
_NEEDED = ("energy_Eh", "variance_Eh2", "pmove", "n_nonfinite", "n_frozen")
SERIES = (*_NEEDED, "error_Eh", "learning_rate")

# Exceeded by noise with a probability of 1e-3 (normal, one-sided).
TREND_SIGMAS = 3.0
# Share of the accuracy: a smaller remainder does not matter. A larger error of the inference takes
# the place of this bar, up to the accuracy.
REMAINING = 0.25
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
# Exceeded by noise in one of two million cases: a scan makes hundreds of comparisons.
CLEAR_SIGMAS = 5.0
# Factor by which the typical variance must rise to be more than a fluctuation of the network, and
# the least factor of a fall: even a small part of an optimisation lowers it by more than a tenth.
VARIANCE_RISE, VARIANCE_FALL = 1.5, 1.1
# Autocorrelation times; shorter series give neither tau nor the error (Sokal 1997).
MIN_INDEPENDENT = 20.0
# Above 0.9 a random walk spreads at less than 5 % of the best speed (Roberts et al. 1997: the speed
# a Phi^-1(a / 2)^2 has its maximum at a = 0.234). Below 0.1 a walker waits for many moves, and some
# wait for a whole series.
ACCEPTANCE = (0.1, 0.9)
# The local energy diverges as the inverse distance from a node, and the density there vanishes as
# the square of the distance: a share of about 1e-4 lies beyond 30 mean absolute deviations. With a
# hundred times as many, the mean absolute deviation does not describe the distribution.
MAX_OUTLIERS = 0.01
# Single local energies may overflow, as on a node; with a larger share the gradient is biased.
MAX_NONFINITE = 1e-3
# Below any number of a calculation (hartree, hartree^2); they keep logarithms and ratios finite.
_LEAST_NOISE, _LEAST_VARIANCE = 1e-12, 1e-24


class Weight(enum.IntEnum):
    """How much a finding invalidates; the largest weight decides."""

    DOUBTFUL = 1
    UNCONVERGED = 2
    UNTRUSTED = 3


class Finding(NamedTuple):
    """The result of one rule: its numbers, and the reason if something is wrong.

    iterations, records: how many more the run needs, if it is not converged
    """

    rule: str
    numbers: dict[str, float]
    reason: str = ""
    weight: Weight = Weight.DOUBTFUL
    iterations: int = 0
    records: int = 0


class Left(NamedTuple):
    """Estimate of the energy above that at zero variance, and its error; hartree."""

    value: float
    error: float


class Verdict(NamedTuple):
    """The verdict in words, the findings of all rules, and the estimate of what is left."""

    text: str
    findings: list[Finding]
    left: Left | None = None

    def plain(self) -> dict[str, Any]:
        """The verdict as JSON values.

        They are the text, the iterations and records that the run needs, and the numbers and
        reasons of each rule.
        """
        rules: dict[str, dict[str, Any]] = {}
        for finding in self.findings:
            rule = rules.setdefault(finding.rule, {"wrong": []})
            rule |= finding.numbers
            rule["wrong"] += [finding.reason] if finding.reason else []
        return {
            "verdict": self.text,
            "more_iterations": max((finding.iterations for finding in self.findings), default=0),
            "more_records": max((finding.records for finding in self.findings), default=0),
            "rules": rules,
        }


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


def judge(
    optimisation: Mapping[str, np.ndarray],
    inference: Mapping[str, Any],
    reference: Mapping[str, Any],
    accuracy: float,
    untrusted: Iterable[str] = (),
    doubtful: Iterable[str] = (),
    deviation: Deviation | None = None,
    *,
    rate_is_time: bool = True,
) -> Verdict:
    """The verdict on one finished run.

    Args:
        optimisation: `SERIES` over the iterations (step,), hartree; empty if they are lost.
        inference: attributes of the inference.
        reference: attributes of the reference.
        accuracy: hartree, that the scan is for.
        untrusted: flags that make the energy untrusted, in plain sentences.
        doubtful: flags that only make it doubtful, in plain sentences.
        deviation: from the prediction by the neighbours on the run's curve, if there is one.
        rate_is_time: whether the learning rate is a step of imaginary time, per hartree.
    """
    names = ("rhat", "n_nonfinite", "n_frozen", "error_Eh", "error_bootstrap_Eh", "s2")
    findings = [Finding("flags", {name: _number(inference, name) for name in names})]
    findings += [Finding("flags", {}, reason, Weight.UNTRUSTED) for reason in untrusted]
    findings += [Finding("flags", {}, reason) for reason in doubtful]
    acceptance = _number(inference, "pmove")
    findings += [
        _acceptance("inference", acceptance, Weight.UNTRUSTED),
        _precision(inference, accuracy),
        _independent(inference),
        _outliers(inference),
        _reference(reference),
    ]
    series = _finite(optimisation)
    left = _zero_variance(series, inference)
    findings += _optimisation(series, inference, accuracy, left, rate_is_time)
    if deviation is not None:
        findings.append(_smoothness(deviation, inference, accuracy))
    return Verdict(_text(findings), findings, left)


def _finite(series: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The series without iterations that are not finite; empty if a needed one is missing."""
    if not series.keys() >= set(_NEEDED):
        return {}
    finite = np.isfinite(series["energy_Eh"]) & np.isfinite(series["variance_Eh2"])
    return {name: values[finite] for name, values in series.items()}


def _optimisation(
    series: Mapping[str, np.ndarray],
    inference: Mapping[str, Any],
    accuracy: float,
    left: Left | None,
    rate_is_time: bool,
) -> Iterator[Finding]:
    """Findings on the series of the optimisation."""
    n_steps = len(series.get("energy_Eh", ()))
    if not n_steps:
        yield Finding("trend", {}, "the series of the optimisation cannot be read")
        return
    half = slice(n_steps - max(1, n_steps // 2), None)
    yield _acceptance("optimisation", float(series["pmove"][half].mean()), Weight.DOUBTFUL)
    yield _frozen(series["n_frozen"][half])
    yield _nonfinite(series["n_nonfinite"][half], inference)
    if n_steps < 2 * MIN_BLOCKS:
        reason = f"{n_steps} iterations are too few to show a trend"
        more = _round_up(MOST_MORE * n_steps)
        yield Finding("trend", {}, reason, Weight.UNCONVERGED, more)
        return
    rate = _rates(series)
    trend = energy_trend(series["energy_Eh"], _bar(inference, accuracy), rate)
    time = float(rate[-trend.length :].sum()) if rate_is_time else math.nan
    found = [
        _trend(trend, n_steps, time, inference, accuracy, left),
        _left(n_steps, inference, accuracy, left),
    ]
    yield from found
    yield _sum_of_rates(rate, any(finding.reason for finding in found))
    yield _tail(series["energy_Eh"][half], trend, inference, accuracy)
    if n_steps >= 4 * MIN_BLOCKS:
        yield _variance(series["variance_Eh2"], inference)


def _text(findings: list[Finding]) -> str:
    """The verdict of the heaviest finding, with the reasons of all that count."""
    wrong = [finding for finding in findings if finding.reason]
    if not wrong:
        return "converged"
    heaviest = max(finding.weight for finding in wrong)
    if heaviest is Weight.UNTRUSTED:
        wrong = [finding for finding in wrong if finding.weight is not Weight.UNCONVERGED]
    wrong.sort(key=lambda finding: -finding.weight)  # stable: otherwise in the order of the rules
    reasons = "; ".join(finding.reason for finding in wrong)
    if heaviest is Weight.UNCONVERGED:
        more = max(finding.iterations for finding in wrong)
        records = max(finding.records for finding in wrong)
        needed = [f"run {more} more iterations"] if more else []
        needed += [f"{records} more records are needed"] if records else []
        return f"not converged: {' and '.join(needed)}; {reasons}"
    return f"suspect: {reasons}"


# --- the optimisation -----------------------------------------------------------------------------


def _rates(series: Mapping[str, np.ndarray]) -> np.ndarray:
    """The learning rate of each iteration, per hartree; NaN where it was not recorded."""
    rate = np.asarray(series.get("learning_rate", np.nan), float)
    rate = np.broadcast_to(rate, series["energy_Eh"].shape)
    usable = np.isfinite(rate).all() and (rate >= 0).all() and rate[rate.size // 2 :].sum() > 0
    return rate if usable else np.full(rate.shape, np.nan)


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


def _trend(
    trend: Trend,
    n_steps: int,
    time: float,
    inference: Mapping[str, Any],
    accuracy: float,
    left: Left | None,
) -> Finding:
    """The energy must not fall any more, and the noise must be small enough to show that.

    The energy falls if a straight line falls by more than 3 of its errors and the remainder is
    above the bar (see `_bar`). Noise could hide a fall if the fall plus two of its errors exceeds
    the accuracy; the noise decreases as the square root of the length. The fall is only a part of
    the remainder, 1 - exp(-2 GAP time), if the imaginary time over the same iterations is known
    (else NaN). An estimate of what is left that excludes the fall takes precedence over the noise.
    An energy that rises needs smaller steps, not more of them.
    """
    bar = _bar(inference, accuracy)
    kept = ("fall", "fall_error", "remaining")
    numbers = {f"{k}_Eh": v for k, v in trend._asdict().items() if k in kept} | {"bar_Eh": bar}
    clear = TREND_SIGMAS * trend.fall_error
    moved = (
        f"by {_milli(abs(trend.fall))} +- {_milli(trend.fall_error)} mEh over the last "
        f"{trend.length} iterations"
    )
    if -trend.fall > max(clear, bar):
        return Finding("trend", numbers, f"the energy rose {moved}")
    falls = trend.fall > clear
    seen = 1.0 if math.isnan(time) else -math.expm1(-2.0 * GAP * time)
    possible = (2.0 * trend.fall_error + (0.0 if falls else max(trend.fall, 0.0))) / seen
    excluded = left is not None and abs(left.value) + 2.0 * left.error < accuracy
    if falls and trend.remaining > bar:
        more = trend.more
        reason = f"the energy fell {moved}, and {_milli(trend.remaining)} mEh remain"
    elif possible > accuracy and not excluded:
        more = n_steps * ((possible / accuracy) ** 2 - 1.0)
        reason = f"noise could hide a fall of up to {_milli(possible)} mEh"
        if seen < 0.5:
            reason += f", as the rates of the last {trend.length} iterations sum to {time:.2g}"
    else:
        return Finding("trend", numbers)
    return Finding("trend", numbers, reason, Weight.UNCONVERGED, _iterations(more, n_steps))


def _iterations(more: float, n_steps: int) -> int:
    """The iterations to ask for, within `LEAST_MORE` and `MOST_MORE`."""
    return _round_up(n_steps * min(max(more / n_steps, LEAST_MORE), MOST_MORE))


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
    value = _number(inference, "energy_Eh") - line.energy.value
    error = math.hypot(line.energy.error, _number(inference, "error_Eh"))
    return Left(value, error) if math.isfinite(value) and math.isfinite(error) else None


def _left(
    n_steps: int, inference: Mapping[str, Any], accuracy: float, left: Left | None
) -> Finding:
    """What is left, by the energy against the variance, may not clearly exceed the accuracy.

    Where the series give no estimate, the variance alone gives the least that is left. The excess
    falls about as one over the iterations.
    """
    variance = _number(inference, "variance_Eh2")
    least = LEAST_SLOPE * variance
    numbers = {"least_Eh": least} | ({} if left is None else left._asdict())
    if left is not None and left.value - left.error > accuracy:
        value = left.value
        reason = (
            f"an estimated {_milli(value)} +- {_milli(left.error)} mEh are left, by the energy "
            "against the variance"
        )
    elif least > accuracy:
        value = least
        reason = (
            f"a variance of {variance:.2g} hartree^2 leaves an estimated {_milli(value)} mEh or "
            "more"
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
    difference = _number(inference, "energy_Eh") - mean.mean
    error = math.hypot(mean.error, _number(inference, "error_Eh"))
    moved = abs(trend.fall) + 2.0 * trend.fall_error
    numbers = {"difference_Eh": difference, "error_Eh": error}
    if not abs(difference) > max(CLEAR_SIGMAS * error + moved, _bar(inference, accuracy)):
        return Finding("tail", numbers)
    side = "above" if difference > 0 else "below"
    reason = (
        f"the energy of the inference lies {_milli(abs(difference))} +- {_milli(error)} mEh {side} "
        "that of the last half of the optimisation"
    )
    return Finding("tail", numbers, reason, Weight.UNTRUSTED)


def _variance(variance: np.ndarray, inference: Mapping[str, Any]) -> Finding:
    """The variance of the local energy, zero for an eigenstate, must fall and not rise again.

    The rule compares means of its logarithm, which single spikes do not move, over quarters of the
    optimisation. The variance has risen if the last quarter exceeds the lowest of the others by a
    factor of 1.5 and by 5 errors: steps are too large. If it has not fallen by a factor of 1.1 from
    the first quarter to the last, nothing was optimised, whether the energy moves or not. Two cases
    are exempt from that: a warm start may begin at the end, and a variance of rounding errors
    cannot fall further.
    """
    floor = max(_LEAST_VARIANCE, (ROUNDING_SPREAD * _number(inference, "energy_Eh")) ** 2)
    logarithms = np.log(np.maximum(np.asarray(variance, float), floor))
    quarters = [reblock(part) for part in np.array_split(logarithms, 4)]
    first, last = quarters[0], quarters[-1]
    lowest = min(quarters[:-1], key=lambda quarter: quarter.mean)
    rise, rise_error = last.mean - lowest.mean, math.hypot(last.error, lowest.error)
    fall = first.mean - last.mean
    numbers = {"rise": math.exp(rise), "rise_relative_error": rise_error, "fall": math.exp(fall)}
    may_fall = not inference.get("neighbour") and last.mean > math.log(100.0 * floor)
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


def _nonfinite(n_nonfinite: np.ndarray, inference: Mapping[str, Any]) -> Finding:
    """The share of local energies that are not finite; see `MAX_NONFINITE`."""
    share = float(n_nonfinite.mean()) / _number(inference, "n_walkers")
    wrong = share > MAX_NONFINITE
    reason = f"{100 * share:.2g} % of the optimisation's local energies are not finite"
    return Finding("nonfinite", {"share": share}, reason if wrong else "")


# --- the inference --------------------------------------------------------------------------------


def _acceptance(stage: str, share: float, weight: Weight) -> Finding:
    """The share of moves accepted must be within `ACCEPTANCE`."""
    low, high = ACCEPTANCE
    wrong = share < low or share > high
    reason = f"{100 * share:.2g} % of the {stage}'s moves were accepted"
    return Finding(f"acceptance_{stage}", {"share": share}, reason if wrong else "", weight)


def _precision(inference: Mapping[str, Any], accuracy: float) -> Finding:
    """The error of the energy may not exceed the accuracy. It falls as 1 / sqrt(records)."""
    error, records = _number(inference, "error_Eh"), _number(inference, "n_samples")
    numbers = {"error_Eh": error, "accuracy_Eh": accuracy}
    if not error > accuracy:
        return Finding("precision", numbers)
    reason = (
        f"the error of {1e3 * error:.3g} mEh exceeds the {1e3 * accuracy:.3g} mEh that the scan "
        "is for"
    )
    needed = _records(records * ((error / accuracy) ** 2 - 1.0))
    return Finding("precision", numbers, reason, Weight.UNCONVERGED, records=needed)


def _independent(inference: Mapping[str, Any]) -> Finding:
    """The records must be at least `MIN_INDEPENDENT` autocorrelation times."""
    records, tau = _number(inference, "n_samples"), _number(inference, "tau")
    independent = records / max(tau, 1.0)
    reason = ""
    if independent < MIN_INDEPENDENT:
        needed = _records(MIN_INDEPENDENT * tau - records)
        reason = (
            f"the series has {independent:.0f} independent records; "
            f"{needed} more records are needed"
        )
    return Finding("independent_records", {"count": independent, "tau": tau}, reason)


def _outliers(inference: Mapping[str, Any]) -> Finding:
    """The share of local energies that are outliers; see `MAX_OUTLIERS`."""
    recorded = _number(inference, "n_samples") * _number(inference, "n_walkers")
    share = _number(inference, "n_outliers") / recorded
    wrong = share > MAX_OUTLIERS
    reason = f"{100 * share:.2g} % of the local energies are outliers"
    return Finding("outliers", {"share": share}, reason if wrong else "")


# --- reference and neighbours ---------------------------------------------------------------------


def _reference(reference: Mapping[str, Any]) -> Finding:
    """Pretraining on a Hartree-Fock solution that is not a minimum may lead to another state.

    Its <S^2> is reported, but is never a reason: a broken spin symmetry is the right start for a
    stretched bond, and the spin of the wavefunction is measured.
    """
    stability = json.loads(reference.get("stability", "{}"))
    method = str(reference.get("method", "")).upper()
    unstable = [
        words
        for kind, words in (("internal", "unstable"), ("rhf_to_uhf", "unstable towards UHF"))
        if stability.get(kind) is False
    ]
    reason = f"the {method} reference is {' and '.join(unstable)}" if unstable else ""
    return Finding("reference", {"s2": _number(reference, "s2")}, reason)


def _smoothness(deviation: Deviation, inference: Mapping[str, Any], accuracy: float) -> Finding:
    """A point may not deviate from its curve by more than 5 errors and more than the bar."""
    numbers = {"deviation_Eh": deviation.value, "error_Eh": deviation.error}
    bar = _bar(inference, accuracy)
    if abs(deviation.sigmas) <= CLEAR_SIGMAS or abs(deviation.value) <= bar:
        return Finding("smoothness", numbers)
    side = "above" if deviation.value > 0 else "below"
    reason = (
        f"the energy lies {_milli(abs(deviation.value))} mEh ({abs(deviation.sigmas):.2g} errors) "
        f"{side} the prediction from its neighbours"
    )
    return Finding("smoothness", numbers, reason)


def _bar(inference: Mapping[str, Any], accuracy: float) -> float:
    """The smallest energy that matters, hartree.

    It is the error of the inference, but at least `REMAINING` of the accuracy and at most all.
    """
    error, least = _number(inference, "error_Eh"), REMAINING * accuracy
    return min(max(least, error), accuracy) if math.isfinite(error) else least


def _number(attributes: Mapping[str, Any], name: str) -> float:
    """An attribute, or NaN, to which no rule objects."""
    return float(attributes.get(name, math.nan))


def _milli(energy: float) -> str:
    """Hartree in mEh, to two digits."""
    return f"{1e3 * energy:.0f}" if abs(energy) >= 0.1 else f"{1e3 * energy:.2g}"


def _records(count: float) -> int:
    """A number of records, rounded up to two digits and to whole calls."""
    return math.ceil(_round_up(count) / RECORDS_PER_CALL) * RECORDS_PER_CALL


def _round_up(count: float) -> int:
    """Rounded up to two digits: an extrapolation has no more."""
    step = 10 ** max(0, math.floor(math.log10(max(count, 1.0))) - 1)
    return math.ceil(count / step) * step

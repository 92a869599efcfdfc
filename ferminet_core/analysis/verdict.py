"""The verdict on a finished run: converged, not converged, or suspect (NumPy only).

The rules use series and measured numbers only, never settings or their preset. Each rule gives a
`Finding`, with a reason if something is wrong. A finding has one of three weights:

UNTRUSTED    The walkers do not sample |psi|^2, or numbers are missing. The energy is then not
             variational: its convergence cannot be judged, and more iterations do not help.
UNCONVERGED  More iterations would lower the energy. This comes before doubts about the error bar or
             the state, since energy and error are measured again after the iterations.
DOUBTFUL     The energy is an upper bound of that of a state. Its error may be wrong, as where
             walkers disagree, or the state may not be the one that was asked for.

The heaviest finding decides: "suspect" for the first and the third weight, "not converged: run N
more iterations" for the second, and "converged" without any. The reasons of lighter findings
follow, but an untrusted energy gets no statement on its convergence.

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
from ferminet_core.units import CHEMICAL_ACCURACY

# The series of the optimisation that the rules use.
SERIES = ("energy_Eh", "variance_Eh2", "pmove", "n_nonfinite", "n_frozen")

# Exceeded by noise with a probability of 1e-3 (normal, one-sided).
TREND_SIGMAS = 3.0
# A quarter of chemical accuracy (0.4 mEh): a smaller remainder does not matter in a curve. A larger
# error of the inference takes the place of this bar, up to chemical accuracy.
REMAINING = 0.25 * CHEMICAL_ACCURACY
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

    iterations: how many more the run needs, if it is not converged
    """

    rule: str
    numbers: dict[str, float]
    reason: str = ""
    weight: Weight = Weight.DOUBTFUL
    iterations: int = 0


class Verdict(NamedTuple):
    """The verdict in words, and the findings of all rules."""

    text: str
    findings: list[Finding]

    def plain(self) -> dict[str, Any]:
        """The verdict as JSON values.

        They are the text, the iterations that the run needs, and the numbers and reasons of each
        rule.
        """
        rules: dict[str, dict[str, Any]] = {}
        for finding in self.findings:
            rule = rules.setdefault(finding.rule, {"wrong": []})
            rule |= finding.numbers
            rule["wrong"] += [finding.reason] if finding.reason else []
        iterations = max((finding.iterations for finding in self.findings), default=0)
        return {"verdict": self.text, "more_iterations": iterations, "rules": rules}


class Trend(NamedTuple):
    """The energy over the last half of an optimisation; hartree.

    fall: of a straight line, over the last half; fall_error: its standard error
    remaining: the predicted further fall; more: iterations until it is below the bar
    """

    fall: float
    fall_error: float
    remaining: float
    more: float


def judge(
    optimisation: Mapping[str, np.ndarray],
    inference: Mapping[str, Any],
    reference: Mapping[str, Any],
    untrusted: Iterable[str] = (),
    doubtful: Iterable[str] = (),
    deviation: Deviation | None = None,
) -> Verdict:
    """The verdict on one finished run.

    Args:
        optimisation: `SERIES` over the iterations (step,), hartree; empty if they are lost.
        inference: attributes of the inference.
        reference: attributes of the reference.
        untrusted: flags that make the energy untrusted, in plain sentences.
        doubtful: flags that only make it doubtful, in plain sentences.
        deviation: from the prediction by the neighbours on the run's curve, if there is one.
    """
    names = ("rhat", "n_nonfinite", "n_frozen", "error_Eh", "error_bootstrap_Eh", "s2")
    findings = [Finding("flags", {name: _number(inference, name) for name in names})]
    findings += [Finding("flags", {}, reason, Weight.UNTRUSTED) for reason in untrusted]
    findings += [Finding("flags", {}, reason) for reason in doubtful]
    acceptance = _number(inference, "pmove")
    findings += [
        _acceptance("inference", acceptance, Weight.UNTRUSTED),
        _independent(inference),
        _outliers(inference),
        _reference(reference),
        *_optimisation(optimisation, inference),
    ]
    if deviation is not None:
        findings.append(_smoothness(deviation, inference))
    return Verdict(_text(findings), findings)


def _optimisation(
    series: Mapping[str, np.ndarray], inference: Mapping[str, Any]
) -> Iterator[Finding]:
    """Findings on the series of the optimisation, without iterations that are not finite."""
    if series:
        finite = np.isfinite(series["energy_Eh"]) & np.isfinite(series["variance_Eh2"])
        series = {name: values[finite] for name, values in series.items()}
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
    trend = energy_trend(series["energy_Eh"], _bar(inference))
    yield _trend(trend, n_steps, inference)
    yield _tail(series["energy_Eh"][half], trend, inference)
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
        return f"not converged: run {more} more iterations; {reasons}"
    return f"suspect: {reasons}"


# --- the optimisation -----------------------------------------------------------------------------


def energy_trend(energy: np.ndarray, bar: float) -> Trend:
    """The trend of the energy over the last half of a series of at least 2 `MIN_BLOCKS` iterations.

    c + a exp(-t / T), with t counted from the end, is fitted for every T of a grid from an eighth
    of the half to four times the half, where it is nearly straight. The weight of a fit is
    exp(-chi^2 / 2). The noise in chi^2 is that of the best fit's residuals, reblocked to include
    their correlation. The remainder is the average of a, where positive; the number of iterations
    until a exp(-t / T) is below the bar is the median. Early, faster decays are left out with the
    first half. If the decay is slower than exponential, a is only the next part of the remainder:
    for 1/t, the fall if the run were twice as long.

    The fall is that of a straight line, whose slope has the variance 12 noise^2 / length^3.

    Args:
        energy: (step,) hartree.
        bar: the remainder that does not matter, hartree.
    """
    tail = np.asarray(energy, float)[-(len(energy) // 2) :]
    length = tail.size
    time = np.arange(length) - (length - 1.0)
    decays = np.geomspace(length / 8.0, 4.0 * length, 33)
    slope = _regress(time[None], tail)[0][0]
    amplitudes, residuals = _regress(np.exp(-time / decays[:, None]), tail)
    squares = (residuals**2).sum(axis=1)
    # Of one iteration, if iterations were independent.
    noise = reblock(residuals[squares.argmin()]).error * math.sqrt(length)
    weights = np.exp(-0.5 * (squares - squares.min()) / max(noise, _LEAST_NOISE) ** 2)
    weights /= weights.sum()
    amplitudes = np.maximum(amplitudes, 0.0)
    more = decays * np.log(np.maximum(amplitudes, bar) / bar)
    order = np.argsort(more)
    median = min(int(np.searchsorted(np.cumsum(weights[order]), 0.5)), decays.size - 1)
    return Trend(
        fall=-float(slope) * length,
        fall_error=noise * math.sqrt(12.0 / length),
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


def _trend(trend: Trend, n_steps: int, inference: Mapping[str, Any]) -> Finding:
    """The energy must not fall any more, and the noise must be small enough to show that.

    The energy falls if a straight line over the last half falls by more than 3 of its errors and
    the remainder is above the bar (see `_bar`). Noise could hide a fall if the fall plus two of its
    errors exceeds chemical accuracy; the noise decreases as the square root of the length. An
    energy that rises needs smaller steps, not more of them.
    """
    bar = _bar(inference)
    numbers = {f"{k}_Eh": v for k, v in trend._asdict().items() if k != "more"} | {"bar_Eh": bar}
    clear = TREND_SIGMAS * trend.fall_error
    moved = f"by {_milli(abs(trend.fall))} +- {_milli(trend.fall_error)} mEh over the last half"
    if -trend.fall > max(clear, bar):
        return Finding("trend", numbers, f"the energy rose {moved} of the optimisation")
    falls = trend.fall > clear
    possible = 2.0 * trend.fall_error + (0.0 if falls else max(trend.fall, 0.0))
    if falls and trend.remaining > bar:
        more = trend.more
        reason = f"the energy fell {moved}, and {_milli(trend.remaining)} mEh remain"
    elif possible > CHEMICAL_ACCURACY:
        more = n_steps * ((possible / CHEMICAL_ACCURACY) ** 2 - 1.0)
        reason = f"noise could hide a fall of up to {_milli(possible)} mEh over the last half"
    else:
        return Finding("trend", numbers)
    iterations = _round_up(n_steps * min(max(more / n_steps, LEAST_MORE), MOST_MORE))
    return Finding("trend", numbers, reason, Weight.UNCONVERGED, iterations)


def _tail(energy: np.ndarray, trend: Trend, inference: Mapping[str, Any]) -> Finding:
    """Optimisation and inference sample the same wavefunction and must agree, apart from the trend.

    If they disagree, the walkers of one of them do not sample |psi|^2. The tolerance is 5 standard
    errors plus the trend over the last half plus two of its errors, and at least the bar.
    """
    mean = reblock(energy)
    difference = _number(inference, "energy_Eh") - mean.mean
    error = math.hypot(mean.error, _number(inference, "error_Eh"))
    moved = abs(trend.fall) + 2.0 * trend.fall_error
    numbers = {"difference_Eh": difference, "error_Eh": error}
    if not abs(difference) > max(CLEAR_SIGMAS * error + moved, _bar(inference)):
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


def _independent(inference: Mapping[str, Any]) -> Finding:
    """The records must be at least `MIN_INDEPENDENT` autocorrelation times."""
    records, tau = _number(inference, "n_samples"), _number(inference, "tau")
    independent = records / max(tau, 1.0)
    reason = ""
    if independent < MIN_INDEPENDENT:
        needed = _round_up(MIN_INDEPENDENT * tau - records)
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


def _smoothness(deviation: Deviation, inference: Mapping[str, Any]) -> Finding:
    """A point may not deviate from its curve by more than 5 errors and more than the bar."""
    numbers = {"deviation_Eh": deviation.value, "error_Eh": deviation.error}
    if abs(deviation.sigmas) <= CLEAR_SIGMAS or abs(deviation.value) <= _bar(inference):
        return Finding("smoothness", numbers)
    side = "above" if deviation.value > 0 else "below"
    reason = (
        f"the energy lies {_milli(abs(deviation.value))} mEh ({abs(deviation.sigmas):.2g} errors) "
        f"{side} the prediction from its neighbours"
    )
    return Finding("smoothness", numbers, reason)


def _bar(inference: Mapping[str, Any]) -> float:
    """The smallest energy that matters, hartree.

    It is the error of the inference, but at least `REMAINING` and at most chemical accuracy.
    """
    error = _number(inference, "error_Eh")
    return min(max(REMAINING, error), CHEMICAL_ACCURACY) if math.isfinite(error) else REMAINING


def _number(attributes: Mapping[str, Any], name: str) -> float:
    """An attribute, or NaN, to which no rule objects."""
    return float(attributes.get(name, math.nan))


def _milli(energy: float) -> str:
    """Hartree in mEh, to two digits."""
    return f"{1e3 * energy:.0f}" if abs(energy) >= 0.1 else f"{1e3 * energy:.2g}"


def _round_up(count: float) -> int:
    """Rounded up to two digits: an extrapolation has no more."""
    step = 10 ** max(0, math.floor(math.log10(max(count, 1.0))) - 1)
    return math.ceil(count / step) * step

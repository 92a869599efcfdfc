"""Findings of the rules of a verdict, and what the rules share (NumPy only).

Sources, cited below by name:
    Roberts, Gelman and Gilks, Ann. Appl. Probab. 7, 110 (1997): acceptance and speed.
"""

import enum
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

# Share of the accuracy: a smaller remainder does not matter. A larger error of the inference takes
# the place of this bar, up to the accuracy.
REMAINING = 0.25
# Exceeded by noise in one of two million cases: a scan makes hundreds of comparisons.
CLEAR_SIGMAS = 5.0
# Above 0.9 a random walk spreads at less than 5 % of the best speed (Roberts et al. 1997: the speed
# a Phi^-1(a / 2)^2 has its maximum at a = 0.234). Below 0.1 a walker waits for many moves, and some
# wait for a whole series.
ACCEPTANCE = (0.1, 0.9)


class Weight(enum.IntEnum):
    """How much a finding invalidates; the largest weight decides."""

    DOUBTFUL = 1
    UNCONVERGED = 2
    UNTRAINED = 3
    UNTRUSTED = 4


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


def acceptance(stage: str, share: float, weight: Weight) -> Finding:
    """The share of moves accepted must be within `ACCEPTANCE`."""
    low, high = ACCEPTANCE
    wrong = share < low or share > high
    reason = f"{100 * share:.2g} % of the {stage}'s moves were accepted"
    return Finding(f"acceptance_{stage}", {"share": share}, reason if wrong else "", weight)


def bar_of(inference: Mapping[str, Any], accuracy: float) -> float:
    """The smallest energy that matters, hartree.

    It is the error of the inference, but at least `REMAINING` of the accuracy and at most all.
    """
    error, least = number(inference, "error_Eh"), REMAINING * accuracy
    return min(max(least, error), accuracy) if math.isfinite(error) else least


def number(attributes: Mapping[str, Any], name: str) -> float:
    """An attribute, or NaN, to which no rule objects."""
    return float(attributes.get(name, math.nan))


def milli(energy: float) -> str:
    """Hartree in mEh, to two digits."""
    return f"{1e3 * energy:.0f}" if abs(energy) >= 0.1 else f"{1e3 * energy:.2g}"


def round_up(count: float) -> int:
    """Rounded up to two digits: an extrapolation has no more."""
    step = 10 ** max(0, math.floor(math.log10(max(count, 1.0))) - 1)
    return math.ceil(count / step) * step

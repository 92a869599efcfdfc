"""Rules on the records of the inference (NumPy only). `verdict` combines their findings.

Sources, cited below by name:
    Sokal, in Functional Integration (Plenum, 1997): lengths of series in autocorrelation times.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ferminet_core.analysis.findings import Finding, Weight, acceptance, number, round_up
from ferminet_core.inputs.config import RECORDS_PER_CALL

# Autocorrelation times; shorter series give neither tau nor the error (Sokal 1997).
MIN_INDEPENDENT = 20.0
# The local energy diverges as the inverse distance from a node, and the density there vanishes as
# the square of the distance: a share of about 1e-4 lies beyond 30 mean absolute deviations. With a
# hundred times as many, the mean absolute deviation does not describe the distribution.
MAX_OUTLIERS = 0.01


def inference_findings(inference: Mapping[str, Any], accuracy: float) -> Iterator[Finding]:
    """Findings on the records of an inference.

    Args:
        inference: its attributes.
        accuracy: hartree, that the scan is for.
    """
    yield acceptance("inference", number(inference, "pmove"), Weight.UNTRUSTED)
    yield _precision(inference, accuracy)
    yield _independent(inference)
    yield _outliers(inference)


def _precision(inference: Mapping[str, Any], accuracy: float) -> Finding:
    """The error of the energy may not exceed the accuracy. It falls as 1 / sqrt(records)."""
    error, records = number(inference, "error_Eh"), number(inference, "n_samples")
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
    records, tau = number(inference, "n_samples"), number(inference, "tau")
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
    recorded = number(inference, "n_samples") * number(inference, "n_walkers")
    share = number(inference, "n_outliers") / recorded
    wrong = share > MAX_OUTLIERS
    reason = f"{100 * share:.2g} % of the local energies are outliers"
    return Finding("outliers", {"share": share}, reason if wrong else "")


def _records(count: float) -> int:
    """A number of records, rounded up to two digits and to whole calls."""
    return math.ceil(round_up(count) / RECORDS_PER_CALL) * RECORDS_PER_CALL

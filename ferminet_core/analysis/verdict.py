"""The verdict on a finished run: converged, not converged, not optimised, or suspect (NumPy only).

The rules use series and measured numbers, one setting, the accuracy that the scan is for, and the
meaning of the rate. Each rule gives a `Finding`, with a reason if something is wrong. A finding has
one of four weights:

UNTRUSTED    The walkers do not sample |psi|^2, or numbers are missing. The energy is then not
             variational: its convergence cannot be judged, and more iterations do not help.
UNTRAINED    Nothing was optimised at the geometry: the run has its group's wavefunction as it is
             there. The energy is an upper bound, and nothing tells how far above it lies.
UNCONVERGED  More iterations would lower the energy, or more records its error. This comes before
             doubts about the error bar or the state, since both are measured again.
DOUBTFUL     The energy is an upper bound of that of a state. Its error may be wrong, as where
             walkers disagree, or the state may not be the one that was asked for.

The heaviest finding decides: "suspect" for the first and the last weight, "not optimised at this
geometry" for the second, "not converged" with the iterations or records that are missing for the
third, and "converged" without any. The reasons of lighter findings follow, but an untrusted energy
gets no statement on its convergence.

The rules are in `optimisation_rules` and `inference_rules`, those on the reference and on the
neighbours here.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ferminet_core.analysis.curve_outliers import Deviation
from ferminet_core.analysis.findings import CLEAR_SIGMAS, Finding, Weight, bar_of, milli, number
from ferminet_core.analysis.inference_rules import inference_findings
from ferminet_core.analysis.optimisation_rules import Left, optimisation_findings
from ferminet_core.analysis.run_start import RunStart


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


def judge(
    optimisation: Mapping[str, np.ndarray],
    inference: Mapping[str, Any],
    reference: Mapping[str, Any],
    accuracy: float,
    untrusted: Iterable[str] = (),
    doubtful: Iterable[str] = (),
    deviation: Deviation | None = None,
    *,
    start: RunStart | None = None,
    rate_is_time: bool = True,
) -> Verdict:
    """The verdict on one finished run.

    Args:
        optimisation: `optimisation_rules.SERIES` over the iterations (step,), hartree; empty if
            they are lost.
        inference: attributes of the inference.
        reference: attributes of the reference.
        accuracy: hartree, that the scan is for.
        untrusted: flags that make the energy untrusted, in plain sentences.
        doubtful: flags that only make it doubtful, in plain sentences.
        deviation: from the prediction by the neighbours on the run's curve, if there is one.
        start: what the run has started from, if not from pretraining.
        rate_is_time: whether the learning rate is a step of imaginary time, per hartree.
    """
    names = ("rhat", "n_nonfinite", "n_frozen", "error_Eh", "error_bootstrap_Eh", "s2")
    findings = [Finding("flags", {name: number(inference, name) for name in names})]
    findings += [Finding("flags", {}, reason, Weight.UNTRUSTED) for reason in untrusted]
    findings += [Finding("flags", {}, reason) for reason in doubtful]
    findings += inference_findings(inference, accuracy)
    findings.append(_reference(reference))
    start = start or RunStart()
    found, left = optimisation_findings(optimisation, inference, accuracy, start, rate_is_time)
    findings += found
    if deviation is not None:
        findings.append(_smoothness(deviation, inference, accuracy))
    return Verdict(_text(findings), findings, left)


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
    more = max(finding.iterations for finding in wrong)
    records = max(finding.records for finding in wrong)
    needed = [f"run {more} more iterations"] if more else []
    needed += [f"{records} more records are needed"] if records else []
    if heaviest is Weight.UNTRAINED:
        first, *others = (finding.reason for finding in wrong)
        return "; ".join([f"not optimised at this geometry: {first}", *needed, *others])
    if heaviest is Weight.UNCONVERGED:
        return f"not converged: {' and '.join(needed)}; {reasons}"
    return f"suspect: {reasons}"


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
    return Finding("reference", {"s2": number(reference, "s2")}, reason)


def _smoothness(deviation: Deviation, inference: Mapping[str, Any], accuracy: float) -> Finding:
    """A point may not deviate from its curve by more than 5 errors and more than the bar."""
    numbers = {"deviation_Eh": deviation.value, "error_Eh": deviation.error}
    small = abs(deviation.value) <= bar_of(inference, accuracy)
    if small or abs(deviation.sigmas) <= CLEAR_SIGMAS:
        return Finding("smoothness", numbers)
    side = "above" if deviation.value > 0 else "below"
    reason = (
        f"the energy lies {milli(abs(deviation.value))} mEh ({abs(deviation.sigmas):.2g} errors) "
        f"{side} the prediction from its neighbours"
    )
    return Finding("smoothness", numbers, reason)

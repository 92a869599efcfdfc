"""Groups of geometries that share a wavefunction: what is reported on each of them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from ferminet_core.inputs.scan_columns import MILLI


class GroupOutcome(NamedTuple):
    """State and cost of a group, finished or not.

    name: of the group; members: the runs whose geometries it was trained for
    state: as that of a run, with the stage it is at; reason: of the state
    iterations: of the joint optimisation, None before its end
    left_out: members that the joint optimisation went on without, with the reasons
    wall_s, node_h: of its finished stages
    """

    name: str
    members: tuple[str, ...]
    state: str
    reason: str = ""
    iterations: int | None = None
    left_out: Mapping[str, str] = {}
    wall_s: float = 0.0
    node_h: float = 0.0

    def share(self, run_id: str) -> tuple[float, float]:
        """Wall seconds and node-hours that a run bears: equal parts, for members only."""
        part = 1.0 / len(self.members) if run_id in self.members else 0.0
        return part * self.wall_s, part * self.node_h


def group_facts(
    groups: Iterable[GroupOutcome], table: pd.DataFrame, started: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """The facts of each group as JSON values, by its name.

    Args:
        groups: All of the scan.
        table: Of the scan.
        started: The group that each finished run has started from.
    """
    return {group.name: _facts(group, table, started) for group in groups}


def _facts(group: GroupOutcome, table: pd.DataFrame, started: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "members": list(group.members),
        "state": group.state,
        "reason": group.reason,
        "iterations": group.iterations,
        "left_out": dict(group.left_out),
    }
    mine = [started.get(run_id) == group.name for run_id in table["run_id"]]
    runs = table[mine]
    if runs.empty:
        return found
    kinds = Counter(text.partition(":")[0] for text in runs["verdict"])
    found["verdicts"] = dict(kinds.most_common())
    for _, worst in runs.dropna(subset="variance_Eh2").nlargest(1, "variance_Eh2").iterrows():
        found["worst"] = str(worst["run_id"])
        found["worst_variance_Eh2"] = float(worst["variance_Eh2"])
        if worst["left_Eh"] == worst["left_Eh"]:
            found["worst_left_Eh"] = float(worst["left_Eh"])
    return found


def group_line(name: str, facts: Mapping[str, Any]) -> str:
    """A group in a line: its training, the spread of its runs' verdicts, and its worst run."""
    text = f"group {name}: {len(facts['members'])} geometries trained together"
    if facts["iterations"] is None:
        reason = f" ({facts['reason']})" if facts["reason"] else ""
        return f"{text}, {facts['state']}{reason}"
    text += f", {facts['iterations']} iterations"
    if left_out := facts["left_out"]:
        text += f", without {', '.join(left_out)} at the end"
    if verdicts := facts.get("verdicts"):
        text += "; " + ", ".join(f"{count} {kind}" for kind, count in verdicts.items())
    if worst := facts.get("worst"):
        text += f"; largest variance {facts['worst_variance_Eh2']:.2g} hartree^2, of {worst}"
        if "worst_left_Eh" in facts:
            text += f" (an estimated {MILLI * facts['worst_left_Eh']:.2g} mEh left)"
    return text

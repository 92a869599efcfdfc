"""The outcomes of a scan's groups, read from the files in their folders."""

import json
from pathlib import Path
from typing import Any

from ferminet_core.analysis.group_summary import GroupOutcome
from ferminet_core.errors import ArtefactError, InputError
from ferminet_core.inputs.group_files import GROUPS, group_specs
from ferminet_core.inputs.run_spec import GroupSpec, load_spec
from ferminet_core.report.run_outcomes import node_seconds, records
from ferminet_core.runner.status import GROUP_STAGES, current_stage, run_states
from ferminet_core.storage import artefacts


def group_outcomes(scan: Path) -> list[GroupOutcome]:
    """The outcomes of all groups of the scan in this folder; damaged spec files are passed over."""
    found = []
    for path in group_specs(scan):
        try:
            spec = load_spec(path)
        except InputError:
            continue
        if isinstance(spec, GroupSpec):
            found.append(_outcome(spec, scan / GROUPS / spec.run_id))
    return found


def _outcome(group: GroupSpec, folder: Path) -> GroupOutcome:
    """The outcome of a group from the files in its folder."""
    present = current_stage(run_states(folder))
    spent = records(folder, GROUP_STAGES)
    state, reason, attributes = present.state, present.reason, {}
    if state != "waiting":
        state = f"{present.stage} {state}"
    path = folder / f"{GROUP_STAGES[-1]}.zarr.zip"
    if path.exists():
        try:
            attributes = artefacts.attributes(path)
        except ArtefactError as error:
            state, reason = "failed", str(error)
    return GroupOutcome(
        name=group.run_id,
        members=tuple(member.run_id for member in group.members),
        state=state,
        reason=reason,
        iterations=_iterations(attributes),
        left_out=json.loads(str(attributes.get("left_out", "{}"))),
        wall_s=sum(float(record["wall_s"]) for record in spent),
        node_h=sum(map(node_seconds, spent)) / 3600.0,
    )


def _iterations(attributes: dict[str, Any]) -> int | None:
    return int(attributes["n_iterations"]) if attributes else None

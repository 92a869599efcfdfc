"""Whether the artefacts of a run or a group are results of it as the scan has it.

Only the attributes of artefacts are read.
"""

import contextlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ferminet_core.errors import ArtefactError, InputError
from ferminet_core.inputs.group_files import GROUPS, group_spec
from ferminet_core.inputs.origin import describe, differences
from ferminet_core.inputs.run_spec import RunSpec, load_spec, parse_spec
from ferminet_core.inputs.stage_table import declared, of_runs
from ferminet_core.storage import artefacts


def misfit(run: RunSpec, stage: str, attributes: Mapping[str, Any]) -> str:
    """How an artefact differs from what a run or a group asks for; empty if it does not.

    Args:
        run: The run or the group.
        stage: The stage that made the artefact.
        attributes: Attributes of the artefact. What they do not say is not compared.
    """
    if "spec" not in attributes:
        return ""
    try:
        made = parse_spec(str(attributes["spec"]), f"{stage}: its spec")
    except InputError as error:
        return str(error).splitlines()[0]
    return describe(differences(made, run, stage))


def misfits(run: RunSpec, folder: Path) -> dict[str, str]:
    """The stages of a run whose artefacts do not belong to it, and why, in the order of the stages.

    An artefact belongs to the run if it was made for the run's molecule and settings, from the
    results of the parent stages that are there now, and if these belong to the run. So do the
    results of the group that the run has started from. A missing or damaged file is passed over. A
    warm start's neighbour may have been extended since.

    Args:
        run: The run as the scan has it.
        folder: Of the run.
    """
    stored: dict[str, dict[str, Any]] = {}
    for entry in of_runs():
        path = folder / f"{entry.name}.zarr.zip"
        if path.exists():
            with contextlib.suppress(ArtefactError):
                stored[entry.name] = artefacts.attributes(path)
    found: dict[str, str] = {}
    for stage, attributes in stored.items():
        parents = declared(stage).parents
        reasons = (
            misfit(run, stage, attributes),
            _superseded(stage, attributes, stored),
            _group_misfit(stage, attributes, folder.parent.parent),
            *(found.get(parent, "") for parent in parents),
        )
        if reason := next(filter(None, reasons), ""):
            found[stage] = reason
    return found


def group_artefact(scan: Path, name: str, stage: str) -> Path:
    """The result of a stage of a group of the scan in this folder."""
    return scan / GROUPS / name / f"{stage}.zarr.zip"


def _group_misfit(stage: str, attributes: Mapping[str, Any], scan: Path) -> str:
    """How the group's result that a run has started from differs from the one that is there.

    Args:
        stage: The stage of the run.
        attributes: Of its artefact.
        scan: Folder of the scan.
    """
    digest = json.loads(str(attributes.get("parents", "{}"))).get("group")
    if digest is None:
        return ""
    name, last = json.loads(str(attributes["spec"]))["group"], declared(stage).group
    path, spec = group_artefact(scan, name, last), group_spec(scan, name)
    if not path.exists():
        return ""
    present, reason = _group_result(path, spec, last, (_stamp(path), _stamp(spec)))
    if present not in ("", digest):
        reason = reason or f"{stage} was computed from an earlier result of {last}"
    return f"group {name}: {reason}" if reason else ""


def _stamp(path: Path) -> int:
    """When a file was written, in nanoseconds; 0 without the file."""
    return path.stat().st_mtime_ns if path.exists() else 0


@lru_cache(maxsize=100)
def _group_result(path: Path, spec: Path, stage: str, stamps: tuple[int, int]) -> tuple[str, str]:
    """Digest of a group's result, and how it differs from what the group's spec file asks for.

    All runs of a group ask. `stamps` are the times of the two files.
    """
    try:
        attributes = artefacts.attributes(path)
        wanted = load_spec(spec) if spec.exists() else None
    except (ArtefactError, InputError):
        return "", ""
    return attributes["digest"], misfit(wanted, stage, attributes) if wanted else ""


def _superseded(
    stage: str, attributes: Mapping[str, Any], stored: Mapping[str, Mapping[str, Any]]
) -> str:
    """Which parent has another result than the one that an artefact was made from."""
    made_from = json.loads(str(attributes.get("parents", "{}")))
    for parent in declared(stage).parents:
        present = stored.get(parent, {}).get("digest")
        if present is not None and made_from.get(parent, present) != present:
            return f"{stage} was computed from an earlier result of {parent}"
    return ""

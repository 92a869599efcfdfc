"""The groups of a scan as their spec files, `spec/groups/<group>.json`, should have them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ferminet_core.errors import InputError
from ferminet_core.inputs.config import resume_rules
from ferminet_core.inputs.groups import free_name, group_request
from ferminet_core.inputs.messages import listing
from ferminet_core.inputs.origin import nuclei_differences, same_molecule
from ferminet_core.inputs.run_spec import (
    GroupSpec,
    RunSpec,
    canonical_json,
    flat_settings,
    load_spec,
)
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.setting_fields import UNCHANGEABLE, Resume
from ferminet_core.inputs.stage_table import of_groups

# Folder of the groups' results in that of a scan, and of their specs in `spec`.
GROUPS = "groups"
_FIRST, *_, _LAST = (entry.name for entry in of_groups())


class CurrentGroup(NamedTuple):
    """A group as its spec file should have it.

    planned: name that the system file gives it; asked: the members that it names;
    changed: whether the spec file says something else
    """

    spec: GroupSpec
    planned: str
    asked: tuple[str, ...]
    changed: bool


def group_spec(scan: Path, name: str) -> Path:
    """The spec file of a group.

    Args:
        scan: Folder of the scan.
        name: Name of the group.
    """
    return scan / "spec" / GROUPS / f"{name}.json"


def group_specs(scan: Path) -> list[Path]:
    """The spec files of all groups of the scan in this folder."""
    return sorted((scan / "spec" / GROUPS).glob("*.json"))


def has_begun(scan: Path, name: str) -> bool:
    """Whether the members of a group are settled: its first stage has a result.

    Args:
        scan: Folder of the scan.
        name: Name of the group.
    """
    return group_spec(scan, name).exists() and (
        (scan / GROUPS / name / f"{_FIRST}.zarr.zip").exists()
    )


def current_groups(scan: Scan, folder: Path, before: Mapping[str, str]) -> dict[str, CurrentGroup]:
    """The groups of a scan by the names of their files.

    A group keeps the name that its runs know, whatever other groups the scan now has.

    Args:
        scan: The scan as its system file has it now.
        folder: Of the scan.
        before: The group in the spec file of each run that has one.
    """
    names: dict[str, str] = {}  # of the files, by the planned ones
    for group in scan.groups:
        known = (before.get(member.run_id, "") for member in group.members)
        if name := next((n for n in known if n and n not in names.values()), ""):
            names[group.run_id] = name
    for group in scan.groups:
        if group.run_id not in names:
            names[group.run_id] = free_name(group.run_id, set(names.values()))
    found = {}
    for group in scan.groups:
        name = names[group.run_id]
        renamed = group.model_copy(update={"run_id": name, "geometry": name})
        runs = [run for run in scan.runs if run.group == group.run_id]
        others = (run.run_id for run in scan.runs if run.group != group.run_id)
        found[name] = _current(renamed, group.run_id, runs, set(others), folder)
    return found


def _current(
    group: GroupSpec, planned: str, runs: Sequence[RunSpec], others: set[str], folder: Path
) -> CurrentGroup:
    """A group with the members that it has begun with, or as the system file has it.

    Args:
        group: As the system file has it, with the name of its file.
        planned: Name in the system file.
        runs: The runs of the scan that start from it.
        others: The names of the other runs of the scan.
        folder: Of the scan.
    """
    stored = _stored(folder, group.run_id)
    asked = tuple(member.run_id for member in group.members)
    if stored is None:
        return CurrentGroup(group, planned, asked, changed=True)
    requests = [json.loads(canonical_json(group_request(run))) for run in runs]
    same_request = stored.request in requests
    same_members = not nuclei_differences(stored, group)
    if has_begun(folder, group.run_id) and (same_request or not _fixed_differ(stored, group)):
        same_members = _still_there(stored, runs, others)
    if not same_members:
        return CurrentGroup(group, planned, asked, changed=True)
    if same_request:
        return CurrentGroup(stored, planned, asked, changed=False)
    kept = {"members": stored.members, "molecule": stored.molecule}
    return CurrentGroup(group.model_copy(update=kept), planned, asked, changed=True)


def _stored(folder: Path, name: str) -> GroupSpec | None:
    """The group in a spec file; None if the file is missing or damaged."""
    try:
        stored = load_spec(group_spec(folder, name))
    except InputError:
        return None
    return stored if isinstance(stored, GroupSpec) else None


def _fixed_differ(stored: GroupSpec, group: GroupSpec) -> bool:
    """Whether the settings of two groups differ in one that no resume may change."""
    old, new = (flat_settings(spec.config, _LAST) for spec in (stored, group))
    rules = resume_rules()
    return any(
        old[key] != value and not (rules[key] is Resume.KEPT and value is None)
        for key, value in new.items()
        if rules[key] in UNCHANGEABLE
    )


def _still_there(stored: GroupSpec, runs: Iterable[RunSpec], others: set[str]) -> bool:
    """Whether the members of a group are what they were. One may have left the scan."""
    present = {run.run_id: run.molecule for run in runs}
    return all(
        same_molecule(member.molecule, present[member.run_id])
        if member.run_id in present
        else member.run_id not in others
        for member in stored.members
    )


def members(
    scan: Path, groups: Mapping[str, CurrentGroup], used: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """The runs whose geometries each group is trained for, by the name of the group.

    Args:
        scan: Folder of the scan.
        groups: Those that the system file asks for.
        used: Groups that runs start from, also those that have lost their other runs.
    """
    specs = {name: group.spec for name, group in groups.items()}
    for name in used:
        if name not in specs and (stored := _stored(scan, name)):
            specs[name] = stored
    return {name: tuple(m.run_id for m in spec.members) for name, spec in specs.items()}


def kept_lines(
    scan: Scan,
    folder: Path,
    groups: Mapping[str, CurrentGroup],
    used: Mapping[str, str],
    trained: Mapping[str, tuple[str, ...]],
) -> list[str]:
    """A line for each group that keeps other members than the system file now asks for.

    Members that have left the scan are not missed.

    Args:
        scan: The scan as its system file has it now.
        folder: Of the scan.
        groups: Those that the system file asks for.
        used: The group that each run starts from.
        trained: The members of each group.
    """
    lines = []
    for name, kept in trained.items():
        present = [run for run, group in used.items() if group == name]
        asked = groups[name].asked if name in groups else ()
        if not asked and len(present) < 2:
            continue  # the others have left the scan
        added = [run for run in asked if run not in kept]
        left_out = [run for run in present if run in kept and run not in asked]
        told = [f"adds {listing(added)}, which starts from it as it is"] if added else []
        told += [f"leaves out {listing(left_out)}, which stays"] if left_out else []
        if told:
            place = folder / GROUPS / name
            lines.append(
                f"group {name} keeps the geometries that its training began with "
                f"({listing(kept)}); {scan.path} {', and '.join(told)}; to train for the new list, "
                "give it a variant or another results folder, or reset the group: "
                f"python -m ferminet_core reset {place} all"
            )
    return lines

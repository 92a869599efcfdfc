"""The point where a stage continues: its newest whole checkpoint of the same calculation.

A run keeps its settings. `config.Resume` says which of them a resume may change. Any other
difference is refused with the key and both values. So no number mixes two calculations, and a slip
in a file does not discard a calculation of many days.
"""

import json
from collections.abc import Mapping
from typing import Any

from ferminet_core.errors import ArtefactError, InputError, ReadError
from ferminet_core.inputs.config import resume_rules
from ferminet_core.inputs.messages import show
from ferminet_core.inputs.origin import describe, nuclei_differences
from ferminet_core.inputs.run_spec import GroupSpec, RunSpec, flat_settings, parse_spec
from ferminet_core.inputs.setting_fields import UNCHANGEABLE, Resume
from ferminet_core.runner.attempt import Record
from ferminet_core.runner.job import Job
from ferminet_core.storage import checkpoints
from ferminet_core.storage.artefacts import load
from ferminet_core.storage.checkpoints import Checkpoint


def starting_point(job: Job, record: Record) -> Checkpoint | None:
    """The checkpoint to continue from; None for the beginning.

    Fills `record.history` and `record.spent_s` from it. Checkpoints from other results of the
    parent stages, or with settings that failed as broken, are moved away and kept.

    Raises:
        InputError: The checkpoint belongs to another run or geometry, or to settings that may not
            change.
        ReadError: A checkpoint cannot be read at the moment.
    """
    found = checkpoints.newest(job.checkpoints, job.aside, record.tell)
    before = found.attrs if found else _result_attributes(job)
    if before is None:
        return None
    if reason := _superseded(job, record, before):
        _set_all_aside(job)
        record.tell(f"starts over because {reason}; the earlier files are kept in {job.aside}")
        return None
    if found is None:
        record.tell("starts over: there is no checkpoint to continue from")
        _set_all_aside(job)
        return None
    changes = changed_settings(job, before)
    record.history = json.loads(str(before["history"]))
    record.spent_s = float(before["wall_s"])
    entry = {"step": found.step, "code_hash": before["code_hash"], "changes": changes}
    record.history.append(entry)
    record.event("resume", **entry)
    record.tell(f"continues from step {found.step}{_described(changes)}")
    return found


def _described(changes: Mapping[str, Any]) -> str:
    parts = (f"{key} {show(old)} -> {show(new)}" for key, (old, new) in changes.items())
    text = ", ".join(parts)
    return f" with {text}" if text else ""


def _result_attributes(job: Job) -> dict[str, Any] | None:
    """Attributes of a finished result with other settings or parents."""
    try:
        return dict(load(job.result_path).attrs)
    except ReadError:
        raise
    except ArtefactError:
        return None


def _superseded(job: Job, record: Record, before: Mapping[str, Any]) -> str | None:
    """Why the run's earlier work does not count; None if it counts."""
    _refuse_foreign(job, before)
    if _geometries(_made_from(job, before)) != _geometries(job.spec):
        return "it was computed for other geometries of the group"
    if json.loads(str(before["parents"])) != record.identity["parents"]:
        return "it was computed from other results of the parent stages"
    try:
        changed_settings(job, before)
    except InputError:
        if record.broken_before:
            return "it failed and its settings have changed"
        raise
    return None


def _refuse_foreign(job: Job, before: Mapping[str, Any]) -> None:
    spec, other = job.spec, _made_from(job, before)
    for key, wanted in (("stage", job.stage), ("run_id", spec.run_id)):
        if before.get(key) == wanted:
            continue
        raise InputError(
            f"{job.work}: {key}: found files of run {other.run_id!r} at {_geometry(other)}, stage "
            f"{before.get('stage')!r}; expected: run {spec.run_id!r} at {_geometry(spec)}, stage "
            f"{job.stage!r}{_remedy(job)}"
        )
    # A group that gains or loses a member starts over.
    if different := nuclei_differences(other, spec, common=True):
        raise InputError(f"{job.work}: molecule: {describe(different)}{_remedy(job)}")


def _made_from(job: Job, before: Mapping[str, Any]) -> RunSpec:
    """The spec of earlier work, from its attributes."""
    return parse_spec(str(before["spec"]), str(job.work))


def _geometries(spec: RunSpec) -> tuple[str, ...]:
    """The runs of a group's geometries in their order; none of a run."""
    return tuple(m.run_id for m in spec.members) if isinstance(spec, GroupSpec) else ()


def _geometry(spec: RunSpec) -> str:
    values = ", ".join(f"{name} = {value:g}" for name, value in spec.parameters.items())
    return values or f"geometry {spec.geometry!r}"


def _remedy(job: Job) -> str:
    folder = job.out.parent
    return (
        f"; to start over: python -m ferminet_core reset {folder} {job.stage} "
        "(the results of other runs stay)"
    )


def changed_settings(job: Job, before: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings of a stage that differ from a checkpoint's and may: {key: (old, new)}.

    Raises:
        InputError: A setting differs that may not, or in a way that it may not.
    """
    new = flat_settings(job.spec.config, job.stage)
    old = flat_settings(_made_from(job, before).config, job.stage)
    changes = {}
    for key, value in new.items():
        rule = resume_rules()[key]
        if old[key] == value or (rule is Resume.KEPT and value is None):
            continue
        if rule in UNCHANGEABLE:
            raise InputError(
                f"{job.work}: {key}: the stage was started with {show(old[key])}, the spec asks "
                f"for {show(value)}, and a resume cannot change it; set it back"
                f"{_remedy(job)}"
            )
        if rule is Resume.GROW and value < old[key]:
            raise InputError(
                f"{job.work}: {key}: the stage was started with {show(old[key])}, the spec asks "
                f"for {show(value)}; allowed: at least {show(old[key])}{_remedy(job)}"
            )
        changes[key] = (old[key], value)
    return changes


def _set_all_aside(job: Job) -> None:
    """Move the checkpoints and the result of the stage to the folder of superseded files."""
    for path in (*checkpoints.steps_in(job.checkpoints).values(), job.result_path):
        if path.exists():
            checkpoints.set_aside(path, job.aside)

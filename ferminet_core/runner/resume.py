"""Where a stage goes on: its newest whole checkpoint, if that is of the same calculation.

A run keeps the settings that it was made with. What a resume may change says `config.Resume`; any
other difference is refused with the key and both values, so that no number is ever made of two
calculations, and no calculation of many days is thrown away for a slip in a file.
"""

import json
from collections.abc import Mapping
from typing import Any

from ferminet_core.errors import ArtefactError, InputError
from ferminet_core.inputs.config import Resume, resume_rules
from ferminet_core.inputs.messages import show
from ferminet_core.inputs.run_spec import RunSpec, flat_settings, parse_spec
from ferminet_core.runner.attempt import Record
from ferminet_core.runner.job import Job
from ferminet_core.storage import checkpoints
from ferminet_core.storage.artefacts import load
from ferminet_core.storage.checkpoints import Checkpoint


def starting_point(job: Job, record: Record) -> Checkpoint | None:
    """The checkpoint to go on from; None for the beginning.

    Fills `record.history` and `record.spent_s` from it. Checkpoints of an earlier version of the
    stage's parents, and of settings that ended broken, are set aside.

    Raises:
        InputError: it belongs to another run, geometry, or to settings that may not change.
    """
    found = checkpoints.newest(job.checkpoints, job.aside, record.tell)
    before = found.attrs if found else _result_attributes(job)
    if before is None:
        return None
    if reason := _superseded(job, record, before):
        _set_all_aside(job)
        record.tell(f"starts over, {reason}; what was there is kept in {job.aside}")
        return None
    if found is None:
        record.tell("starts over: no checkpoint was kept that it could continue from")
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
    """Attributes of a finished result of other settings or parents."""
    try:
        return dict(load(job.result_path).attrs)
    except ArtefactError:
        return None


def _superseded(job: Job, record: Record, before: Mapping[str, Any]) -> str | None:
    """Why earlier work no longer counts, if it is the run's own; None where it counts."""
    _refuse_foreign(job, before)
    if json.loads(str(before["parents"])) != record.identity["parents"]:
        return "for it was made from other results of the stages before"
    try:
        changed_settings(job, before)
    except InputError:
        if record.broken_before:
            return "for it ended broken and its settings have changed"
        raise
    return None


def _refuse_foreign(job: Job, before: Mapping[str, Any]) -> None:
    spec = job.spec
    expected = {
        "stage": job.stage,
        "run_id": spec.run_id,
        "molecule": spec.molecule.fingerprint,
    }
    for key, wanted in expected.items():
        if before.get(key) == wanted:
            continue
        other = _made_from(job, before)
        raise InputError(
            f"{job.work}: {key}: what lies here was made by run {other.run_id!r} at "
            f"{_geometry(other)}, stage {before.get('stage')!r}; needed is run {spec.run_id!r} at "
            f"{_geometry(spec)}, stage {job.stage!r}{_remedy(job)}"
        )


def _made_from(job: Job, before: Mapping[str, Any]) -> RunSpec:
    """The spec of earlier work, from its attributes."""
    return parse_spec(str(before["spec"]), str(job.work))


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
        InputError: one differs that may not, or in a way that it may not.
    """
    new = flat_settings(job.spec.config, job.stage)
    old = flat_settings(_made_from(job, before).config, job.stage)
    changes = {}
    for key, value in new.items():
        if old[key] == value:
            continue
        rule = resume_rules()[key]
        if rule is Resume.NO:
            raise InputError(
                f"{job.work}: {key}: the work here was begun with {show(old[key])}, the spec asks "
                f"for {show(value)}, and a resume cannot change it; set it back"
                f"{_remedy(job)}"
            )
        if rule is Resume.GROW and value < old[key]:
            raise InputError(
                f"{job.work}: {key}: the work here was begun with {show(old[key])}, the spec asks "
                f"for {show(value)}; allowed: at least {show(old[key])}{_remedy(job)}"
            )
        changes[key] = (old[key], value)
    return changes


def _set_all_aside(job: Job) -> None:
    """Move the checkpoints and the result of the stage to where superseded files are kept."""
    for path in (*checkpoints.steps_in(job.checkpoints).values(), job.result_path):
        if path.exists():
            checkpoints.set_aside(path, job.aside)

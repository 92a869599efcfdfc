"""Drives one stage of one run: load its parents, loop over its steps, checkpoint, save.

A stage itself opens no file (`ferminet_core.stage`); all reading and writing is here, so that the
same stages run from a shell, from a test and on many nodes.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ferminet_core import checkpoint, resume, store
from ferminet_core.checkpoint import Checkpoint
from ferminet_core.config import CheckpointConfig
from ferminet_core.errors import ArtefactError, InputError, ResumeError
from ferminet_core.jax_setup import CompileLog, process_age
from ferminet_core.job import Job
from ferminet_core.lease import Lease
from ferminet_core.progress import StageProgress, read_stats, say
from ferminet_core.record import Record, common_attributes, identity
from ferminet_core.scan import RunSpec
from ferminet_core.stage import Recorder, Series, Stage
from ferminet_core.stopping import Stop

# Checkpoints by time are at least so many times further apart than one takes: 2 % of the run.
SAVE_RATIO = 50.0

Parents = Mapping[str, xr.Dataset]


class Outcome(NamedTuple):
    """What a finished loop leaves.

    state: the last one; series: of all steps; first_step_s: from the start of the process to the
    end of the first block, 0 if there was none left; saves: checkpoints written by this attempt
    and the seconds they took together
    """

    state: Any
    series: Series
    n_steps: int
    first_step_s: float
    saves: dict[str, float]


def load_parents(job: Job) -> dict[str, xr.Dataset]:
    """Load the artefacts that `job` builds upon, and see that they belong to its molecule.

    Raises:
        InputError: another stage's artefact, or another molecule's.
        ArtefactError: a missing or damaged file.
    """
    loaded = {}
    for name, path in job.parents.items():
        ds = store.load(path)
        if ds.attrs.get("stage") != name:
            found = ds.attrs.get("stage")
            raise InputError(f"{path}: holds stage {found!r}, but --{name} needs stage {name!r}")
        if ds.attrs.get("molecule") != job.spec.molecule.fingerprint:
            raise InputError(
                f"{path}: was made for another molecule than {job.spec.run_id} "
                f"(run {ds.attrs.get('run_id')!r} of scan {ds.attrs.get('scan')!r})"
            )
        loaded[name] = ds
    return loaded


class Saver:
    """Writes checkpoints of one loop when they are due."""

    def __init__(self, job: Job, record: Record, stop: Stop, layout: Mapping[str, Any]) -> None:
        self._job, self._record, self._stop = job, record, stop
        self._config: CheckpointConfig = job.spec.config.checkpoint
        self._attrs = {**common_attributes(job, record.identity), **layout}
        self._last_time = time.monotonic()
        self.last_step: int | None = None
        self._seconds = 0.0
        self.n_saves, self.total_s = 0, 0.0

    def due(self, step: int) -> bool:
        """Whether a checkpoint should be written after `step` steps."""
        every = self._config.every_steps
        if every is not None and step - (self.last_step or 0) >= every:
            return True
        apart = max(60.0 * self._config.every_minutes, SAVE_RATIO * self._seconds)
        return time.monotonic() - self._last_time >= apart

    def save(self, step: int, leaves: Mapping[str, np.ndarray], recorder: Recorder) -> None:
        """Write a checkpoint of a state's arrays and the series, then delete those not kept."""
        began = time.monotonic()
        volatile = {
            "wall_s": self._record.wall_s(),
            "history": json.dumps(self._record.history),
        }
        checkpoint.save(
            self._job.checkpoints,
            step,
            leaves,
            recorder.series(),
            {**self._attrs, **volatile},
            self._record.lease.check,
        )
        self._last_time = time.monotonic()
        self._seconds = self._last_time - began
        self.n_saves, self.total_s = self.n_saves + 1, self.total_s + self._seconds
        self.last_step = step
        self._stop.saved(self._seconds)
        checkpoint.prune(self._job.checkpoints, self._config.keep)


def drive(
    stage: Stage,
    job: Job,
    record: Record,
    stop: Stop,
    start: Checkpoint | None,
    devices: int,
) -> Outcome:
    """Run a stage's loop from a checkpoint, or from its beginning, to its end.

    Raises:
        ResumeError: asked to end early; all is in a checkpoint.
        InputError: the checkpoint is of another network.
    """
    from ferminet_core.artefacts import restore_state, state_leaves  # not for the reference: JAX

    layout = {"devices": devices, "chunk": stage.chunk}
    saver = Saver(job, record, stop, layout)
    step, state, recorder = 0, stage.initial(), Recorder()
    if start is None:
        saver.save(0, state_leaves(state), recorder)  # the first compilation may be long
    else:
        step, recorder = start.step, Recorder(start.series)
        saver.last_step = step
        try:
            state = stage.place(restore_state(start.leaves, state))
        except ArtefactError as error:
            raise InputError(f"{job.checkpoints}: step {step}: {error}") from None
    first_step_s = 0.0
    record.begin(step, stage.total)
    with StageProgress(stage.name, job.spec.run_id, stage.total) as progress:
        for done in stage.steps(state):
            step, state = done.step, done.state
            first_step_s = first_step_s or process_age()
            recorder.add(done.stats)
            reading = read_stats(done.stats)
            for note in done.notes:
                progress.note(note)
                record.event("note", step=step, text=note)
            progress.update(step, stage.total, reading)
            record.heartbeat(step, stage.total, reading)
            stop.block_done()
            reason = stop.due()
            if reason or saver.due(step):
                saver.save(step, state_leaves(state), recorder)
            if reason:
                raise ResumeError(f"{reason}; continues from step {step} when run again")
        progress.finish(step)
    if saver.last_step != step:
        saver.save(step, state_leaves(state), recorder)
    saves = {"n_checkpoints": saver.n_saves, "checkpoints_s": round(saver.total_s, 3)}
    return Outcome(state, recorder.series(), step, first_step_s, saves)


def _take_lease(job: Job, stop: Stop, stack: ExitStack) -> Lease:
    """The lease on the job's work folder, held until the stack unwinds."""

    def give_up() -> str | None:
        return stop.due() if job.wait else "stepping aside (--no-wait)"

    lease = Lease(job.work)
    where = f"{job.spec.run_id} {job.stage}"
    lease.acquire(give_up, lambda line: say(f"{where}: {line}"))
    return stack.enter_context(lease)


def _open_record(job: Job, parents: Parents, stop: Stop, stack: ExitStack) -> Record:
    """Take the lease and begin the records, both until the stack unwinds."""
    lease = _take_lease(job, stop, stack)
    record = stack.enter_context(Record(job, identity(job, parents), lease))
    stop.on_abandon = record.abandon
    stop.watch_request(job.work)
    return record


def run_loop(
    job: Job, make: Callable[[RunSpec, Parents], Stage], log: CompileLog, stop: Stop
) -> str:
    """Run an iterative stage from its parents to its artefact; returns the digest.

    Args:
        job: the stage, its run and its files.
        make: builds the stage from the spec and the loaded parents.
        log: what JAX compiles meanwhile, for the provenance.
        stop: when to end early.
    """
    with ExitStack() as stack:
        parents = load_parents(job)
        record = _open_record(job, parents, stop, stack)
        if digest := record.finished_before():
            return digest
        start = resume.starting_point(job, record)
        stage = make(job.spec, parents)
        outcome = drive(stage, job, record, stop, start, int(log.facts.get("devices", 1)))
        ds = stage.result(outcome.state, outcome.series)
        first = {"first_step_s": round(outcome.first_step_s, 3)}
        extra = {**first, **outcome.saves, "jax": log.summary()}
        digest = record.finish(ds, outcome.n_steps, extra)
        checkpoint.prune(job.checkpoints, int(job.spec.config.checkpoint.keep_finished))
        return digest


def run_once(job: Job, compute: Callable[[RunSpec], xr.Dataset], stop: Stop) -> str:
    """Run a stage that is one call and has no parents (the reference); returns the digest."""
    with ExitStack() as stack:
        record = _open_record(job, {}, stop, stack)
        if digest := record.finished_before():
            return digest
        resume.starting_point(job, record)
        record.begin(0, 1)
        return record.finish(compute(job.spec), 1, {})

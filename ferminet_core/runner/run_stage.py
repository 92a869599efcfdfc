"""Runs one stage of a run or a group: loads its parents, loops, writes checkpoints, saves.

A stage itself opens no file (`ferminet_core.stages.base`). All reading and writing is here, so the
same stages run from a shell, from a test and on many nodes. If several ranks run a stage, all of
them execute this module, and only rank 0 reads and writes.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ferminet_core.errors import ArtefactError, InputError, ResumeError
from ferminet_core.inputs.machine_settings import CheckpointConfig
from ferminet_core.inputs.origin import (
    describe,
    molecule_differences,
    nuclei_differences,
)
from ferminet_core.inputs.run_spec import GroupSpec, RunSpec, parse_spec
from ferminet_core.inputs.stage_table import declared, walkers_key
from ferminet_core.parallel import distributed
from ferminet_core.parallel.jax_setup import CompileLog, process_age
from ferminet_core.runner import resume
from ferminet_core.runner.attempt import Record, common_attributes, identity
from ferminet_core.runner.job import Job
from ferminet_core.runner.progress import StageProgress, read_stats, say
from ferminet_core.runner.stopping import Stop
from ferminet_core.stages.base import Recorder, Series, Stage, Step
from ferminet_core.storage import artefacts, checkpoints
from ferminet_core.storage.checkpoints import Checkpoint
from ferminet_core.storage.lease import Lease

# Ratio of the shortest time between checkpoints to the time that one takes: 2 % of the run.
SAVE_RATIO = 50.0
# Name of a warm start's parent, the optimisation of another run.
NEIGHBOUR = "neighbour"
# Name of the parent of a run that starts from a group.
GROUP = "group"

Parents = Mapping[str, xr.Dataset]


def load_parents(job: Job) -> dict[str, xr.Dataset]:
    """Load the artefacts that a job reads, and check that they belong to its molecule.

    Raises:
        InputError: An artefact belongs to another stage, run, group or molecule.
        ArtefactError: A file is missing or damaged.
    """
    entry = declared(job.stage)
    others = {NEIGHBOUR: entry.neighbour, GROUP: entry.group}
    loaded = {}
    for name, path in job.parents.items():
        ds = artefacts.load(path)
        option, _, member = name.partition(":")
        stage = others.get(option, option)
        if ds.attrs.get("stage") != stage:
            found = ds.attrs.get("stage")
            flag = option.replace("_", "-")
            raise InputError(f"{path}: holds stage {found!r}, but --{flag} needs stage {stage!r}")
        if option in others:
            _check_start(job.spec, option, ds, path)
        elif member:
            _check_member(job.spec, member, ds, path)
        elif ds.attrs.get("molecule") != job.spec.fingerprint:
            made = parse_spec(str(ds.attrs.get("spec")), str(path))
            _refuse(nuclei_differences(made, job.spec), made, job.spec.run_id, path)
        loaded[name] = ds
    return loaded


def _check_start(spec: RunSpec, option: str, ds: xr.Dataset, path: Path) -> None:
    """Check that a result comes from the run or the group that a run starts from."""
    what = "run" if option == NEIGHBOUR else "group"
    wanted, found = getattr(spec, option), ds.attrs.get("run_id")
    if found != wanted:
        raise InputError(
            f"{path}: comes from {what} {found!r}, but {spec.run_id} starts from {what} {wanted!r}"
        )


def _check_member(spec: RunSpec, run_id: str, ds: xr.Dataset, path: Path) -> None:
    """Check that a result is that of a member of a group."""
    if not isinstance(spec, GroupSpec):
        raise InputError(f"{path}: belongs to a member, but {spec.run_id} is no group")
    found = ds.attrs.get("run_id")
    if found != run_id:
        raise InputError(
            f"{path}: comes from run {found!r}, expected: run {run_id!r}; give the files in the "
            f"order of the members of {spec.run_id}"
        )
    (member,) = (member for member in spec.members if member.run_id == run_id)
    if ds.attrs.get("molecule") != member.molecule.fingerprint:
        made = parse_spec(str(ds.attrs.get("spec")), str(path))
        _refuse(molecule_differences(made.molecule, member.molecule), made, run_id, path)


def _refuse(different: Sequence[str], made: RunSpec, wanted: str, path: Path) -> None:
    """Refuse a result that was made for another molecule."""
    if different:
        kind = "group" if isinstance(made, GroupSpec) else "run"
        raise InputError(
            f"{path}: was made for another molecule than {wanted} "
            f"({kind} {made.run_id!r} of scan {made.scan!r}): {describe(different)}"
        )


class Saver:
    """Writes the checkpoints of one loop, on rank 0."""

    def __init__(self, job: Job, record: Record, layout: Mapping[str, Any]) -> None:
        self._job, self._record = job, record
        self._config: CheckpointConfig = job.spec.config.checkpoint
        self._attrs = {**common_attributes(job, record.identity), **layout}
        self._last_time = time.monotonic()
        self._seconds = 0.0
        self.n_saves, self.total_s = 0, 0.0

    def due(self, steps: int) -> bool:
        """Whether a checkpoint is due `steps` steps after the last one."""
        every = self._config.every_steps
        if every is not None and steps >= every:
            return True
        apart = max(60.0 * self._config.every_minutes, SAVE_RATIO * self._seconds)
        return time.monotonic() - self._last_time >= apart

    def save(self, step: int, leaves: Mapping[str, np.ndarray], series: Series) -> None:
        """Write a checkpoint of a state's arrays and the series, then delete old ones."""
        began = time.monotonic()
        volatile = {
            "wall_s": self._record.wall_s(),
            "history": json.dumps(self._record.history),
        }
        checkpoints.save(
            self._job.checkpoints,
            step,
            leaves,
            series,
            {**self._attrs, **volatile},
            self._record.lease.check,
        )
        self._last_time = time.monotonic()
        self._seconds = self._last_time - began
        self.n_saves, self.total_s = self.n_saves + 1, self.total_s + self._seconds
        checkpoints.prune(self._job.checkpoints, self._config.keep)


class Logbook:
    """Series, status, checkpoints and progress of a running loop, on rank 0.

    Attributes:
        progress: Context manager that shows the progress while it is open.
    """

    def __init__(
        self, stage: Stage, job: Job, record: Record, layout: Mapping[str, Any], series: Series
    ) -> None:
        self._stage, self._record = stage, record
        self._recorder = Recorder(series)
        self._saver = Saver(job, record, layout)
        self.progress = StageProgress(stage.name, job.spec.run_id, stage.total)
        self._first_step_s = 0.0

    def add(self, done: Step) -> None:
        """Record a block of steps.

        Raises:
            LockedError: The lease is lost.
        """
        self._first_step_s = self._first_step_s or process_age()
        self._recorder.add(done.stats)
        reading = read_stats(done.stats)
        for note in done.notes:
            self.progress.note(note)
            self._record.event("note", step=done.step, text=note)
        self.progress.update(done.step, self._stage.total, reading)
        self._record.heartbeat(done.step, self._stage.total, reading)

    def due(self, steps: int) -> bool:
        """Whether a checkpoint is due `steps` steps after the last one."""
        return self._saver.due(steps)

    def save(self, step: int, leaves: Mapping[str, np.ndarray]) -> None:
        """Write a checkpoint with the series so far."""
        self._saver.save(step, leaves, self._recorder.series())

    def finish(self, step: int, state: Any, log: CompileLog) -> str:
        """Save the stage's result and its provenance. Returns the digest."""
        ds = self._stage.result(state, self._recorder.series())
        self.progress.finish(step, read_stats(ds.attrs))
        extra = {
            "first_step_s": round(self._first_step_s, 3),  # 0 if no step was left
            "n_checkpoints": self._saver.n_saves,
            "checkpoints_s": round(self._saver.total_s, 3),
            "jax": log.summary(),
            **distributed.ranks().facts(),
        }
        return self._record.finish(ds, step, extra)


def _first_state(stage: Stage, job: Job, start: Checkpoint | None) -> Any:
    """The state to continue from: that of a checkpoint, or the stage's first.

    Raises:
        InputError: The checkpoint holds another network.
    """
    from ferminet_core.stages import datasets  # loads JAX, which reference avoids

    state = stage.initial()
    if start is None:
        return state
    origin = parse_spec(str(start.attrs["spec"]), str(job.checkpoints))
    leaves = datasets.completed(start.leaves, origin)
    try:
        return stage.place(datasets.restore_state(leaves, state))
    except ArtefactError as error:
        raise InputError(f"{job.checkpoints}: step {start.step}: {error}") from None


def drive(
    stage: Stage, state: Any, begun_at: int | None, stop: Stop, logbook: Logbook | None
) -> tuple[Any, int]:
    """Run a stage's loop to its end.

    Args:
        stage: The stage.
        state: The state to continue from.
        begun_at: Step of the checkpoint that holds this state; None without a checkpoint.
        stop: When to stop early.
        logbook: The records, on rank 0 only.

    Returns:
        The last state, with whole arrays on the host, and the number of steps.

    Raises:
        ResumeError: The loop was asked to stop early, and has written a checkpoint.
    """
    from ferminet_core.parallel.mesh import fetch
    from ferminet_core.stages.datasets import state_leaves  # loads JAX, which reference avoids

    ranks = distributed.ranks()

    def save(step: int, state: Any) -> int:
        began, leaves = time.monotonic(), state_leaves(state)
        ranks.on_root(lambda: logbook.save(step, leaves) if logbook else None)
        stop.saved(time.monotonic() - began)
        return step

    # Also before the first step, because the first compilation may be long.
    step = saved = save(0, state) if begun_at is None else begun_at
    for done in stage.steps(state):
        step, state = done.step, done.state
        if logbook:
            logbook.add(done)
        stop.block_done()
        reason, due = ranks.agree(stop.due(), logbook is not None and logbook.due(step - saved))
        if reason or due:
            saved = save(step, state)
        if reason:
            raise ResumeError(f"{reason}; continues from step {step} when run again")
    if saved != step:
        save(step, state)
    return fetch(state), step


def _take_lease(job: Job, stop: Stop, stack: ExitStack) -> Lease:
    """Take the lease on the job's work folder until the stack unwinds."""

    def give_up() -> str | None:
        return stop.due() if job.wait else "not waiting (--no-wait)"

    lease = Lease(job.work)
    where = f"{job.spec.run_id} {job.stage}"
    lease.acquire(give_up, lambda line: say(f"{where}: {line}"))
    return stack.enter_context(lease)


def _open_record(job: Job, parents: Parents, stop: Stop, stack: ExitStack) -> Record:
    """Take the lease and start the records, both until the stack unwinds."""
    lease = _take_lease(job, stop, stack)
    record = stack.enter_context(Record(job, identity(job, parents), lease))
    stop.on_abandon = record.abandon
    stop.watch_request(job.work)
    return record


class Beginning(NamedTuple):
    """What rank 0 reads for all ranks.

    parents: datasets of the parents; start: the checkpoint to continue from, without its series
    digest: digest of a result that is finished already
    """

    parents: dict[str, xr.Dataset]
    start: Checkpoint | None
    digest: str | None


def run_loop(
    job: Job, make: Callable[[RunSpec, Parents], Stage], log: CompileLog, stop: Stop
) -> str:
    """Run an iterative stage from its parents to its artefact.

    All ranks call this. Rank 0 holds the lease, reads, writes and reports to the user.

    Args:
        job: The stage, its run and its files.
        make: Builds the stage from the spec and the loaded parents.
        log: Compilations by JAX, for the provenance.
        stop: When to stop early.

    Returns:
        The digest of the artefact.
    """
    ranks = distributed.ranks()
    with ExitStack() as stack:
        record: Record | None = None
        series: Series = {}  # so far; rank 0 alone adds to it

        def begin() -> Beginning:
            nonlocal record, series
            parents = load_parents(job)
            record = _open_record(job, parents, stop, stack)
            digest = record.finished_before()
            start = None if digest else resume.starting_point(job, record)
            if start:  # local energies may take hundreds of megabytes
                series, start = start.series, start._replace(series={})
            return Beginning(parents, start, digest)

        parents, start, digest = ranks.on_root(begin)
        if digest:
            return digest
        ranks.check_devices()
        stage = make(job.spec, parents)
        logbook = None
        if record is not None:
            layout = {"devices": log.facts.get("devices", 1), "chunk": stage.chunk}
            record.begin(start.step if start else 0, stage.total)
            logbook = Logbook(stage, job, record, layout, series)
            stack.enter_context(logbook.progress)
        with _device_failures(job):
            state = _first_state(stage, job, start)
            state, step = drive(stage, state, start.step if start else None, stop, logbook)
        digest = ranks.on_root(lambda: logbook.finish(step, state, log) if logbook else "")
        if ranks.is_root:
            checkpoints.prune(job.checkpoints, int(job.spec.config.checkpoint.keep_finished))
        return digest


@contextmanager
def _device_failures(job: Job) -> Iterator[None]:
    """Report failures of devices that a later start may not meet.

    These are a lack of memory, and a collective that fails because another rank has stopped.
    """
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise MemoryError(
                f"{job.spec.run_id} {job.stage}: {str(error).splitlines()[0]}; use more devices or "
                f"fewer {walkers_key(job.stage)}, or wait for other processes on the same device"
            ) from error
        if distributed.ranks().size == 1:
            raise
        where = f"{job.spec.run_id} {job.stage}"
        raise ResumeError(
            f"{where}: another rank has stopped ({str(error).splitlines()[0]}); continues from the "
            "last checkpoint when run again"
        ) from error


def run_once(job: Job, compute: Callable[[RunSpec], xr.Dataset], stop: Stop) -> str:
    """Run a stage that is one call without parents (reference, conventional energies).

    Returns:
        The digest of the artefact.
    """
    with ExitStack() as stack:
        record = _open_record(job, {}, stop, stack)
        if digest := record.finished_before():
            return digest
        resume.starting_point(job, record)
        record.begin(0, 1)
        return record.finish(compute(job.spec), 1, {})

"""Drives one stage of one run: load its parents, loop over its steps, keep the records, save.

A stage itself opens no file (`ferminet_core.stage`); all reading and writing is here, so that the
same stages run from a shell, from a test and on many nodes.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import xarray as xr

from ferminet_core import runtime, store
from ferminet_core.errors import BrokenRunError, InputError
from ferminet_core.jax_setup import CompileLog, process_age
from ferminet_core.progress import Reading, StageProgress, read_stats
from ferminet_core.scan import RunSpec
from ferminet_core.stage import Stage

STATUS_INTERVAL = 5.0  # seconds between two writes of status.json
NO_READING = Reading(None, None, None)

Parents = Mapping[str, xr.Dataset]


@dataclass(frozen=True)
class Job:
    """One stage of one run with the files it is handed."""

    stage: str
    spec: RunSpec
    out: Path
    work: Path
    parents: Mapping[str, Path] = field(default_factory=dict)

    @property
    def provenance_path(self) -> Path:
        return self.out.with_name(f"{self.stage}.provenance.json")


class Outcome(NamedTuple):
    """What a finished loop leaves: the last state, and each statistic over all steps."""

    state: Any
    series: dict[str, np.ndarray]
    n_steps: int
    reading: Reading
    first_step_s: float  # from the start of the process to the end of the first block


class Record:
    """status.json, events.jsonl and broken.json of one attempt at a stage; a context manager.

    An error that leaves the block is written down and goes on to the caller. A run that ended
    broken would break again in the same way: an attempt with the same settings, code and parents
    is refused, so that automatic retries are not spent on it.
    """

    def __init__(self, job: Job, identity: Mapping[str, Any]) -> None:
        self.job = job
        self.identity = dict(identity)
        self.started = runtime.utc_now()
        self._start = self._last_write = time.monotonic()
        self._status: runtime.StatusWriter | None = None
        self._broken = job.work / "broken.json"

    def __enter__(self) -> Self:
        self._refuse_broken()
        runtime.append_event(self.job.work, "start", stage=self.job.stage)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if error is None:
            return
        broken = isinstance(error, BrokenRunError)
        state = "broken" if broken else "failed"
        reason = str(error) or type(error).__name__
        # A full disk must not hide the error that is on its way.
        with contextlib.suppress(OSError):
            status = self._status or runtime.StatusWriter(self.job.work, self.job.stage, 0)
            status.update(state, status.step, reason=reason)
            runtime.append_event(self.job.work, state, stage=self.job.stage, reason=reason)
            if broken:
                runtime.write_json(self._broken, {**self.identity, "reason": reason})

    def _refuse_broken(self) -> None:
        before = runtime.read_json(self._broken)
        if before is None:
            return
        if all(before.get(key) == value for key, value in self.identity.items()):
            raise BrokenRunError(
                f"{self.job.spec.run_id} {self.job.stage}: broke before with the same settings "
                f"and code ({before.get('reason')}); change them, or remove {self._broken}"
            )
        self._broken.unlink()

    def begin(self, total: int) -> None:
        """The loop starts now, with `total` steps ahead."""
        self._status = runtime.StatusWriter(self.job.work, self.job.stage, total)
        self._status.update("running", 0)

    def heartbeat(self, step: int, reading: Reading) -> None:
        """Write the status, unless it was written a moment ago."""
        now = time.monotonic()
        if self._status is not None and now - self._last_write >= STATUS_INTERVAL:
            self._status.update("running", step, reading.energy, reading.error)
            self._last_write = now

    def finish(self, ds: xr.Dataset, n_steps: int, reading: Reading, extra: dict[str, Any]) -> str:
        """Write the provenance, then put the artefact in place; returns its digest."""
        job, status = self.job, self._status
        restarts = 0 if status is None else status.restarts
        wall = time.monotonic() - self._start
        facts = runtime.provenance(job.stage, self.started, wall, restarts)
        job.out.parent.mkdir(parents=True, exist_ok=True)
        runtime.write_json(job.provenance_path, {**facts, "n_steps": n_steps, **extra})
        digest = store.save(ds, job.out)
        if status is not None:
            status.update("done", n_steps, reading.energy, reading.error, reason="done")
        runtime.append_event(job.work, "done", stage=job.stage, digest=digest)
        return digest


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


def identity(job: Job, parents: Parents) -> dict[str, Any]:
    """What decides a stage's result: settings, code and parents, as hashes."""
    return {
        "stage_hash": job.spec.stage_hash(job.stage),
        "code_hash": runtime.code_hash(),
        "parents": {name: ds.attrs["digest"] for name, ds in parents.items()},
    }


def with_common_attributes(ds: xr.Dataset, job: Job, known: Mapping[str, Any]) -> xr.Dataset:
    """Add what every artefact says about where it comes from."""
    spec = job.spec
    return ds.assign_attrs(
        stage=job.stage,
        scan=spec.scan,
        run_id=spec.run_id,
        schema_version=spec.schema_version,
        molecule=spec.molecule.fingerprint,
        seed=spec.stage_seed(job.stage),
        stage_hash=known["stage_hash"],
        code_hash=known["code_hash"],
        parents=json.dumps(known["parents"], sort_keys=True),
        spec=spec.model_dump_json(),
    )


def drive(stage: Stage, job: Job, record: Record) -> Outcome:
    """Run a stage's loop to its end, and gather its statistics over all steps."""
    blocks: dict[str, list[np.ndarray]] = {}
    last: tuple[int, Any, Reading] | None = None
    first_step_s = 0.0
    with StageProgress(stage.name, job.spec.run_id, stage.total) as progress:
        for step, state, stats in stage.steps():
            if last is None:
                first_step_s = process_age()
            for name, values in stats.items():
                blocks.setdefault(name, []).append(np.atleast_1d(np.asarray(values)))
            last = (step, state, read_stats(stats))
            progress.update(step, last[2])
            record.heartbeat(step, last[2])
        if last is None:
            raise RuntimeError(f"stage {stage.name!r} made no step")
        progress.finish(last[0], last[2])
    series = {name: np.concatenate(parts) for name, parts in blocks.items()}
    return Outcome(last[1], series, last[0], last[2], first_step_s)


def run_loop(job: Job, make: Callable[[RunSpec, Parents], Stage], log: CompileLog) -> str:
    """Run an iterative stage from its parents to its artefact; returns the digest.

    Args:
        job: the stage, its run and its files.
        make: builds the stage from the spec and the loaded parents.
        log: what JAX compiles meanwhile, for the provenance.
    """
    parents = load_parents(job)
    known = identity(job, parents)
    with Record(job, known) as record:
        stage = make(job.spec, parents)
        record.begin(stage.total)
        outcome = drive(stage, job, record)
        ds = with_common_attributes(stage.result(outcome.state, outcome.series), job, known)
        extra = {"first_step_s": round(outcome.first_step_s, 3), "jax": log.summary()}
        return record.finish(ds, outcome.n_steps, outcome.reading, extra)


def run_once(job: Job, compute: Callable[[RunSpec], xr.Dataset]) -> str:
    """Run a stage that is one call and has no parents (the reference); returns the digest."""
    known = identity(job, {})
    with Record(job, known) as record:
        record.begin(1)
        ds = with_common_attributes(compute(job.spec), job, known)
        return record.finish(ds, 1, NO_READING, {})

"""Records of one attempt at a stage, in its work folder and next to its artefact.

These are status.json, events.jsonl, broken.json, the provenance and the finished artefact. The
artefact is first `result.zarr.zip` in the work folder. The last rename of the stage makes it the
output. If the output is lost later, for example because a workflow engine deletes it, the next
start puts the same result in place again.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import xarray as xr

from ferminet_core.errors import (
    ArtefactError,
    BrokenRunError,
    InputError,
    LockedError,
    ReadError,
    ResumeError,
    describe,
)
from ferminet_core.inputs.run_spec import parse_spec
from ferminet_core.parallel import distributed
from ferminet_core.runner.job import Job
from ferminet_core.runner.progress import Reading, read_stats, say
from ferminet_core.runner.stopping import REQUEST
from ferminet_core.runner.work_files import StatusWriter, append_event
from ferminet_core.storage import artefacts, checkpoints, files, provenance
from ferminet_core.storage.lease import Lease

STATUS_INTERVAL = 5.0  # seconds between two writes of status.json
NO_READING = Reading(None, None, None)


def identity(job: Job, parents: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """The hashes of all that decides a stage's result: settings, code and parents."""
    return {
        "stage_hash": job.spec.stage_hash(job.stage),
        "code_hash": provenance.code_hash(),
        "parents": {name: ds.attrs["digest"] for name, ds in parents.items()},
    }


def common_attributes(job: Job, known: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of every artefact and checkpoint that name its origin."""
    spec = job.spec
    return {
        "stage": job.stage,
        "scan": spec.scan,
        "run_id": spec.run_id,
        "schema_version": spec.schema_version,
        "molecule": spec.fingerprint,
        "seed": spec.stage_seed(job.stage),
        "stage_hash": known["stage_hash"],
        "code_hash": known["code_hash"],
        "parents": json.dumps(known["parents"], sort_keys=True),
        "spec": spec.model_dump_json(),
    }


class Record:
    """The records of one attempt at a stage whose lease is held; a context manager.

    An error that leaves the block is recorded and passed on to the caller. A calculation that
    failed as `broken` would fail again in the same way. An attempt with the same settings, code and
    parents is refused, so automatic retries do not repeat it.

    Attributes:
        history: One entry for each resume of this stage.
        spent_s: Seconds that earlier attempts spent on the work that is continued.
        broken_before: Whether the last attempt failed as broken with other settings, code or
            parents.
    """

    def __init__(self, job: Job, known: Mapping[str, Any], lease: Lease) -> None:
        self.job, self.identity, self.lease = job, dict(known), lease
        self.started = provenance.utc_now()
        self._start = self._last_write = time.monotonic()
        nodes = len({member.node for member in distributed.ranks().members})
        self._status = StatusWriter(job.work, job.stage, 0, lease.check, nodes)
        self._broken = job.work / "broken.json"
        self._reading = NO_READING
        self.history: list[dict[str, Any]] = []
        self.spent_s = 0.0
        self.broken_before = False

    def __enter__(self) -> Self:
        self._refuse_broken()
        self._refuse_stopped()
        for folder in (self.job.work, self.job.checkpoints):
            files.remove_temporary(folder)
        files.remove_temporary(self.job.out.parent, self.job.out.name)
        self.event("start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if error is None:
            return
        state = "failed"
        if isinstance(error, BrokenRunError):
            state = "broken"
        elif isinstance(error, (ResumeError, ArtefactError, OSError, MemoryError)):
            state = "resumable"
        self._end(state, describe(error))

    def abandon(self, reason: str) -> None:
        """Record and report that the process ends from outside the loop."""
        self._end("resumable", reason)
        self.lease.release()
        self._say(f"{reason}; continues from the last checkpoint when run again")

    def _end(self, state: str, reason: str) -> None:
        # A full disk or a lost lease must not hide the error that ends the attempt.
        with contextlib.suppress(OSError, LockedError):
            self._write_status(state, self._status.step, reason)
            self.event(state, reason=reason)
            if state == "broken":
                files.write_json(self._broken, {**self.identity, "reason": reason})

    def _refuse_broken(self) -> None:
        before = files.read_json(self._broken)
        if before is None:
            return
        same = all(before.get(key) == value for key, value in self.identity.items())
        if same and not self.job.force:
            raise BrokenRunError(
                f"{self.job.spec.run_id} {self.job.stage}: failed before with the same settings "
                f"and code ({before.get('reason')}); change them, or give --force to try again"
            )
        self.broken_before = not same
        self._broken.unlink()

    def _refuse_stopped(self) -> None:
        """Obey a request to stop in retries of the workflow engine, but not in a new start."""
        request = self.job.work / REQUEST
        if request.exists():
            if self.job.attempt > 1:
                raise ResumeError("stopped on request; start the workflow again to continue")
            request.unlink(missing_ok=True)

    def tell(self, line: str) -> None:
        """Report something to the user, and record it."""
        self._say(line)
        self.event("note", text=line)

    def _say(self, line: str) -> None:
        say(f"{self.job.spec.run_id} {self.job.stage}: {line}")

    def event(self, name: str, **details: Any) -> None:
        """Append to events.jsonl."""
        append_event(self.job.work, name, stage=self.job.stage, **details)

    def wall_s(self) -> float:
        """Seconds spent on this stage by this attempt and those that it continues."""
        return self.spent_s + time.monotonic() - self._start

    def begin(self, step: int, total: int) -> None:
        """Record that the loop starts after `step` of `total` steps."""
        self._status.total = total
        self._status.continues(self.spent_s)
        self._write_status("running", step)

    def heartbeat(self, step: int, total: int, reading: Reading) -> None:
        """Write the status, at most once in `STATUS_INTERVAL`.

        Raises:
            LockedError: The lease is lost.
        """
        self._status.step, self._status.total = step, total
        if reading.energy is not None:
            self._reading = reading
        if time.monotonic() - self._last_write < STATUS_INTERVAL:
            return
        # On a full disk the status falls behind. A checkpoint that does not fit ends the attempt.
        with contextlib.suppress(OSError):
            self.lease.check()
            self._write_status("running", step)

    def _write_status(self, state: str, step: int, reason: str = "") -> None:
        self._status.update(state, step, self._reading.energy, self._reading.error, reason)
        self._last_write = time.monotonic()

    def finished_before(self) -> str | None:
        """Put the finished result of an earlier attempt in place.

        Returns:
            Its digest; None if there is no result with these settings and parents.
        """
        path = self.job.result_path
        if not path.exists():
            return None
        try:
            attrs = artefacts.load(path).attrs
        except ReadError:
            raise
        except ArtefactError as error:
            kept = checkpoints.set_aside(path, self.job.aside)
            self.tell(f"damaged result kept as {kept}: {error}")
            return None
        if not self._is_this_calculation(attrs):
            return None
        self._publish()
        self._write_status("done", self._status.step, "done")
        self.tell("finished before; its result is in place again")
        return str(attrs["digest"])

    def _is_this_calculation(self, attrs: Mapping[str, Any]) -> bool:
        """Whether a result has the settings, parents and seed of this job.

        The spec that it was made from decides. The stored hash covers the settings of the version
        that wrote it, which may have had others.
        """
        wanted = common_attributes(self.job, self.identity)
        if any(attrs.get(key) != wanted[key] for key in ("parents", "seed")):
            return False
        try:
            made_from = parse_spec(str(attrs.get("spec")), str(self.job.result_path))
        except InputError:
            return False
        return made_from.stage_hash(self.job.stage) == wanted["stage_hash"]

    def finish(self, ds: xr.Dataset, n_steps: int, extra: Mapping[str, Any]) -> str:
        """Save the result, write the provenance and publish the artefact. Returns its digest."""
        ds = ds.assign_attrs(common_attributes(self.job, self.identity))
        digest = artefacts.save(ds, self.job.result_path, self.lease.check)
        facts = provenance.provenance(
            self.job.stage, self.started, self.wall_s(), self._status.restarts
        )
        self.job.out.parent.mkdir(parents=True, exist_ok=True)
        history = {"n_steps": n_steps, "history": self.history, "node_s": self._status.node_s}
        files.write_json(self.job.provenance_path, {**facts, **history, **extra}, self.lease.check)
        self._publish()
        # The energy of an inference is that of all records, not of the last block.
        result = read_stats(ds.attrs)
        if result.energy is not None:
            self._reading = result
        self._write_status("done", n_steps, "done")
        self.event("done", digest=digest)
        return digest

    def _publish(self) -> None:
        self.job.out.parent.mkdir(parents=True, exist_ok=True)
        files.publish(self.job.result_path, self.job.out, self.lease.check)

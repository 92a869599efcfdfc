"""Files that a running stage writes to its work folder: `status.json` and `events.jsonl`."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ferminet_core.storage.files import no_guard, plain, read_json, write_json
from ferminet_core.storage.provenance import job_id, utc_now

STATUS_SCHEMA = 1


class StatusWriter:
    """Keeps `<work>/status.json` up to date. It is one small JSON object, always replaced whole.

    Fields: schema, state (running, resumable, done, failed, broken), stage, step, total, energy_Eh,
    error_Eh, rate (steps per second since this process started), host, jobid, pid, heartbeat
    (UTC), reason, restarts, node_s. Fields without a value are null.

    Attributes:
        node_s: Seconds of whole nodes that all attempts at the stage have taken up to now, also
            those whose work was lost; a killed attempt counts up to its last status.
    """

    def __init__(
        self,
        work: Path,
        stage: str,
        total: int,
        guard: Callable[[], None] = no_guard,
        nodes: int = 1,
    ) -> None:
        self.path = Path(work) / "status.json"
        self._guard = guard
        self.path.parent.mkdir(parents=True, exist_ok=True)
        previous = read_json(self.path)
        # A status other than "done" comes from an earlier attempt at this stage.
        unfinished = previous is not None and previous.get("state") != "done"
        self.restarts = int(previous.get("restarts") or 0) + 1 if previous and unfinished else 0
        self._fixed = {
            "stage": stage,
            "host": socket.gethostname(),
            "jobid": job_id(),
            "pid": os.getpid(),
            "restarts": self.restarts,
        }
        before = previous or {}
        self.total = total or int(before.get("total") or 0)
        self.step = int(before.get("step") or 0)
        self._nodes = nodes
        self._node_s_before = float(before.get("node_s") or 0.0)
        self._started = time.monotonic()
        self._first_step: int | None = None

    @property
    def node_s(self) -> float:
        """See the class."""
        return self._node_s_before + self._nodes * (time.monotonic() - self._started)

    def continues(self, seconds: float) -> None:
        """Count the seconds of earlier attempts whose status did not record node seconds."""
        self._node_s_before = max(self._node_s_before, seconds)

    def update(
        self,
        state: str,
        step: int,
        energy: float | None = None,
        error: float | None = None,
        reason: str = "",
    ) -> None:
        """Write the current state; `energy` and `error` in hartree."""
        if self._first_step is None:
            self._first_step = step
        elapsed = time.monotonic() - self._started
        done = step - self._first_step
        self.step = step
        status = {
            "schema": STATUS_SCHEMA,
            "state": state,
            **self._fixed,
            "step": step,
            "total": self.total,
            "energy_Eh": energy,
            "error_Eh": error,
            "rate": done / elapsed if done > 0 and elapsed > 0 else None,
            "heartbeat": utc_now(),
            "reason": reason,
            "node_s": round(self.node_s, 3),
        }
        write_json(self.path, status, self._guard)


def append_event(work: Path, event: str, **details: Any) -> None:
    """Append one line with time and process to `<work>/events.jsonl`."""
    record = {"time": utc_now(), "event": event, "host": socket.gethostname(), "pid": os.getpid()}
    line = json.dumps(plain({**record, **details}), allow_nan=False) + "\n"
    Path(work).mkdir(parents=True, exist_ok=True)
    # One write in append mode, so lines of several processes do not mix.
    with open(Path(work) / "events.jsonl", "ab", buffering=0) as file:
        file.write(line.encode())


def read_events(work: Path) -> list[dict[str, Any]]:
    """The events of `append_event` in order, without lines that were cut short."""
    found = []
    with contextlib.suppress(OSError):
        for line in (Path(work) / "events.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(event := json.loads(line), dict):
                    found.append(event)
    return found

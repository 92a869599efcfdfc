"""A lease on a stage's work folder: one process at a time, also across nodes.

`lock.json` names the holder: host, process, its start, batch job and a token that is used only
once. The holder renews the file's time stamp. If the stamp does not change for `EXPIRY_S` seconds
on the clock of an observer, the holder is dead (clocks of different nodes are never compared). On
the holder's own machine the observer looks up the process, and the lease of a dead process ends at
once. Before each rename that publishes a file, the holder checks that the token is still its own.
So a process that was suspended past its lease changes nothing.
"""

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ferminet_core.errors import LockedError
from ferminet_core.storage import files, provenance

RENEW_S = 10.0
EXPIRY_S = 60.0
_POLL_S = 0.5
NAME = "lock.json"

# Called while waiting for another's lease; returns a reason to give up, or None to continue.
GiveUp = Callable[[], str | None]


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8").strip()
    return ""


def _machine() -> str:
    """One boot of one machine, seen from one container, where process numbers are unique."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{_read(Path('/proc/sys/kernel/random/boot_id'))} {namespace}".strip()


def describe(holder: Mapping[str, Any]) -> str:
    """The holder of a lease as text."""
    job = f", job {holder['jobid']}" if holder.get("jobid") else ""
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}{job}"
    return f"{who}, since {holder.get('started', '?')}"


def holder_of(work: Path) -> dict[str, Any] | None:
    """The present holder of the lease on a work folder, from one look; None without a holder.

    For a holder on another machine the time stamp, which the holder takes from its own clock, is
    compared with this machine's clock.
    """
    path = Path(work) / NAME
    holder = files.read_json(path)
    if holder is None:
        return None
    alive = process_runs(holder)
    if alive is None:
        try:
            alive = time.time() - path.stat().st_mtime < EXPIRY_S
        except OSError:
            return None
    return holder if alive else None


def process_runs(holder: Mapping[str, Any]) -> bool | None:
    """Whether the holder's process runs; None if this machine cannot know."""
    ticks, machine = holder.get("ticks"), _machine()
    if ticks is None or not machine or holder.get("machine") != machine:
        return None
    return provenance.process_start(int(holder.get("pid", 0))) == ticks


class Lease:
    """The lease on one work folder, from `acquire` to `release`; a context manager."""

    def __init__(self, work: Path) -> None:
        self.path = Path(work) / NAME
        self.token = secrets.token_hex(16)
        self._end = threading.Event()

    def acquire(self, give_up: GiveUp, tell: Callable[[str], None]) -> Self:
        """Take the lease, and wait while another process holds it.

        Args:
            give_up: Called several times a second. A reason ends the waiting.
            tell: Called once with a line that names the holder.

        Raises:
            LockedError: Another process holds it, and `give_up` returned a reason.
            OSError: The folder cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        reported = False
        seen: tuple[str, int] | None = None
        since = time.monotonic()
        while not self._create():
            holder = files.read_json(self.path) or {}
            stamp = self._stamp(holder)
            if stamp != seen:
                seen, since = stamp, time.monotonic()
            dead = process_runs(holder) is False or time.monotonic() - since > EXPIRY_S
            if dead:
                self._remove_dead(str(holder.get("token", "")))
                continue
            if reason := give_up():
                raise LockedError(f"{self.path.parent}: held by {describe(holder)}; {reason}")
            if not reported:
                tell(f"waiting for {describe(holder)}, which works on this stage")
                reported = True
            self._end.wait(_POLL_S)
        with contextlib.suppress(OSError):  # of a file system that keeps no time stamps
            self._stamp_now()
        threading.Thread(target=self._renew, name="lease", daemon=True).start()
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.release()

    def check(self) -> None:
        """Check that the lease is still held.

        Raises:
            LockedError: Another process has taken it over.
            OSError: The file cannot be read at the moment, so nobody knows.
        """
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            text = ""
        holder = files.parse_object(text) or {}
        if holder.get("token") != self.token:
            raise LockedError(
                f"{self.path.parent}: taken over by {describe(holder)} while this process was "
                "suspended or cut off; this process writes nothing more here"
            )

    def release(self) -> None:
        """Release the lease, if it is still held."""
        self._end.set()
        with contextlib.suppress(LockedError, OSError):
            self.check()
            self.path.unlink()

    def _stamp(self, holder: Mapping[str, Any]) -> tuple[str, int]:
        try:
            return str(holder.get("token", "")), self.path.stat().st_mtime_ns
        except OSError:
            return "", 0

    def _create(self) -> bool:
        """Create the file with its content; False if it exists already."""
        if self.path.exists():
            return False
        temporary = self.path.with_name(f".{NAME}.{self.token[:12]}.tmp")
        files.write_json(
            temporary,
            {
                "schema": 1,
                "token": self.token,
                "host": socket.gethostname(),
                "machine": _machine(),
                "pid": os.getpid(),
                "ticks": provenance.process_start(os.getpid()),
                "jobid": provenance.job_id(),
                "started": provenance.utc_now(),
            },
        )
        try:
            # A hard link appears whole or not at all, and fails if the name is taken.
            os.link(temporary, self.path)
        except (FileExistsError, FileNotFoundError):
            # The name is taken, or the last holder has removed the temporary file: try again.
            return False
        except OSError:
            return self._create_without_links(temporary)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _create_without_links(self, temporary: Path) -> bool:
        """The same on file systems without hard links, where readers may see an empty file."""
        content = temporary.read_bytes()
        try:
            with open(self.path, "xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    def _remove_dead(self, token: str) -> None:
        """Remove a dead holder's file, unless another process did so and now holds the lease."""
        moved = self.path.with_name(f".{NAME}.{secrets.token_hex(6)}.tmp")
        try:
            self.path.rename(moved)
        except FileNotFoundError:
            return
        found = str((files.read_json(moved) or {}).get("token", ""))
        if found != token:
            # This file has another holder, so put it back. If the name is taken by now, that holder
            # finds out before its next rename.
            with contextlib.suppress(OSError):
                os.link(moved, self.path)
        moved.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._end.wait(RENEW_S):
            with contextlib.suppress(OSError, LockedError):
                self.check()
                self._stamp_now()

    def _stamp_now(self) -> None:
        """Renew the time stamp, which needs no space on a full disk.

        The time is that of this machine. A file server's clock may be minutes off.
        """
        now = time.time()
        os.utime(self.path, (now, now))

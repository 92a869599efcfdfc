"""Early stops: signals, the wall-time limit, and a user's request.

SIGTERM, SIGINT and SIGUSR1 (which Slurm sends before the limit with `--signal=USR1@60`) ask the
loop to stop after the current block. Python runs a signal handler only between two bytecodes of
the main thread, which can take minutes during a compilation. The interpreter writes to its wake-up
descriptor at once, so a thread listens to that. If nothing is unsaved, the thread ends the process
itself, because only the compilation is lost.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Self

from ferminet_core.errors import ExitCode, InputError
from ferminet_core.storage import provenance

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
REQUEST = "stop.json"  # in the work folder, written by `python -m ferminet_core stop`
# A terminal's Ctrl-C and the batch system's signals may arrive several times. Within this number of
# seconds they are one request. Later they are a second request, which is obeyed at once.
SECOND_SIGNAL_S = 2.0
# With nothing unsaved the loop has this time (seconds) and two blocks to reach the end of a block.
PATIENCE_S = 2.0
_NO_LIMIT_OF_FLUX = 2**32 - 1
MARGIN_S = 15.0  # before the wall-time limit, on top of measured times


def parse_wall_time(text: str) -> float:
    """Seconds of a wall time in one of Slurm's formats.

    The formats are minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM and D-HH:MM:SS.

    Raises:
        InputError: The text has another format.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not match:
        raise InputError(
            f"--wall-time: found {text!r}; allowed: minutes, HH:MM:SS or D-HH:MM:SS (try 24:00:00)"
        )
    days, *rest = match.groups()
    numbers = [int(part) for part in rest if part is not None]
    if days is not None:  # D-HH[:MM[:SS]]
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:  # minutes or MM:SS
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return ((24 * int(days or 0) + hours) * 60 + minutes) * 60 + seconds


def slurm_seconds_left() -> float | None:
    """Seconds until Slurm ends this job; None outside a job, or if the limit is unknown."""
    if end := os.environ.get("SLURM_JOB_END_TIME", ""):
        with contextlib.suppress(ValueError):
            return float(end) - time.time()
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%L"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return parse_wall_time(done.stdout)
    except (OSError, subprocess.SubprocessError, InputError):  # also "UNLIMITED"
        return None


def flux_seconds_left() -> float | None:
    """Seconds until Flux ends this job; None outside a job, or without a limit."""
    if "FLUX_JOB_ID" not in os.environ:
        return None
    try:
        done = subprocess.run(
            ["flux", "job", "timeleft"], capture_output=True, text=True, timeout=20, check=True
        )
        seconds = float(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return seconds if seconds < _NO_LIMIT_OF_FLUX else None


def torque_seconds_left() -> float | None:
    """Seconds until Torque ends this job; None outside a job, or if the limit is unknown.

    Torque sets PBS_WALLTIME to the limit of the whole job, in seconds. The job began with the first
    process of this session, its script. PBS Professional does not set it.
    """
    limit = os.environ.get("PBS_WALLTIME", "") if "PBS_JOBID" in os.environ else ""
    try:
        seconds = float(limit) if limit.isdigit() else parse_wall_time(limit)
    except InputError:
        return None
    age = provenance.process_age(os.getsid(0))
    return None if age is None else seconds - age


def seconds_left() -> float | None:
    """Seconds until the batch system ends this job; None outside a job, or if it does not say.

    A job whose time is over does not run any more. Its variables have outlived it, as in a shell of
    tmux that was started in a job.
    """
    asked = (ask() for ask in (slurm_seconds_left, flux_seconds_left, torque_seconds_left))
    return next((left for left in asked if left is not None and left > 0), None)


class Stop:
    """Why and when a loop should stop; a context manager around all of a process's work.

    Attributes:
        unsaved: Whether there is work that no checkpoint holds yet.
        on_abandon: Called with the reason before the thread ends the process; must be quick.
    """

    def __init__(self, wall_time_s: float | None = None) -> None:
        self._began = time.monotonic()
        self._deadline = None if wall_time_s is None else self._began + wall_time_s
        self._reason: str | None = None
        self._asked_at: float | None = None  # time of the first signal
        self._heard = False  # whether the loop knows
        self._longest_block = self._longest_save = 0.0
        self._last_block: float | None = None  # before the first, which compiles
        self._request: Path | None = None
        self.unsaved = False
        self.on_abandon: Callable[[str], None] = lambda reason: None

    def __enter__(self) -> Self:
        self._receiver, sender = socket.socketpair()
        sender.setblocking(False)
        self._sender = sender
        self._old = {number: signal.signal(number, self._ignore) for number in SIGNALS}
        self._old_descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._old_descriptor)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._sender.close()  # ends the thread

    @staticmethod
    def _ignore(number: int, frame: FrameType | None) -> None:
        """The thread hears the signal from the wake-up descriptor."""

    # --- called by the loop -----------------------------------------------------------------------

    def watch_request(self, work: Path) -> None:
        """Watch for a user's request in this work folder from now on."""
        self._request = Path(work) / REQUEST

    def block_done(self) -> None:
        """Note the end of a block. Its length counts for the wall-time limit, except the first."""
        now = time.monotonic()
        if self._last_block is not None:
            self._longest_block = max(self._longest_block, now - self._last_block)
        self._last_block = now
        self.unsaved = True

    def saved(self, seconds: float) -> None:
        """Note that a checkpoint was written in this time."""
        self._longest_save = max(self._longest_save, seconds)
        if self._last_block is not None:
            self._last_block = time.monotonic()
        self.unsaved = False

    def due(self) -> str | None:
        """Why the loop should stop now, or None."""
        if self._reason is None:
            if self._deadline is not None:
                needed = 2 * (self._longest_block + self._longest_save) + MARGIN_S
                if time.monotonic() + needed > self._deadline:
                    self._reason = "the wall-time limit is near"
            if self._request is not None and self._request.exists():
                self._reason = "stopped on request"
        self._heard = self._reason is not None
        return self._reason

    # --- the thread -------------------------------------------------------------------------------

    def _listen(self) -> None:
        waiting: float | None = None
        with self._receiver:
            while True:
                self._receiver.settimeout(waiting)
                try:
                    received = self._receiver.recv(64)
                except TimeoutError:
                    received = b"\0"
                except OSError:
                    return
                if not received:
                    return
                for number in received:
                    if number in [int(n) for n in SIGNALS]:
                        self._signalled(signal.Signals(number))
                if self._asked_at is not None and self._reason is not None:
                    waiting = 0.1
                    patience = PATIENCE_S + 2 * self._longest_block
                    waited = time.monotonic() - self._asked_at
                    if not self.unsaved and not self._heard and waited > patience:
                        self._abandon(self._reason)

    def _signalled(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._reason = self._reason or f"received {number.name}"
        elif now - self._asked_at > SECOND_SIGNAL_S:
            self._abandon(f"received {number.name} again")

    def _abandon(self, reason: str) -> None:
        """End the process from this thread, whatever the main thread does."""
        try:
            self.on_abandon(reason)
        finally:
            os._exit(ExitCode.RESUME_ME)

"""Lets one workflow at a time work on a scan.

The main process of a workflow holds the lease on `.workflow` in the folder of the scan, as a stage
holds the lease on its work folder. On the same machine the lease ends with the process, however the
process ends. On another machine it ends a minute after the last sign of life. So a killed workflow
leaves nothing to unlock. The profiles therefore switch off Snakemake's own lock files, which
outlive a killed process.
"""

import atexit
import os
from collections.abc import Callable
from pathlib import Path

from ferminet_core.errors import ArtefactError
from ferminet_core.storage import files
from ferminet_core.storage.lease import EXPIRY_S, NAME, Lease, describe, process_runs

FOLDER = ".workflow"


def hold(folder: Path, tell: Callable[[str], None]) -> None:
    """Hold the folder of a scan until this process ends.

    A holder on another machine is watched until it gives a sign of life, which takes seconds, or
    until its lease has expired.

    Args:
        folder: Folder of the scan; it is created if it is missing.
        tell: Called with a line before such a watch.

    Raises:
        LockedError: Another process holds the folder.
        ArtefactError: The folder cannot be written.
    """
    path = folder / FOLDER / NAME
    first = _stamp(path)

    def alive() -> str | None:
        holder = files.read_json(path)
        if holder is None or process_runs(holder) is False:
            return None
        if process_runs(holder) or _stamp(path) != first:
            return "a Snakemake that works on this scan; end it, wait, or give another results="
        return None

    def watch(_: str) -> None:
        holder = files.read_json(path) or {}
        tell(f"{folder}: watching for {EXPIRY_S:g} s whether {describe(holder)} still works on it")

    lease = Lease(path.parent)
    try:
        lease.acquire(alive, watch)
    except OSError as error:
        raise ArtefactError(f"{folder}: cannot be written: {error.strerror or error}") from error
    atexit.register(_release, lease, os.getpid())


def _release(lease: Lease, pid: int) -> None:
    if os.getpid() == pid:  # not in a fork
        lease.release()


def _stamp(path: Path) -> int:
    """When the lease was last renewed, by the clock of the file server; 0 without a lease."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0

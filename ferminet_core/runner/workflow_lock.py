"""Clears what a killed workflow has locked.

A workflow engine that is killed leaves its lock files behind. So its main process holds a lock of
the operating system's on the scan's folder as well, which ends with the process however that ended:
whoever gets this one knows that lock files on the same folder are dead. Those of other scans, and
all while the holder lives, are left alone.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

_held: list[IO[bytes]] = []  # open until the process ends


def clear_dead_locks(folder: Path, engine_locks: Path) -> list[Path]:
    """Hold a scan's folder until this process ends, and delete dead locks on it.

    Does nothing while another process holds the folder, and where the file system knows no such
    locks.

    Args:
        folder: results of the scan; made if it is missing.
        engine_locks: folder of the lock files, each naming what it locks, one a line.

    Returns:
        The files that were deleted.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Python's files are not inherited by the jobs that the process starts.
    file = open(folder / ".workflow.lock", "ab")  # noqa: SIM115  (held until the process ends)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return []
    _held.append(file)
    dead = []
    for lock in engine_locks.glob("*.lock"):
        with contextlib.suppress(OSError):
            if _concerns(lock, folder):
                lock.unlink()
                dead.append(lock)
    return dead


def _concerns(lock: Path, folder: Path) -> bool:
    """Whether a lock file names a file inside a folder."""
    inside = os.path.realpath(folder) + os.sep
    lines = lock.read_text(encoding="utf-8").splitlines()
    return any(os.path.realpath(line).startswith(inside) for line in lines if line.strip())

"""Lets one workflow at a time work on a scan.

The main process of a workflow holds a lock of the operating system on the folder of the scan. The
lock ends with the process, however the process ends, so a killed workflow leaves nothing to unlock.
The profiles therefore switch off Snakemake's own lock files, which outlive a killed process.
"""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from ferminet_core.errors import ArtefactError, LockedError

_held: list[IO[str]] = []  # open until the process ends


def hold(folder: Path) -> None:
    """Hold the folder of a scan until this process ends.

    On a file system without such locks nothing is held. The leases of the stages still keep two
    jobs from computing the same stage.

    Args:
        folder: Folder of the scan; it is created if it is missing.

    Raises:
        LockedError: Another process holds the folder.
        ArtefactError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Jobs do not inherit the open file, so they do not keep the lock.
        file = open(folder / ".workflow.lock", "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise ArtefactError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise LockedError(
            f"{folder}: another Snakemake works on this scan ({holder}); wait for it or end it"
        ) from None
    except OSError:
        file.close()
        return
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held.append(file)

"""A process that kills itself at a chosen point of a chosen write.

It sends SIGKILL to itself when it reaches a window for the n-th time (from 1): `writing` (half of
an archive's member is in the temporary file), `file fsync` (all is written, not yet flushed),
`rename` (flushed, not yet in place), `folder fsync` (in place, the folder not yet flushed).
"""

import os
import signal
import stat
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

WINDOWS = ("writing", "file fsync", "rename", "folder fsync")


class Windows:
    """Counts how often each window is reached, and kills the process at the chosen one."""

    def __init__(self, window: str, number: int) -> None:
        self.window, self.number = window, number
        self.counts: Counter[str] = Counter()

    def enter(self, name: str) -> bool:
        """Count, and return whether this is the chosen time."""
        self.counts[name] += 1
        return name == self.window and self.counts[name] == self.number

    def pass_through(self, name: str) -> None:
        """Kill the process if this is the chosen time."""
        if self.enter(name):
            os.kill(os.getpid(), signal.SIGKILL)

    def patch(self) -> None:
        """Put the windows into the calls that every write of the package makes."""
        fsync, replace, writestr = os.fsync, os.replace, zipfile.ZipFile.writestr

        def killing_fsync(descriptor: int) -> None:
            folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            self.pass_through("folder fsync" if folder else "file fsync")
            fsync(descriptor)

        def killing_replace(source: Path, target: Path) -> None:
            self.pass_through("rename")
            replace(source, target)

        def killing_writestr(archive: zipfile.ZipFile, info: Any, data: bytes) -> None:
            if self.enter("writing"):
                writestr(archive, info, data[: len(data) // 2])
                assert archive.fp is not None
                archive.fp.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            writestr(archive, info, data)

        # Replaced on purpose, with the same meaning of the arguments that the package passes.
        os.fsync = killing_fsync  # type: ignore[assignment]
        os.replace = killing_replace  # type: ignore[assignment]
        zipfile.ZipFile.writestr = killing_writestr  # type: ignore[method-assign, assignment]

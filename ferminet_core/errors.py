"""Exit codes, and the failures that a user can do something about.

Any other exception is a bug. It leaves a traceback and the exit code `BUG`.
"""

import enum
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """Exit codes of all commands, each with its meaning."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        """A member with its number as the value."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    DONE = 0, "Done."
    BAD_INPUT = 2, "Bad input. The error line says what is allowed."
    BROKEN = 65, "The calculation failed, and would fail again unchanged."
    BUG = 70, "A bug. Please report the traceback."
    LOCKED = 73, "Another process works on the same stage or scan."
    IO_ERROR = 74, "A file cannot be read or written. The same command continues."
    RESUME_ME = 85, "Stopped with a checkpoint. The same command continues."


class FermiNetError(Exception):
    """Base class. The command line prints `str(error)` without a traceback."""

    exit_code: ClassVar[ExitCode] = ExitCode.BUG


class InputError(FermiNetError):
    """Bad input. The first line names the file and the key, what was found and what is allowed."""

    exit_code = ExitCode.BAD_INPUT


class BrokenRunError(FermiNetError):
    """The calculation cannot continue, and would fail again if repeated unchanged."""

    exit_code = ExitCode.BROKEN


class RecomputeError(FermiNetError):
    """Stored numbers do not follow from the series that are stored with them."""

    exit_code = ExitCode.BROKEN


class ArtefactError(FermiNetError):
    """An artefact is unreadable or damaged, or does not fit its use."""

    exit_code = ExitCode.IO_ERROR


class LockedError(FermiNetError):
    """Another process works on the same stage or scan."""

    exit_code = ExitCode.LOCKED


class ResumeError(FermiNetError):
    """The stage stopped early. It continues from its checkpoint when it is run again."""

    exit_code = ExitCode.RESUME_ME

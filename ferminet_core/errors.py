"""Exit codes, and the failures that a user can do something about.

Any other exception is a bug. It leaves a traceback and the exit code `BUG`.
"""

import enum
import os
import re
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
    IO_ERROR = (
        74,
        ("A file cannot be read or written, or memory is short. The same command continues."),
    )
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


class ReadError(ArtefactError):
    """A file cannot be read at the moment, and may be whole."""


class LockedError(FermiNetError):
    """Another process works on the same stage or scan."""

    exit_code = ExitCode.LOCKED


class ResumeError(FermiNetError):
    """The stage stopped early. It continues from its checkpoint when it is run again."""

    exit_code = ExitCode.RESUME_ME


def describe(error: BaseException) -> str:
    """An error as text that is never empty: its message, or else its type."""
    return str(error).strip() or type(error).__name__


def failed_machine(error: BaseException) -> OSError | MemoryError | None:
    """The failure of the machine behind an error, which a later start may not meet again.

    PySCF passes the errors of its threads on as text, and HDF5 names the system's error only there.

    Returns:
        None if neither files nor memory caused it.
    """
    if isinstance(error, (OSError, MemoryError)):
        return error
    if found := re.search(r"\berrno\W{1,3}(\d+)", str(error), re.IGNORECASE):
        number = int(found[1])
        return OSError(number, os.strerror(number))
    if re.search(r"\bunable to allocate\b", str(error), re.IGNORECASE):  # NumPy in a thread
        return MemoryError(str(error).splitlines()[-1])
    return None

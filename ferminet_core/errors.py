"""Failures that a user can do something about; each class has its own exit code.

Anything else that is raised is a bug, and leaves a traceback and exit code 70.
"""

import enum
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """Exit codes of every command of the package."""

    DONE = 0
    BAD_INPUT = 2
    BROKEN = 65  # refused until the configuration or the code changes
    BUG = 70
    LOCKED = 73
    IO_ERROR = 74  # resumable
    RESUME_ME = 85


class FermiNetError(Exception):
    """Base class; `str(error)` is what the command line prints, without a traceback."""

    exit_code: ClassVar[int] = 70


class InputError(FermiNetError):
    """Bad input. The first line says file, key, what was found and what is allowed."""

    exit_code = 2


class BrokenRunError(FermiNetError):
    """The calculation cannot go on, and would end the same way if repeated unchanged."""

    exit_code = 65


class RecomputeError(FermiNetError):
    """Stored numbers do not follow from the series they are stored with."""

    exit_code = 65


class ArtefactError(FermiNetError):
    """An artefact is unreadable, damaged, or does not fit what it is used for."""

    exit_code = 74


class LockedError(FermiNetError):
    """Another process works on the same run."""

    exit_code = 73


class ResumeError(FermiNetError):
    """The stage ended before its end, and continues from its checkpoint when it is run again."""

    exit_code = 85

"""Entry point of `python -m ferminet_core` and `ferminet-core`: errors become a line and a code."""

import os
import sys
import traceback
from pathlib import Path

from ferminet_core.errors import ExitCode, FermiNetError, InputError, ResumeError, describe
from ferminet_core.parallel.python_path import check_python_path


def program_name() -> str:
    """How this process was called, for usage and error messages."""
    name = Path(sys.argv[0]).name
    return "python -m ferminet_core" if name == "__main__.py" else name


def words() -> list[str]:
    """The words of the command line, with the home folder for a `~` that the shell left alone.

    A shell does so in `--results=~/x`, and within quotes.
    """
    found = []
    for word in sys.argv[1:]:
        option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
        found.append(option + sign + os.path.expanduser(value))
    return found


def _lines(error: Exception) -> str:
    """The lines of an error, without control characters, which a file or a name may hold."""
    from ferminet_core.inputs.messages import printable

    return "\n".join(map(printable, describe(error).split("\n")))


def main() -> int:
    """Run the command line and return the exit code (see `ferminet_core.errors.ExitCode`)."""
    try:
        check_python_path()
    except InputError as error:  # before the imports that it concerns
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    from ferminet_core.cli.commands import app
    from ferminet_core.parallel import distributed

    try:
        app(args=words(), prog_name=program_name())
    except ResumeError as error:  # no failure, so without the word
        return distributed.ranks().settle(str(error), error.exit_code)
    except FermiNetError as error:
        return distributed.ranks().settle(f"error: {_lines(error)}", error.exit_code)
    except BrokenPipeError:  # the reader of the output has closed it, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.IO_ERROR
    except OSError as error:
        return distributed.ranks().settle(f"error: {_lines(error)}", ExitCode.IO_ERROR)
    except MemoryError as error:
        message = f"error: not enough memory: {describe(error)}"
        return distributed.ranks().settle(message, ExitCode.IO_ERROR)
    except Exception:  # noqa: BLE001  (outermost frame: the traceback is printed, not swallowed)
        return distributed.ranks().settle(traceback.format_exc(), ExitCode.BUG)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())

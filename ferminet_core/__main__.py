"""Entry point of `python -m ferminet_core` and `ferminet-core`: errors become a line and a code."""

import os
import sys
import traceback
from pathlib import Path

from ferminet_core.errors import FermiNetError, ResumeError

EXIT_BUG = 70
EXIT_IO = 74


def program_name() -> str:
    """How this process was called, for usage and error messages."""
    name = Path(sys.argv[0]).name
    return "python -m ferminet_core" if name == "__main__.py" else name


def main() -> int:
    """Run the command line; returns the exit code (see `ferminet_core.errors`)."""
    from ferminet_core.cli.commands import app
    from ferminet_core.parallel import distributed

    try:
        app(prog_name=program_name())
    except ResumeError as error:  # no failure, so without the word
        return distributed.ranks().settle(str(error), error.exit_code)
    except FermiNetError as error:
        return distributed.ranks().settle(f"error: {error}", error.exit_code)
    except BrokenPipeError:  # the reader of our output went away, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_IO
    except OSError as error:
        return distributed.ranks().settle(f"error: {error}", EXIT_IO)
    except Exception:  # noqa: BLE001  (outermost frame: the traceback is printed, not swallowed)
        return distributed.ranks().settle(traceback.format_exc(), EXIT_BUG)
    return 0


if __name__ == "__main__":
    sys.exit(main())

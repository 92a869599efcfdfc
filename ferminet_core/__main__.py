"""Entry point of `python -m ferminet_core`: turns errors into one line and an exit code."""

import os
import sys
import traceback

from ferminet_core.errors import FermiNetError, ResumeError

EXIT_BUG = 70
EXIT_IO = 74


def main() -> int:
    """Run the command line; returns the exit code (see `ferminet_core.errors`)."""
    from ferminet_core.cli.commands import app
    from ferminet_core.parallel import distributed

    try:
        app(prog_name="python -m ferminet_core")
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

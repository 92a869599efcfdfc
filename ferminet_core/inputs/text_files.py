"""Text of input files. Only regular files of a bounded size are read.

A named pipe would hold a command up for ever, and `/dev/zero` has no end.
"""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

# Of a file that people write: some thousand geometries.
MAX_BYTES = 1_000_000


def read_text(
    path: Path | str, max_bytes: int = MAX_BYTES, encodings: Sequence[str] = ("utf-8-sig",)
) -> str:
    """The content of a regular file, or of one that a symbolic link leads to.

    Args:
        path: The file.
        max_bytes: The largest size that is read.
        encodings: Encodings in the order in which they are tried. `utf-8-sig` is UTF-8 with or
            without a byte-order mark.

    Raises:
        OSError: The file is missing, is no regular file, is too large or is not text. `strerror`
            has the reason.
    """
    content = _read_bytes(path, max_bytes)
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise OSError(errno.EILSEQ, "it is not UTF-8 text", str(path))


def _read_bytes(path: Path | str, max_bytes: int) -> bytes:
    try:
        # Without O_NONBLOCK, opening a named pipe waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError:  # a NUL character, or one that no file name can have
        raise OSError(errno.EINVAL, "no file can have this name", repr(path)) from None
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "it is a device or a pipe, not a file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes} bytes", str(path))
    return content

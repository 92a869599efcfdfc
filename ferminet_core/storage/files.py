"""Files that are whole or absent: atomic writes, and small JSON files."""

import contextlib
import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO


def no_guard() -> None:
    """A guard that prevents nothing."""


@contextlib.contextmanager
def atomic_file(path: Path, guard: Callable[[], None] = no_guard) -> Iterator[BinaryIO]:
    """Open a temporary file next to `path` that replaces it when the block ends.

    The file is flushed to disk before the rename and the folder after it, so a crash at any moment
    leaves either the old or the new file, whole. On an exception the old file stays and the
    temporary one is removed.

    Args:
        path: The file.
        guard: Called right before the rename. An exception from it prevents the rename.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    path = Path(path)
    # open() rather than mkstemp(), whose mode 0600 would exclude a project's group.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        guard()
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # the error of a full disk names no file
        raise
    _fsync_folder(path.parent)


def remove_temporary(folder: Path, name: str = "") -> None:
    """Delete the temporary files of interrupted writes by `atomic_file` in a folder.

    Args:
        folder: Folder whose lease this process holds.
        name: Name of the written file; empty for all files.
    """
    for path in Path(folder).glob(f".{name}*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def _fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder to write to, but not to list
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no such call for folders. The rename has been done.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def plain(value: Any) -> Any:
    """`value` with array scalars as Python numbers and non-finite numbers as None.

    JSON has no NaN. Every reader of these files understands `null`.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and JAX scalars and arrays
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def publish(source: Path, target: Path, guard: Callable[[], None] = no_guard) -> None:
    """Put a finished file in a second place by one rename, with the present time.

    Both are one file on the disk if the file system has hard links, and copies otherwise.

    Raises:
        OSError: As `atomic_file`.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        # Snakemake repeats jobs whose output is older than their input.
        os.utime(temporary)
        guard()
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_folder(target.parent)


def write_json(path: Path, data: Mapping[str, Any], guard: Callable[[], None] = no_guard) -> None:
    """Write `data` as indented JSON with one rename. Non-finite numbers become null."""
    text = json.dumps(plain(data), indent=2, allow_nan=False) + "\n"
    with atomic_file(path, guard) as file:
        file.write(text.encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if the file is missing or not a whole JSON object."""
    try:
        return parse_object(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def parse_object(text: str) -> dict[str, Any] | None:
    """The object in a JSON text; None if it is not a whole JSON object."""
    try:
        data = json.loads(text)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None

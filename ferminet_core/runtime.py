"""What varies from run to run: exit codes, status and event files, provenance, the code hash.

Nothing here is part of an artefact's deterministic content; it lies beside it
(`<stage>.provenance.json`, `<stage>.work/status.json`, `<stage>.work/events.jsonl`).
"""

import contextlib
import enum
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

STATUS_SCHEMA = 1
PACKAGE_FOLDER = Path(__file__).resolve().parent
# File types that decide what a stage computes; caches and editor backups do not.
_SOURCE_SUFFIXES = frozenset({".py", ".yaml"})
_VERSIONED_PACKAGES = (
    "ferminet-core",
    "jax",
    "jaxlib",
    "kfac-jax",
    "optax",
    "folx",
    "pyscf",
    "numpy",
    "scipy",
    "zarr",
    "xarray",
)


class ExitCode(enum.IntEnum):
    """Exit codes of every command of the package."""

    DONE = 0
    BAD_INPUT = 2
    BROKEN = 65  # refused until the configuration or the code changes
    BUG = 70
    LOCKED = 73
    IO_ERROR = 74  # resumable
    RESUME_ME = 85


def _nothing() -> None:
    pass


@contextlib.contextmanager
def atomic_file(path: Path, guard: Callable[[], None] = _nothing) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place when the block ends.

    The file is flushed to disk before the rename and the folder after it, so that a crash
    at any moment leaves either the old or the new file, whole. On an exception the old file
    stays and the temporary one is removed.

    Args:
        path: the file.
        guard: called right before the rename; what it raises prevents that.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    # Made with open() rather than mkstemp(), whose 0600 mode would shut out a project's group.
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
            error.filename = str(path)  # a full disk does not say what it was full for
        raise
    _fsync_folder(path.parent)


def remove_temporary(folder: Path, name: str = "") -> None:
    """Delete what writes by `atomic_file` that were cut short have left in a folder.

    Args:
        folder: where the lease on what is written there is held.
        name: of the file that was written; any if empty.
    """
    for path in Path(folder).glob(f".{name}*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def _fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    """`value` with array scalars as Python numbers and non-finite numbers as None.

    JSON has no NaN; `null` is what every reader of these files understands.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and JAX scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def publish(source: Path, target: Path, guard: Callable[[], None] = _nothing) -> None:
    """Put a finished file in another place as well, by one rename, with the time of now.

    Both are one file on the disk where the file system knows hard links, and a copy elsewhere.

    Raises:
        OSError: as `atomic_file`.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        # Snakemake repeats what is older than its input.
        os.utime(temporary)
        guard()
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_folder(target.parent)


def write_json(path: Path, data: Mapping[str, Any], guard: Callable[[], None] = _nothing) -> None:
    """Write `data` as indented JSON with one rename; non-finite numbers become null."""
    text = json.dumps(_plain(data), indent=2, allow_nan=False) + "\n"
    with atomic_file(path, guard) as file:
        file.write(text.encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where it is missing or not a whole JSON object."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def utc_now() -> str:
    """The time now as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def process_start(pid: int) -> int | None:
    """When the system started a process, in clock ticks since boot; None where it is not there, has
    ended (a zombie, whom nobody has asked for its exit code), or where there is no /proc."""
    try:
        # The name in field 2 may hold spaces; field 3 is the state, field 22 the start.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def job_id() -> str:
    """The batch system's name for this job; empty outside one."""
    for variable in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"):
        if value := os.environ.get(variable):
            return value
    return ""


class StatusWriter:
    """Keeps `<work>/status.json` up to date: one small JSON object, replaced whole.

    Fields: schema, state (running, resumable, done, failed, broken), stage, step, total, energy_Eh,
    error_Eh, rate (steps per second since this process started), host, jobid, pid, heartbeat
    (UTC), reason, restarts. Fields without a value are null.
    """

    def __init__(
        self, work: Path, stage: str, total: int, guard: Callable[[], None] = _nothing
    ) -> None:
        self.path = Path(work) / "status.json"
        self._guard = guard
        self.path.parent.mkdir(parents=True, exist_ok=True)
        previous = read_json(self.path)
        # A status that is not "done" was left by an earlier attempt at this stage.
        unfinished = previous is not None and previous.get("state") != "done"
        self.restarts = int(previous.get("restarts") or 0) + 1 if previous and unfinished else 0
        self._fixed = {
            "stage": stage,
            "host": socket.gethostname(),
            "jobid": job_id(),
            "pid": os.getpid(),
            "restarts": self.restarts,
        }
        before = previous or {}
        self.total = total or int(before.get("total") or 0)
        self.step = int(before.get("step") or 0)
        self._started = time.monotonic()
        self._first_step: int | None = None

    def update(
        self,
        state: str,
        step: int,
        energy: float | None = None,
        error: float | None = None,
        reason: str = "",
    ) -> None:
        """Write the present state; `energy` and `error` in hartree."""
        if self._first_step is None:
            self._first_step = step
        elapsed = time.monotonic() - self._started
        done = step - self._first_step
        self.step = step
        status = {
            "schema": STATUS_SCHEMA,
            "state": state,
            **self._fixed,
            "step": step,
            "total": self.total,
            "energy_Eh": energy,
            "error_Eh": error,
            "rate": done / elapsed if done > 0 and elapsed > 0 else None,
            "heartbeat": utc_now(),
            "reason": reason,
        }
        write_json(self.path, status, self._guard)


def append_event(work: Path, event: str, **details: Any) -> None:
    """Append one line with time and process to `<work>/events.jsonl`."""
    record = {"time": utc_now(), "event": event, "host": socket.gethostname(), "pid": os.getpid()}
    line = json.dumps(_plain({**record, **details}), allow_nan=False) + "\n"
    Path(work).mkdir(parents=True, exist_ok=True)
    # One write in append mode: lines of several processes do not mix.
    with open(Path(work) / "events.jsonl", "ab", buffering=0) as file:
        file.write(line.encode())


def read_events(work: Path) -> list[dict[str, Any]]:
    """The events of `append_event`, in order; a line that was cut short is left out."""
    found = []
    with contextlib.suppress(OSError):
        for line in (Path(work) / "events.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(event := json.loads(line), dict):
                    found.append(event)
    return found


def code_hash(folder: Path = PACKAGE_FOLDER) -> str:
    """sha256 (hex) over names and contents of the package's source files, in sorted order."""
    digest = hashlib.sha256()
    sources = (p for p in folder.rglob("*") if p.suffix in _SOURCE_SUFFIXES and p.is_file())
    for path in sorted(sources, key=lambda p: p.relative_to(folder).as_posix()):
        content = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def git_commit(folder: Path = PACKAGE_FOLDER) -> str:
    """The commit the sources were checked out at, with "+" after it if they were changed.

    Empty where there is no git or the package is installed outside a checkout.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        # Fails where the package lies inside somebody else's checkout, as in a site's environment.
        git("ls-files", "--error-unmatch", "runtime.py")
        commit = git("rev-parse", "HEAD")
        return commit + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on; empty where not installed."""
    versions = {}
    for name in _VERSIONED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


def cpu_name() -> str:
    """The processor's name as the system reports it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def provenance(
    stage: str, started: str, wall_s: float, restarts: int = 0, reason: str = "done"
) -> dict[str, Any]:
    """What is worth knowing about how an artefact was made, and varies from host to host.

    Args:
        stage: name of the stage.
        started: UTC time the process started the stage (`utc_now()`).
        wall_s: seconds spent in the stage by this process.
        restarts: how often the stage had been started before.
        reason: why it ended.
    """
    return {
        "schema": STATUS_SCHEMA,
        "stage": stage,
        "started": started,
        "ended": utc_now(),
        "wall_s": wall_s,
        "restarts": restarts,
        "exit_reason": reason,
        "host": socket.gethostname(),
        "jobid": job_id(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "command": sys.argv[1:],
        "versions": package_versions(),
        "git_commit": git_commit(),
        "code_hash": code_hash(),
    }

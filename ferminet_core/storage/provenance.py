"""How an artefact was made: code hash, commit, versions, host and process.

Nothing here is part of an artefact's deterministic content; it lies beside it in
`<stage>.provenance.json`.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PROVENANCE_SCHEMA = 1
# Of the whole package, not of this room.
PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
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
        git("ls-files", "--error-unmatch", "__init__.py")
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
        "schema": PROVENANCE_SCHEMA,
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

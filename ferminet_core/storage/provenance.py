"""Provenance of an artefact: code hash, commit, versions, host and process.

None of this belongs to an artefact's deterministic content. It is stored next to the artefact in
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
# Folder of the whole package, not of this room.
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
    """Start of a process in clock ticks since boot.

    None if the process does not exist or has ended (a zombie, whose exit code has not been read),
    or if the system has no /proc.
    """
    try:
        # The name in field 2 may contain spaces. Field 3 is the state, field 22 the start.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def process_age(pid: int) -> float | None:
    """Seconds since a process started; None as for `process_start`."""
    start = process_start(pid)
    if start is None:
        return None
    uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    return uptime - start / os.sysconf("SC_CLK_TCK")


def job_id() -> str:
    """The batch system's name of this job; empty outside a job."""
    for variable in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID"):
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
    """The commit of the checked-out sources, followed by "+" if they were changed.

    Empty without git, or if the package is installed outside a checkout.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        # Fails if the package lies inside another project's checkout, as in a site's environment.
        git("ls-files", "--error-unmatch", "__init__.py")
        commit = git("rev-parse", "HEAD")
        return commit + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on; empty if not installed."""
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
    """The circumstances of an artefact's computation, which vary from host to host.

    Args:
        stage: Name of the stage.
        started: UTC time at which the process started the stage (`utc_now()`).
        wall_s: Seconds that this process spent in the stage.
        restarts: Number of earlier starts of the stage.
        reason: Why the stage ended.
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

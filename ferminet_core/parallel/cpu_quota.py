"""The share of the processors that a container's control groups grant.

A container often runs on all cores of a machine, for a part of the time only. The kernel then stops
its threads in turn, so as many threads as there are cores are slower than few.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path


def cpu_quota(proc: Path = Path("/proc/self")) -> float | None:
    """Cores' worth of processor time that this process may use; None without a limit.

    Args:
        proc: Folder of the process in the system's table of processes.
    """
    found = [quota for folder in _groups(proc) if (quota := _quota(folder)) is not None]
    return min(found, default=None)


def _groups(proc: Path) -> Iterator[Path]:
    """Folders of the control groups (version 1 or 2) of this process, with their parents."""
    try:
        groups = (proc / "cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (proc / "mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    paths = {}  # of this process, by the set of controllers
    for line in groups:
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in mounts:
        place, _, kind = line.partition(" - ")
        root, point = place.split()[3:5]
        system, *_, options = kind.split()
        version_1 = system == "cgroup" and "cpu" in options.split(",")
        own = paths.get("cpu" if version_1 else "")
        if own is None or not (version_1 or system == "cgroup2"):
            continue
        # A container may see its own part of the tree only, with the path in the whole tree.
        below = Path(own.removeprefix(root).lstrip("/"))
        for part in (below, *below.parents):
            yield Path(point) / part


def _quota(folder: Path) -> float | None:
    """The limit of one group, in cores; None if it has none."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = (
            (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8")
            for name in ("quota", "period")
        )
        return int(quota) / int(period) if int(quota) > 0 else None
    return None

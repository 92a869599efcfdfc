"""GPUs of this node: those that a process may use, and NVIDIA GPUs that it claims.

Where a batch system allocates whole nodes, several runs share one. Each claims as many free GPUs as
it needs. A claim is a file lock, which the operating system releases when the process ends, however
it ends.
"""

import contextlib
import fcntl
import itertools
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from ferminet_core.errors import InputError, ResumeError

_POLL_S = 1.0
# Kept open, and therefore locked, as long as the process lives.
_claimed: list[IO[bytes]] = []


def number_from(variable: str, default: int) -> int:
    """The number of GPUs or nodes that an environment variable sets, for a cluster profile.

    Raises:
        InputError: It is not a whole number of at least 1.
    """
    found = os.environ.get(variable, str(default))
    if not found.isdecimal() or int(found) < 1:
        raise InputError(f"{variable}: found {found!r}; allowed: a whole number of at least 1")
    return int(found)


def _driver_gpus() -> tuple[str, ...] | None:
    """Identities (UUIDs) of the node's NVIDIA GPUs; None where the driver's tool does not run."""
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return tuple(done.stdout.split())


def _named(name: str, present: tuple[str, ...]) -> str | None:
    """The GPU that an entry of CUDA_VISIBLE_DEVICES names, by number or beginning of its UUID."""
    if name.isdigit():
        return present[int(name)] if int(name) < len(present) else None
    if name.startswith("MIG-"):  # a part of a GPU, which the list of GPUs does not have
        return name
    return next((gpu for gpu in present if name and gpu.startswith(name)), None)


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Identities (UUIDs) of the NVIDIA GPUs that this process may use, in its order.

    As for CUDA, the list in CUDA_VISIBLE_DEVICES ends with the first entry that is no GPU: -1 and
    Slurm's NoDevFiles stand for none.
    """
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None and not chosen.strip():
        return ()
    present = _driver_gpus() or ()
    if chosen is None:
        return present
    named = (_named(name.strip(), present) for name in chosen.split(","))
    return tuple(gpu for gpu in itertools.takewhile(lambda gpu: gpu is not None, named) if gpu)


def assigned_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs that this process may use as far as is known: NVIDIA's, or else AMD's or Intel's.

    The latter are known where the batch system or the user has named them in a variable.
    """
    if gpus := visible_gpus(environment):
        return gpus
    chosen = _split(environment.get("ROCR_VISIBLE_DEVICES"))
    if hip := _split(environment.get("HIP_VISIBLE_DEVICES")):  # numbers within the former list
        chosen = tuple(chosen[int(n)] if n.isdigit() and int(n) < len(chosen) else n for n in hip)
    return chosen or _split(environment.get("ZE_AFFINITY_MASK"))


def _split(names: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def _private_folder() -> Path:
    """A folder for this user's locks in the folder of temporary files, which others may write to.

    Raises:
        InputError: There is something else under this name, such as another user's link.
    """
    folder = Path(tempfile.gettempdir()) / f"ferminet_core-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise InputError(
            f"{folder}: found something that others can change; allowed: a folder of your own, "
            "closed to others (remove it, or set TMPDIR to another folder)"
        )
    return folder


def _open_lock(path: Path) -> IO[bytes]:
    """Open a lock file without following a link, and leave its content as it is."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o600), "rb+", buffering=0)


def _try(gpus: tuple[str, ...], count: int, folder: Path) -> tuple[str, ...]:
    """Lock `count` free GPUs until this process ends; empty if fewer are free."""
    with ExitStack() as stack:
        files = []
        for gpu in gpus:
            file = stack.enter_context(_open_lock(folder / f"{gpu}.lock"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            files.append((gpu, file))
            if len(files) == count:
                _claimed.extend(file for _, file in files)
                stack.pop_all()  # leaves them open
                return tuple(gpu for gpu, _ in files)
    return ()


def claim(count: int, give_up: Callable[[], str | None], tell: Callable[[str], None]) -> None:
    """Claim `count` visible GPUs that no other process of this user has; waits for them.

    Sets CUDA_VISIBLE_DEVICES, so it must be called before JAX looks for devices.

    Args:
        count: number of GPUs.
        give_up: the reason to stop waiting, or None; called every second.
        tell: shows a line about the waiting.

    Raises:
        InputError: fewer are visible.
        ResumeError: `give_up` had a reason.
    """
    gpus = visible_gpus()
    if len(gpus) < count:
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "" if chosen is None else f" (CUDA_VISIBLE_DEVICES={chosen})"
        if not gpus and chosen is None and _driver_gpus() is None:
            why = (
                " (nvidia-smi does not run; for other GPUs give --gpus 0 and let the batch system "
                "choose)"
            )
        raise InputError(f"--gpus: found {count}, but {len(gpus)} are visible here{why}")
    folder = _private_folder()
    reported = False
    while not (mine := _try(gpus, count, folder)):
        if reason := give_up():
            raise ResumeError(f"{reason}, while waiting for GPUs; continues when run again")
        if not reported:
            tell(f"waiting for {count} of {len(gpus)} GPUs to become free")
            reported = True
        time.sleep(_POLL_S)  # poll of the others' locks
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)

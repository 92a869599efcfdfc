"""NVIDIA GPUs of this node: the visible ones, and those that a process claims.

Where a batch system allocates whole nodes, several runs share one. Each claims as many free GPUs as
it needs. A claim is a file lock, which the operating system releases when the process ends, however
it ends.
"""

import fcntl
import os
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


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Identities (UUIDs) of the NVIDIA GPUs that this process may use, in its order."""
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    present = done.stdout.split()
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(present)
    names = [name for name in chosen.split(",") if name]
    return tuple(
        present[int(n)] if n.isdigit() else n
        for n in names
        if not n.isdigit() or int(n) < len(present)
    )


def _try(gpus: tuple[str, ...], count: int, folder: Path) -> tuple[str, ...]:
    """Lock `count` free GPUs until this process ends; empty if fewer are free."""
    with ExitStack() as stack:
        files = []
        for gpu in gpus:
            file = stack.enter_context(open(folder / f"{gpu}.lock", "wb"))
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
        raise InputError(f"--gpus: found {count}, but {len(gpus)} are visible here")
    folder = Path(tempfile.gettempdir()) / f"ferminet_core-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    reported = False
    while not (mine := _try(gpus, count, folder)):
        if reason := give_up():
            raise ResumeError(f"{reason}, while waiting for GPUs; continues when run again")
        if not reported:
            tell(f"waiting for {count} of {len(gpus)} GPUs to become free")
            reported = True
        time.sleep(_POLL_S)  # poll of the others' locks
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)

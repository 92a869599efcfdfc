"""Ranks: the processes that work on one stage together, and how they agree.

Only this module imports mpi4py and jax.distributed; a stage in one process uses neither. JAX's
collectives inside compiled code average over walkers. MPI does the rest: it makes the ranks known
to each other, distributes the files that only rank 0 reads (parents, checkpoints), gathers walkers
and local energies for the files that only rank 0 writes, and agrees on stops and errors.

Rules that keep MPI and JAX from waiting for each other:

* Every rank runs the same statements in the same order. Values that could differ between ranks
  (signals, clocks, files) pass through `from_root`, `on_root` or `agree` before anything depends on
  them. Numbers on which a decision rests are gathered on all ranks, so all ranks decide alike.
* A rank waits for compiled code before it enters MPI (`mesh.fetch` reads the results first), and an
  MPI exchange ends with a barrier before the next compiled code: neither library makes progress for
  the other. (MPICH hung in a gather while another rank was in JAX's shutdown.)
* Only the main thread calls MPI.
* A rank that fails waits a few seconds for the others to fail alike, as they do on bad input; then
  rank 0 reports for all. Ranks that do not fail in time are ended (`Ranks.settle`).
"""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ferminet_core.errors import FermiNetError, InputError
from ferminet_core.parallel.gpus import assigned_gpus

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

# Variables in which launchers give a process its place: Slurm's steps, Open MPI, MPICH and others.
_SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
# Ranks that fail alike arrive within a moment of each other; a disk may delay rank 0.
SETTLE_S = 8.0
# JAX notices after so long that a rank is gone, where the launcher does not report it.
HEARTBEAT_S = 20
_POLL_S = 0.05


def _threads() -> set[int]:
    """The threads of this process; none where the system does not list them."""
    tasks = Path("/proc/self/task")
    return {int(task.name) for task in tasks.iterdir()} if tasks.is_dir() else set()


def _yield_to_computing(thread: int) -> bool:
    """Let gloo's thread run on a core that would be idle otherwise; whether this was that thread.

    It polls for as long as a sending thread holds the lock of a connection. On a rank with one core
    the poll takes the core from that very thread, for a scheduler's tick of some milliseconds. The
    thread differs from others by what it waits for, and from those of JAX's heartbeat by not having
    a name of its own.
    """
    task = Path("/proc/self/task")
    try:
        name, own = ((task / str(t) / "comm").read_text() for t in (thread, os.getpid()))
        if name == own and "epoll" in (task / str(thread) / "wchan").read_text():
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
            return True
    except OSError:
        return False  # it has ended
    return False


def _from_environment(names: Iterable[str], otherwise: int) -> int:
    for name in names:
        if value := os.environ.get(name):
            return int(value)
    return otherwise


def launched_size() -> int:
    """Processes that the launcher says it started; 1 without a launcher."""
    return _from_environment(_SIZES, 1)


def _at_a_terminal() -> bool:
    """Whether a person has started this process in a shell; launchers pass input through pipes."""
    return sys.stdin is not None and sys.stdin.isatty()


def launched_rank() -> int:
    """This process's number as the launcher says; 0 without a launcher."""
    return _from_environment(_RANKS, 0)


@dataclass(frozen=True)
class Member:
    """One rank as the others see it.

    node: the batch system's name of its node, else the host's; gpus: identities of the GPUs that
    the process may use
    """

    rank: int
    node: str
    host: str
    pid: int
    gpus: tuple[str, ...]


class Ranks:
    """All ranks of this stage, seen from one of them.

    rank: 0 is the one that reads and writes; size: how many there are
    members: all of them, by rank; mpi_s: seconds spent in MPI, waiting included
    """

    def __init__(self, comm: Any = None, alone: bool = False) -> None:
        # `alone`: there should be others, but they have not been found (yet)
        self._comm, self._alone = comm, alone
        self.rank: int = comm.Get_rank() if comm else 0
        self.size: int = comm.Get_size() if comm else 1
        # A separate channel, so that a failing rank cannot be mistaken for one that continues.
        self._errors: Any = comm.Dup() if comm else None
        self.mpi_s = 0.0
        self._jax_connected = False
        node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        gpus = assigned_gpus() if comm else ()
        me = Member(self.rank, node, socket.gethostname(), os.getpid(), gpus)
        self.members: list[Member] = self._timed(lambda: comm.allgather(me)) if comm else [me]

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def _timed(self, exchange: Callable[[], T]) -> T:
        began = time.monotonic()
        result = exchange()
        if self._comm:
            self._comm.Barrier()
        self.mpi_s += time.monotonic() - began
        return result

    # --- agreement --------------------------------------------------------------------------------

    def from_root(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        comm = self._comm
        return value if comm is None else self._timed(lambda: comm.bcast(value, root=0))

    def on_root(self, compute: Callable[[], T]) -> T:
        """The result or the exception of `compute` on rank 0, on every rank."""
        if self._comm is None:
            return compute()
        value: Any = None
        failure: Exception | None = None
        if self.is_root:
            try:
                value = compute()
            except Exception as error:  # noqa: BLE001  (raised again below, on all ranks)
                failure = error
        value, reported = self.from_root((value, _portable(failure)))
        if reported is not None:
            raise failure or reported
        return value

    def meet(self) -> None:
        """Wait until every rank is here."""
        if self._comm is not None:
            self._timed(lambda: None)

    def agree(self, reason: str | None, save: bool) -> tuple[str | None, bool]:
        """Whether to end, for any rank's reason, and whether rank 0 wants a checkpoint."""
        comm = self._comm
        if comm is None:
            return reason, save
        found = self._timed(lambda: comm.allgather((reason, save)))
        return next((r for r, _ in found if r is not None), None), found[0][1]

    def allgather(self, array: "np.ndarray") -> "np.ndarray":
        """Arrays of one shape from all ranks, one after the other along the first axis."""
        import numpy as np

        comm = self._comm
        if comm is None:
            return array
        own = np.ascontiguousarray(array)
        everyone = np.empty((self.size, *own.shape), own.dtype)
        self._timed(lambda: comm.Allgather(_as_bytes(own), _as_bytes(everyone)))
        return everyone.reshape(self.size * own.shape[0], *own.shape[1:])

    # --- JAX --------------------------------------------------------------------------------------

    def connect_jax(self) -> None:
        """Make the devices of all ranks one mesh; before any other use of JAX.

        Raises:
            InputError: two ranks would share a GPU.
        """
        if self._comm is None:
            return
        import jax

        me = self.members[self.rank]
        gpus = share_of_gpus(self.members, self.rank)
        alone = all(m.host == me.host for m in self.members)
        # Every node resolves the name by itself: on rank 0 its own name may resolve to 127.0.1.1.
        host = "127.0.0.1" if alone else self.members[0].host
        address = self.from_root(f"{host}:{_free_port()}")
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # The service would take over SIGTERM.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            coordinator_address=address,
            coordinator_bind_address=address if alone else None,
            num_processes=self.size,
            process_id=self.rank,
            local_device_ids=gpus,
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )
        self._jax_connected = True
        before = _threads()
        if jax.devices()[0].platform != "cpu":
            self._check_gpus(gpus)
            return  # gloo joins CPUs only
        # The thread wakes every 10 ms; on a busy core it then does not appear as waiting.
        for _ in range(10):
            if any(_yield_to_computing(thread) for thread in _threads() - before):
                break
            time.sleep(_POLL_S)  # bounds the wait; nothing signals the thread

    def _check_gpus(self, share: list[int] | None) -> None:
        """Check that JAX took this rank's share; say where shared GPUs would go unnoticed."""
        import jax

        count = len(jax.local_devices())
        if share is not None and count != len(share):
            raise InputError(
                f"ranks: JAX took {count} GPUs for a share of {len(share)}; allowed: own GPUs for "
                "each rank, bound by the batch system (try srun --gpus-per-task=1)"
            )
        several = len({m.host for m in self.members}) < self.size
        if self.is_root and several and not all(m.gpus for m in self.members):
            print(
                "warning: nvidia-smi does not run and no variable names GPUs (such as "
                "ROCR_VISIBLE_DEVICES), so it was not checked that each rank has GPUs of its own",
                file=sys.stderr,
                flush=True,
            )

    def check_devices(self) -> None:
        """Check that every rank has the same number of devices.

        Raises:
            InputError: they differ.
        """
        if self._comm is None:
            return
        import jax

        comm, count = self._comm, len(jax.local_devices())
        counts = self._timed(lambda: comm.allgather(count))
        if len(set(counts)) > 1:
            found = ", ".join(f"{m.node} {n}" for m, n in zip(self.members, counts, strict=True))
            raise InputError(
                f"ranks: devices per rank differ ({found}); allowed: the same number on every rank"
            )

    def facts(self) -> dict[str, Any]:
        """The ranks and the time spent in MPI, for the provenance."""
        members = [{"rank": m.rank, "node": m.node, "pid": m.pid} for m in self.members]
        return {"ranks": members, "mpi_s": round(self.mpi_s, 3)}

    # --- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """End after success on every rank."""
        if self._comm is None:
            return
        self._comm.Barrier()
        self._leave_jax()

    def _leave_jax(self) -> None:
        """Leave JAX's coordination together; a rank left behind would end with an error."""
        if self._jax_connected:
            import jax

            jax.distributed.shutdown()
            self._jax_connected = False

    def settle(self, message: str, exit_code: int) -> int:
        """End after a failure on this rank; prints the message.

        Returns:
            the exit code. Where the other ranks have not failed as well within `SETTLE_S`, they are
            ended, and this does not return.
        """
        if self._comm is None:
            # Ranks that never found each other have the same message, and only the first prints it.
            # The launcher ends all with the first failure, so the others wait for rank 0.
            if not self._alone or launched_rank() == 0:
                print(message, file=sys.stderr, flush=True)
            else:
                time.sleep(SETTLE_S)  # bounds the wait for that end; no launcher announces it
            return exit_code
        request = self._errors.Ibarrier()
        deadline = time.monotonic() + SETTLE_S
        while not request.Test():
            if time.monotonic() > deadline:
                me = self.members[self.rank]
                who = f"rank {me.rank} of {self.size} on {me.node}"
                print(f"{who}: {message}\nended the other ranks", file=sys.stderr, flush=True)
                self._comm.Abort(exit_code)
            time.sleep(_POLL_S)  # poll of the other ranks' arrival
        found = self._errors.gather((message, exit_code))
        if found is not None:
            for text in dict.fromkeys(text for text, _ in found):
                print(text, file=sys.stderr, flush=True)
        self._leave_jax()
        return exit_code


_current = Ranks()


def ranks() -> Ranks:
    """The ranks of this process's stage; this process alone unless `start` found others."""
    return _current


def start(expected: int | None = None) -> Ranks:
    """Find the other ranks, if there should be any.

    One rank is one process, whatever a launcher has set in the environment: a shell in an
    allocation (`srun --ntasks=8 --pty bash`) and each process of a task farm have those variables,
    too. The lease keeps several such processes from computing the same stage.

    Args:
        expected: number of ranks. None: as many as the launcher started, or 1 at a terminal.

    Raises:
        InputError: another number was started, or these do not see each other.
    """
    global _current
    launched = launched_size()
    if expected is None:
        expected = 1 if _at_a_terminal() else launched
    if expected == 1:
        return _current
    _current = Ranks(alone=True)
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"--ranks: found {expected}, but mpi4py cannot be used ({error}); install it against "
            'the MPI of this machine (on your own machine: pip install "ferminet_core[mpi]")'
        ) from None
    size = MPI.COMM_WORLD.Get_size()
    if size == 1:
        raise InputError(
            f"--ranks: found {expected}, but this process is alone: the launcher started "
            f"{launched} and MPI ({MPI.Get_library_version().split(',')[0].strip()}) sees 1. "
            "Start them by `mpiexec -n` or by `srun` with the plugin of this MPI "
            "(try srun --mpi=pmix; srun --mpi=list lists the plugins), or give --ranks 1 for one "
            "process"
        )
    _current = Ranks(MPI.COMM_WORLD)
    if size != expected:
        raise InputError(f"--ranks: found {expected}, but MPI sees {size} ranks; allowed: {size}")
    return _current


def share_of_gpus(members: list[Member], rank: int) -> list[int] | None:
    """Which of its visible GPUs a rank takes; None for all of them, or where there are none.

    Ranks of a host that see the same GPUs divide them equally. Ranks to which the batch system gave
    different GPUs keep these.

    Raises:
        InputError: two ranks would share a GPU.
    """
    me = members[rank]
    neighbours = [m for m in members if m.host == me.host]
    seen = [gpu for m in neighbours for gpu in m.gpus]
    if len(set(seen)) == len(seen):
        return None
    if any(m.gpus != me.gpus for m in neighbours) or len(me.gpus) % len(neighbours):
        raise InputError(
            f"ranks: {len(neighbours)} ranks on {me.node} see {len(set(seen))} GPUs; allowed: own "
            f"GPUs for each rank, or a multiple of {len(neighbours)} GPUs that all ranks see "
            "(try one rank per GPU)"
        )
    each = len(me.gpus) // len(neighbours)
    start = each * neighbours.index(me)
    return list(range(start, start + each))


def _free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _portable(error: Exception | None) -> Exception | None:
    """An error that can travel to other ranks and leaves them with the same exit code."""
    if error is None or isinstance(error, OSError):
        return error
    if isinstance(error, MemoryError):  # NumPy's does not survive pickling
        return MemoryError(str(error))
    if isinstance(error, FermiNetError):
        return type(error)(str(error))
    return RuntimeError(f"on rank 0: {type(error).__name__}: {error}")


def _as_bytes(array: "np.ndarray") -> list[Any]:
    from mpi4py import MPI

    return [array.reshape(-1).view("u1"), MPI.BYTE]

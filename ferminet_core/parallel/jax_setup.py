"""The setup of JAX in one process: its share of the machine, precision and compilation cache.

`prepare_process` must run before JAX or NumPy is imported, because their thread pools are sized
from the environment at import. `configure_jax` follows, before any array is made.
"""

import contextlib
import errno
import hashlib
import os
import platform
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ferminet_core.errors import InputError
from ferminet_core.parallel import distributed, patches
from ferminet_core.parallel.cpu_quota import cpu_quota
from ferminet_core.parallel.gpus import visible_gpus
from ferminet_core.storage import provenance

Precision = Literal["float32", "float64"]

# Moves the compilation cache ("off": none), for machines where the home folder is small or slow.
CACHE_VARIABLE = "FERMINET_CACHE"
# Bounds it, in gigabytes.
LIMIT_VARIABLE = "FERMINET_CACHE_GB"
CACHE_GB = 2.0
# One thread per process for NumPy's BLAS, PySCF and the LAPACK that inverts KFAC's factors. The
# expensive work runs in XLA. With several threads the order of sums would change degenerate
# orbitals from run to run, and networks with the number of threads.
_SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# How exactly float32 products take their factors, everywhere in this package. By default NVIDIA
# GPUs round the factors to TF32, 2^13 times more coarsely than float32, and averages over walkers
# do not remove what is systematic in the error.
PRODUCTS = "highest"
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_HIT_EVENT = "/jax/compilation_cache/cache_hits"
_MISS_EVENT = "/jax/compilation_cache/cache_misses"


def available_cores() -> int:
    """Cores that this process may use: those that it may run on, at most a container's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def usable_devices(wanted: int, walkers: int) -> int:
    """The largest number of devices up to `wanted` that divides the walkers evenly."""
    return next(n for n in range(max(1, min(wanted, walkers)), 0, -1) if walkers % n == 0)


def prepare_process(devices: int) -> None:
    """Give this process `devices` cores: as many host devices, and as many threads.

    The numbers of devices and of XLA's threads stay as they are where the user has set them. On a
    machine with GPUs JAX uses the GPUs, and the host devices stay idle.
    """
    environment = os.environ
    for variable in _SINGLE_THREADED:  # Snakemake sets them to the number of a rule's threads
        environment[variable] = "1"
    # XLA sizes its CPU thread pools by this variable, and without it by all cores of the machine.
    # Processes that run at the same time would then compete for the same cores.
    environment.setdefault("NPROC", str(devices))
    flags = environment.get("XLA_FLAGS", "")
    if devices > 1 and "xla_force_host_platform_device_count" not in flags:
        count = f"--xla_force_host_platform_device_count={devices}"
        environment["XLA_FLAGS"] = f"{flags} {count}".strip()
    # By default JAX takes three quarters of a GPU's memory at its start. That leaves too little for
    # a second run on the same GPU.
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # For each executable read from the cache, XLA reports an error about tuning hints of the
    # compiler ("prefer-no-gather is not supported"). These are not features of a processor, and the
    # cache has a folder for each processor type.
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def processor_type() -> str:
    """A short name for a processor's architecture, model and instruction sets."""
    described = [platform.machine(), platform.processor()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        keys = ("model name", "flags", "Features", "CPU part")
        first = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        described += [line for line in first if line.partition(":")[0].strip() in keys]
    digest = hashlib.sha256("\n".join(described).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"


def cache_folder(jax_version: str) -> Path | None:
    """The folder of compiled executables for a JAX version and this processor; None without one."""
    setting = os.environ.get(CACHE_VARIABLE, "")
    if setting.lower() == "off":
        return None
    try:
        if setting:
            base = Path(setting).expanduser()
        else:
            caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            base = Path(caches) / "ferminet_core"
    except RuntimeError as error:  # no home folder is known
        _not_kept(error)
        return None
    return base / f"jax-{jax_version}" / processor_type()


def cache_limit() -> float:
    """Bytes that the compilation cache may hold.

    Raises:
        InputError: The variable that sets it holds no positive number.
    """
    setting = os.environ.get(LIMIT_VARIABLE, "")
    with contextlib.suppress(ValueError):
        if (gigabytes := float(setting or CACHE_GB)) > 0:
            return 1e9 * gigabytes
    raise InputError(f"{LIMIT_VARIABLE}: found {setting!r}; allowed: gigabytes above 0 (try 2)")


def trim_cache(base: Path, limit: float) -> None:
    """Delete the executables used longest ago, until all take at most `limit` bytes.

    A process that reads one of them at the same moment compiles it again.

    Args:
        base: Folder of the cache, with those of all JAX versions and processors.
        limit: Bytes.
    """
    found = []
    for pattern in ("jax-*/*/*-cache", "jax-*/*/.*-cache.*.tmp"):  # the latter of killed processes
        for path in base.glob(pattern):
            with contextlib.suppress(OSError):  # another process has deleted it
                about = path.stat()
                found.append((max(about.st_atime, about.st_mtime), about.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size


def process_age() -> float:
    """Seconds since the operating system started this process (since Python did, off Linux)."""
    age = provenance.process_age(os.getpid())
    return time.process_time() if age is None else age


@dataclass
class CompileLog:
    """Counts of JAX's compilations in this process; seconds include reads from the cache."""

    compile_s: float = 0.0
    n_compiled: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def on_duration(self, event: str, duration_secs: float, **_: str | int) -> None:
        """Count a compilation and its seconds. JAX calls this after each timed event."""
        if event == _COMPILE_EVENT:
            self.compile_s += duration_secs
            self.n_compiled += 1

    def on_event(self, event: str, **_: str | int) -> None:
        """Count a hit or a miss of the compilation cache. JAX calls this at each event."""
        self.cache_hits += event == _HIT_EVENT
        self.cache_misses += event == _MISS_EVENT

    def summary(self) -> dict[str, Any]:
        """Plain values for the provenance file."""
        return {
            "xla_compile_s": round(self.compile_s, 3),
            "xla_compilations": self.n_compiled,
            "xla_cache_hits": self.cache_hits,
            "xla_cache_misses": self.cache_misses,
            **self.facts,
        }


def _not_kept(reason: object) -> None:
    print(
        f"compiled code is not kept: {reason}; set {CACHE_VARIABLE} to a folder that can be "
        'written, or to "off"',
        file=sys.stderr,
    )


def _made(folder: Path | None) -> Path | None:
    """The folder, created; None with a line on stderr where that is not possible."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if foreign := _foreign(folder):
            _not_kept(f"{foreign} belongs to another user, or everyone can write to it")
            return None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        _not_kept(error)
        return None
    return folder


def _foreign(folder: Path) -> Path | None:
    """A part of the cache where another user may have put executables; None without one."""
    for part in (folder, folder.parent, folder.parent.parent):
        found, above = part.stat(), part.parent.stat()
        anyone_made_it = above.st_mode & stat.S_IWOTH and found.st_uid not in (0, os.getuid())
        if anyone_made_it or (part == folder and found.st_mode & stat.S_IWOTH):
            return part
    return None


def devices_of_all_ranks() -> str:
    """The devices of a stage with their hosts, for its first line: "2 x cpu on node7"."""
    import jax

    found = jax.devices()
    kinds = ", ".join(sorted({device.device_kind for device in found}))
    hosts = dict.fromkeys(member.host for member in distributed.ranks().members)
    return f"{len(found)} x {kinds} on {', '.join(hosts)}"


def check_platform(gpus: int) -> str:
    """Whether JAX computes on GPUs where it should.

    Args:
        gpus: GPUs that the stage was asked to take.

    Returns:
        A remark for a stage that leaves GPUs idle; else empty.

    Raises:
        InputError: GPUs were asked for, and JAX computes on CPUs.
    """
    import jax

    # Who names the platform wants it.
    if jax.devices()[0].platform != "cpu" or os.environ.get("JAX_PLATFORMS"):
        return ""
    install = f'pip install "jax[cuda12]=={jax.__version__}"'
    if gpus:
        raise InputError(
            f"--gpus: found {gpus}, but JAX computes on CPUs; install its packages for GPUs "
            f"({install}, or cuda13), or give --gpus 0"
        )
    idle = visible_gpus()
    return f"; {len(idle)} NVIDIA GPUs stay idle: {install}" if idle else ""


def configure_jax(precision: Precision) -> CompileLog:
    """Import JAX and set precision, matmul precision and the compilation cache.

    Returns:
        a log that counts compilations until the process ends.

    Raises:
        InputError: The bound of the cache is no number.
    """
    import jax
    from jax import monitoring

    patches.keep_executables_whole()
    jax.config.update("jax_enable_x64", precision == "float64")
    jax.config.update("jax_default_matmul_precision", PRODUCTS)
    folder = _made(cache_folder(jax.__version__))
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Keep small functions too: there are many, and each costs a compilation at every start.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    log = CompileLog()
    monitoring.register_event_duration_secs_listener(log.on_duration)
    monitoring.register_event_listener(log.on_event)
    devices = jax.devices()
    if folder is not None and jax.process_index() == 0:
        trim_cache(folder.parents[1], cache_limit())
    if devices[0].platform == "cpu":
        patches.key_executables_by_device_kind()
    log.facts = {
        "devices": len(devices),
        "device_kind": devices[0].device_kind,
        "threads": os.environ.get("NPROC", ""),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "cache": "" if folder is None else str(folder),
    }
    return log

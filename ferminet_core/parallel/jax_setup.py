"""JAX set up for one process: its share of the machine, its precision, its compilation cache.

`prepare_process` must run before JAX or NumPy is imported: their thread pools are made from the
environment when they are loaded. `configure_jax` follows, before any array is made.
"""

import hashlib
import os
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ferminet_core.storage import files, provenance

Precision = Literal["float32", "float64"]

# Moves the compilation cache ("off": none), for machines where the home folder is small or slow.
CACHE_VARIABLE = "FERMINET_CACHE"
# One thread per process for NumPy's BLAS, PySCF and the LAPACK that inverts KFAC's factors: the
# work that counts runs in XLA, and the order of sums over threads would make degenerate orbitals
# come out differently each time, and networks differently with each number of threads.
_SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_HIT_EVENT = "/jax/compilation_cache/cache_hits"
_MISS_EVENT = "/jax/compilation_cache/cache_misses"


def available_cores() -> int:
    """Cores that this process may run on (a batch system may grant fewer than there are)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_devices(wanted: int, walkers: int) -> int:
    """The largest number of devices up to `wanted` that divides the walkers evenly."""
    return next(n for n in range(max(1, min(wanted, walkers)), 0, -1) if walkers % n == 0)


def prepare_process(devices: int) -> None:
    """Give this process `devices` cores: as many host devices, and as many threads.

    The number of devices and of XLA's threads is left alone where the user has set it. On a machine
    with GPUs JAX uses these instead, and the host devices stay idle.
    """
    environment = os.environ
    for variable in _SINGLE_THREADED:  # Snakemake sets them to the number of a rule's threads
        environment[variable] = "1"
    # XLA sizes its CPU thread pools by this variable, and by all cores of the machine without it:
    # processes side by side would then fight for the same cores.
    environment.setdefault("NPROC", str(devices))
    flags = environment.get("XLA_FLAGS", "")
    if devices > 1 and "xla_force_host_platform_device_count" not in flags:
        count = f"--xla_force_host_platform_device_count={devices}"
        environment["XLA_FLAGS"] = f"{flags} {count}".strip()
    # By default JAX takes three quarters of a GPU's memory at its start, and leaves too little for
    # a second run on that GPU.
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Each executable read from the cache is reported as an error over tuning hints of the compiler
    # ("prefer-no-gather is not supported") that are no features of a processor. The cache is kept
    # apart by processor type, which is what that message is about.
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def processor_type() -> str:
    """A short name for what compiled code depends on: architecture, model and instruction sets."""
    described = [platform.machine(), platform.processor()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        keys = ("model name", "flags", "Features", "CPU part")
        first = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        described += [line for line in first if line.partition(":")[0].strip() in keys]
    digest = hashlib.sha256("\n".join(described).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"


def cache_folder(jax_version: str) -> Path | None:
    """Where compiled executables are kept, by JAX version and processor type; None for nowhere."""
    setting = os.environ.get(CACHE_VARIABLE, "")
    if setting.lower() == "off":
        return None
    if setting:
        base = Path(setting).expanduser()
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ferminet_core"
    return base / f"jax-{jax_version}" / processor_type()


def process_age() -> float:
    """Seconds since the operating system started this process (since Python did, off Linux)."""
    start = provenance.process_start(os.getpid())
    if start is None:
        return time.process_time()
    uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    return uptime - start / os.sysconf("SC_CLK_TCK")


@dataclass
class CompileLog:
    """What JAX compiled in this process. Seconds include reading executables from the cache."""

    compile_s: float = 0.0
    n_compiled: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def on_duration(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILE_EVENT:
            self.compile_s += duration_secs
            self.n_compiled += 1

    def on_event(self, event: str, **_: str | int) -> None:
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


def _made(folder: Path | None) -> Path | None:
    """The folder, created; None with a line on stderr where that is not possible."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(
            f"compiled code is not kept: {error}; set {CACHE_VARIABLE} to a folder that can be "
            'written, or to "off"',
            file=sys.stderr,
        )
        return None
    return folder


def _put_whole(cache: Any, key: str, value: bytes) -> None:
    """Keep an executable under its name only once it is whole.

    JAX 0.9.1 writes straight to the final name and never replaces what is there, so that a process
    killed in between, or a full disk, would leave a stump that each later start trips over.
    """
    path = Path(str(cache.path)) / f"{key}-cache"
    if not path.exists():
        with files.atomic_file(path) as file:
            file.write(value)


def configure_jax(precision: Precision) -> CompileLog:
    """Import JAX and set precision, matmul precision and the compilation cache.

    Returns:
        a log that goes on counting compilations until the process ends.
    """
    import jax
    from jax import monitoring
    from jax._src import cache_key
    from jax._src.lru_cache import LRUCache

    # A method of JAX replaced, which its type does not allow for.
    LRUCache.put = _put_whole  # type: ignore[method-assign, assignment]
    jax.config.update("jax_enable_x64", precision == "float64")
    # Without this, float32 products run in TF32 (10-bit mantissa) on NVIDIA GPUs.
    jax.config.update("jax_default_matmul_precision", "highest")
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
    if devices[0].platform == "cpu":
        # The topology of CPUs differs from rank to rank, and only rank 0 keeps what it compiles:
        # all others would compile at every start. What it says of processors names the folder.
        cache_key._hash_accelerator_config = cache_key._hash_devices  # type: ignore[assignment]
    log.facts = {
        "devices": len(devices),
        "device_kind": devices[0].device_kind,
        "threads": os.environ.get("NPROC", ""),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "cache": "" if folder is None else str(folder),
    }
    return log

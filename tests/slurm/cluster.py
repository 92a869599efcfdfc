"""A Slurm cluster of several nodes on one machine, for tests: real daemons, on loopback only.

    python tests/slurm/cluster.py install    # Debian's packages; needs root
    python tests/slurm/cluster.py start      # seconds; prints nothing but what went wrong
    python tests/slurm/cluster.py stop

All state lies in one folder (`STATE`), new at each start. The configuration is Slurm's standard
file, /etc/slurm/slurm.conf: Snakemake's plugin for job steps strips SLURM_CONF from the environment
of a job. A file there that this script has not written is never touched.

Partition `main` (default): the nodes as they are, two cores each. Partition `gpu`: the same nodes,
declared to have 4 GPUs and many cores each; nothing can run there, but `sbatch --test-only` judges
requests by it.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

STATE = Path(tempfile.gettempdir()) / "ferminet_test_slurm"
CONFIG = Path("/etc/slurm/slurm.conf")
GRES = CONFIG.with_name("gres.conf")
MARK = "# Written by the test cluster of ferminet_core."
PACKAGES = ("slurm-wlm", "munge", "libpmix2")
NODES = ("n1", "n2")
DAEMONS = ("slurmctld", "slurmd", "munged")
_PORTS = {"slurmctld": 26817, "n1": 26821, "n2": 26822}
_TIMEOUT_S = 60.0

CONFIGURATION = """{mark}
ClusterName=ferminettest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[slurmctld]}
AuthType=auth/munge
AuthInfo=socket={state}/munge.socket
CredType=cred/munge
SlurmUser=root
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/spool/%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.%n.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.%n.log
# Each node a folder of its own: PMIx keeps its sockets there.
TmpFS={state}/scratch/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
ReturnToService=2
SlurmdTimeout=10
KillWait=10
MinJobAge=3600
GresTypes=gpu
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[n1]}-{ports[n2]}] \
CPUs=64 Sockets=1 CoresPerSocket=64 ThreadsPerCore=1 RealMemory=512000 Gres=gpu:4
PartitionName=main Nodes={nodes} Default=YES MaxCPUsPerNode=2 MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={nodes} MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no cluster can be started here; None if one can."""
    if os.geteuid() != 0:
        return "needs root, to start Slurm's daemons"
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} here (python tests/slurm/cluster.py install, on Debian)"
    if CONFIG.exists() and not CONFIG.read_text().startswith(MARK):
        return f"{CONFIG} belongs to a cluster of this machine"
    return None


def install() -> None:
    """Install Debian's packages, and the one name of PMIx's library that they leave out."""
    if any(shutil.which(name) is None for name in DAEMONS) or not list(_pmix_libraries()):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (("update",), ("install", "--yes", *PACKAGES)):
            subprocess.run(
                ["apt-get", "--quiet", "--quiet", *arguments], env=environment, check=True
            )
    # Slurm looks for the name that only the development package ships.
    for library in _pmix_libraries():
        plain = library.with_name("libpmix.so")
        if not plain.exists():
            plain.symlink_to(library.name)


def _pmix_libraries() -> list[Path]:
    return sorted(Path("/usr/lib").glob("*/pmix2/lib/libpmix.so.2"))


def _pid(name: str) -> int | None:
    """The process of a daemon whose pid file is `name`, if it runs."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((STATE / f"{name}.pid").read_text())
        os.kill(pid, 0)
        return pid
    return None


def until(condition: Callable[[], bool], what: str, seconds: float = _TIMEOUT_S) -> None:
    """Wait for a condition; the time limit ends a test that would hang.

    Raises:
        TimeoutError: it does not come.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {seconds:g} s; see the logs in {STATE}")
        time.sleep(0.1)  # poll of other processes' state


def call(*command: str) -> str:
    """Run a command of Slurm; returns what it prints.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _answers() -> bool:
    with contextlib.suppress(subprocess.SubprocessError):
        return "UP" in call("scontrol", "ping")
    return False


def idle() -> bool:
    """Whether all nodes are up with nothing on them."""
    with contextlib.suppress(subprocess.SubprocessError):
        states = call("sinfo", "--noheader", "--Node", "--partition=main", "--format=%t").split()
        return states == ["idle"] * len(NODES)
    return False


def _start_munge() -> None:
    key = STATE / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    command = ["munged", "--force", f"--key-file={key}", f"--socket={STATE}/munge.socket"]
    command += [f"--{name}-file={STATE}/munged.{name}" for name in ("pid", "log", "seed")]
    subprocess.run(command, check=True, capture_output=True)


def start_controller() -> None:
    """Start slurmctld, with the state that the last one left."""
    subprocess.run(["slurmctld"], check=True, capture_output=True)
    until(_answers, "slurmctld")


def start_node(name: str) -> None:
    """Start a node's slurmd."""
    subprocess.run(["slurmd", "-N", name], check=True, capture_output=True)


def kill_controller() -> None:
    """SIGKILL to slurmctld."""
    _kill("slurmctld", signal.SIGKILL)


def configure(old: str, new: str) -> None:
    """Change the running cluster's configuration."""
    text = CONFIG.read_text()
    assert old in text
    CONFIG.write_text(text.replace(old, new))
    call("scontrol", "reconfigure")


def kill_node(name: str) -> None:
    """SIGKILL to a node's slurmd, its step managers, and all that runs on it: a lost node."""
    _kill(f"slurmd.{name}", signal.SIGKILL)
    for pid in processes_of(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes_of(node: str) -> list[int]:
    """Step managers of a node and what they have started, from /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes()
            ours = f"SLURMD_NODENAME={node}".encode() in environment
            manager = command.startswith(b"slurmstepd") and _spool_of(entry) == node
            if ours or manager:
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def _spool_of(process: Path) -> str:
    """The node that a step manager serves, by the files that it has open."""
    for descriptor in (process / "fd").iterdir():
        target = os.readlink(descriptor)
        for name in NODES:
            if f"/slurmd.{name}.log" in target or f"/spool/{name}" in target:
                return name
    return ""


def _kill(name: str, number: signal.Signals) -> None:
    pid = _pid(name)
    if pid is not None:
        os.kill(pid, number)
        until(lambda: _pid(name) is None, f"end of {name}")


def start() -> None:
    """Start everything, with no jobs.

    Raises:
        RuntimeError: no cluster can be started here.
    """
    if reason := why_not():
        raise RuntimeError(reason)
    stop()
    for name in (
        "ctld",
        *(f"{folder}/{node}" for folder in ("scratch", "spool") for node in NODES),
    ):
        (STATE / name).mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    nodes = f"{NODES[0]},{NODES[1]}"
    CONFIG.parent.mkdir(parents=True, exist_ok=True)
    CONFIG.write_text(
        CONFIGURATION.format(mark=MARK, host=host, state=STATE, ports=_PORTS, nodes=nodes)
    )
    for number in range(4):  # slurmd counts GPUs by their files
        (STATE / f"gpu{number}").touch()
    GRES.write_text(f"{MARK}\nNodeName={nodes} Name=gpu File={STATE}/gpu[0-3]\n")
    _start_munge()
    start_controller()
    for name in NODES:
        start_node(name)
    until(idle, "nodes")


def stop() -> None:
    """End all jobs and daemons of this cluster, and delete its state and configuration."""
    if _pid("slurmctld") is not None:
        # What does not end by itself is killed with its node.
        with contextlib.suppress(subprocess.SubprocessError, TimeoutError):
            call("scancel", "--full", "--partition=main")
            until(lambda: not call("squeue", "--noheader").strip(), "end of the jobs", 30.0)
    for name in NODES:
        kill_node(name)
    for name in ("slurmctld", "munged"):
        _kill(name, signal.SIGTERM)
    shutil.rmtree(STATE, ignore_errors=True)
    for path in (CONFIG, GRES):
        if path.exists() and path.read_text().startswith(MARK):
            path.unlink()


if __name__ == "__main__":
    commands = {"install": install, "start": start, "stop": stop}
    try:
        commands[sys.argv[1]]()
    except (RuntimeError, TimeoutError) as error:
        sys.exit(f"error: {error}")

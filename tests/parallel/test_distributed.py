"""Several ranks: started by a real MPI launcher, told from wrong launches, ended together."""

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.stages import spec_of

from benchmarks.layouts import AS_ROOT, LAUNCHER
from ferminet_core.errors import BrokenRunError, InputError, LockedError
from ferminet_core.parallel import distributed, jax_setup
from ferminet_core.parallel.distributed import Member, Ranks


def member(rank: int, gpus: str = "", host: str = "a") -> Member:
    return Member(rank, host, host, 100 + rank, tuple(gpus.split()))


# Limits on the time of a test guard against a hang: a rank that waits for another one that is gone
# waits for ever. The start of Python, JAX and MPI takes a few seconds.


def on_ranks(code: str, count: int = 2) -> subprocess.CompletedProcess[str]:
    """Run Python code on so many ranks; `world` is what it sees of them."""
    text = (
        "import os, sys, time, signal\n"
        "from ferminet_core import errors\n"
        "from ferminet_core.parallel import distributed\n"
        f"world = distributed.start({count})\n" + textwrap.dedent(code)
    )
    return subprocess.run(
        [*LAUNCHER.split(), "-n", str(count), sys.executable, "-c", text],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=ROOT,
        env={**os.environ, **AS_ROOT},
    )


def command(
    *launcher: str, ranks: int, spec: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The optimise command as a rule calls it, on a spec that it never gets to read."""
    words = [*launcher, sys.executable, "-m", "ferminet_core", "optimise", str(spec)]
    words += ["--pretrain", "p.zarr.zip", "--out", "o.zarr.zip", "--work", "o.work"]
    return subprocess.run(
        [*words, "--ranks", str(ranks)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=spec.parent,
        env={**os.environ, **AS_ROOT, "PYTHONPATH": str(ROOT), **environment},
    )


# --- one process --------------------------------------------------------------------------------


def test_alone_nothing_is_exchanged() -> None:
    world = Ranks()
    array = np.arange(4)
    assert (world.rank, world.size, world.is_root) == (0, 1, True)
    assert world.allgather(array) is array
    assert world.agree("why", True) == ("why", True)
    assert world.on_root(lambda: 7) == 7
    assert world.mpi_s == 0.0


def test_alone_neither_mpi_nor_jax_s_distributed_part_is_loaded() -> None:
    code = (
        "import sys; from ferminet_core.parallel import distributed;"
        "distributed.start(1).connect_jax();"
        "sys.exit('mpi4py' in sys.modules or 'jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


# --- wrong launches -----------------------------------------------------------------------------


def test_a_rank_without_the_others_is_refused(tmp_path: Path) -> None:
    """As when srun's plugin is not that of mpi4py's MPI: every process thinks it is alone."""
    began = time.monotonic()
    done = command(ranks=2, spec=tmp_path / "none.json")
    assert done.returncode == InputError.exit_code
    assert "--ranks: found 2, but this process is alone" in done.stderr
    assert time.monotonic() - began < 30


def test_another_number_than_asked_for_is_refused(tmp_path: Path) -> None:
    launcher = [*LAUNCHER.split(), "-n", "2"]
    done = command(*launcher, ranks=3, spec=tmp_path / "none.json")
    assert done.returncode != 0
    assert done.stderr.count("error: --ranks: found") == 1, done.stderr
    assert "allowed: 2" in done.stderr


STEP = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}  # a shell has them


def run_reference(folder: Path, *launcher: str, **environment: str) -> tuple[int, str]:
    """Exit code and messages of Hartree-Fock of one run, a stage of one process."""
    spec = spec_of(folder)
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json())
    words = [*launcher, sys.executable, "-m", "ferminet_core", "reference", str(path)]
    done = subprocess.run(
        [*words, "--out", str(folder / "r.zarr.zip"), "--work", str(folder / "r.work")],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=ROOT,
        env={**os.environ, **AS_ROOT, **environment},
    )
    return done.returncode, done.stderr


def test_a_stage_of_one_process_runs_in_a_step_of_several_tasks(tmp_path: Path) -> None:
    code, messages = run_reference(tmp_path, **STEP)
    assert code == 0, messages
    assert (tmp_path / "r.zarr.zip").exists()


def test_processes_of_one_launch_on_one_stage_compute_it_once(tmp_path: Path) -> None:
    code, messages = run_reference(tmp_path, *LAUNCHER.split(), "-n", "2")
    assert code == 0, messages
    assert messages.count("finished before; its result is in place again") == 1
    events = (tmp_path / "r.work" / "events.jsonl").read_text()
    assert events.count('"event": "done"') == 1


def test_a_process_of_a_task_farm_says_what_is_wrong(tmp_path: Path) -> None:
    done = command(ranks=1, spec=tmp_path / "none.json", **STEP | {"SLURM_PROCID": "3"})
    assert done.returncode == InputError.exit_code
    assert "none.json" in done.stderr


def test_a_terminal_stands_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    outer, inner = os.openpty()
    try:
        with open(inner) as terminal:
            monkeypatch.setattr(sys, "stdin", terminal)
            assert distributed.start().size == 1
    finally:
        os.close(outer)


def test_bad_input_is_told_once(tmp_path: Path) -> None:
    launcher = [*LAUNCHER.split(), "-n", "2"]
    done = command(*launcher, ranks=2, spec=tmp_path / "none.json")
    assert done.returncode == InputError.exit_code
    assert done.stderr.count("error:") == 1, done.stderr
    assert "none.json" in done.stderr


# --- agreement and errors -----------------------------------------------------------------------


def test_what_rank_0_raises_is_raised_everywhere() -> None:
    done = on_ranks(
        """
        def fail(): raise errors.LockedError("held by another")
        try:
            world.on_root(fail)
        except errors.LockedError as error:
            sys.exit(world.settle(f"error: {error}", error.exit_code))
        """
    )
    assert done.returncode == LockedError.exit_code
    assert done.stderr.count("held by another") == 1, done.stderr


def test_a_lack_of_memory_on_rank_0_has_its_code_everywhere() -> None:
    done = on_ranks(
        """
        import numpy as np
        try:
            world.on_root(lambda: np.ones(2**50))
        except MemoryError as error:
            sys.exit(world.settle(f"error: {error}", 74))
        """
    )
    assert done.returncode == 74
    assert done.stderr.count("Unable to allocate") == 1, done.stderr


def test_reasons_and_arrays_of_all_ranks() -> None:
    done = on_ranks(
        """
        import numpy as np
        own = np.full((2, 3), world.rank, np.float32)
        assert world.allgather(own).tolist() == [[0] * 3] * 2 + [[1] * 3] * 2
        assert world.allgather(np.array([world.rank == 0])).tolist() == [True, False]
        assert world.agree("signal" if world.rank else None, world.rank == 1) == ("signal", False)
        assert world.from_root(world.rank) == 0
        assert len(world.members) == 2 and len({m.pid for m in world.members}) == 2
        world.close()
        """
    )
    assert done.returncode == 0, done.stderr


def test_what_is_fetched_lies_in_memory_as_in_one_process() -> None:
    """NumPy's sums over an array, to the last bit, depend on the order of its memory."""
    done = on_ranks(
        """
        world.connect_jax()
        import jax, numpy as np
        from ferminet_core.parallel import collectives, mesh
        over = mesh.walker_mesh(4)
        whole = np.arange(24.0).reshape(2, 3, 4)
        for axis in range(3):
            turned = np.ascontiguousarray(np.moveaxis(whole, 2, axis))
            names = [None] * axis + [collectives.AXIS]
            split = jax.sharding.PartitionSpec(*names)
            found = mesh.fetch(mesh.place(over, turned, split))
            assert found.tolist() == turned.tolist()
            assert found.flags.c_contiguous, axis
        world.close()
        """
    )
    assert done.returncode == 0, done.stderr


def test_a_rank_that_fails_alone_ends_the_others() -> None:
    """The other one waits in an exchange that never comes."""
    began = time.monotonic()
    done = on_ranks(
        """
        if world.rank == 1:
            sys.exit(world.settle("error: this rank's node is broken", 65))
        world.from_root(0)
        """
    )
    assert time.monotonic() - began < 30
    assert done.returncode == BrokenRunError.exit_code
    assert done.stderr.count("node is broken") == 1
    assert "rank 1 of 2" in done.stderr


def _printed(done: subprocess.CompletedProcess[str]) -> Any:
    """The numbers that rank 0 printed. gloo of any rank may print its own lines later."""
    (line,) = re.findall(r"^found (.*)$", done.stdout, re.MULTILINE)
    return json.loads(line)


def test_every_rank_finds_what_was_compiled_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(jax_setup.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "")
    code = """
        world.connect_jax()
        from ferminet_core.parallel import jax_setup
        log = jax_setup.configure_jax("float32")
        import jax, numpy as np
        from ferminet_core.parallel import collectives, mesh
        over = mesh.walker_mesh(4)
        total = mesh.per_device(collectives.total, over, (mesh.SPLIT,), mesh.REPLICATED)
        numbers = mesh.place(over, np.arange(4.0, dtype=np.float32), mesh.SPLIT)
        found = mesh.fetch(mesh.compiled(total, numbers)(numbers))
        idle = [t for t in distributed._threads() if os.sched_getscheduler(t) == os.SCHED_IDLE]
        told = world.allgather(np.array([[*found, log.cache_hits, len(idle)]]))
        if world.is_root: print("found", told.tolist())
        world.close()
        """
    first, again = on_ranks(code), on_ranks(code)
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    # 0 + 2 and 1 + 3 of the ranks' halves; gloo's thread makes way. Of the first start rank 0 alone
    # is sure to find nothing: the other may find what rank 0 has just kept.
    assert _printed(first)[0] == [2, 4, 0, 1]
    assert _printed(again) == [[2, 4, 1, 1]] * 2


@pytest.mark.parametrize("where", ["in MPI", "in JAX"])
def test_a_rank_that_is_killed_ends_the_others(where: str) -> None:
    waiting = {
        "in MPI": "world.from_root(0)",
        "in JAX": """world.connect_jax()
import jax
from jax.experimental import multihost_utils
multihost_utils.sync_global_devices("both")
if world.rank == 0: multihost_utils.sync_global_devices("one")""",
    }[where]
    code = f"{waiting}\nos.kill(os.getpid(), signal.SIGKILL)"
    if where == "in MPI":
        code = "if world.rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n" + waiting
    began = time.monotonic()
    done = on_ranks(code)
    assert time.monotonic() - began < 40
    assert done.returncode != 0


# --- GPUs ---------------------------------------------------------------------------------------


def test_gpus_are_parted_among_the_ranks_of_a_node() -> None:
    alike = [member(r, "g0 g1 g2 g3") for r in range(2)]
    assert [distributed.share_of_gpus(alike, r) for r in range(2)] == [[0, 1], [2, 3]]
    bound = [member(0, "g0"), member(1, "g1")]
    assert [distributed.share_of_gpus(bound, r) for r in range(2)] == [None, None]
    nodes = [member(0, "g0 g1", "a"), member(1, "g0 g1", "a"), member(2, "h0 h1", "b")]
    assert [distributed.share_of_gpus(nodes, r) for r in range(3)] == [[0], [1], None]
    assert distributed.share_of_gpus([member(0), member(1)], 0) is None


def test_gpus_that_cannot_be_told_apart_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = Ranks()
    world.size = 2
    monkeypatch.setattr("jax.local_devices", lambda: [None, None])
    for members, warned in (
        ([member(0), member(1)], True),  # an AMD node without a variable
        ([member(0, "2"), member(1, "3")], False),
        ([member(0), member(1, host="b")], False),  # alone on their hosts
    ):
        world.members = members
        world._check_gpus(None)
        assert ("it was not checked that each rank" in capsys.readouterr().err) is warned
    with pytest.raises(InputError, match="JAX took 2 GPUs for a share of 1"):
        world._check_gpus([0])


@pytest.mark.parametrize("gpus", [("g0", "g0"), ("g0 g1", "g1 g2"), ("g0 g1 g2", "g0 g1 g2")])
def test_two_ranks_on_one_gpu_are_refused(gpus: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=r"2 ranks on a see \d GPUs"):
        distributed.share_of_gpus([member(0, gpus[0]), member(1, gpus[1])], 0)

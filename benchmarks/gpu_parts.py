"""The parts that `benchmarks.gpu_speed` times, and the process that times them.

    .venv/bin/python -m benchmarks.gpu_parts '["LiH:256 local energy", "H2 shared iteration"]'

It prints a line before and a line after each part, as JSON. One process does many parts: a GPU's
start, the programs compiled and the networks serve all of them. It ends with its standard input, so
that it does not outlive the process that asked.
"""

import functools
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import parts, programs
from benchmarks.cases import CASES
from ferminet_core.parallel import jax_setup

ROOT = Path(__file__).parents[1]
# Products whose factors are split into parts for tensor cores, in the words of JAX.
THREE_PASSES = {"TF32 x3": "TF32_TF32_F32_X3", "BF16 x3": "BF16_BF16_F32_X3"}
# Sizes for a test without a GPU: everything runs, and no number means anything.
TINY = {
    "network.layers": 1,
    "network.one_electron_width": 8,
    "network.two_electron_width": 4,
    "network.determinants": 2,
    "runtime.block": 2,
    "mcmc.steps": 2,
}
PRETRAINING, UPDATES = 300, 200
# What a part may raise that leaves the process fit for the next one: a package or a member that is
# not there, sizes that do not fit, and XLA's errors, among them want of memory.
FAILURES = (ImportError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)
# Of the repetitions of a part.
SECONDS, ROUNDS = 2.0, 5


class Task(NamedTuple):
    """A part by name, such as "LiH:256 local energy".

    case: of `CASES`, or the name of a shared scan's system file
    walkers: 0 for those of a shared scan
    part: of `parts.parts`, or of this module
    """

    case: str
    walkers: int
    part: str

    @classmethod
    def named(cls, name: str) -> "Task":
        """The task of this name."""
        where, _, part = name.partition(" ")
        case, _, walkers = where.partition(":")
        return cls(case, int(walkers or 0), part)


def shared_file(case: str) -> Path:
    """The system file of a shared scan."""
    return ROOT / "systems" / f"{case}.yaml"


class Bench:
    """Stages of the case at hand; those of the case before make room in the GPU's memory."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self._case: tuple[str, int] | None = None
        self._stages: dict[str, Any] = {}

    def spec(self, task: Task, optimiser: str = "kfac") -> Any:
        """The run of a case."""
        chosen = {"mcmc.walkers": task.walkers, "optimise.optimiser": optimiser}
        return CASES[task.case].spec(**chosen, **(TINY if self.quick else {}))

    def stage(self, task: Task, optimiser: str = "kfac") -> tuple[Any, Any]:
        """The optimisation of a case, and its first state."""
        if self._case != (task.case, task.walkers):
            self._case, self._stages = (task.case, task.walkers), {}
        if optimiser not in self._stages:
            if task.walkers:
                stage = parts.optimise_stage(self.spec(task, optimiser))
            else:
                stage = parts.shared_stage(shared_file(task.case), self.settings())
            self._stages[optimiser] = (stage, stage.initial())
        found: tuple[Any, Any] = self._stages[optimiser]
        return found

    def settings(self) -> list[str]:
        """Of a shared scan, besides those of its file."""
        tiny = {**TINY, "sharing.walkers": 4} if self.quick else {}
        return [f"{name}={value}" for name, value in tiny.items()]


# --- parts ----------------------------------------------------------------------------------------


def block(stage: Any, state: Any) -> parts.Part:
    """The loop over iterations as a run compiles it; its last argument is their number."""
    import numpy as np

    from ferminet_core.parallel.mesh import REPLICATED, iterate

    def loop(state: Any, inputs: Any, count: Any) -> Any:
        return iterate(lambda s: stage._iteration(s, inputs), state, count, iterations_of(stage))

    layout = (stage.specs, REPLICATED, REPLICATED)
    return parts.Part(loop, (state, stage.inputs, np.int32(1)), layout, (stage.specs, REPLICATED))


def iterations_of(stage: Any) -> int:
    """The most iterations in one compiled call."""
    return int(stage.config.runtime.block)


def spring_update(stage: Any, state: Any) -> parts.Part:
    """SPRING's update, with the gradients of the walkers."""
    import jax.numpy as jnp

    from ferminet_core.parallel.mesh import REPLICATED, SPLIT
    from ferminet_core.vmc.optimisers.protocol import Sample

    def update(params: Any, electrons: Any, optimiser: Any) -> Any:
        deviation = jnp.linspace(-1.0, 1.0, electrons.shape[0], dtype=electrons.dtype)
        sample = Sample(electrons, stage.nuclei, deviation)
        rate = jnp.asarray(stage.config.optimise.learning_rate, electrons.dtype)
        return stage.optimiser.update(optimiser, params, sample, rate)

    arguments = (state.params, state.walkers.electrons, state.optimiser)
    return parts.Part(update, arguments, (REPLICATED, SPLIT, REPLICATED), REPLICATED)


def by_folx(stage: Any, state: Any, sparsity: int) -> parts.Part:
    """The local energy of the same walkers and the same network by folx, in the same passes."""
    from benchmarks import peer_folx
    from ferminet_core.parallel.mesh import REPLICATED, SPLIT

    energies = peer_folx.energies(stage.spins, min(stage.chunk, stage.n_walkers), sparsity)

    def local_energy(params: Any, electrons: Any) -> Any:
        return energies(params, electrons, stage.nuclei)

    at = (state.params, state.walkers.electrons)
    return parts.Part(local_energy, at, (REPLICATED, SPLIT), SPLIT)


OF_KFAC = ("curvature", "update", "iteration by kfac")


def optimiser_of(task: Task) -> str:
    """KFAC where the part is its own: with JAX of another version than its own it cannot be had."""
    return "kfac" if task.part in OF_KFAC else "spring"


def part_of(bench: Bench, task: Task) -> tuple[parts.Part, Any]:
    """What a task compiles, and the stage that it belongs to."""
    stage, state = bench.stage(task, optimiser_of(task))
    if "iteration" in task.part:
        return block(stage, state), stage
    if task.part == "update by spring":
        return spring_update(stage, state), stage
    if "folx" in task.part:
        return by_folx(stage, state, 6 if task.part.endswith("sparse") else 0), stage
    found = parts.parts if task.part in OF_KFAC else parts.common_parts
    return found(stage, state)[task.part.partition(",")[0]], stage


# --- measuring ------------------------------------------------------------------------------------


def timed(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Seconds of a call alone, and of one of many in a row, whose launches overlap.

    Args:
        call: of a compiled function
        seconds: of the rounds together, at most about twice
    """
    import jax

    jax.block_until_ready(call())
    began = time.perf_counter()
    jax.block_until_ready(call())
    once = time.perf_counter() - began
    count = max(1, min(1000, int(seconds / ROUNDS / max(once, 1e-6))))
    single, queued = [], []
    for _ in range(ROUNDS if once < seconds else 1):
        began = time.perf_counter()
        jax.block_until_ready(call())
        single.append(time.perf_counter() - began)
        began = time.perf_counter()
        jax.block_until_ready([call() for _ in range(count)][-1])
        queued.append((time.perf_counter() - began) / count)
    return {
        "seconds": statistics.median(queued),
        "spread": [min(queued), max(queued)],
        "seconds_alone": statistics.median(single),
        "calls": len(queued) * count,
    }


def memory() -> dict[str, Any]:
    """Bytes of the device: in use now, and at most since the start of this process."""
    import jax

    found = jax.local_devices()[0].memory_stats() or {}
    names = {"bytes_in_use": "bytes_in_use", "peak_bytes_in_use": "peak_bytes_of_process"}
    return {ours: found[theirs] for theirs, ours in names.items() if theirs in found}


def predicted(bench: Bench, task: Task) -> float | None:
    """Seconds by `plan` with the H100's data sheet; None where a part is not one of the plan's."""
    from ferminet_core.planning import plan
    from ferminet_core.planning.machines import GPUS

    if task.walkers:
        spec = bench.spec(task, optimiser_of(task))
        found = plan.stage_plan(spec, "optimise", GPUS["h100"], plan.ONE)
    else:
        (group,) = parts.shared_groups(shared_file(task.case), bench.settings())
        found = plan.stage_plan(group, "joint_optimise", GPUS["h100"], plan.ONE)
    if "iteration" in task.part:
        return found.step_seconds
    # KFAC's step solves with the factors where it is made.
    names = {"update": ("inverses", "update"), "local energy by folx": ("local energy",)}
    own = [found.parts.get(name) for name in names.get(task.part, (task.part,))]
    return sum(part.seconds for part in own if part) if all(own) else None


def compiled(part: parts.Part, mesh: Any, log: Any) -> tuple[Any, dict[str, Any]]:
    """A part's executable, the seconds of its compilation, and what it asks of the device."""
    from ferminet_core.parallel.mesh import per_device

    began = time.perf_counter()
    lowered = per_device(part.function, mesh, part.in_specs, part.out_specs).lower(*part.arguments)
    traced, hits = time.perf_counter(), log.cache_hits
    executable = lowered.compile()
    done = time.perf_counter()
    count = programs.count(str(executable.as_text()))
    analysis = executable.memory_analysis()
    return executable, {
        "trace_s": traced - began,
        "compile_s": done - traced,
        "compiled_before": log.cache_hits > hits,
        "kernels": count.kernels.total(),
        "bytes_moved": count.bytes,
        "product_flops": dict(count.products),
        "bytes_temporary": analysis.temp_size_in_bytes if analysis else None,
    }


def measure(bench: Bench, task: Task, log: Any) -> dict[str, Any]:
    """Compile and time a part; rates follow from the counts of its program."""
    import jax
    import numpy as np

    from benchmarks.peer_folx import deviation

    part, stage = part_of(bench, task)
    precision = task.part.partition(", ")[2]
    products = THREE_PASSES.get(precision, jax_setup.PRODUCTS)
    with jax.default_matmul_precision(products):
        executable, found = compiled(part, stage.mesh, log)
    if precision in THREE_PASSES:
        exact, _ = compiled(part, stage.mesh, log)
        found["median_deviation"] = deviation(executable(*part.arguments), exact(*part.arguments))
    arguments, repeats = part.arguments, 1
    if "iteration" in task.part:  # several in one call, as in a run
        repeats = iterations_of(stage)
        *rest, _ = part.arguments
        arguments = (*rest, np.int32(repeats))
    times = timed(lambda: executable(*arguments), 0.01 if bench.quick else SECONDS)
    for name in ("seconds", "seconds_alone"):
        times[name] /= repeats
    times["spread"] = [s / repeats for s in times["spread"]]
    flops = sum(found["product_flops"].values())
    return {
        **found,
        **times,
        "product_flops_per_s": flops / times["seconds"],
        "bytes_per_s": found["bytes_moved"] / times["seconds"],
        "predicted_s": predicted(bench, task),
        "pass": stage.chunk,
    }


def first_updates(bench: Bench, task: Task) -> dict[str, Any]:
    """The first updates of a shared scan, after some pretraining: seconds and energies.

    The seconds of the updates include neither the first block, which compiles, nor its iterations.
    """
    import numpy as np

    from ferminet_core.stages.base import Recorder

    pretraining, updates = (4, 6) if bench.quick else (PRETRAINING, UPDATES)
    chosen = [
        *bench.settings(),
        f"pretrain.min_iterations={pretraining}",
        f"pretrain.max_iterations={pretraining}",
        f"optimise.iterations={updates}",
    ]
    began = time.perf_counter()
    stage = parts.shared_stage(shared_file(task.case), chosen, pretrained=True)
    ready = time.perf_counter()
    recorder, state, blocks = Recorder(), stage.initial(), []
    for step in stage.steps(state):
        recorder.add(step.stats)
        blocks.append((step.step, time.perf_counter()))
    (first, early), (last, late) = blocks[0], blocks[-1]
    energies = np.asarray(recorder.series()["energy_Eh"])
    tenth = max(1, len(energies) // 10)
    return {
        "pretraining_s": ready - began,
        "first_block_s": early - ready,
        "seconds": (late - early) / max(1, last - first),
        "updates": len(energies),
        "energies_first_Eh": np.nanmean(energies[:tenth], axis=0).tolist(),
        "energies_last_Eh": np.nanmean(energies[-tenth:], axis=0).tolist(),
        "predicted_s": predicted(bench, task._replace(part="iteration")),
    }


def by_deepqmc(bench: Bench, task: Task) -> dict[str, Any]:
    """DeepQMC's own measurement, in a process of its own: it configures JAX at its import."""
    from benchmarks.speed import SIZES

    spec = bench.spec(task)
    job = {
        "symbols": list(spec.molecule.symbols),
        "positions": [list(p) for p in spec.molecule.positions],
        "walkers": task.walkers,
        **{size: getattr(spec.config.network, size) for size in SIZES},
        "multiplicity": 1,
        "moves": spec.config.mcmc.steps,
        "iterations": 3 if bench.quick else 20,
        "repeats": 3 if bench.quick else 20,
    }
    importlib.metadata.version("deepqmc")  # or the line that it is not installed
    done = subprocess.run(
        [sys.executable, "benchmarks/peer_deepqmc.py", json.dumps(job)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    medians = {name: statistics.median(found[f"{name}_s"]) for name in ("sampling", "local_energy")}
    return {"seconds": found["median_iteration_s"], **medians, "versions": found["versions"]}


def row(bench: Bench, name: str, log: Any) -> dict[str, Any]:
    """The result of a part, or why there is none."""
    task, began = Task.named(name), time.perf_counter()
    try:
        if "updates" in task.part:
            found = first_updates(bench, task)
        elif "DeepQMC" in task.part:
            found = by_deepqmc(bench, task)
        else:
            found = measure(bench, task, log)
        found["state"] = "measured"
    except FAILURES as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        found = {"state": "failed", "reason": f"{type(error).__name__}: {lines[0][:300]}"}
    return {"part": name, **found, **memory(), "wall_s": time.perf_counter() - began}


# --- the process ----------------------------------------------------------------------------------


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


def results(names: list[str], quick: bool, log: Any) -> Iterator[dict[str, Any]]:
    """A line before and a line after each part."""
    bench = Bench(quick)
    for name in names:
        yield {"begins": name}
        yield row(bench, name, log)


def device(log: Any) -> dict[str, Any]:
    """What the numbers belong to."""
    kept = ("jax", "jaxlib", "kfac-jax", "folx", "deepqmc")
    found = {}
    for name in kept:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    import jax

    where = jax.default_backend()
    return {"platform": where, "device": log.facts["device_kind"], "versions": found}


def main() -> None:
    """Measure the parts of the command line."""
    names, quick = json.loads(sys.argv[1]), "--quick" in sys.argv
    threading.Thread(target=_end_with_input, daemon=True).start()
    # One GPU, where there are several.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[
        0
    ]
    jax_setup.prepare_process(1)
    log = jax_setup.configure_jax("float32")
    say = functools.partial(print, flush=True)
    say(json.dumps(device(log)))
    for line in results(names, quick, log):
        say(json.dumps(line))


if __name__ == "__main__":
    main()

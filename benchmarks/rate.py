"""Times per iteration on one of several ranks, in seconds; the worker of `benchmarks.layouts`.

An MPI launcher starts it.
"""

import json
import sys
from typing import Any

from benchmarks.parts import iteration_seconds, optimise_stage, repeated
from ferminet_core.parallel import distributed, jax_setup

REPEATS = 20  # the same on every rank: each call waits for the others


def measure(job: dict[str, Any], ranks: int) -> dict[str, Any]:
    """Optimise a case with `walkers` on each rank, and time iterations, averages and gathers."""
    import jax
    import numpy as np

    from benchmarks.cases import CASES
    from ferminet_core.parallel import collectives, mesh
    from ferminet_core.stages import datasets

    case = CASES[job["case"]]._replace(walkers=job["walkers"] * ranks)
    # Single iterations, to see how much they vary: in each, ranks wait for the slowest.
    settings = {"optimise.iterations": job["iterations"], "mcmc.burn_in": 0, "runtime.block": 1}
    stage = optimise_stage(case.spec(**settings))
    state = stage.initial()
    iterations = iteration_seconds(stage, state)
    # The averages of one iteration over all devices: gradient, curvature factors, a few numbers.
    averaged = (state.params, state.optimiser)
    floats = [x for x in jax.tree.leaves(averaged) if np.issubdtype(x.dtype, np.floating)]
    mean = mesh.per_device(collectives.mean, stage.mesh, (mesh.REPLICATED,), mesh.REPLICATED)
    mesh.compiled(mean, floats)
    world = distributed.ranks()
    return {
        "iterations_s": iterations,
        "collective_s": min(repeated(lambda: mean(floats), REPEATS)),
        "collective_bytes": sum(x.nbytes for x in floats),
        "gather_s": min(repeated(lambda: datasets.state_leaves(state), REPEATS)),
        "agree_s": min(repeated(lambda: world.agree(None, False), REPEATS)),
    }


def main() -> None:
    """Time the case of the command line on this rank; rank 0 prints JSON."""
    job, expected = json.loads(sys.argv[1]), int(sys.argv[2])
    world = distributed.start(expected)
    jax_setup.prepare_process(1)
    world.connect_jax()
    jax_setup.configure_jax("float32")
    found = measure(job, world.size)
    if world.is_root:
        print(json.dumps(found), flush=True)
    world.close()


if __name__ == "__main__":
    main()

"""Seconds per iteration of the optimisation on one of several ranks; the worker of
`benchmarks.layouts scaling`, started by an MPI launcher."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from ferminet_core import distributed, jax_setup

REPEATS = 20


def seconds(call: Callable[[], Any]) -> float:
    """Of one call, the best of several, after one that compiles."""
    import jax

    jax.block_until_ready(call())
    best = float("inf")
    for _ in range(REPEATS):
        began = time.monotonic()
        jax.block_until_ready(call())
        best = min(best, time.monotonic() - began)
    return best


def measure(case: dict[str, Any], ranks: int) -> dict[str, Any]:
    """Optimise with `walkers` on each rank, and time iterations, averages and gathers."""
    import jax
    import numpy as np

    from ferminet_core import artefacts, hartree_fock, mesh
    from ferminet_core.config import resolve
    from ferminet_core.loss import AXIS
    from ferminet_core.optimise import Optimise
    from ferminet_core.pretrain import Pretrain
    from ferminet_core.scan import RunSpec
    from ferminet_core.system import Molecule

    settings = {"mcmc.walkers": case["walkers"] * ranks, "mcmc.burn_in": 0}
    settings["optimise.iterations"] = case["iterations"]
    config = resolve(case["preset"], settings, str)
    words = [atom.split() for atom in case["atoms"].strip("[]").split(", ")]
    molecule = Molecule(
        symbols=tuple(w[0] for w in words),
        positions=tuple((float(w[1]), float(w[2]), float(w[3])) for w in words),
        charge=0,
        spin=0,
    )
    spec = RunSpec(scan="s", run_id="r", geometry="r", molecule=molecule, config=config)
    pretrain = Pretrain(spec, hartree_fock.solve(molecule, config.reference))
    stage = Optimise(spec, pretrain.result(pretrain.initial(), {}))
    world = distributed.ranks()
    times, before, state = [], 0, None
    began = time.monotonic()
    for step in stage.steps(stage.initial()):
        world.agree(None, False)
        now = time.monotonic()
        if before:  # the first block holds the compilation
            times.append((now - began, step.step - before))
        began, before, state = now, step.step, step.state
    # What one iteration averages over all devices: gradient, curvature factors, a few numbers.
    assert state is not None
    averaged = (state.params, state.optimiser)
    floats = [x for x in jax.tree.leaves(averaged) if np.issubdtype(x.dtype, np.floating)]
    mean = mesh.per_device(
        lambda tree: jax.lax.pmean(tree, AXIS), stage.mesh, (mesh.REPLICATED,), mesh.REPLICATED
    )
    return {
        "iteration_s": sum(t for t, _ in times) / sum(n for _, n in times),
        "block": max(n for _, n in times),
        "collective_s": seconds(lambda: mean(floats)),
        "collective_bytes": sum(x.nbytes for x in floats),
        "gather_s": seconds(lambda: artefacts.state_leaves(state)),
        "agree_s": seconds(lambda: world.agree(None, False)),
    }


def main() -> None:
    case, expected = json.loads(sys.argv[1]), int(sys.argv[2])
    world = distributed.start(expected)
    jax_setup.prepare_process(1)
    world.connect_jax()
    jax_setup.configure_jax("float32")
    found = measure(case, world.size)
    if world.is_root:
        print(json.dumps(found), flush=True)
    world.close()


if __name__ == "__main__":
    main()

"""What the geometries of a scan's groups cost in other ways than with a shared wavefunction."""

from collections.abc import Sequence
from typing import NamedTuple

from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.system_keys import WarmStart
from ferminet_core.planning.machines import Layout, Machine
from ferminet_core.planning.plan import RunPlan, ScanPlan, run_plan

SHARED, INDEPENDENT, WARM = "shared", "independent", "with warm starts"


class Way(NamedTuple):
    """One way to pretrain and optimise all geometries of the groups.

    updates: walkers times iterations of the optimisations, over all geometries
    seconds: of the devices together
    """

    name: str
    updates: int
    seconds: float


def ways(plan: ScanPlan) -> list[Way]:
    """The cost of the groups and of the same geometries without sharing; empty without groups.

    Independent runs take the iterations of the group. With warm starts the first run takes as many,
    and each other one the usual share of them without pretraining. The inference is the same in
    all ways, and left out.
    """
    if not plan.groups:
        return []
    shared, independent, warm = [*plan.groups], [], []
    for group in plan.groups:
        runs = [run for run in plan.runs if run.spec.group == group.spec.run_id]
        iterations = group.spec.config.optimise.iterations
        alone = [_alone(run.spec, iterations) for run in runs]
        shared += runs
        independent += _plans(alone, plan.machine, plan.layout)
        started = [alone[0], *(_warm(run, alone[0].run_id) for run in alone[1:])]
        warm += _plans(started, plan.machine, plan.layout)
    return [_way(SHARED, shared), _way(INDEPENDENT, independent), _way(WARM, warm)]


def cheapest(found: Sequence[Way]) -> Way:
    """The way that takes the fewest seconds; the first of several."""
    return min(found, key=lambda way: way.seconds)


def _alone(run: RunSpec, iterations: int) -> RunSpec:
    """A run of a group as an independent one."""
    optimise = run.config.optimise.model_copy(update={"iterations": iterations})
    config = run.config.model_copy(update={"optimise": optimise})
    return run.model_copy(update={"config": config, "group": ""})


def _warm(run: RunSpec, neighbour: str) -> RunSpec:
    """An independent run as one that starts from its neighbour."""
    iterations = max(1, round(WarmStart().share * run.config.optimise.iterations))
    return _alone(run, iterations).model_copy(update={"neighbour": neighbour})


def _plans(runs: Sequence[RunSpec], machine: Machine, layout: Layout) -> list[RunPlan]:
    return [run_plan(run, machine, layout) for run in runs]


def _way(name: str, plans: Sequence[RunPlan]) -> Way:
    stages = [stage for p in plans for key, stage in p.stages.items() if key != "inference"]
    return Way(
        name=name,
        updates=sum(p.moved * p.optimisation.iterations for p in plans),
        seconds=3600 * sum(stage.device_hours for stage in stages),
    )

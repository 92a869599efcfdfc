"""The predicted cost of a scan: time, node-hours, memory and volumes of every stage.

Where a criterion ends a loop, the prediction is an upper bound: it counts all of
`pretrain.max_iterations` and of `inference.max_equilibration`. It leaves out Hartree-Fock and
compilation, which take minutes at most.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ferminet_core.errors import InputError
from ferminet_core.inputs.run_spec import GroupSpec, RunSpec
from ferminet_core.planning import cost, network_sizes
from ferminet_core.planning.kernels import Load, Work, flops, moved_numbers
from ferminet_core.planning.machines import Layout, Machine, Rates, collective_seconds, seconds
from ferminet_core.planning.network_sizes import Network
from ferminet_core.planning.optimiser_costs import COSTS
from ferminet_core.vmc.passes import ITEMSIZE, chunk_size

PARTS = {
    "pretrain": cost.pretrain_parts,
    "optimise": cost.optimise_parts,
    "inference": cost.inference_parts,
}
# The stages of a group, each with the stage of a run that it costs as much as.
JOINT = {"joint_pretrain": "pretrain", "joint_optimise": "optimise"}
ONE = Layout(1, 1)
# Factor of the wall time asked for: room for slower nodes, compilation and Hartree-Fock.
MARGIN = 1.5
# Minutes: a day, which most partitions allow. A longer stage continues in its next job.
LONGEST = 24 * 60
# Shares of the ideal speed on several nodes. Nodes are added while the first is reached, and shown
# while the second is.
EFFICIENT = 0.7
WORTH_SHOWING = 0.25
# Bytes of a rank's libraries and compiled code (670 MB were measured), in addition to its arrays.
BASE_MEMORY = 1e9
# A rank of a GPU also holds on the host the arrays that pass to and from the GPU.
GPU_HOST_MEMORY = 8e9


class Part(NamedTuple):
    """A part of an iteration on one device: operations, bytes moved, seconds."""

    flops: float
    bytes: float
    seconds: float


class StagePlan(NamedTuple):
    """A stage of one run.

    iterations: or records; parts: of one of them
    step_seconds: of one of them with the messages between devices
    seconds: of all of them and of the burn-in; memory: bytes of a device, at most
    """

    iterations: int
    layout: Layout
    parts: dict[str, Part]
    messages_seconds: float
    step_seconds: float
    seconds: float
    memory: float

    @property
    def device_hours(self) -> float:
        """Hours of all its devices together."""
        return self.seconds * self.layout.devices / 3600


class RunPlan(NamedTuple):
    """One run: sizes, stages by name, bytes.

    checkpoint: of the optimisation at its beginning, and at its end with the series of all
    iterations; samples: `inference.zarr.zip`; all before compression
    """

    spec: RunSpec
    network: Network
    stages: dict[str, StagePlan]
    checkpoint: tuple[int, int]
    samples: int

    @property
    def seconds(self) -> float:
        """Seconds of its stages, one after the other."""
        return sum(stage.seconds for stage in self.stages.values())


def check_layout(runs: Sequence[RunSpec], layout: Layout) -> None:
    """Check that the devices can share the walkers evenly.

    Raises:
        InputError: they cannot; `mesh.walker_mesh` would refuse them in the job.
    """
    n = layout.devices
    for run in runs:
        walkers = run.config.mcmc.walkers
        if walkers % n:
            raise InputError(
                f"--nodes, --devices-per-node: found {layout.nodes} and {layout.per_node}, but "
                f"{run.run_id} has mcmc.walkers {walkers}; allowed: multiples of {n} on {n} "
                f"devices (try {walkers + -walkers % n})"
            )


def _load(run: RunSpec, machine: Machine, layout: Layout) -> Load:
    walkers = run.config.mcmc.walkers // layout.devices
    electrons = run.molecule.n_electrons
    return Load(walkers, chunk_size(run.config, electrons, machine.platform), layout.devices)


def _messages(run: RunSpec, net: Network, load: Load) -> list[float]:
    """Bytes of each message between devices in an iteration of the optimisation."""
    itemsize = ITEMSIZE[run.config.runtime.precision]
    common = [net.parameters, load.total, 2]  # gradient, local energies, acceptance
    own = COSTS[run.config.optimise.optimiser].messages(net, load)
    return [itemsize * n for n in (*common, *own)]


def _iterations(run: RunSpec, stage: str) -> int:
    config = run.config
    return {
        "pretrain": 0 if run.neighbour or run.group else config.pretrain.max_iterations,
        "optimise": config.optimise.iterations,
        "inference": config.inference.samples + config.inference.max_equilibration,
    }[stage]


def _part_seconds(
    machine: Machine, stage: str, name: str, work: Work, itemsize: int, devices: int
) -> float:
    """Seconds that a device takes for a part of an iteration."""
    rates = machine.rates
    if not isinstance(rates, Rates):
        return flops(work) / rates[stage]
    alone = seconds(rates, work, itemsize)
    if name != "inverses":
        return alone
    # The devices share the factors (`kfac.preconditioner`).
    largest = max(seconds(rates, [kernel], itemsize) for kernel in work)
    return max(alone / devices, largest)


def stage_plan(run: RunSpec, stage: str, machine: Machine, layout: Layout) -> StagePlan:
    """The plan of a stage of a run on some devices."""
    net = network_sizes.network(run.config.network, run.molecule)
    load = _load(run, machine, layout)
    itemsize = ITEMSIZE[run.config.runtime.precision]

    def part(name: str, work: Work) -> Part:
        took = _part_seconds(machine, stage, name, work, itemsize, layout.devices)
        return Part(flops(work), itemsize * moved_numbers(work), took)

    parts = {name: part(name, w) for name, w in PARTS[stage](net, run.config, load).items()}
    optimises = stage == "optimise"
    messages = _messages(run, net, load) if optimises else []
    messages_s = collective_seconds(machine, layout, messages)
    step = sum(p.seconds for p in parts.values()) + messages_s
    before = part("burn-in", cost.burn_in(net, run.config, load)).seconds if optimises else 0.0
    iterations = _iterations(run, stage)
    return StagePlan(
        iterations=iterations,
        layout=layout,
        parts=parts,
        messages_seconds=messages_s,
        step_seconds=step,
        seconds=iterations * step + before,
        memory=cost.peak_memory(net, run.config, load),
    )


def run_plan(run: RunSpec, machine: Machine, layout: Layout) -> RunPlan:
    """The plan of a run: the optimisation on all devices, the other stages on one each."""
    net = network_sizes.network(run.config.network, run.molecule)
    return RunPlan(
        spec=run,
        network=net,
        stages={
            name: stage_plan(run, name, machine, layout if name == "optimise" else ONE)
            for name in PARTS
        },
        checkpoint=(
            cost.checkpoint_bytes(net, run.config, 0),
            cost.checkpoint_bytes(net, run.config, run.config.optimise.iterations),
        ),
        samples=cost.sample_bytes(net, run.config),
    )


def group_plan(group: GroupSpec, machine: Machine) -> dict[str, StagePlan]:
    """The plan of the stages of a group, by name, on one device.

    An iteration costs as much as one of a run with the walkers of all members.
    """
    walkers = group.config.sharing.walkers * len(group.members)
    mcmc = group.config.mcmc.model_copy(update={"walkers": walkers})
    whole = group.model_copy(update={"config": group.config.model_copy(update={"mcmc": mcmc})})
    return {name: stage_plan(whole, stage, machine, ONE) for name, stage in JOINT.items()}


class ScanPlan(NamedTuple):
    """All runs of a scan on one kind of device.

    scaling: seconds of an iteration of the costliest optimisation, by number of nodes
    groups: stages of the groups, by name, each on one device
    """

    machine: Machine
    layout: Layout
    runs: list[RunPlan]
    scaling: dict[int, float]
    groups: dict[str, dict[str, StagePlan]]

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of all stages that are planned."""
        return (*(JOINT if self.groups else ()), *PARTS)

    def of(self, stage: str) -> list[StagePlan]:
        """The plans of a stage, of all groups or of all runs."""
        if stage in JOINT:
            return [group[stage] for group in self.groups.values()]
        return [run.stages[stage] for run in self.runs]

    @property
    def costliest(self) -> RunPlan:
        """The run that takes the most time; the first of several."""
        return max(self.runs, key=lambda run: run.seconds)

    def node_hours(self, stage: str) -> float:
        """Node-hours of a stage of all runs; a stage on one device counts its share of a node."""
        hours = sum(plan.device_hours for plan in self.of(stage))
        return hours / self.layout.per_node

    @property
    def volume(self) -> int:
        """Bytes of all runs' files.

        Samples are stored once. Where the last checkpoints are kept, the one of the inference holds
        the samples a second time, and the one of the optimisation is added.
        """
        return sum(
            run.samples
            + run.spec.config.checkpoint.keep_finished * (run.samples + run.checkpoint[1])
            for run in self.runs
        )


def _scaling(
    runs: Sequence[RunSpec], machine: Machine, run: RunSpec, per_node: int
) -> dict[int, float]:
    """Seconds of an iteration of a run's optimisation on 1, 2, 4, ... nodes.

    The series ends where the walkers of a run cannot be shared evenly, or where the devices wait
    most of the time.
    """
    found: dict[int, float] = {}
    nodes = 1
    while all(one.config.mcmc.walkers % (nodes * per_node) == 0 for one in runs):
        found[nodes] = stage_plan(run, "optimise", machine, Layout(nodes, per_node)).step_seconds
        if found[1] < WORTH_SHOWING * nodes * found[nodes]:
            break
        nodes *= 2
    return found


def suggested_nodes(scaling: Mapping[int, float], iterations: int) -> int:
    """The fewest nodes that finish the iterations within a day, or as many as are efficient.

    Args:
        scaling: seconds of an iteration by number of nodes, in ascending order from one
        iterations: of the optimisation
    """
    best = 1
    for nodes, step in scaling.items():
        if scaling[1] < EFFICIENT * nodes * step:
            break
        best = nodes
        if step * iterations <= 60 * LONGEST:
            break
    return best


def scan_plan(
    runs: Sequence[RunSpec],
    machine: Machine,
    per_node: int,
    nodes: int | None = None,
    groups: Sequence[GroupSpec] = (),
) -> ScanPlan:
    """The plan of a scan.

    Args:
        runs: all of its runs
        machine: on whose devices they run
        per_node: devices of a node
        nodes: of each optimisation; those of `suggested_nodes` if None
        groups: all of its groups

    Raises:
        InputError: the walkers cannot be shared by so many devices.
    """
    check_layout(runs, Layout(nodes or 1, per_node))
    first = Layout(1, per_node)
    costliest = max(runs, key=lambda run: run_plan(run, machine, first).seconds)
    scaling = _scaling(runs, machine, costliest, per_node)
    chosen = nodes or suggested_nodes(scaling, costliest.config.optimise.iterations)
    layout = Layout(chosen, per_node)
    return ScanPlan(
        machine,
        layout,
        [run_plan(run, machine, layout) for run in runs],
        scaling,
        {group.run_id: group_plan(group, machine) for group in groups},
    )


# --- resources of a batch system ------------------------------------------------------------------


def _megabytes(size: float) -> int:
    """Rounded up to half a gigabyte."""
    return 500 * math.ceil(size / 500e6)


def resources(plan: ScanPlan) -> dict[str, dict[str, int | str]]:
    """Resources of each stage, by the names of the profiles in `cluster_profiles/`."""
    found: dict[str, dict[str, int | str]] = {}
    for name in plan.stages:
        stages = plan.of(name)
        ranks = plan.layout.per_node if name == "optimise" else 1
        minutes = MARGIN * max(stage.seconds for stage in stages) / 60
        arrays = max(stage.memory for stage in stages)
        if plan.machine.platform == "gpu":
            memory, wanted = GPU_HOST_MEMORY, {"gres": f"'gpu:{ranks}'"}
        else:
            memory, wanted = BASE_MEMORY + arrays, {}
        if name == "inference":
            # The series, its parts before they are joined, and the copy being written.
            memory += 3 * max(run.samples for run in plan.runs)
        nodes: dict[str, int | str] = {}
        if name == "optimise":
            nodes = {"nodes": plan.layout.nodes, "tasks": plan.layout.devices}
        found[name] = {
            **nodes,
            **wanted,
            "mem_mb": _megabytes(ranks * memory),
            "runtime": min(LONGEST, 10 * math.ceil((minutes + 5) / 10)),
        }
    return found


def tries(plan: ScanPlan, stage: str) -> int:
    """Number of jobs of the wall time in `resources` that the longest run of a stage takes."""
    longest = max(found.seconds for found in plan.of(stage))
    return math.ceil(longest / (60 * float(resources(plan)[stage]["runtime"])))

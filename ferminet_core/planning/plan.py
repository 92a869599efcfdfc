"""The predicted cost of a scan: time, node-hours, memory and volumes of every stage.

Where a criterion ends a loop, the prediction is an upper bound: it counts all of
`pretrain.max_iterations` and of `inference.max_equilibration`. It leaves out Hartree-Fock and
compilation, which take minutes at most.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ferminet_core.errors import InputError
from ferminet_core.inputs.config import POINTS
from ferminet_core.inputs.run_spec import GroupSpec, RunSpec
from ferminet_core.inputs.stage_table import of_groups, walkers_key
from ferminet_core.planning import cost, network_sizes
from ferminet_core.planning.kernels import Load, Work, flops, moved_numbers
from ferminet_core.planning.machines import Layout, Machine, Rates, collective_seconds, seconds
from ferminet_core.planning.network_sizes import Network
from ferminet_core.planning.optimiser_costs import COSTS
from ferminet_core.vmc.passes import ITEMSIZE, chunk_size

PARTS = {
    "joint_pretrain": cost.pretrain_parts,
    "joint_optimise": cost.optimise_parts,
    "pretrain": cost.pretrain_parts,
    "optimise": cost.optimise_parts,
    "inference": cost.inference_parts,
}
OF_GROUPS = tuple(entry.name for entry in of_groups())
OF_RUNS = tuple(name for name in PARTS if name not in OF_GROUPS)
OPTIMISATIONS = ("joint_optimise", "optimise")
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
    """A stage of one run or group.

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
    """One run or group: sizes, stages by name, bytes.

    checkpoint: of the optimisation at its beginning, and at its end with the series of all
    iterations; samples: `inference.zarr.zip`, 0 of a group; all before compression
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

    @property
    def walkers(self) -> int:
        """Its walkers; of a group those of all geometries."""
        geometries = len(self.spec.members) if isinstance(self.spec, GroupSpec) else 1
        return geometries * _walkers(self.spec)

    @property
    def moved(self) -> int:
        """Its walkers in an update."""
        return _together(self.spec) * _walkers(self.spec)

    @property
    def optimisation(self) -> StagePlan:
        """Its optimisation, which a run of a group may leave to the group."""
        return self.stages[_optimisation(self.spec)]


def _optimisation(spec: RunSpec) -> str:
    """The stage of a run or a group that optimises the energy."""
    return "joint_optimise" if isinstance(spec, GroupSpec) else "optimise"


def _walkers(spec: RunSpec) -> int:
    """The walkers of a run, or of each geometry of a group."""
    of_group = isinstance(spec, GroupSpec)
    return spec.config.sharing.walkers if of_group else spec.config.mcmc.walkers


def _optimised(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """The runs and groups whose optimisation has iterations."""
    return [spec for spec in specs if spec.config.optimise.iterations > 0]


def check_layout(specs: Iterable[RunSpec], layout: Layout, given: str = "") -> None:
    """Check that the devices can share the walkers of all optimisations evenly.

    Args:
        specs: runs and groups
        layout: nodes, and devices on each
        given: the option and its value for the error line, if not those of `plan`

    Raises:
        InputError: they cannot; `mesh.walker_mesh` would refuse them in the job.
    """
    n = layout.devices
    of_plan = f"--nodes, --devices-per-node: found {layout.nodes} and {layout.per_node}"
    for spec in _optimised(specs):
        walkers = _walkers(spec)
        if walkers % n:
            raise InputError(
                f"{given or of_plan}, but {spec.run_id} has "
                f"{walkers_key(_optimisation(spec))} {walkers}; allowed: "
                f"multiples of {n} on {n} devices (try {walkers + -walkers % n})"
            )


def network_of(spec: RunSpec) -> Network:
    """The wavefunction of a run or a group; that of a group with as many heads as it can have."""
    components = 0
    if isinstance(spec, GroupSpec) and spec.config.sharing.heads:
        nuclei = len(spec.molecule.symbols)
        components = network_sizes.most_components(len(spec.members), nuclei)
    points = POINTS[spec.config.pseudopotential.quadrature]
    return network_sizes.network(spec.config.network, spec.molecule, components, points)


def load_of(spec: RunSpec, stage: str, platform: str, devices: int) -> Load:
    """The load of each of the devices that a stage of a run or a group is on."""
    members = len(spec.members) if isinstance(spec, GroupSpec) else 1
    together = _together(spec) if stage == "joint_optimise" else members
    return Load(
        walkers=_walkers(spec) // devices,
        chunk=chunk_size(spec.config, spec.molecule.n_electrons, platform),
        devices=devices,
        geometries=together,
        resting=members - together,
        at_once=platform != "cpu",
    )


def _together(spec: RunSpec) -> int:
    """The geometries of a group in an update (`JointOptimise`); 1 for a run."""
    if not isinstance(spec, GroupSpec):
        return 1
    sharing = spec.config.sharing
    return min(max(1, sharing.rows // sharing.walkers), len(spec.members))


def messages(run: RunSpec, stage: str, machine: Machine, layout: Layout) -> list[float]:
    """Bytes of each message between devices in an iteration, as averages over devices."""
    if stage not in OPTIMISATIONS:
        return []
    net, load = network_of(run), load_of(run, stage, machine.platform, layout.devices)
    itemsize = ITEMSIZE[run.config.runtime.precision]
    # Local energies, which are gathered, and acceptance.
    common = [load.total / 2, 2 * load.geometries]
    own = COSTS[run.config.optimise.optimiser].messages(net, load)
    return [itemsize * n for n in (*common, *own)]


def _iterations(run: RunSpec, stage: str) -> int:
    config = run.config
    started = run.neighbour or run.group
    return {
        "joint_pretrain": config.pretrain.max_iterations,
        "joint_optimise": config.optimise.iterations,
        "pretrain": 0 if started else config.pretrain.max_iterations,
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
    """The plan of a stage of a run or a group on some devices."""
    net = network_of(run)
    load = load_of(run, stage, machine.platform, layout.devices)
    itemsize = ITEMSIZE[run.config.runtime.precision]

    def part(name: str, work: Work) -> Part:
        took = _part_seconds(machine, stage, name, work, itemsize, layout.devices)
        return Part(flops(work), itemsize * moved_numbers(work), took)

    parts = {name: part(name, w) for name, w in PARTS[stage](net, run.config, load).items()}
    optimises = stage in OPTIMISATIONS
    iterations = _iterations(run, stage)
    messages_s = collective_seconds(machine, layout, messages(run, stage, machine, layout))
    step = sum(p.seconds for p in parts.values()) + messages_s
    before = 0.0
    if optimises and iterations:
        before = part("burn-in", cost.burn_in(net, run.config, load)).seconds
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
    """The plan of a run or a group.

    The optimisation is on all devices if it has iterations, and the other stages are on one each.
    """
    net = network_of(run)
    members = len(run.members) if isinstance(run, GroupSpec) else 0
    optimisation = layout if run.config.optimise.iterations else ONE
    return RunPlan(
        spec=run,
        network=net,
        stages={
            name: stage_plan(run, name, machine, optimisation if name in OPTIMISATIONS else ONE)
            for name in (OF_GROUPS if members else OF_RUNS)
        },
        checkpoint=(
            cost.checkpoint_bytes(net, run.config, 0, members),
            cost.checkpoint_bytes(net, run.config, run.config.optimise.iterations, members),
        ),
        samples=0 if members else cost.sample_bytes(net, run.config),
    )


class ScanPlan(NamedTuple):
    """All runs and groups of a scan on one kind of device.

    scaling: seconds of an iteration of the costliest optimisation, by number of nodes
    """

    machine: Machine
    layout: Layout
    runs: list[RunPlan]
    groups: list[RunPlan]
    scaling: dict[int, float]

    @property
    def costliest(self) -> RunPlan:
        """The run or group with an optimisation that takes the most time; the first of several."""
        return _costliest([*self.groups, *self.runs])

    @property
    def by_stage(self) -> dict[str, list[StagePlan]]:
        """The plans of each stage, in the order of the stages."""
        every = [*self.groups, *self.runs]
        found = {name: [p.stages[name] for p in every if name in p.stages] for name in PARTS}
        return {name: stages for name, stages in found.items() if stages}

    def node_hours(self, stage: str) -> float:
        """Node-hours of a stage of all runs; a stage on one device counts its share of a node."""
        hours = sum(found.device_hours for found in self.by_stage[stage])
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
            for run in (*self.groups, *self.runs)
        )


def _costliest(plans: Sequence[RunPlan]) -> RunPlan:
    """The plan of the most seconds, of those that optimise if there are any."""
    optimised = [plan for plan in plans if plan.optimisation.iterations] or plans
    return max(optimised, key=lambda plan: plan.seconds)


def _scaling(
    specs: Sequence[RunSpec], machine: Machine, spec: RunSpec, per_node: int
) -> dict[int, float]:
    """Seconds of an iteration of an optimisation on 1, 2, 4, ... nodes.

    The series ends where the walkers of an optimisation cannot be shared evenly, or where the
    devices wait most of the time.
    """
    found: dict[int, float] = {}
    nodes, stage = 1, _optimisation(spec)
    while all(_walkers(one) % (nodes * per_node) == 0 for one in _optimised(specs) or specs):
        found[nodes] = stage_plan(spec, stage, machine, Layout(nodes, per_node)).step_seconds
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
    specs = [*groups, *runs]
    check_layout(specs, Layout(nodes or 1, per_node))
    first = Layout(1, per_node)
    costliest = _costliest([run_plan(spec, machine, first) for spec in specs]).spec
    scaling = _scaling(specs, machine, costliest, per_node)
    chosen = nodes or suggested_nodes(scaling, costliest.config.optimise.iterations)
    layout = Layout(chosen, per_node)
    of_runs, of_groups = (
        [run_plan(spec, machine, layout) for spec in some] for some in (runs, groups)
    )
    return ScanPlan(machine, layout, of_runs, of_groups, scaling)


# --- resources of a batch system ------------------------------------------------------------------


def _megabytes(size: float) -> int:
    """Rounded up to half a gigabyte."""
    return 500 * math.ceil(size / 500e6)


def resources(plan: ScanPlan) -> dict[str, dict[str, int | str]]:
    """Resources of each stage, by the names of the profiles in `cluster_profiles/`."""
    found: dict[str, dict[str, int | str]] = {}
    for name, stages in plan.by_stage.items():
        layout = max((stage.layout for stage in stages), key=lambda layout: layout.devices)
        ranks = layout.per_node
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
        if name in OPTIMISATIONS:
            nodes = {"nodes": layout.nodes, "tasks": layout.devices}
        found[name] = {
            **nodes,
            **wanted,
            "mem_mb": _megabytes(ranks * memory),
            "runtime": min(LONGEST, 10 * math.ceil((minutes + 5) / 10)),
        }
    return found


def tries(plan: ScanPlan, stage: str) -> int:
    """Number of jobs of the wall time in `resources` that the longest run of a stage takes."""
    longest = max(found.seconds for found in plan.by_stage[stage])
    return math.ceil(longest / (60 * float(resources(plan)[stage]["runtime"])))

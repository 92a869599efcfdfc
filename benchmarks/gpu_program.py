"""Count the kernels of the program that a GPU would run, without a GPU. This measures no time.

    make gpu-program ARGS="LiH:256 N2:64 --part 'local energy' --part 'log psi'"

XLA compiles for a GPU that is described to it, here an H100 with 80 GB. It needs neither the GPU
nor its driver. The final program tells how many kernels it launches, the bytes that they read and
write, the temporary memory, the loops whose length the compiler does not know, and the transfers to
the host. A launch costs some microseconds, which is what small systems wait for. Two forms of one
function can be compared here; only a GPU can say which is faster.

Counting rules: the body of a loop counts as often as it runs, or once if its length is unknown. Of
a branch the longer side counts. What a kernel reads and writes counts in full, as if no cache held
it, but of an operand of which it takes slices, these.
"""

import functools
import os
import re
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # the compiler alone is installed

import typer

from benchmarks import parts
from benchmarks.cases import CASES
from ferminet_core.parallel import jax_setup, platform

app = typer.Typer(add_completion=False, help=__doc__)

# Data sheet of the H100 SXM, in the words of XLA's `GpuTargetConfigProto`.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  l2_cache_size: 52428800  memory_bandwidth: 3352320000000  device_memory_size: 84978434048
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 3 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

# --- counting -------------------------------------------------------------------------------------

# Instructions without a kernel: names of data, and views of it.
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
    "add-dependency",
}
BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}


@dataclass(frozen=True)
class Instruction:
    """One line of a program: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    number: int  # of a parameter

    def called(self, *attributes: str) -> list[str]:
        """Computations that these attributes name."""
        found = []
        for attribute in attributes:
            for text in re.findall(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes):
                found += re.findall(r"[\w.\-]+", text)
        return found


@dataclass
class Count:
    """What a program or a part of it asks for.

    Attributes:
        kernels: Launches by kind.
        bytes: Read and written by the kernels.
        unknown_loops: Loops whose number of passes the compiler does not know.
        transfers: Between host and device.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    bytes: float = 0.0
    unknown_loops: int = 0
    transfers: int = 0

    def add(self, other: "Count", times: int = 1) -> None:
        """Add a part that runs so many times."""
        for kind, count in other.kernels.items():
            self.kernels[kind] += times * count
        self.bytes += times * other.bytes
        self.unknown_loops += other.unknown_loops
        self.transfers += times * other.transfers


def size(shape: str) -> int:
    """Bytes of an array or of a tuple of arrays, such as `(f32[4,3]{1,0}, s32[])`."""
    total = 0
    for kind, dimensions in re.findall(r"\b(pred|bf16|c64|c128|[suf]\d+)\[([\d,]*)\]", shape):
        elements = 1
        for length in filter(None, dimensions.split(",")):
            elements *= int(length)
        total += elements * BITS.get(kind, 0 if kind in BITS else int(kind[1:] or 0)) // 8
    return total


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations of a program by name, and the name of the one that it starts with."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$", line):
            operands, _, attributes = found[4].partition(")")
            names = tuple(re.findall(r"%([\w.\-]+)", operands))
            number = int(operands) if found[3] == "parameter" else -1
            instruction = Instruction(found[1], found[2], found[3], names, attributes, number)
            computations[current].append(instruction)
    return computations, entry


def count(text: str) -> Count:
    """What the program asks for that XLA prints like this."""
    computations, entry = parse(text)

    @functools.cache
    def of(name: str) -> Count:
        found, shapes = Count(), {i.name: i.shape for i in computations[name]}
        for i in computations[name]:
            if i.opcode in FREE or i.opcode.endswith("-done"):
                continue
            if i.opcode == "while":
                length = re.search(r'"known_trip_count":\{"n":"(\d+)"', i.attributes)
                # A loop of known length runs without asking its condition.
                for part in i.called("body", *([] if length else ["condition"])):
                    found.add(of(part), int(length[1]) if length else 1)
                found.unknown_loops += int(length is None)
            elif i.opcode == "conditional":
                names = i.called("branch_computations", "true_computation", "false_computation")
                found.add(max(map(of, names), key=lambda c: c.kernels.total()))
            elif i.opcode in ("call", "async-start") and i.called("to_apply", "calls"):
                found.add(of(*i.called("to_apply", "calls")))
            else:
                found.kernels[_kind(i)] += 1
                found.bytes += size(i.shape) + sum(
                    min(size(shapes[x]), read)
                    for x, read in zip(i.operands, _reads(i, computations), strict=True)
                )
                # S(5) marks memory of the host.
                found.transfers += int("S(5)" in i.shape or i.opcode in ("infeed", "outfeed"))
        return found

    return of(entry)


def _reads(i: Instruction, computations: dict[str, list[Instruction]]) -> list[float]:
    """Bytes that a kernel reads of each operand at most: a fusion may take slices only."""
    body = [x for name in i.called("calls") for x in computations.get(name, ())]
    read = [float("inf")] * len(i.operands)
    if i.opcode == "fusion":
        for parameter in (x for x in body if x.opcode == "parameter"):
            names: list[str] = [parameter.name]
            users: list[Instruction] = []
            for name in names:  # which grows by the views of the parameter
                users += (x for x in body if name in x.operands and x.opcode != "bitcast")
                names += (x.name for x in body if name in x.operands and x.opcode == "bitcast")
            if all(x.opcode == "slice" for x in users):
                read[parameter.number] = sum(size(x.shape) for x in users)
    return read


def _kind(i: Instruction) -> str:
    """The kernel's kind: a library's name, a fusion's kind, or the operation."""
    if i.opcode == "custom-call" and (
        target := re.search(r'custom_call_target="([^"]+)"', i.attributes)
    ):
        return target[1].removeprefix("__")
    if i.opcode == "fusion" and (kind := re.search(r"\bkind=k(\w+)", i.attributes)):
        return f"{kind[1].lower()} fusion"
    return i.opcode


# --- compiling ------------------------------------------------------------------------------------


def compile_for(target: str, part: parts.Part) -> Any:
    """A part of an iteration, compiled for one GPU that is described in XLA's words."""
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from ferminet_core.parallel.collectives import AXIS
    from ferminet_core.parallel.mesh import per_device

    described = topologies.get_topology_desc(
        platform="cuda", topology_name="", target_config=target, topology="1x1x1"
    )
    mesh = Mesh(np.array(described.devices).reshape(1), (AXIS,))

    def shaped(spec: PartitionSpec, tree: Any) -> Any:
        place = NamedSharding(mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    arguments = jax.tree.map(
        shaped, part.in_specs, part.arguments, is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    call = per_device(part.function, mesh, part.in_specs, part.out_specs)
    return call.trace(*arguments).lower(lowering_platforms=("cuda",)).compile()


def iteration(stage: Any) -> parts.Part:
    """A whole iteration of an optimisation, of a run or of a group."""
    from ferminet_core.parallel.mesh import REPLICATED

    layout = (stage.specs, REPLICATED)
    return parts.Part(stage._iteration, (stage.initial(), stage.inputs), layout, layout)


def shared_stage(system: Path) -> Any:
    """The joint optimisation of a scan's group, started from a network that was not pretrained."""
    from ferminet_core.chemistry import hartree_fock
    from ferminet_core.inputs.scan import load_scan
    from ferminet_core.stages.joint_optimise import JointOptimise
    from ferminet_core.stages.joint_pretrain import JointPretrain

    (group,) = load_scan(system).groups
    references = [hartree_fock.solve(run.molecule, run.config.reference) for run in group.runs()]
    pretrain = JointPretrain(group, *references)
    return JointOptimise(group, pretrain.result(pretrain.initial(), {}))


def programs(case: str, walkers: int, names: Container[str]) -> Iterator[tuple[str, parts.Part]]:
    """The parts of an iteration by KFAC, and whole iterations by KFAC and SPRING."""

    def stage(optimiser: str) -> Any:
        chosen = {
            "mcmc.walkers": walkers,
            "optimise.optimiser": optimiser,
            "runtime.chunk": walkers,
        }
        return parts.optimise_stage(CASES[case].spec(**chosen))

    kfac = stage("kfac")
    for name, part in parts.parts(kfac, kfac.initial()).items():
        if name in names:
            yield name, part
    for optimiser in ("kfac", "spring"):
        if (name := f"iteration by {optimiser}") in names:
            yield name, iteration(kfac if optimiser == "kfac" else stage(optimiser))


def line(name: str, compiled: Any) -> str:
    """A row of the table."""
    found = count(compiled.as_text())
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    kinds = ", ".join(f"{kind} {n}" for kind, n in found.kernels.most_common(6))
    return (
        f"| {name} | {found.kernels.total()} | {found.bytes / 2**30:.3f} | {memory:.0f} | "
        f"{found.unknown_loops} | {found.transfers} | {kinds} |"
    )


PARTS = ("log psi", "sampling", "local energy", "curvature", "update")
NAMES = (*PARTS, "iteration by kfac", "iteration by spring")


@app.command()
def main(
    cases: Annotated[
        list[str], typer.Argument(help="CASE:WALKERS, such as N2:1024, or a shared scan's file.")
    ],
    part: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NAMES)}.")] = None,
    show: Annotated[bool, typer.Option(help="Print the programs as well.")] = False,
) -> None:
    """Print kernels, bytes and memory of programs for an H100."""
    import jax

    jax_setup.prepare_process(1)
    jax_setup.configure_jax("float32")
    # Without a GPU no process can read a kept program back.
    jax.config.update("jax_enable_compilation_cache", False)
    print("| case, part | kernels | GiB moved | MiB temporary | loops of unknown length |", end="")
    print(" transfers to the host | most frequent |\n|---|---|---|---|---|---|---|")
    # From the start: kfac-jax keeps the network that it sees when a stage begins.
    with mock.patch.object(platform, "on_cpu", return_value=False):
        for case in cases:
            name, _, walkers = case.partition(":")
            if case.endswith(".yaml"):
                found = iter([("joint iteration", iteration(shared_stage(Path(case))))])
            else:
                found = programs(name, int(walkers or CASES[name].walkers), part or NAMES)
            for label, program in found:
                compiled = compile_for(H100, program)
                print(line(f"{case}, {label}", compiled), flush=True)
                if show:
                    print(compiled.as_text())


if __name__ == "__main__":
    app()

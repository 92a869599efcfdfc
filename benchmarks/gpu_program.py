"""Count the kernels of the program that a GPU would run, without a GPU. This measures no time.

    make gpu-program ARGS="LiH:256 N2:64 --part 'local energy' --peer folx"

XLA compiles for a GPU that is described to it, here an H100 with 80 GB. It needs neither the GPU
nor its driver. The final program tells how many kernels it launches, the bytes that they read and
write, the temporary memory, the loops whose length the compiler does not know, and the transfers to
the host. A launch costs some microseconds, which is what small systems wait for. Two forms of one
function can be compared here; only a GPU can say which is faster.

Module `programs` has the rules of the counting.
"""

import importlib.util
import os
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # the compiler alone is installed

import typer

from benchmarks import gpu_parts, parts
from benchmarks.cases import CASES
from benchmarks.programs import count
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


def programs(
    case: str, walkers: int, names: Container[str], peer: str | None = None
) -> Iterator[tuple[str, parts.Part]]:
    """The parts of an iteration by KFAC, whole iterations by KFAC and SPRING, and folx's energy."""

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
            yield name, parts.iteration(kfac if optimiser == "kfac" else stage(optimiser))
    for name, sparsity in FOLX.items() if peer == "folx" else ():
        yield name, gpu_parts.by_folx(kfac, kfac.initial(), sparsity)


def line(name: str, compiled: Any) -> str:
    """A row of the table."""
    found = count(compiled.as_text())
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    products = ", ".join(f"{kind} {n / 1e9:.3g}" for kind, n in found.products.most_common())
    kinds = ", ".join(f"{kind} {n}" for kind, n in found.kernels.most_common(6))
    return (
        f"| {name} | {found.kernels.total()} | {found.bytes / 2**30:.3f} | {memory:.0f} | "
        f"{found.unknown_loops} | {found.transfers} | {products} | {kinds} |"
    )


PARTS = ("log psi", "sampling", "local energy", "curvature", "update")
# folx's sparsity_threshold: 0 keeps every Jacobian dense, and folx recommends 6 for FermiNet.
FOLX = {"local energy by folx, dense": 0, "local energy by folx, sparse": 6}
NAMES = (*PARTS, "iteration by kfac", "iteration by spring")


@app.command()
def main(
    cases: Annotated[
        list[str], typer.Argument(help="CASE:WALKERS, such as N2:1024, or a shared scan's file.")
    ],
    part: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NAMES)}.")] = None,
    peer: Annotated[
        Literal["folx"] | None, typer.Option(help="Count its local energy of the same network.")
    ] = None,
    show: Annotated[bool, typer.Option(help="Print the programs as well.")] = False,
) -> None:
    """Print kernels, bytes and memory of programs for an H100."""
    import jax

    if peer and importlib.util.find_spec("folx") is None:
        print(
            "error: --peer folx: folx is not installed; allowed: after `rm -r .gpu-compiler`, "
            "`make gpu-program` installs it",
            file=sys.stderr,
        )
        raise typer.Exit(2)
    jax_setup.prepare_process(1)
    jax_setup.configure_jax("float32")
    # Without a GPU no process can read a kept program back.
    jax.config.update("jax_enable_compilation_cache", False)
    print("| case, part | kernels | GiB moved | MiB temporary | loops of unknown length |", end="")
    print(" transfers to the host | Gflop of products by precision | most frequent |")
    print("|---|---|---|---|---|---|---|---|")
    # From the start: kfac-jax keeps the network that it sees when a stage begins.
    with mock.patch.object(platform, "on_cpu", return_value=False):
        for case in cases:
            name, _, walkers = case.partition(":")
            if case.endswith(".yaml"):
                found = iter([("joint iteration", parts.iteration(parts.shared_stage(Path(case))))])
            else:
                found = programs(name, int(walkers or CASES[name].walkers), part or NAMES, peer)
            for label, program in found:
                compiled = compile_for(H100, program)
                print(line(f"{case}, {label}", compiled), flush=True)
                if show:
                    print(compiled.as_text())


if __name__ == "__main__":
    app()

"""Messages between devices in one iteration, counted in the compiled program. No time is measured.

    .venv/bin/python -m benchmarks.messages count LiH:256 systems/n2_shared.yaml --devices 8
    .venv/bin/python -m benchmarks.messages scaling

`count` compiles the program for this many host devices, in the form that GPUs get. Its messages are
those of module `programs`: their number and their bytes on one device. `scaling` prints a model of
iterations on 1 to 512 GPUs: the arithmetic by `plan` with the data sheet of the H100, and the
messages by `planning.machines.collective_seconds`. Nothing in it was measured.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import typer

from benchmarks import parts
from benchmarks.cases import CASES
from benchmarks.programs import count
from ferminet_core.parallel import jax_setup

app = typer.Typer(add_completion=False, help=__doc__)

Messages = Counter[tuple[str, int]]


def of_part(part: parts.Part, mesh: Any) -> Messages:
    """The messages of a part of an iteration."""
    from ferminet_core.parallel import platform
    from ferminet_core.parallel.mesh import per_device

    call = per_device(part.function, mesh, part.in_specs, part.out_specs)
    with mock.patch.object(platform, "on_cpu", return_value=False):
        text = str(call.lower(*part.arguments).compile().as_text())
    return count(text).messages


def stages(case: str) -> Iterator[tuple[str, Any]]:
    """The optimisations of a case by KFAC and SPRING, or the joint one of a shared scan's file."""
    if case.endswith(".yaml"):
        yield "joint_optimise", parts.shared_stage(Path(case))
        return
    name, _, walkers = case.partition(":")
    chosen = {"mcmc.walkers": int(walkers or CASES[name].walkers)}
    for optimiser in ("kfac", "spring"):
        spec = CASES[name].spec(**chosen, **{"optimise.optimiser": optimiser})
        yield optimiser, parts.optimise_stage(spec)


@app.command("count")
def count_messages(
    cases: Annotated[list[str], typer.Argument(help="CASE:WALKERS or a shared scan's file.")],
    devices: Annotated[int, typer.Option(help="Host devices.")] = 8,
) -> None:
    """Print the messages of iterations."""
    jax_setup.prepare_process(devices)
    jax_setup.configure_jax("float32")
    print("| case | messages of an iteration: number x bytes | MiB |\n|---|---|---|")
    for case in cases:
        for name, stage in stages(case):
            found = of_part(parts.iteration(stage), stage.mesh)
            each = ", ".join(f"{kind} {n} x {size}" for (kind, size), n in sorted(found.items()))
            total = sum(size * n for (_, size), n in found.items())
            print(f"| {case}, {name} | {each} | {total / 2**20:.2f} |", flush=True)


GPUS_PER_NODE = 8
# Cases of the model: the published network, and as many walkers as 512 GPUs can share.
WALKERS, ROWS = (4096, 16384), 1024


def modelled() -> Iterator[tuple[str, Any]]:
    """Optimisations by name: runs of N2 by KFAC, and a shared scan of its six lengths."""
    from ferminet_core.inputs.scan import load_scan

    for walkers in WALKERS:
        chosen = {"mcmc.walkers": walkers, "optimise.optimiser": "kfac"}
        yield f"N2, {walkers} walkers, KFAC", CASES["N2"].spec(**chosen)
    system = Path(__file__).parents[1] / "systems" / "n2_shared.yaml"
    for own, rows in ((512, ROWS), (512, 3 * ROWS)):
        settings = (f"sharing.walkers={own}", f"sharing.rows={rows}")
        (group,) = load_scan(system, preset="gpu", overrides=settings).groups
        yield f"six lengths of N2, {own} walkers each, {rows} in an update", group


@app.command()
def scaling() -> None:
    """Print the model of iterations on several GPUs."""
    from ferminet_core.inputs.run_spec import GroupSpec
    from ferminet_core.planning import plan
    from ferminet_core.planning.machines import GPUS, Layout

    layouts = [Layout(1, 1), *(Layout(n, GPUS_PER_NODE) for n in (1, 8, 64))]
    print("| optimisation | GPUs | arithmetic, ms | messages, MiB | messages, ms | efficiency |")
    print("|---|---|---|---|---|---|")
    for name, spec in modelled():
        stage = "joint_optimise" if isinstance(spec, GroupSpec) else "optimise"
        plan.check_layout([spec], layouts[-1])
        found = [plan.stage_plan(spec, stage, GPUS["h100"], layout) for layout in layouts]
        for layout, one in zip(layouts, found, strict=True):
            sizes = plan.messages(spec, stage, GPUS["h100"], layout) if layout.devices > 1 else []
            work = one.step_seconds - one.messages_seconds
            share = found[0].step_seconds / one.step_seconds / layout.devices
            print(
                f"| {name} | {layout.devices} | {1e3 * work:.2f} | {sum(sizes) / 2**20:.1f} | "
                f"{1e3 * one.messages_seconds:.2f} | {100 * share:.0f} % |"
            )


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.messages")

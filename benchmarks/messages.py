"""Messages between devices in one iteration, counted in the compiled program. No time is measured.

    .venv/bin/python -m benchmarks.messages LiH:256 N2:4096 systems/n2_shared.yaml --devices 8

The program is compiled for this many host devices, in the form that GPUs get, and its messages are
those of module `programs`: their number and their bytes on one device. From them follows the time
by the model of `planning.machines.collective_seconds`, with data sheets of H100s, beside that of
the arithmetic by `plan`. Neither was measured.
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
        text = call.lower(*part.arguments).compile().as_text()
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


@app.command()
def main(
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


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.messages")

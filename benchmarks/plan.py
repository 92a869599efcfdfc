"""Predictions of `plan --device cpu` compared with measured times, on one core of this machine.

    .venv/bin/python -m benchmarks.plan [--case LiH] [--rounds 3]

The rates are measured right before, in the same process, by operations that belong to no molecule.
The iteration of every case must be predicted within 30 %. Rates and parts are medians of processor
time, because other load on the machine slows both.
"""

import math
import statistics
import time
from typing import Annotated, Any

import typer

from benchmarks.cases import CASES, Case
from benchmarks.parts import iteration_seconds, optimise_stage, part_calls, repeated
from benchmarks.speed import ITERATIONS
from ferminet_core.parallel import jax_setup
from ferminet_core.planning import plan

BAR = 0.30
# What `benchmarks.parts` times, and the parts of the plan that it consists of: with an inverse
# period of one the step solves with KFAC's factors where it is made.
PARTS = {
    "sampling": ("sampling",),
    "local energy": ("local energy",),
    "curvature": ("curvature",),
    "update": ("inverses", "update"),
}

app = typer.Typer(add_completion=False, help=__doc__)


def predicted(case: Case) -> dict[str, float]:
    """Predicted seconds of the iteration and of its parts, by the rates of this machine."""
    from ferminet_core.planning import calibration

    found = plan.stage_plan(case.spec(), "optimise", calibration.cpu_machine(), plan.ONE)
    seconds = {
        name: sum(found.parts[part].seconds for part in parts) for name, parts in PARTS.items()
    }
    return {**seconds, "iteration": found.step_seconds}


class Measurement:
    """The compiled stage of a case, for repeated timing."""

    def __init__(self, case: Case) -> None:
        self.stage: Any = optimise_stage(
            case.spec(**{"optimise.iterations": ITERATIONS[case.name], "mcmc.burn_in": 0})
        )
        self.state = self.stage.initial()
        self.calls = part_calls(self.stage, self.state)

    def seconds(self) -> dict[str, float]:
        """Seconds of the iteration and of its parts."""
        clock = time.process_time
        times = {name: repeated(self.calls[name], clock=clock) for name in PARTS}
        times["iteration"] = iteration_seconds(self.stage, self.state, clock)
        return {name: statistics.median(found) for name, found in times.items()}


def compare(case: Case, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Predicted and measured seconds of each part, by round."""
    measurement = Measurement(case)
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        before, after = predicted(case), measurement.seconds()
        for part, seconds in after.items():
            found.setdefault(part, []).append((before[part], seconds))
    return found


@app.command()
def main(
    case: Annotated[list[str] | None, typer.Option(help="LiH, H10 or N2; default: all.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each with rates of its own.")] = 3,
) -> None:
    """Compare the iterations; exit code 1 if one of them is outside of the bound."""
    jax_setup.prepare_process(1)
    jax_setup.configure_jax("float32")
    print("| case | part | predicted / ms | measured / ms | ratio | spread |")
    print("|---|---|---|---|---|---|")
    within = True
    for name in case or list(CASES):
        for part, pairs in compare(CASES[name], rounds).items():
            ratios = sorted(before / after for before, after in pairs)
            ratio = statistics.median(ratios)
            ms = [1e3 * statistics.median(column) for column in zip(*pairs, strict=True)]
            spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            row = f"{name} | {part} | {ms[0]:.2f} | {ms[1]:.2f} | {ratio:.2f} | {spread}"
            print(f"| {row} |", flush=True)
            if part == "iteration":
                within &= abs(math.log(ratio)) <= math.log1p(BAR)
    print(f"{'within' if within else 'NOT within'} {100 * BAR:.0f} % for every iteration")
    raise typer.Exit(0 if within else 1)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.plan")

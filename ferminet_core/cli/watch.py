"""A view of a running scan: a live table on a terminal, lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live

from ferminet_core.cli.tables import counts, state_counts, states_table
from ferminet_core.runner.progress import LONGEST_INTERVAL
from ferminet_core.runner.status import STATES, StageState, current_stage
from ferminet_core.units import format_duration

States = Mapping[Path, list[StageState]]
_ENDED = frozenset({"done", "broken"})


def follow(
    read: Callable[[], States],
    every: float,
    console: Console,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Show the states of runs and groups until all are done or broken, or until Ctrl-C.

    Args:
        read: Reads the states.
        every: Seconds between two updates.
        console: Where to show them. If it is not a terminal, only changes are shown.
        wait: Sleeps for a number of seconds.
    """
    show = _live if console.is_terminal else _lines
    with contextlib.suppress(KeyboardInterrupt):
        show(_looks(read, every, wait), console)


def _looks(
    read: Callable[[], States], every: float, wait: Callable[[float], None]
) -> Iterator[dict[Path, StageState]]:
    """The current stage of each run, update after update."""
    while True:
        runs = {run: current_stage(stages) for run, stages in read().items()}
        yield runs
        if all(stage.state in _ENDED for stage in runs.values()):
            return
        wait(every)


def _live(looks: Iterator[dict[Path, StageState]], console: Console) -> None:
    with Live(console=console, auto_refresh=False) as live:
        for runs in looks:
            live.update(_view(runs, console.height), refresh=True)


def _view(runs: Mapping[Path, StageState], height: int) -> Group:
    """The numbers of runs in each state, and a row per run as far as they fit into `height`."""
    room = max(1, height - 4)  # the numbers, the table's head, the remaining runs, the cursor
    ranked = sorted(runs, key=lambda run: STATES.index(runs[run].state))
    shown = set(ranked[:room])
    # The holder of a stage would break the row into two on most terminals.
    rows = {run: [stage._replace(holder="")] for run, stage in runs.items() if run in shown}
    table = states_table(rows)
    left_out = {run: runs[run] for run in ranked[room:]}
    rest = [f"and {len(left_out)} more: {state_counts(left_out.values())}"] if left_out else []
    return Group(counts(runs), table, *rest)


def _lines(looks: Iterator[dict[Path, StageState]], console: Console) -> None:
    """A line for each run whose stage or state changes, and one a minute for its steps."""
    shown: dict[Path, StageState] = {}
    when: dict[Path, float] = {}
    runs: dict[Path, StageState] = {}
    for runs in looks:
        now = time.monotonic()
        for run, stage in runs.items():
            before = shown.get(run)
            moved = before is None or (before.stage, before.state) != (stage.stage, stage.state)
            stepped = before is not None and before.step != stage.step
            if moved or (stepped and now - when[run] >= LONGEST_INTERVAL):
                console.print(f"{time.strftime('%H:%M:%S')} {_line(run, stage)}", soft_wrap=True)
                shown[run], when[run] = stage, now
    console.print(counts(runs), soft_wrap=True)


def _line(run: Path, stage: StageState) -> str:
    parts = [stage.state]
    if stage.step is not None:
        parts.append(f"step {stage.step}/{stage.total}")
    if stage.energy_Eh is not None:
        error = "" if stage.error_Eh is None else f" +- {stage.error_Eh:.4f}"
        parts.append(f"E = {stage.energy_Eh:.4f}{error} Eh")
    if stage.left_s is not None:
        parts.append(f"{format_duration(stage.left_s)} left")
    if stage.reason:
        parts.append(stage.reason)
    return f"{run.parent.parent.name} {run.name} {stage.stage}: {', '.join(parts)}"

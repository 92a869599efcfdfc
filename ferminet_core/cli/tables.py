"""Output of `check` and `status`: run table, resolved settings, JSON schema, states of stages."""

import json
import sys
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console
from rich.table import Table

from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.origin import describe, potential_label
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.system_file import json_schema
from ferminet_core.units import format_duration

if TYPE_CHECKING:
    from ferminet_core.runner.status import StageState

# Width of tables in a file or a pipe, so that they are not cut at the width of a terminal.
_UNCUT = 10_000


def console() -> Console:
    """Standard output without markup."""
    found = Console(markup=False, highlight=False)
    return found if found.is_terminal else Console(markup=False, highlight=False, width=_UNCUT)


def print_runs(scan: Scan) -> None:
    """The run table: one row per run."""
    variants = any(run.variant for run in scan.runs)
    pseudo = any(run.molecule.pseudopotentials for run in scan.runs)
    started = any(run.neighbour or run.group for run in scan.runs)
    left = ["run", "geometry", *(["variant"] if variants else []), *scan.parameters]
    right = ["formula", "charge", "2S", "up/down", *(["pseudopotential"] if pseudo else [])]
    right += ["basis", "walkers", "iterations"]
    rows = [[*left, *right, *(["starts from"] if started else [])]]
    for run in scan.runs:
        molecule, config = run.molecule, run.config
        cells = [run.run_id, run.geometry, *([run.variant] if variants else [])]
        cells += [f"{run.parameters[n]:g}" if n in run.parameters else "" for n in scan.parameters]
        cells += [
            formula(molecule),
            f"{molecule.charge:+d}" if molecule.charge else "0",
            str(molecule.spin),
            f"{molecule.n_up}/{molecule.n_down}",
            *([potential_label(molecule.pseudopotentials)] if pseudo else []),
            config.reference.basis,
            str(config.mcmc.walkers),
            str(config.optimise.iterations),
            *([run.neighbour or run.group] if started else []),
        ]
        rows.append(cells)
    count = "1 run" if len(scan.runs) == 1 else f"{len(scan.runs)} runs"
    print(f"{scan.path}: scan {scan.name!r}, preset {scan.preset!r}, {count}")
    # Rich takes seconds for thousands of rows.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    justified = range(len(left), len(left) + len(right))
    for row in rows:
        cells = [
            cell.rjust(width) if i in justified else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    for group in scan.groups:
        config = group.config
        print(
            f"group {group.run_id}: {len(group.members)} geometries, {config.sharing.walkers} "
            f"walkers each, {config.optimise.iterations} iterations: "
            f"{describe([member.run_id for member in group.members])}"
        )


def formula(molecule: Molecule) -> str:
    """The elements in their first order with counts: "H2O" for O, H, H is "OH2"."""
    counts = {symbol: molecule.symbols.count(symbol) for symbol in molecule.symbols}
    return "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in counts.items())


def print_resolved(scan: Scan) -> None:
    """Every setting of every run and group as YAML, one document for each."""
    named = [("run_id", run) for run in scan.runs] + [("group", group) for group in scan.groups]
    for key, run in named:
        document = {
            key: run.run_id,
            "molecule": run.molecule.model_dump(mode="json"),
            "config": run.config.model_dump(mode="json"),
        }
        sys.stdout.write("---\n")
        yaml.safe_dump(document, sys.stdout, sort_keys=False)


def print_schema() -> None:
    """The JSON schema of system files, for editors that complete and check YAML with it."""
    json.dump(json_schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")


def state_counts(runs: Iterable["StageState"]) -> str:
    """The number of runs in each state, such as "2 done, 1 running"."""
    from ferminet_core.runner.status import STATES

    counts = Counter(stage.state for stage in runs)
    return ", ".join(f"{counts[state]} {state}" for state in reversed(STATES) if counts[state])


def counts(current: Mapping[Path, "StageState"]) -> str:
    """The numbers of runs in each state, and of groups if there are any, in a line.

    Args:
        current: The current stages of runs and groups, by folder.
    """
    from ferminet_core.runner.status import is_group

    groups = [stage for folder, stage in current.items() if is_group(folder)]
    runs = [stage for folder, stage in current.items() if not is_group(folder)]
    parts = [f"groups: {state_counts(groups)}"] if groups else []
    return "; ".join([f"runs: {state_counts(runs)}", *parts] if runs else parts)


def print_states(states: Mapping[Path, list["StageState"]], wanted: Container[str]) -> None:
    """The number of runs in each state, and rows for the runs and groups in wanted states.

    These are a row for each started stage, or one row for a run that has not started.
    """
    from ferminet_core.runner.status import current_stage

    current = {run: current_stage(stages) for run, stages in states.items()}
    console().print(counts(current))
    states = {run: found for run, found in states.items() if current[run].state in wanted}
    begun = {
        run: [stage for stage in stages if stage.state != "waiting"] or stages[:1]
        for run, stages in states.items()
    }
    console().print(states_table(begun))


def states_table(states: Mapping[Path, list["StageState"]]) -> Table:
    """A row for each stage of each run."""
    table = Table(box=None, pad_edge=False)
    for name in ("scan", "run", "stage", "state"):
        table.add_column(name)
    for name in ("step", "energy / Eh", "rate / s", "left", "checkpoint", "restarts"):
        table.add_column(name, justify="right")
    table.add_column("remark")
    for run, stages in states.items():
        for stage in stages:
            table.add_row(run.parent.parent.name, *_state_cells(stage))
    return table


def _state_cells(stage: "StageState") -> list[str]:
    def duration(seconds: float | None) -> str:
        return "" if seconds is None else format_duration(seconds)

    energy = "" if stage.energy_Eh is None else f"{stage.energy_Eh:.4f}"
    if stage.error_Eh is not None:
        energy += f" +- {stage.error_Eh:.4f}"
    step = "" if stage.step is None else f"{stage.step}/{stage.total}"
    return [
        stage.run,
        "" if stage.state == "waiting" else stage.stage,
        stage.state,
        step,
        energy,
        "" if stage.rate is None else f"{stage.rate:.3g}",
        duration(stage.left_s),
        f"{age} ago" if (age := duration(stage.checkpoint_age_s)) else "",
        str(stage.restarts or ""),
        stage.reason or stage.holder or stage.verdict,
    ]


def print_states_json(states: Mapping[Path, list["StageState"]], wanted: Container[str]) -> None:
    """All stages of the runs in wanted states as JSON: {run folder: [stage, ...]}."""
    from ferminet_core.runner.status import current_stage

    plain = {
        str(run): [stage._asdict() for stage in stages]
        for run, stages in states.items()
        if current_stage(stages).state in wanted
    }
    json.dump(plain, sys.stdout, indent=2)
    print()

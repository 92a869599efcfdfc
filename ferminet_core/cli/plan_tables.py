"""Output of `plan`: the predicted cost of a scan, and the resources to request.

The cost consists of operations, memory, volumes, time and node-hours. The resources are those to
request from a batch system.
"""

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from ferminet_core.cli.tables import console, formula
from ferminet_core.inputs.run_spec import GroupSpec
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.stage_table import walkers_key
from ferminet_core.planning.alternatives import cheapest, ways
from ferminet_core.planning.plan import (
    LONGEST,
    OPTIMISATIONS,
    RunPlan,
    ScanPlan,
    resources,
    tries,
)
from ferminet_core.units import format_duration


def _table(names: str, texts: int = 1) -> Table:
    """A table whose columns are named in one text. The first `texts` columns hold words."""
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(names.split("|")):
        table.add_column(name, justify="left" if index < texts else "right")
    return table


def _size(size: float) -> str:
    """A number of bytes in binary units."""
    power = min(4, max(1, int(math.log2(max(size, 1.0)) // 10)))
    return f"{size / 1024**power:.3g} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def _parts(run: RunPlan) -> Table:
    """Operations, memory traffic and time of an iteration of each stage, by part."""
    table = _table("stage|part|Gflop|GB moved|ms|share", texts=2)
    for name, stage in run.stages.items():
        if not stage.iterations:
            continue
        for part, cost in stage.parts.items():
            share = cost.seconds / stage.step_seconds
            cells = [f"{cost.flops / 1e9:.3g}", f"{cost.bytes / 1e9:.3g}"]
            table.add_row(name, part, *cells, f"{1e3 * cost.seconds:.3g}", f"{100 * share:.0f} %")
        if stage.messages_seconds:
            share, ms = stage.messages_seconds / stage.step_seconds, 1e3 * stage.messages_seconds
            table.add_row(name, "messages", "", "", f"{ms:.3g}", f"{100 * share:.0f} %")
    return table


def _stages(plan: ScanPlan) -> Table:
    """Time and node-hours of each stage of all runs and groups, and their sum."""
    table = _table("stage||runs|iterations|s / iteration|devices|longest|node-hours", texts=2)
    for name, stages in plan.by_stage.items():
        longest = max(stages, key=lambda stage: stage.seconds)
        table.add_row(
            name,
            "" if name in OPTIMISATIONS else "at most",
            str(sum(stage.iterations > 0 for stage in stages)),
            str(longest.iterations),
            f"{longest.step_seconds:.3g}",
            str(longest.layout.devices),
            format_duration(longest.seconds),
            f"{plan.node_hours(name):.3g}",
        )
    whole = sum(map(plan.node_hours, plan.by_stage))
    table.add_row("total", "", str(len(plan.runs)), "", "", "", "", f"{whole:.3g}")
    return table


def _scaling(plan: ScanPlan) -> Table:
    """An iteration of the costliest optimisation on 1, 2, 4, ... nodes."""
    table = _table("nodes|devices|ms / iteration|efficiency|optimisation", texts=0)
    alone = plan.scaling[1]
    for nodes, step in plan.scaling.items():
        iterations = plan.costliest.optimisation.iterations
        table.add_row(
            str(nodes),
            str(nodes * plan.layout.per_node),
            f"{1e3 * step:.3g}",
            f"{100 * alone / (nodes * step):.0f} %",
            format_duration(iterations * step),
        )
    return table


def _warnings(plan: ScanPlan) -> Iterator[str]:
    """Problems: too little memory, or stages that need several jobs."""
    capacity = plan.machine.capacity
    for name, stages in plan.by_stage.items():
        needed = max(stage.memory for stage in stages)
        if needed > capacity:
            yield (
                f"warning: {name} needs {_size(needed)} on a device, which has {_size(capacity)}; "
                f"use more devices, or fewer {walkers_key(name)}"
            )
        if (count := tries(plan, name)) > 1:
            yield (
                f"warning: {name} takes {count} jobs of {LONGEST // 60} h, one after the other; "
                f"`retries` in the profile must be {count - 1} or more"
            )


def _shown(plan: ScanPlan) -> list[RunPlan]:
    """The costliest run or group, and the costliest of the other kind if there is one."""
    first = plan.costliest
    others = plan.groups if first in plan.runs else plan.runs
    return [first, *([max(others, key=lambda one: one.seconds)] if others else [])]


def _introduced(run: RunPlan, plan: ScanPlan) -> str:
    """A line with the sizes of a run or a group, above its parts."""
    spec = run.spec
    of = f" of {len(spec.members)} geometries" if isinstance(spec, GroupSpec) else ""
    name = f"group {spec.run_id}{of}" if of else spec.run_id
    return (
        f"{name}{', the costliest' if run is plan.costliest and len(plan.runs) > 1 else ''}: "
        f"{formula(spec.molecule)}, {spec.molecule.n_electrons} electrons, "
        f"{run.network.parameters} parameters, {run.walkers} walkers{' in all' if of else ''}; "
        f"one iteration or record on one device:"
    )


def _ways(plan: ScanPlan) -> Table:
    """The groups, and the same geometries without sharing."""
    table = _table("way|walker-updates|processor time|node-hours")
    for way in ways(plan):
        hours = way.seconds / 3600 / plan.layout.per_node
        cells = [f"{way.updates:.3g}", format_duration(way.seconds), f"{hours:.3g}"]
        table.add_row(way.name, *cells)
    return table


def _advice(plan: ScanPlan) -> str:
    """Which of the ways takes the least, in a line."""
    found = ways(plan)
    best = cheapest(found)
    others = (
        f"{way.updates:.3g} and {way.seconds:.3g} s {way.name}" for way in found if way != best
    )
    return (
        f"The cheapest is {best.name}: {best.updates:.3g} walker-updates and {best.seconds:.3g} "
        f"processor seconds, against {', '.join(others)}."
    )


def resources_yaml(plan: ScanPlan) -> str:
    """The block for a profile's config.yaml, with texts quoted twice as Snakemake requires."""
    lines = ["set-resources:"]
    for stage, values in resources(plan).items():
        lines.append(f"  {stage}:")
        for key, value in values.items():
            lines.append(f"    {key}: " + (f'"{value}"' if isinstance(value, str) else str(value)))
    return "\n".join(lines)


def print_plan(scan: Scan, plan: ScanPlan) -> None:
    """Print the plan as tables."""
    run = plan.costliest
    spec = run.spec
    count = "1 run" if len(plan.runs) == 1 else f"{len(plan.runs)} runs"
    starts = ""
    for kind in ("neighbour", "group"):
        if started := sum(bool(getattr(one.spec, kind)) for one in plan.runs):
            starts += f", {started} of them from a {kind}"
    print(f"{scan.path}: scan {scan.name!r}, preset {scan.preset!r}, {count}{starts}")
    print(f"{plan.machine.name}: {plan.machine.origin}")
    for one in _shown(plan):
        print(f"\n{_introduced(one, plan)}")
        console().print(_parts(one))
    every = "runs and groups" if plan.groups else "runs"
    print(f"\nAll {every} (pretraining and equilibration at their largest number of iterations):")
    console().print(_stages(plan))
    optimisations = [s for name in OPTIMISATIONS for s in plan.by_stage.get(name, [])]
    needed = _size(max(stage.memory for stage in optimisations))
    capacity = _size(plan.machine.capacity)
    print(f"\nmemory per device in the optimisation: {needed} of {capacity}")
    keep = spec.config.checkpoint.keep
    print(
        f"volumes before compression: a checkpoint of the optimisation "
        f"{' to '.join(map(_size, run.checkpoint))} ({keep} are kept), inference.zarr.zip "
        f"{_size(max(one.samples for one in plan.runs))}; files of the scan {_size(plan.volume)}"
    )
    print(f"\nThe optimisation of {spec.run_id} on more nodes, including messages:")
    console().print(_scaling(plan))
    if plan.groups:
        print("\nPretraining and optimisation of the geometries of the groups in other ways:")
        console().print(_ways(plan))
        print(_advice(plan))
    print()
    for line in _warnings(plan):
        print(line)
    print("# For a profile in cluster_profiles/. Wall times in minutes, 1.5 times those above.")
    print(resources_yaml(plan))


def _stage_json(run: RunPlan, name: str) -> dict[str, Any]:
    stage = run.stages[name]
    return {
        "iterations": stage.iterations,
        "devices": stage.layout.devices,
        "parts": {part: cost._asdict() for part, cost in stage.parts.items()},
        "messages_s": stage.messages_seconds,
        "step_s": stage.step_seconds,
        "seconds": stage.seconds,
        "memory_bytes": stage.memory,
    }


def print_plan_json(scan: Scan, plan: ScanPlan) -> None:
    """Print the plan as JSON, in SI units."""
    data = {
        "scan": scan.name,
        "device": plan.machine.name,
        "origin": plan.machine.origin,
        "nodes": plan.layout.nodes,
        "devices_per_node": plan.layout.per_node,
        "runs": {
            run.spec.run_id: {
                "neighbour": run.spec.neighbour,
                "group": run.spec.group,
                "parameters": run.network.parameters,
                "checkpoint_bytes": run.checkpoint,
                "samples_bytes": run.samples,
                "stages": {name: _stage_json(run, name) for name in run.stages},
            }
            for run in plan.runs
        },
        "groups": {
            group.spec.run_id: {
                "parameters": group.network.parameters,
                "checkpoint_bytes": group.checkpoint,
                "stages": {name: _stage_json(group, name) for name in group.stages},
            }
            for group in plan.groups
        },
        "ways": {way.name: way._asdict() for way in ways(plan)},
        "node_hours": {name: plan.node_hours(name) for name in plan.by_stage},
        "volume_bytes": plan.volume,
        "scaling_step_s": plan.scaling,
        "warnings": list(_warnings(plan)),
        "set-resources": resources(plan),
    }
    json.dump(data, sys.stdout, indent=2)
    print()

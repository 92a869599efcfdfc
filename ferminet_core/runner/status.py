"""The states of the stages of runs and groups, from their files.

Reads only, and disturbs no running stage.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ferminet_core.errors import ArtefactError, InputError
from ferminet_core.inputs import stage_table
from ferminet_core.inputs.group_files import GROUPS, group_spec, group_specs
from ferminet_core.inputs.run_spec import load_spec
from ferminet_core.inputs.spec_files import conventional_spec
from ferminet_core.runner.origins import misfit
from ferminet_core.storage import artefacts, files, lease
from ferminet_core.storage.checkpoints import steps_in

# The chain. A run is finished when the last stage is done.
STAGES = tuple(entry.name for entry in stage_table.chain())
# The stage next to the chain, in runs that ask for it.
(CONVENTIONAL,) = (entry.name for entry in stage_table.of_runs() if not entry.chain)
GROUP_STAGES = tuple(entry.name for entry in stage_table.of_groups())

# What a stage can be, the most urgent first.
STATES = ("running", "broken", "failed", "stale", "resumable", "waiting", "done")


class StageState(NamedTuple):
    """One stage of one run or group.

    run: name of the run or group
    state: waiting, running, resumable (the next start continues from a checkpoint), failed, broken
    (failed in a way that would repeat: refused until settings or code change), stale (the spec file
    has changed since, and asks for another molecule or other settings), or done
    step, total: iterations, or records of inference
    energy_Eh, error_Eh: of the latest block, hartree
    rate: steps per second; left_s: seconds to the end at that rate
    checkpoint_age_s: seconds since the last checkpoint
    holder: the process that works on the stage
    reason: why the stage last stopped
    verdict: verdict on the run, for a finished inference
    """

    run: str
    stage: str
    state: str
    step: int | None = None
    total: int | None = None
    energy_Eh: float | None = None
    error_Eh: float | None = None
    rate: float | None = None
    left_s: float | None = None
    checkpoint_age_s: float | None = None
    restarts: int = 0
    holder: str = ""
    reason: str = ""
    verdict: str = ""


def stage_state(run: Path, stage: str) -> StageState:
    """The state of a stage of a run or a group.

    Args:
        run: Folder of the run or the group.
        stage: Name of the stage.
    """
    work = run / f"{stage}.work"
    status = files.read_json(work / "status.json") or {}
    holder = lease.holder_of(work)
    age = _checkpoint_age(work)
    artefact = run / f"{stage}.zarr.zip"
    state = _state(artefact, status, holder is not None, age is not None)
    stale = _stale(run, stage, artefact) if state == "done" else ""
    step, total, rate = status.get("step"), status.get("total"), status.get("rate")
    left = None
    if state == "running" and rate and step is not None and total:
        left = max(0, total - step) / rate
    reason = str(status.get("reason") or "")
    if state == "resumable" and status.get("state") == "running":
        reason = f"stopped without a message, last seen {status.get('heartbeat')}"
    return StageState(
        run=run.name,
        stage=stage,
        state="stale" if stale else state,
        step=step,
        total=total,
        energy_Eh=status.get("energy_Eh"),
        error_Eh=status.get("error_Eh"),
        rate=rate if state == "running" else None,
        left_s=left,
        checkpoint_age_s=age,
        restarts=int(status.get("restarts") or 0),
        holder=lease.describe(holder) if holder else "",
        reason=stale if state in ("running", "done") else reason,
    )


def _stale(run: Path, stage: str, artefact: Path) -> str:
    """How a finished stage differs from its spec file, if that is newer; empty if it does not.

    The times decide whether to read the two files, so that a look at many runs stays cheap.
    """
    scan = run.parent.parent
    if stage == CONVENTIONAL:
        spec = conventional_spec(scan, run.name)
    else:
        spec = group_spec(scan, run.name) if is_group(run) else scan / "spec" / f"{run.name}.json"
    try:
        if spec.stat().st_mtime <= artefact.stat().st_mtime:
            return ""
        return misfit(load_spec(spec), stage, artefacts.attributes(artefact))
    except (OSError, InputError, ArtefactError):
        return ""


def _state(artefact: Path, status: dict[str, Any], held: bool, has_checkpoint: bool) -> str:
    if held:
        return "running"
    if artefact.exists():
        return "done"
    said = str(status.get("state", ""))
    if said in ("broken", "failed"):
        return said
    if has_checkpoint or said in ("running", "resumable", "done"):
        return "resumable"
    return "waiting"


def _checkpoint_age(work: Path) -> float | None:
    """Seconds since the newest checkpoint was written; None without a checkpoint."""
    for path in reversed(steps_in(work / "ckpt").values()):
        with contextlib.suppress(OSError):
            return max(0.0, time.time() - path.stat().st_mtime)
    return None


def is_group(folder: Path) -> bool:
    """Whether a folder of a run or a group is that of a group."""
    return folder.parent.name == GROUPS


def stages_of(run: Path) -> tuple[str, ...]:
    """The stages of the run or the group with this folder.

    Conventional energies come last, if the run asks for them.
    """
    if is_group(run):
        return GROUP_STAGES
    asked = conventional_spec(run.parent.parent, run.name).exists()
    return (*STAGES, CONVENTIONAL) if asked else STAGES


def run_states(run: Path) -> list[StageState]:
    """The states of all stages of a run or a group."""
    return [stage_state(run, stage) for stage in stages_of(run)]


def current_stage(stages: Sequence[StageState]) -> StageState:
    """The stage that a run or a group is at, whose state is that of the run or group.

    It is the last stage that has started, or the next one if that is done. Conventional energies
    come after all others.
    """
    chain = [stage for stage in stages if stage.stage != CONVENTIONAL]
    last = max((i for i, stage in enumerate(chain) if stage.state != "waiting"), default=0)
    finished = chain[last].state == "done" and last + 1 < len(chain)
    present = chain[last + finished]
    left = present.state == "done" and stages[-1].state != "done"
    return stages[-1] if left else present


def with_verdicts(states: Mapping[Path, list[StageState]]) -> dict[Path, list[StageState]]:
    """The states by run, with the verdicts of the scans' summaries on finished inferences.

    A summary that is older than the result does not count.
    """
    summaries: dict[Path, tuple[float, Mapping[str, Any]]] = {}
    found = {}
    for run, stages in states.items():
        scan = run.parent.parent
        if scan not in summaries:
            summaries[scan] = _summary_verdicts(scan / "summary.json")
        written, verdicts = summaries[scan]
        path = run / "inference.zarr.zip"
        known = run.name in verdicts and path.exists() and path.stat().st_mtime <= written
        found[run] = [
            stage._replace(verdict=str(verdicts[run.name]["verdict"]) if known else "")
            if (stage.stage, stage.state) == ("inference", "done")
            else stage
            for stage in stages
        ]
    return found


def _summary_verdicts(path: Path) -> tuple[float, Mapping[str, Any]]:
    """When a summary was written, and its verdicts by run; no verdicts without a summary."""
    derived = files.read_json(path)
    if derived is None:
        return 0.0, {}
    return path.stat().st_mtime, derived.get("verdicts", {})


def run_folders(path: Path) -> list[Path]:
    """The folders of all runs in a results folder, a scan's folder, or a run's own.

    In a scan's folder these are all runs of its table, started or not.
    """
    path = Path(path)
    if (path / "runs").is_dir() or (path / "spec").is_dir():
        with contextlib.suppress(OSError):
            listed = (path / "runs.txt").read_text(encoding="utf-8").split()
            return [path / "runs" / name for name in listed]
        specs = sorted((path / "spec").glob("*.json"))
        return [path / "runs" / spec.stem for spec in specs]
    if path.parent.name == "runs":
        return [path]
    if not path.is_dir():
        return []
    return [run for scan in sorted(path.iterdir()) if scan.is_dir() for run in _of_scan(scan)]


def _of_scan(scan: Path) -> list[Path]:
    return run_folders(scan) if (scan / "spec").is_dir() else []


def group_folders(path: Path) -> list[Path]:
    """The folders of all groups in a results folder, a scan's folder, or a group's own."""
    path = Path(path)
    if (path / "spec").is_dir():
        return [path / GROUPS / spec.stem for spec in group_specs(path)]
    if is_group(path):
        return [path]
    if path.parent.name == "runs" or not path.is_dir():
        return []
    scans = (scan for scan in sorted(path.iterdir()) if (scan / "spec").is_dir())
    return [group for scan in scans for group in group_folders(scan)]

"""One command for each stage of the stage table, with shared options.

The commands import heavy modules (JAX, PySCF) only when they run: `--help` answers at once, and the
process's share of the machine is settled before JAX reads it.
"""

import inspect
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ferminet_core.cli import options
from ferminet_core.errors import InputError
from ferminet_core.inputs.group_files import group_spec
from ferminet_core.inputs.origin import describe
from ferminet_core.inputs.run_spec import GroupSpec, RunSpec, load_spec
from ferminet_core.inputs.stage_table import STAGES, StageEntry, load_code
from ferminet_core.parallel import distributed

if TYPE_CHECKING:
    from xarray import Dataset

    from ferminet_core.runner.job import Job
    from ferminet_core.runner.run_stage import Parents
    from ferminet_core.runner.stopping import Stop
    from ferminet_core.stages.base import Stage


def add_to(app: typer.Typer) -> None:
    """Add the command of every stage."""
    for entry in STAGES:
        app.command(entry.name, help=entry.help)(_command(entry))


def _command(entry: StageEntry) -> Any:
    """The function behind a stage's command; typer reads its options from the signature."""

    def run(**given: Any) -> None:
        _run(entry, **given)

    signature = inspect.Signature(list(_parameters(entry)))
    setattr(run, "__signature__", signature)  # noqa: B010  (a function's type does not declare it)
    return run


def _parameters(entry: StageEntry) -> Iterator[inspect.Parameter]:
    """The arguments and options of a stage's command."""

    def parameter(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> Any:
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
        )

    if entry.of_group:
        spec_help = "Spec file of the group, spec/groups/GROUP.json in the scan's folder."
    else:
        folder = "spec" if entry.chain else f"spec/{entry.name}"
        spec_help = f"Spec file of the run, {folder}/RUN.json in the scan's folder."
    yield parameter("spec", Annotated[Path, typer.Argument(help=spec_help)])
    for parent in entry.parents:
        if parent in entry.of_members:
            each = f"Artefact of the stage {parent} of a member; once for each, in their order."
            yield parameter(parent, Annotated[list[Path], typer.Option(help=each)])
            continue
        of = "group" if entry.of_group else "run"
        parent_help = f"Artefact of the stage {parent} of the same {of}."
        yield parameter(parent, Annotated[Path, typer.Option(help=parent_help)])
    yield parameter("out", options.OutFile)
    yield parameter("work", options.WorkFolder)
    if entry.neighbour:
        yield parameter("neighbour", options.NeighbourFile, None)
    if entry.group:
        yield parameter("group", options.GroupFile, None)
    if entry.cores:
        yield parameter("devices", options.Cores, None)
    if entry.ranks:
        yield parameter("ranks", options.RankCount, None)
        yield parameter("gpus", options.GpuCount, 0)
    yield parameter("wall_time", options.WallTime, None)
    yield parameter("force", options.Force, False)
    yield parameter("attempt", options.Attempt, 1)
    yield parameter("wait", options.Wait, True)


def _run(
    entry: StageEntry,
    *,
    spec: Path,
    out: Path,
    work: Path,
    wall_time: str | None,
    force: bool,
    attempt: int,
    wait: bool,
    neighbour: Path | None = None,
    group: Path | None = None,
    devices: int | None = None,
    ranks: int | None = 1,
    gpus: int = 0,
    **parents: Any,
) -> None:
    """Run a stage with the values of its options; options that it lacks have their defaults."""
    from ferminet_core.runner.job import Job

    with _stop(wall_time, ranks) as stop:
        run = load_spec(spec)
        if isinstance(run, GroupSpec) is not entry.of_group:
            kinds = ("a run", "a group")
            raise InputError(
                f"{spec}: is the spec of {kinds[not entry.of_group]}; {entry.name} needs that of "
                f"{kinds[entry.of_group]}"
            )
        if bool(run.neighbour and entry.neighbour) != bool(neighbour):
            wanted = f"the optimisation of {run.neighbour!r}" if run.neighbour else "none"
            raise InputError(f"--neighbour: found {neighbour}; the spec {spec} needs {wanted}")
        if bool(run.group and entry.group) != bool(group):
            wanted = f"{entry.group} of the group {run.group!r}" if run.group else "none"
            raise InputError(f"--group: found {group}; the spec {spec} needs {wanted}")
        files = _parents(entry, run, parents)
        if neighbour:
            other = spec.with_name(f"{run.neighbour}.json")
            _check_start("neighbour", other, entry.neighbour, neighbour)
            files["neighbour"] = neighbour
        if group:
            other = group_spec(spec.absolute().parents[1], run.group)
            _check_start("group", other, entry.group, group)
            files["group"] = group
        job = Job(entry.name, run, out, work, files, force, attempt, wait)
        if entry.ranks:
            _run_loop(entry, job, devices, gpus, stop)
        else:
            _run_once(entry, job, devices, stop)


def _parents(entry: StageEntry, run: RunSpec, given: Mapping[str, Any]) -> dict[str, Path]:
    """The parents' artefacts by the names of `Job.parents`.

    Raises:
        InputError: There is not one file for each member of a group.
    """
    files: dict[str, Path] = {}
    for name in entry.parents:
        if not (isinstance(run, GroupSpec) and name in entry.of_members):
            files[name] = given[name]
            continue
        if len(given[name]) != len(run.members):
            raise InputError(
                f"--{name}: found {len(given[name])} files; the group {run.run_id!r} has "
                f"{len(run.members)} members: {describe([m.run_id for m in run.members])}"
            )
        for member, path in zip(run.members, given[name], strict=True):
            files[f"{name}:{member.run_id}"] = path
    return files


def _check_start(option: str, spec: Path, stage: str, artefact: Path) -> None:
    """Check that a result of another run, or of a group, is what its own spec asks for.

    Args:
        option: That gives the artefact.
        spec: Spec file of the other run or the group.
        stage: That made the artefact.
        artefact: The file.

    Raises:
        InputError: It was made for another geometry, or with other settings.
        ArtefactError: It is missing or damaged.
    """
    if not spec.exists():
        return
    from ferminet_core.runner.origins import misfit
    from ferminet_core.storage import artefacts

    if reason := misfit(load_spec(spec), stage, artefacts.attributes(artefact)):
        raise InputError(f"--{option}: {artefact} is not what {spec} asks for: {reason}")


def _run_once(entry: StageEntry, job: "Job", cores: int | None, stop: "Stop") -> None:
    """Run a stage that is one call of PySCF."""
    from ferminet_core.parallel.jax_setup import available_cores, prepare_process

    prepare_process(devices=1)
    from ferminet_core.runner import run_stage

    def compute(run: RunSpec) -> "Dataset":
        solve = load_code(entry.computed_by)
        found: Dataset = solve(run, threads) if entry.cores else solve(run)
        return found

    threads = (cores or available_cores()) if entry.cores else 1
    _begin(job, f"{threads} x cpu on {socket.gethostname()}")
    run_stage.run_once(job, compute, stop)


def _run_loop(entry: StageEntry, job: "Job", devices: int | None, gpus: int, stop: "Stop") -> None:
    """Settle the process's share of the machine and JAX's settings, then run the stage."""
    from ferminet_core.parallel.jax_setup import (
        available_cores,
        check_platform,
        configure_jax,
        devices_of_all_ranks,
        prepare_process,
        usable_devices,
    )

    config = job.spec.config
    walkers = (config.sharing if entry.of_group else config.mcmc).walkers
    wanted = devices or available_cores()
    ranks = distributed.ranks()
    prepare_process(usable_devices(wanted, max(1, walkers // 2 // ranks.size)))
    if gpus:
        _claim_gpus(gpus, ranks.size, stop)
    ranks.connect_jax()
    log = configure_jax(config.runtime.precision)
    idle = check_platform(gpus)
    if ranks.is_root:
        _begin(job, f"{devices_of_all_ranks()}{idle}")
    from ferminet_core.runner import run_stage

    def make(run: RunSpec, parents: "Parents") -> "Stage":
        starts = {run_stage.NEIGHBOUR: entry.from_neighbour, run_stage.GROUP: entry.from_group}
        paths = [path for name, path in starts.items() if name in parents]
        stage = load_code(paths[0] if paths else entry.computed_by)
        made: Stage = stage(run, *parents.values())
        return made

    run_stage.run_loop(job, make, log, stop)
    ranks.close()


def _begin(job: "Job", devices: str) -> None:
    """Say when and where a stage starts; the first line of each attempt in its log."""
    from ferminet_core.runner.progress import say
    from ferminet_core.storage.provenance import utc_now

    say(f"{job.spec.run_id} {job.stage}: {utc_now()}, attempt {job.attempt}, {devices}")


def _stop(wall_time: str | None, ranks: int | None) -> "Stop":
    """Find the other ranks and listen for signals. Rank 0 knows the wall-time limit as well."""
    from ferminet_core.runner.stopping import Stop, parse_wall_time, seconds_left

    limit = None if wall_time is None else parse_wall_time(wall_time)
    if not distributed.start(ranks).is_root:
        return Stop()  # the ranks stop together, so one of them asks the batch system
    return Stop(seconds_left() if limit is None else limit)


def _claim_gpus(count: int, ranks: int, stop: "Stop") -> None:
    """Take this number of the node's GPUs for this process.

    Raises:
        InputError: There are several ranks, which share the GPUs among themselves.
    """
    if ranks > 1:
        raise InputError(f"--gpus: found {count} with {ranks} ranks; allowed: for one process only")
    from ferminet_core.parallel.gpus import claim
    from ferminet_core.runner.progress import say

    claim(count, stop.due, say)

"""The outcomes of a scan's runs, read from the files in their folders."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ferminet_core.analysis import estimates, optimisation_rules
from ferminet_core.analysis.group_summary import GroupOutcome
from ferminet_core.analysis.run_start import RunStart, read_start
from ferminet_core.analysis.summary import RunOutcome
from ferminet_core.errors import ArtefactError
from ferminet_core.inputs.basis_sets import basis_label, limit_name, plain
from ferminet_core.inputs.run_spec import RunSpec, parse_spec
from ferminet_core.runner.origins import misfits
from ferminet_core.runner.status import CONVENTIONAL, STAGES, stage_state, stages_of
from ferminet_core.storage import artefacts, files


def run_outcome(
    run: RunSpec, folder: Path, recompute: bool = False, groups: Sequence[GroupOutcome] = ()
) -> RunOutcome:
    """State and results of one run from the files in its folder.

    A damaged artefact makes its run failed, with the reason. A run is done also without its
    conventional energies. It is stale if an artefact of the chain is not the run's, as
    `runner.origins` defines it; such an artefact gives no figures.

    Args:
        run: the run as the scan has it.
        folder: of the run.
        recompute: derive the figures of the inference from its series instead of reading them.
        groups: of the scan. A member bears its part of their times, and one that was left out has
            no wavefunction to go on with.
    """
    wrong = misfits(run, folder)
    found, reason = _conventional(run, folder, wrong.pop(CONVENTIONAL, ""))
    outcome = _chain_outcome(run, folder, recompute, wrong)
    outcome = outcome._replace(conventional=found, conventional_reason=reason)
    for group in groups:
        outcome = _with_group(outcome, run.run_id, group)
    return outcome


def _with_group(outcome: RunOutcome, run_id: str, group: GroupOutcome) -> RunOutcome:
    """The outcome of a run with its part of a group's times, and why the group left it out."""
    wall_s, node_h = group.share(run_id)
    if wall_s:
        wall_s, node_h = (outcome.wall_s or 0.0) + wall_s, (outcome.node_h or 0.0) + node_h
        outcome = outcome._replace(wall_s=wall_s, node_h=node_h)
    if run_id in group.left_out and outcome.state not in ("done", "stale"):
        outcome = outcome._replace(state="broken", reason=group.left_out[run_id])
    return outcome


def _chain_outcome(
    run: RunSpec, folder: Path, recompute: bool, wrong: Mapping[str, str]
) -> RunOutcome:
    """The outcome of the stages from the reference to the inference.

    Args:
        run: as for `run_outcome`.
        folder: of the run.
        recompute: as for `run_outcome`.
        wrong: artefacts that are not the run's, by stage, with the reasons.
    """
    spent = records(folder, STAGES)
    wall_s = sum(float(record["wall_s"]) for record in spent) if spent else None
    node_h = sum(map(node_seconds, spent)) / 3600.0 if spent else None
    reference: dict[str, Any] = {}
    inference: dict[str, Any] = {}
    series: dict[str, np.ndarray] = {}
    start: RunStart | None = None
    differences: list[str] = []
    try:
        if (path := folder / "reference.zarr.zip").exists() and "reference" not in wrong:
            reference = artefacts.attributes(path)
        if wrong:
            reason = f"stale: {list(wrong.values())[-1]}"
            return RunOutcome("stale", reason, reference=reference, wall_s=wall_s, node_h=node_h)
        if (path := folder / "inference.zarr.zip").exists():
            if recompute:
                inference, differences = _recomputed(folder, reference)
            else:
                inference = artefacts.attributes(path)
            series, start = _optimisation(folder / "optimise.zarr.zip", run)
    except ArtefactError as error:
        return RunOutcome("failed", str(error), reference=reference)
    state, reason = ("done", "") if inference else _unfinished_state(folder)
    return RunOutcome(
        state=state,
        reason=reason,
        inference=inference,
        reference=reference,
        wall_s=wall_s,
        node_h=node_h,
        optimisation=series,
        start=start,
        differences=differences,
    )


def _optimisation(path: Path, run: RunSpec) -> tuple[dict[str, np.ndarray], RunStart | None]:
    """The series that the verdict needs, and what the run has started from.

    Both are empty if they are lost, since the energy still holds.
    """
    with contextlib.suppress(ArtefactError):
        ds = artefacts.load_present(path, optimisation_rules.SERIES)
        series = {str(name): values.to_numpy() for name, values in ds.items()}
        return series, read_start(ds.attrs, run.config.sharing.walkers)
    return {}, None


def _recomputed(folder: Path, reference: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The inference's attributes with recomputed figures, and the figures that differ.

    The series of the inference give the figures. Each stored figure that differs has a line. The
    digest is not verified here: a figure that somebody changed is reported by its name.
    """
    path = folder / "inference.zarr.zip"
    attributes = artefacts.load(path, only=()).attrs
    stored = artefacts.load(path, only=estimates.series_of(attributes))
    # A run of a group that was not optimised at its geometry has no series.
    optimise = artefacts.load_present(folder / "optimise.zarr.zip", ("energy_Eh",))
    try:
        derived = estimates.recompute(stored, optimise, reference)
    except (KeyError, ValueError) as error:
        raise ArtefactError(f"{path}: cannot be recomputed: {error}") from error
    return stored.attrs | derived, estimates.differences(stored.attrs, derived)


def _conventional(run: RunSpec, folder: Path, wrong: str) -> tuple[xr.Dataset | None, str]:
    """The conventional energies of a run that asks for any, and why some or all are missing.

    Method and basis set label each energy, so those that were computed earlier stay.
    """
    if CONVENTIONAL not in stages_of(folder):
        return None, ""
    if wrong:
        return None, "stale: computed for another molecule"
    found = stage_state(folder, CONVENTIONAL)
    if found.state != "done":
        return None, found.reason
    try:
        ds = artefacts.load(folder / f"{CONVENTIONAL}.zarr.zip")
    except ArtefactError as error:
        return None, str(error)
    ds = _without_other_limits(run, ds)
    return ds, _not_computed(run, ds)


def _limits(run: RunSpec) -> dict[str, tuple[str, ...]]:
    """The two basis sets behind the run's basis-set limit, by the name of the limit."""
    config = run.config.conventional
    if not config.extrapolate:
        return {}
    return {limit_name(*config.basis[-2:]): tuple(map(plain, config.basis[-2:]))}


def _without_other_limits(run: RunSpec, ds: xr.Dataset) -> xr.Dataset:
    """Leave out a limit of other basis sets. Its name has the sizes of the sets, not the family."""
    if "spec" not in ds.attrs:
        return ds
    made = _limits(parse_spec(str(ds.attrs["spec"]), f"conventional energies of {run.run_id}"))
    wanted = _limits(run)
    other = [name for name in made if name in wanted and wanted[name] != made[name]]
    return ds.drop_sel(basis=other)


def _not_computed(run: RunSpec, ds: xr.Dataset) -> str:
    """The methods and basis sets that the run asks for and its file lacks."""
    config = run.config.conventional
    methods = set(map(str, ds["method"].values))
    bases = {plain(str(name)) for name in ds["basis"].values}
    missing = [f"method {name}" for name in config.methods if name not in methods]
    missing += [
        f"basis {basis_label(name)}"
        for name in (*config.basis, *_limits(run))
        if config.methods and plain(name) not in bases
    ]
    return f"not computed yet: {', '.join(missing)}" if missing else ""


def _unfinished_state(folder: Path) -> tuple[str, str]:
    """State and reason of a run without a result: those of the latest stage that has begun."""
    for found in (stage_state(folder, stage) for stage in reversed(STAGES)):
        if found.state == "done":
            break
        if found.state == "running":
            return "running", f"{found.stage}: step {found.step} of {found.total}"
        if found.state != "waiting":
            return found.state, f"{found.stage}: {found.reason}"
    return "waiting", ""


def records(folder: Path, stages: Sequence[str]) -> list[dict[str, Any]]:
    """The provenance of the finished ones of some stages of a run or a group."""
    found = [files.read_json(folder / f"{stage}.provenance.json") for stage in stages]
    return [record for record in found if record and record.get("wall_s")]


def node_seconds(record: Mapping[str, Any]) -> float:
    """Seconds of whole nodes that a stage took.

    Provenance of earlier versions names the nodes of the ranks at most.
    """
    if "node_s" in record:
        return float(record["node_s"])
    nodes = {rank["node"] for rank in record.get("ranks", ())}
    return float(record["wall_s"]) * max(1, len(nodes))

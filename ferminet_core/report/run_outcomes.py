"""The outcomes of a scan's runs, read from the files in their folders."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ferminet_core.analysis import estimates, verdict
from ferminet_core.analysis.summary import RunOutcome
from ferminet_core.errors import ArtefactError
from ferminet_core.runner.status import CONVENTIONAL, STAGES, stage_state, stages_of
from ferminet_core.storage import artefacts, files


def run_outcome(folder: Path, recompute: bool = False) -> RunOutcome:
    """State and results of one run from the files in its folder.

    A damaged artefact makes its run failed, with the reason. A run is done also without its
    conventional energies.

    Args:
        folder: of the run.
        recompute: derive the figures of the inference from its series instead of reading them.
    """
    found, reason = _conventional(folder)
    outcome = _chain_outcome(folder, recompute)
    return outcome._replace(conventional=found, conventional_reason=reason)


def _chain_outcome(folder: Path, recompute: bool) -> RunOutcome:
    """The outcome of the stages from the reference to the inference."""
    wall_s = _wall_seconds(folder)
    reference: dict[str, Any] = {}
    inference: dict[str, Any] = {}
    series: dict[str, np.ndarray] = {}
    differences: list[str] = []
    try:
        if (path := folder / "reference.zarr.zip").exists():
            reference = dict(artefacts.load(path, only=()).attrs)
        if (path := folder / "inference.zarr.zip").exists():
            if recompute:
                inference, differences = _recomputed(folder, reference)
            else:
                inference = dict(artefacts.load(path, only=()).attrs)
            series = _optimisation(folder / "optimise.zarr.zip")
    except ArtefactError as error:
        return RunOutcome("failed", str(error), reference=reference)
    state, reason = ("done", "") if inference else _unfinished_state(folder)
    return RunOutcome(
        state=state,
        reason=reason,
        inference=inference,
        reference=reference,
        wall_s=wall_s,
        node_h=None if wall_s is None else wall_s / 3600.0,
        optimisation=series,
        differences=differences,
    )


def _optimisation(path: Path) -> dict[str, np.ndarray]:
    """The series that the verdict needs; empty if they are lost, since the energy still holds."""
    with contextlib.suppress(ArtefactError):
        ds = artefacts.load(path, only=verdict.SERIES)
        return {name: ds[name].to_numpy() for name in verdict.SERIES}
    return {}


def _recomputed(folder: Path, reference: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The inference's attributes with recomputed figures, and the figures that differ.

    The series of the inference give the figures. Each stored figure that differs has a line. The
    digest is not verified here: a figure that somebody changed is reported by its name.
    """
    path = folder / "inference.zarr.zip"
    attributes = artefacts.load(path, only=()).attrs
    stored = artefacts.load(path, only=estimates.series_of(attributes))
    optimise = artefacts.load(folder / "optimise.zarr.zip", only=("energy_Eh",))
    try:
        derived = estimates.recompute(stored, optimise, reference)
    except (KeyError, ValueError) as error:
        raise ArtefactError(f"{path}: cannot be recomputed: {error}") from error
    return stored.attrs | derived, estimates.differences(stored.attrs, derived)


def _conventional(folder: Path) -> tuple[xr.Dataset | None, str]:
    """The conventional energies of a run that asks for any, or why there are none."""
    if CONVENTIONAL not in stages_of(folder):
        return None, ""
    found = stage_state(folder, CONVENTIONAL)
    if found.state != "done":
        return None, found.reason
    try:
        return artefacts.load(folder / f"{CONVENTIONAL}.zarr.zip"), ""
    except ArtefactError as error:
        return None, str(error)


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


def _wall_seconds(folder: Path) -> float | None:
    """Seconds spent in the finished stages of the chain; None before the first."""
    records = [files.read_json(folder / f"{stage}.provenance.json") for stage in STAGES]
    times = [float(record["wall_s"]) for record in records if record and record.get("wall_s")]
    return sum(times) if times else None

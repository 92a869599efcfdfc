"""Reads what a scan's runs have left; writes the scan's table, dataset, fits, plots and page."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ferminet_core.analysis import estimates, verdict
from ferminet_core.analysis.optimiser_comparison import Trace, advantages, best_known
from ferminet_core.analysis.summary import RunOutcome, Summary, energies, summarise
from ferminet_core.errors import ArtefactError, RecomputeError
from ferminet_core.inputs.scan import Scan
from ferminet_core.report import page, plots
from ferminet_core.runner.status import CONVENTIONAL, STAGES, stage_state, stages_of
from ferminet_core.storage import artefacts, files


def write_summary(scan: Scan, results: Path, recompute: bool = False) -> list[str]:
    """Write scan.csv, scan.zarr.zip, summary.json, curve.svg, curve.png and report.html of a scan,
    quantities.csv where the system file declares any, and where geometries were computed in several
    variants convergence.svg and .csv, their optimisations side by side.

    Whatever is done is reported; runs that are not keep their row, with their state.

    Args:
        scan: the scan; its runs lie in `results`/<scan name>/runs.
        results: folder of all results.
        recompute: derive the figures of every run from its raw series again instead of reading
            those stored with them.

    Returns:
        Lines for the user: what was written, which runs have not converged, what was found out,
        warnings.

    Raises:
        ArtefactError: a file cannot be written.
        RecomputeError: all is written, and stored figures differ from the recomputed ones; a line
            for each of them.
    """
    folder = Path(results) / scan.name
    outcomes = {
        run.run_id: run_outcome(folder / "runs" / run.run_id, recompute) for run in scan.runs
    }
    summary = summarise(scan, outcomes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.atomic_file(folder / "scan.csv") as file:
            file.write(summary.table.to_csv(index=False, lineterminator="\n").encode())
        if scan.quantities:
            with files.atomic_file(folder / "quantities.csv") as file:
                file.write(summary.quantities.to_csv(index=False, lineterminator="\n").encode())
        files.write_json(folder / "summary.json", summary.derived)
        plots.plot_scan(summary, folder)
        _write_convergence(summary, outcomes, folder)
        page.write_report(scan, summary, folder)
    except OSError as error:
        raise ArtefactError(f"{folder}: cannot be written: {error.strerror or error}") from error
    artefacts.save(summary.dataset, folder / "scan.zarr.zip")
    written = f"written: {folder / 'scan.csv'} and files beside it"
    if wrong := [f"{run}: {line}" for run, found in outcomes.items() for line in found.differences]:
        raise RecomputeError(
            "\n".join(["stored figures differ from their series", *wrong, written])
        )
    lines = [*describe(summary), written]
    if recompute:
        count = summary.derived["states"].get("done", 0)
        lines.append(f"recomputed: the stored figures of {count} runs follow from their series")
    return lines


def _write_convergence(summary: Summary, outcomes: Mapping[str, RunOutcome], folder: Path) -> None:
    """Optimisations of the same geometry side by side, where there are any."""
    done = energies(summary.table)
    several = done.groupby("geometry").filter(lambda runs: len(runs) > 1)
    runs = zip(several["run_id"], several["geometry"], several["variant"], strict=True)
    traces = [
        Trace(geometry, variant, series["energy_Eh"], seconds)
        for run_id, geometry, variant in runs
        if (series := outcomes[run_id].optimisation)
        and (seconds := _seconds_per_update(folder / "runs" / run_id)) is not None
    ]
    limits = best_known(several, summary.references)
    if not traces:
        return
    table = advantages(traces, limits)
    with files.atomic_file(folder / "convergence.csv") as file:
        file.write(table.to_csv(index=False, lineterminator="\n").encode())
    plots.plot_convergence(traces, limits, folder)


def _seconds_per_update(run: Path) -> float | None:
    """Of the optimisation, the last process's compilation left out."""
    record = files.read_json(run / "optimise.provenance.json")
    if not record or not record.get("n_steps"):
        return None
    seconds = float(record["wall_s"]) - float(record.get("jax", {}).get("xla_compile_s", 0.0))
    return seconds / float(record["n_steps"])


def run_outcome(folder: Path, recompute: bool = False) -> RunOutcome:
    """State and results of one run from the files in its folder.

    A damaged artefact makes its run failed, with the reason; the others are reported all the same.
    A run is done without its conventional energies.
    """
    found, reason = _conventional(folder)
    outcome = _chain_outcome(folder, recompute)
    return outcome._replace(conventional=found, conventional_reason=reason)


def _chain_outcome(folder: Path, recompute: bool) -> RunOutcome:
    """What the stages from the reference to the inference have left."""
    wall_s = _wall_seconds(folder)
    reference: dict[str, Any] = {}
    inference: dict[str, Any] = {}
    series: dict[str, np.ndarray] = {}
    differences: list[str] = []
    try:
        if (path := folder / "reference.zarr.zip").exists():
            reference = dict(artefacts.load(path).attrs)
        if (path := folder / "inference.zarr.zip").exists():
            if recompute:
                inference, differences = _recomputed(folder, reference)
            else:
                inference = dict(artefacts.load(path).attrs)
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
    """The series that the verdict is made from; none where they are lost, for the energy stands."""
    with contextlib.suppress(ArtefactError):
        ds = artefacts.load(path, only=verdict.SERIES)
        return {name: ds[name].to_numpy() for name in verdict.SERIES}
    return {}


def _recomputed(folder: Path, reference: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The inference's attributes with its figures derived from the series, and what was stored
    otherwise.

    The digest is not looked at: a number that somebody changed shall be told by its name.
    """
    path = folder / "inference.zarr.zip"
    stored = artefacts.load(path, only=estimates.SERIES)
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


def literature_sources(scans: Iterable[Path]) -> list[str]:
    """Sources of the published energies beside these scans (folders), as far as summed up."""
    found: set[str] = set()
    for scan in scans:
        derived = files.read_json(scan / "summary.json") or {}
        for entry in derived.get("literature", {}).values():
            found.update(entry.get("sources", []))
    return sorted(found)


def describe(summary: Summary) -> list[str]:
    """The summary in a few lines for the terminal."""
    derived = summary.derived
    states = ", ".join(f"{count} {state}" for state, count in sorted(derived["states"].items()))
    lines = [f"{summary.name}: {len(summary.table)} runs ({states})"]
    for curve in derived["curves"]:
        name = f" ({curve['variant']})" if curve["variant"] else ""
        if "refused" in curve:
            lines.append(f"no r_e{name}: {curve['refused']}")
            continue
        r_e, omega = curve["r_e_bohr"], curve["omega_e_inverse_cm"]
        lines.append(
            f"r_e{name} = {r_e['value']:.4f} +- {r_e['error']:.4f} bohr, "
            f"omega_e = {omega['value']:.0f} +- {omega['error']:.0f} cm^-1"
        )
        if depth := curve.get("D_e_Eh"):
            lines.append(f"D_e{name} = {depth['value']:.5f} +- {depth['error']:.5f} hartree")
    for curve in derived["curves"]:
        variant = f" ({curve['variant']})" if curve["variant"] else ""
        for name, npe in curve["non_parallelity"].items():
            lines.append(
                f"non-parallelity error{variant} against {name}: {1e3 * npe['value_Eh']:.2f} +- "
                f"{1e3 * npe['error_Eh']:.2f} mEh over {npe['n_points']} points "
                f"({1e3 * npe['expected_from_noise_Eh']:.2f} expected from noise alone)"
            )
    for _, row in summary.quantities.iterrows():
        variant = f" ({row['variant']})" if row["variant"] else ""
        lines.append(
            f"{row['quantity']}{variant} = {1e3 * row['value_Eh']:.2f} +- "
            f"{1e3 * row['error_Eh']:.2f} mEh"
        )
    for run_id, share in derived["correlation"].items():
        lines.append(
            f"correlation energy of {run_id}: {share['percent']:.2f} +- {share['error']:.2f} %"
        )
    verdicts = {run_id: found["verdict"] for run_id, found in derived["verdicts"].items()}
    wrong = [f"{run_id}: {text}" for run_id, text in verdicts.items() if text != "converged"]
    if verdicts:
        lines.append(f"{len(verdicts) - len(wrong)} of {len(verdicts)} finished runs converged")
    lines += wrong
    lines += [f"warning: {warning}" for warning in summary.warnings]
    return lines

"""The files of a scan's results: table, dataset, summary, pictures and page."""

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ferminet_core.analysis.group_summary import group_line
from ferminet_core.analysis.joint_curve import JointCurve, point_table, step_table
from ferminet_core.analysis.optimiser_comparison import Trace, advantages, best_known
from ferminet_core.analysis.scan_table import measured
from ferminet_core.analysis.summary import RunOutcome, Summary, summarise
from ferminet_core.errors import ArtefactError, InputError, RecomputeError
from ferminet_core.inputs.group_curves import open_group
from ferminet_core.inputs.group_files import group_specs
from ferminet_core.inputs.messages import replace_unprintable
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.scan_columns import MILLI
from ferminet_core.report import page, plots
from ferminet_core.report.chart_data import quantity_parameters
from ferminet_core.report.group_outcomes import group_outcomes
from ferminet_core.report.run_outcomes import run_outcome
from ferminet_core.report.tables import against_fragments, fitted_points
from ferminet_core.runner.curve import measured as measured_curve
from ferminet_core.storage import artefacts, files

# Stale runs that the terminal names, with what differs. An edit may concern all runs of a scan.
_STALE_SHOWN = 5


def write_summary(scan: Scan, results: Path, recompute: bool = False) -> list[str]:
    """Write the results of a scan, whether all of its runs are done or not.

    The files are scan.csv, scan.zarr.zip, summary.json, curve.svg, curve.png and report.html.
    quantities.csv is added where the system file declares quantities, convergence.svg and .csv
    where geometries have several variants, and curve_points.csv and curve_slopes.csv where a shared
    wavefunction was measured along its curve. A run that is not done keeps its row, with its state.
    Tables come first. A picture or page that cannot be drawn costs neither these nor the others: it
    says so itself, in a warning and in its place.

    Args:
        scan: the scan; its runs lie in `results`/<scan name>/runs.
        results: folder of all results.
        recompute: derive the figures of every run from its raw series again instead of reading
            the stored ones.

    Returns:
        Lines for the user: results, runs that have not converged, warnings, and the files written.

    Raises:
        ArtefactError: a file cannot be written.
        RecomputeError: all is written, and stored figures differ from the recomputed ones; a line
            for each of them.
    """
    folder = Path(results) / scan.name
    groups = group_outcomes(folder)
    outcomes = {
        run.run_id: run_outcome(run, folder / "runs" / run.run_id, recompute, groups)
        for run in scan.runs
    }
    joint, unused = _joint_curves(folder)
    summary = summarise(scan, outcomes, groups, joint)
    summary.warnings.extend(unused)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_csv(summary.table, folder / "scan.csv")
        if scan.quantities:
            _write_csv(summary.quantities, folder / "quantities.csv")
        for name, found in (("points", point_table(joint)), ("slopes", step_table(joint))):
            path = folder / f"curve_{name}.csv"
            if found.empty:
                path.unlink(missing_ok=True)
            else:
                _write_csv(found, path)
        files.write_json(folder / "summary.json", summary.derived)
        artefacts.save(summary.dataset, folder / "scan.zarr.zip")
        failures = list(_draw(scan, summary, outcomes, folder))
    except OSError as error:
        raise ArtefactError(f"{folder}: cannot be written: {error.strerror or error}") from error
    written = f"written: {folder / 'scan.csv'} and files next to it"
    if wrong := [f"{run}: {line}" for run, found in outcomes.items() for line in found.differences]:
        raise RecomputeError(
            "\n".join(["stored figures differ from their series", *wrong, written])
        )
    lines = [*map(replace_unprintable, [*describe(summary), *failures]), written]
    if recompute:
        count = summary.derived["states"].get("done", 0)
        lines.append(f"recomputed: the stored figures of {count} runs follow from their series")
    return lines


def _joint_curves(folder: Path) -> tuple[list[JointCurve], list[str]]:
    """What was measured of the groups of a scan, and a warning for each file that is not used."""
    found, warnings = [], []
    for path in group_specs(folder):
        try:
            source = open_group(folder, path.stem)
        except InputError:  # no curve over one parameter
            continue
        measurements, reason = measured_curve(source)
        found.append(measurements)
        warnings += [reason] if reason else []
    return found, warnings


def _draw(
    scan: Scan, summary: Summary, outcomes: Mapping[str, RunOutcome], folder: Path
) -> Iterator[str]:
    """Draw the pictures and the page, and give a warning for each that cannot be drawn.

    The workflow deletes the table of a summary that fails or lacks a file, so the reason takes the
    place of the picture.
    """
    parts: tuple[tuple[str, Callable[[], None], Callable[[str], None]], ...] = (
        (
            "curve.svg and curve.png",
            lambda: plots.plot_scan(summary, folder),
            lambda reason: plots.write_note(reason, folder),
        ),
        (
            "convergence.svg",
            lambda: _write_convergence(summary, outcomes, folder),
            lambda reason: (folder / "convergence.svg").unlink(missing_ok=True),
        ),
        (
            page.NAME,
            lambda: page.write_report(scan, summary, folder),
            lambda reason: page.write_note(summary.title, reason, folder),
        ),
    )
    for name, draw, replace in parts:
        try:
            draw()
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  (any fault of a picture; days of results depend)
            reason = f"{name} cannot be drawn: {type(error).__name__}: {error}"
            replace(replace_unprintable(reason))
            traceback.print_exc()
            yield f"warning: {reason}"


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    with files.atomic_file(path) as file:
        file.write(table.to_csv(index=False, lineterminator="\n").encode(errors="replace"))


def apart_by_potential(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the potentials behind the names of geometries that have several.

    Their total energies are on different scales.
    """
    names = table["geometry"] + ", " + table["pseudopotential"].replace("", "all electrons")
    several = table.groupby("geometry")["pseudopotential"].transform("nunique") > 1
    return table.assign(geometry=table["geometry"].mask(several, names))


def _write_convergence(summary: Summary, outcomes: Mapping[str, RunOutcome], folder: Path) -> None:
    """Compare the optimisations of each geometry that has several."""
    done = apart_by_potential(measured(summary.table))
    several = done.groupby("geometry").filter(lambda runs: len(runs) > 1)
    runs = zip(several["run_id"], several["geometry"], several["variant"], strict=True)
    traces = [
        Trace(geometry, variant, series["energy_Eh"], seconds)
        for run_id, geometry, variant in runs
        if not (start := outcomes[run_id].start) or not start.group  # whose time was the group's
        if (series := outcomes[run_id].optimisation)
        and (seconds := _seconds_per_iteration(folder / "runs" / run_id)) is not None
    ]
    limits = best_known(several, summary.published)
    if not traces:
        return
    _write_csv(advantages(traces, limits), folder / "convergence.csv")
    plots.plot_convergence(traces, limits, folder)


def _seconds_per_iteration(run: Path) -> float | None:
    """Wall seconds of an iteration of the optimisation, without the last process's compilation."""
    record = files.read_json(run / "optimise.provenance.json")
    if not record or not record.get("n_steps"):
        return None
    seconds = float(record["wall_s"]) - float(record.get("jax", {}).get("xla_compile_s", 0.0))
    return seconds / float(record["n_steps"])


def literature_sources(scans: Iterable[Path]) -> list[str]:
    """Sources of the published energies of these scans (folders) that have a summary."""
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
    lines = [f"{summary.name}: {len(summary.table)} runs ({states})", *_constants(summary)]
    lines += _quantities(summary)
    for run_id, share in derived["correlation"].items():
        lines.append(
            f"correlation energy of {run_id}: {share['percent']:.2f} +- {share['error']:.2f} %"
        )
    rows = summary.table[summary.table["state"] == "stale"]
    stale = [f"{name}: {why}" for name, why in zip(rows["run_id"], rows["verdict"], strict=True)]
    lines += stale[:_STALE_SHOWN]
    if len(stale) > _STALE_SHOWN:
        lines.append(f"and {len(stale) - _STALE_SHOWN} more stale runs, named in scan.csv")
    verdicts = {run_id: found["verdict"] for run_id, found in derived["verdicts"].items()}
    wrong = [f"{run_id}: {text}" for run_id, text in verdicts.items() if text != "converged"]
    if verdicts:
        lines.append(f"{len(verdicts) - len(wrong)} of {len(verdicts)} finished runs converged")
    lines += [group_line(name, facts) for name, facts in derived["groups"].items()]
    return [*lines, *wrong, *(f"warning: {warning}" for warning in summary.warnings)]


def _constants(summary: Summary) -> list[str]:
    """Constants of each curve, then its non-parallelity errors."""
    lines, errors = [], []
    for curve in summary.derived["curves"]:
        of = _of(curve["name"])
        if "refused" in curve:
            lines.append(f"no r_e{of}: {curve['refused']}")
        else:
            r_e, omega = curve["r_e_bohr"], curve["omega_e_inverse_cm"]
            lines.append(
                f"r_e{of} = {r_e['value']:.4f} +- {r_e['error']:.4f} bohr, "
                f"omega_e = {omega['value']:.0f} +- {omega['error']:.0f} cm^-1 "
                f"({fitted_points(curve)})"
            )
        lines += _constants_with_slopes(of, curve.get("with_slopes", {}))
        if depth := curve.get("D_e_Eh"):
            lines.append(
                f"D_e{of} = {depth['value']:.5f} +- {depth['error']:.5f} hartree "
                f"({against_fragments(curve)})"
            )
        for name, npe in curve["non_parallelity"].items():
            errors.append(
                f"non-parallelity error{of} against {name}: "
                f"{MILLI * npe['value_Eh']:.2f} +- {MILLI * npe['error_Eh']:.2f} mEh over "
                f"{npe['n_points']} points "
                f"({MILLI * npe['expected_from_noise_Eh']:.2f} expected from noise alone)"
            )
    return [*lines, *errors]


def _constants_with_slopes(of: str, found: Mapping[str, Any]) -> Iterator[str]:
    """The constants of a curve from energies with slopes and differences."""
    if "refused" in found:
        yield f"no r_e with slopes{of}: {found['refused']}"
    elif found:
        r_e, omega = found["r_e_bohr"], found["omega_e_inverse_cm"]
        yield (
            f"with slopes{of}: r_e = {r_e['value']:.4f} +- {r_e['error']:.4f} bohr, "
            f"omega_e = {omega['value']:.0f} +- {omega['error']:.0f} cm^-1 "
            f"({found['n_slopes']} slopes, {found['n_differences']} differences)"
        )


def _quantities(summary: Summary) -> Iterator[str]:
    """A line for each quantity and variant; one over a grid has its range there."""
    for (name, variant), rows in summary.quantities.groupby(["quantity", "variant"], sort=False):
        of, values, first = _of(str(variant)), MILLI * rows["value_Eh"], rows.iloc[0]
        if rows[quantity_parameters(summary)].isna().all(axis=None):
            yield f"{name}{of} = {values.iloc[0]:.2f} +- {MILLI * first['error_Eh']:.2f} mEh"
        else:
            yield (
                f"{name}{of}: {len(rows)} values from {values.min():.2f} to {values.max():.2f} mEh "
                f"(errors up to {MILLI * rows['error_Eh'].max():.2f} mEh), in quantities.csv"
            )


def _of(curve: str) -> str:
    """State and variant behind the name of a result."""
    return f" ({curve})" if curve else ""

"""The report on one run, read from the files of its finished stages."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from ferminet_core.analysis.literature import PublishedEnergies
from ferminet_core.analysis.run_start import RunStart, read_start
from ferminet_core.errors import ArtefactError
from ferminet_core.inputs.run_spec import RunSpec, flat_settings, parse_spec
from ferminet_core.report import run_charts
from ferminet_core.report.charts import Chart
from ferminet_core.report.density_charts import density_charts
from ferminet_core.report.run_charts import OPTIMISATION_SERIES, VARIANCE_LINE_SERIES
from ferminet_core.runner.origins import misfits
from ferminet_core.runner.status import STAGES, StageState, run_states
from ferminet_core.runner.work_files import read_events
from ferminet_core.storage import artefacts, files

# The variables that the charts of a run are drawn from, by stage.
_CHARTED = {
    "pretrain": ("orbital_misfit", "energy_Eh", "error_Eh"),
    "optimise": (*VARIANCE_LINE_SERIES, *OPTIMISATION_SERIES),
    "inference": ("energy_local", "equilibration_Eh", "walkers"),
}


class RunPage(NamedTuple):
    """One run, without its charts.

    name: prefix of the names of its charts
    line: of energies over variances, None before the optimisation is finished
    stages: their states; provenance, artefacts: records and attributes of the finished stages
    events: of each stage; settings: that the run was made with, by dotted key
    problems: files that could not be read
    """

    run: RunSpec
    name: str
    line: run_charts.VarianceLine | None
    stages: list[StageState]
    provenance: dict[str, dict[str, Any]]
    artefacts: dict[str, dict[str, Any]]
    events: dict[str, list[dict[str, Any]]]
    settings: dict[str, Any]
    problems: list[str]


def read_run(run: RunSpec, folder: Path, name: str) -> RunPage:
    """The facts of a run; a damaged file is reported and left out.

    An artefact that is not the run's is left out too; the state of the run says why.

    Args:
        run: the run as the scan has it now.
        folder: of the run, with the artefacts of its stages.
        name: prefix of the names of its charts.
    """
    found, problems = _artefacts(run, folder, {"optimise": VARIANCE_LINE_SERIES})
    optimise = found.get("optimise")
    has_line = optimise is not None and "variance_Eh2" in optimise
    return RunPage(
        run=run,
        name=name,
        line=run_charts.variance_line(name, found["optimise"]) if has_line else None,
        stages=run_states(folder),
        provenance={
            stage: record
            for stage in found
            if (record := files.read_json(folder / f"{stage}.provenance.json"))
        },
        artefacts={stage: dict(ds.attrs) for stage, ds in found.items()},
        events={stage: read_events(folder / f"{stage}.work") for stage in STAGES},
        settings=_settings(run, list(found.values())),
        problems=problems,
    )


def read_charts(
    page: RunPage, folder: Path, published: Sequence[PublishedEnergies]
) -> dict[str, list[Chart]]:
    """The charts of a run by heading.

    Args:
        page: the facts of the run.
        folder: of the run.
        published: energies to compare with.
    """
    found, _ = _artefacts(page.run, folder, _CHARTED)
    hartree_fock = float(found["reference"].attrs["e_hf"]) if "reference" in found else math.nan
    known = run_charts.levels(page.run.run_id, hartree_fock, published)
    charts: dict[str, list[Chart]] = {}

    def marks(stage: str, shift: int = 0) -> list[run_charts.Mark]:
        return run_charts.marks(page.provenance.get(stage, {}), page.events[stage], shift)

    if ds := found.get("inference"):
        charts["Electron density"] = density_charts(page.name, ds, page.run.molecule)
        shift = int(ds.attrs.get("n_equilibration", 0))
        charts["Inference"] = run_charts.inference_charts(
            page.name, ds, known, marks("inference", shift)
        )
    if ds := found.get("optimise"):
        start = read_start(ds.attrs)
        at = marks("optimise", -start.joint) + _own_start(start)
        some = run_charts.optimisation_charts(page.name, ds, known, at)
        if page.line and page.line.chart:
            some.append(page.line.chart)
        charts[_optimisation_heading(start)] = some
    if ds := found.get("pretrain"):
        charts["Pretraining"] = run_charts.pretraining_charts(
            page.name, ds, known, marks("pretrain")
        )
    return {heading: some for heading, some in charts.items() if some}


def _optimisation_heading(start: RunStart) -> str:
    """The heading of the charts of an optimisation; those of a joint one are marked as such."""
    if not start.joint:
        return "Optimisation"
    heading = f"Joint optimisation of group {start.group}"
    return f"{heading}, then {start.own} iterations of its own" if start.own else heading


def _own_start(start: RunStart) -> list[run_charts.Mark]:
    """The place where the own iterations of a run of a group follow those of the joint ones."""
    if not (start.joint and start.own):
        return []
    text = f"the iterations up to {start.joint} are those of group {start.group}"
    return [run_charts.Mark(start.joint, "start", text)]


def _artefacts(
    run: RunSpec, folder: Path, variables: Mapping[str, Iterable[str]]
) -> tuple[dict[str, xr.Dataset], list[str]]:
    """The artefacts of the finished stages in their order, and a line for each unreadable file.

    Args:
        run: the run as the scan has it now.
        folder: of the run.
        variables: to read besides the attributes, by stage. A scan may have thousands of runs, so
            nothing else is read.
    """
    found, problems = {}, []
    wrong = misfits(run, folder)
    for stage in STAGES:
        path = folder / f"{stage}.zarr.zip"
        if path.exists() and stage not in wrong:
            try:
                found[stage] = artefacts.load_present(path, variables.get(stage, ()))
            except ArtefactError as error:
                problems.append(str(error))
    return found, problems


def _settings(run: RunSpec, found: list[xr.Dataset]) -> dict[str, Any]:
    """The settings that a run was made with: those in its last finished stage."""
    stored = [str(ds.attrs["spec"]) for ds in found if "spec" in ds.attrs]
    made_with = parse_spec(stored[-1], f"results of run {run.run_id}") if stored else run
    return flat_settings(made_with.config, "inference")

"""The report on one run, read from the files of its finished stages."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from ferminet_core.analysis.literature import PublishedEnergies
from ferminet_core.errors import ArtefactError
from ferminet_core.inputs.run_spec import RunSpec, flat_settings, parse_spec
from ferminet_core.report import run_charts
from ferminet_core.report.charts import Chart
from ferminet_core.report.density_charts import density_charts
from ferminet_core.runner.origins import misfits
from ferminet_core.runner.status import STAGES, StageState, run_states
from ferminet_core.runner.work_files import read_events
from ferminet_core.storage import artefacts, files


class RunPage(NamedTuple):
    """One run.

    charts: by heading; line: of energies over variances, None before the optimisation is finished
    stages: their states; provenance, artefacts: records and attributes of the finished stages
    events: of all stages, in the order of time; settings: that the run was made with, by dotted key
    problems: files that could not be read
    """

    run: RunSpec
    charts: dict[str, list[Chart]]
    line: run_charts.VarianceLine | None
    stages: list[StageState]
    provenance: dict[str, dict[str, Any]]
    artefacts: dict[str, dict[str, Any]]
    events: list[dict[str, Any]]
    settings: dict[str, Any]
    problems: list[str]


def read_run(
    run: RunSpec, folder: Path, name: str, published: Sequence[PublishedEnergies]
) -> RunPage:
    """Charts and facts of a run; a damaged file is reported and left out.

    An artefact that is not the run's is left out too; the state of the run says why.

    Args:
        run: the run as the scan has it now.
        folder: of the run, with the artefacts of its stages.
        name: prefix of the names of its charts.
        published: energies to compare with.
    """
    found, problems = _artefacts(run, folder)
    stages = {stage: folder / f"{stage}.work" for stage in STAGES}
    events = {stage: read_events(work) for stage, work in stages.items()}
    provenance = {
        stage: record
        for stage in found
        if (record := files.read_json(folder / f"{stage}.provenance.json"))
    }
    hartree_fock = float(found["reference"].attrs["e_hf"]) if "reference" in found else math.nan
    known = run_charts.levels(run.run_id, hartree_fock, published)
    charts: dict[str, list[Chart]] = {}
    line = None

    def marks(stage: str, shift: int = 0) -> list[run_charts.Mark]:
        return run_charts.marks(provenance.get(stage, {}), events[stage], shift)

    if ds := found.get("inference"):
        charts["Electron density"] = density_charts(name, ds, run.molecule)
        shift = int(ds.attrs.get("n_equilibration", 0))
        charts["Inference"] = run_charts.inference_charts(
            name, ds, known, marks("inference", shift)
        )
    if ds := found.get("optimise"):
        charts["Optimisation"] = run_charts.optimisation_charts(name, ds, known, marks("optimise"))
        if "variance_Eh2" in ds:
            line = run_charts.variance_line(name, ds)
            charts["Optimisation"] += [line.chart] if line.chart else []
    if ds := found.get("pretrain"):
        charts["Pretraining"] = run_charts.pretraining_charts(name, ds, known, marks("pretrain"))
    return RunPage(
        run=run,
        charts={heading: some for heading, some in charts.items() if some},
        line=line,
        stages=run_states(folder),
        provenance=provenance,
        artefacts={stage: dict(ds.attrs) for stage, ds in found.items()},
        events=sorted(itertools.chain(*events.values()), key=lambda event: str(event.get("time"))),
        settings=_settings(run, list(found.values())),
        problems=problems,
    )


def _artefacts(run: RunSpec, folder: Path) -> tuple[dict[str, xr.Dataset], list[str]]:
    """The artefacts of the finished stages in their order, and a line for each unreadable file."""
    found, problems = {}, []
    wrong = misfits(run, folder)
    for stage in STAGES:
        path = folder / f"{stage}.zarr.zip"
        if path.exists() and stage not in wrong:
            try:
                found[stage] = artefacts.load(path)
            except ArtefactError as error:
                problems.append(str(error))
    return found, problems


def _settings(run: RunSpec, found: list[xr.Dataset]) -> dict[str, Any]:
    """The settings that a run was made with: those in its last finished stage."""
    stored = [str(ds.attrs["spec"]) for ds in found if "spec" in ds.attrs]
    made_with = parse_spec(stored[-1], f"results of run {run.run_id}") if stored else run
    return flat_settings(made_with.config, "inference")

"""report.html: a page on a scan that needs no server and no network.

The page of a scan of up to `MANY_RUNS` runs needs no other file. With more runs, the details of
each run are a script in the folder `report` next to the page, which loads it when the run is
opened. A script is written again only if the run or this package has changed.

Tables and text are plain HTML from the templates page.html and parts.html, which escape everything
that is not marked as safe. plotly draws the charts; the page holds its JavaScript in compressed
form.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from ferminet_core.analysis.run_start import of_group
from ferminet_core.analysis.summary import Summary
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.scan_columns import MILLI
from ferminet_core.report import tables
from ferminet_core.report.chart_data import done_of_total
from ferminet_core.report.charts import Chart, Figure, Table, plus_minus
from ferminet_core.report.group_charts import group_charts
from ferminet_core.report.run_page import RunPage, read_charts, read_run
from ferminet_core.report.scan_charts import correlation_chart, quantities_chart, scan_charts
from ferminet_core.storage import files
from ferminet_core.storage.provenance import code_hash

NAME = "report.html"
DETAILS = "report"  # folder of the details
MANY_RUNS = 50  # their details take about 7 MB
_FOLDER = Path(__file__).parent
_LONG = 32  # characters; the page breaks longer texts of a cell into lines
_MANY = 6  # lines; a longer notice is closed at first
_ZERO_VARIANCE = (
    "Near an eigenstate the excess energy is proportional to the variance. A line through the "
    "energies and variances of one optimisation, extrapolated to zero variance, estimates the "
    "energy that a longer optimisation would reach. This estimate is not an upper bound, and it "
    "does not replace the result of a run. Where there is no estimate, a remark gives the reason. "
    "The charts are in the section of each run."
)

_ELSEWHERE = (
    f"The details of a run load from the folder `{DETAILS}` next to this page when the run is "
    "opened. Copy both to keep them."
)


class Fact(NamedTuple):
    """A main result, in large type."""

    name: str
    value: str
    unit: str


class Notice(NamedTuple):
    """A list of lines that deserve attention."""

    heading: str
    lines: Sequence[str]
    more: str = ""

    @property
    def closed(self) -> bool:
        """Whether the list is long, so that the page shows its heading alone at first."""
        return len(self.lines) >= _MANY


class Run(NamedTuple):
    """One run.

    Attributes:
        anchor: its place on the page.
        text: energy or state.
        details: HTML, or None if it is a script of its own.
        source: address of that script, relative to the page.
    """

    anchor: str
    name: str
    state: str
    text: str
    details: Markup | None
    source: str


class Section(NamedTuple):
    """A section of the page; a section without any content is left out."""

    heading: str
    facts: Sequence[Fact] = ()
    notices: Sequence[Notice] = ()
    text: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    runs: Sequence[Run] = ()

    @property
    def anchor(self) -> str:
        """Its place on the page."""
        return self.heading.lower().replace(" ", "-")


def write_report(scan: Scan, summary: Summary, folder: Path) -> None:
    """Write report.html from what is finished of a scan, and the details of many runs next to it.

    Args:
        scan: the scan.
        summary: of its runs.
        folder: of the scan, with scan.csv; the runs lie in `folder`/runs.

    Raises:
        OSError: a file cannot be read or written.
    """
    pages = [
        read_run(run, folder / "runs" / run.run_id, _anchor(number))
        for number, run in enumerate(scan.runs)
    ]
    many = len(pages) > MANY_RUNS
    if many:
        _write_scripts(pages, folder, summary)
    runs = [
        _run(
            page,
            summary.table.iloc[number],
            None if many else _details(page, folder, summary),
            _script(page) if many else "",
        )
        for number, page in enumerate(pages)
    ]
    text = _page(summary, pages, runs, folder)
    with files.atomic_file(folder / NAME) as file:
        file.write(text.encode(errors="replace"))


def write_note(title: str, reason: str, folder: Path) -> None:
    """Write a page that says why there is no other.

    Raises:
        OSError: the file cannot be written.
    """
    text = f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><p>{escape(reason)}"
    with files.atomic_file(folder / NAME) as file:
        file.write(text.encode(errors="replace"))


def _script(page: RunPage) -> str:
    """The script with a run's details, relative to the folder of the scan."""
    return f"{DETAILS}/{page.run.run_id}.js"


def _write_scripts(pages: Sequence[RunPage], folder: Path, summary: Summary) -> None:
    """Write the details of the runs that have changed, and delete those of no run."""
    (folder / DETAILS).mkdir(exist_ok=True)
    wanted = {folder / _script(page): page for page in pages}
    code = code_hash()
    for path in (folder / DETAILS).glob("*.js"):
        if path not in wanted:
            path.unlink()
    for path, page in wanted.items():
        # The first line tells whether the rest still holds.
        head = f"// {_content_key(code, page, summary)}\n".encode()
        if _begins_with(path, head):
            continue
        call = (
            f"showDetails({json.dumps(page.name)}, {json.dumps(_details(page, folder, summary))});"
        )
        with files.atomic_file(path) as file:
            file.write(head + call.encode() + b"\n")


def _begins_with(path: Path, head: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(head)) == head
    except FileNotFoundError:
        return False


def _content_key(code: str, page: RunPage, summary: Summary) -> str:
    """SHA-256 (hex) of all that the details of a run depend on, with `code_hash`."""
    known = [
        (entry.label, entry.values[page.run.run_id])
        for entry in summary.published
        if page.run.run_id in entry.values
    ]
    # An age grows from look to look, and says nothing about the run.
    stages = [stage._replace(checkpoint_age_s=None, holder="") for stage in page.stages]
    parts = page.name, known, stages, page.provenance, page.artefacts, page.events, page.problems
    content = json.dumps([code, *parts], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _details(page: RunPage, folder: Path, summary: Summary) -> Markup:
    """The charts and tables of a run as HTML."""
    events = tables.events_table(page)
    return Markup(
        _templates()
        .get_template("details.html")
        .render(
            charts=read_charts(page, folder / "runs" / page.run.run_id, summary.published),
            missing=[stage.stage for stage in page.stages if stage.stage not in page.artefacts],
            tables=[tables.stages_table(page), *([events] if events else [])],
            figures=_figures,
            long=_LONG,
        )
    )


def _anchor(number: int) -> str:
    """The place of a run on the page, and the prefix of the names of its charts."""
    return f"run{number}"


def _page(summary: Summary, pages: Sequence[RunPage], runs: Sequence[Run], folder: Path) -> str:
    csv = (folder / "scan.csv").read_bytes()
    done, total = done_of_total(summary)
    state = f"{done} of {total} runs done" if done < total else f"all {total} runs done"
    sections = [
        _result(summary, pages),
        Section("Energies", text=_comparability(summary), charts=_energy_charts(summary, pages)),
        _quantities(summary),
        _zero_variance(summary, pages),
        _shared(summary, folder),
        Section("Runs", text=_ELSEWHERE if runs and runs[0].source else "", runs=runs),
        Section("Settings and cost", tables=_settings_and_cost(summary, pages)),
    ]
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=summary.title,
            state=f"{summary.name}: {state}",
            css=_safe("page.css"),
            script=_safe("page.js"),
            sections=[section for section in sections if any(section[1:])],
            links={run.name: run.anchor for run in runs},
            scripts="'self' file:" if runs and runs[0].source else "",
            csv_name=f"{summary.name}.csv",
            csv=base64.b64encode(csv).decode(),
            plotly=_packed_plotly(),
            figures=_figures,
            long=_LONG,
        )
    )


@cache
def _templates() -> Environment:
    """The templates of this folder; a name that they do not get is an error."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined
    )
    # As short as JSON can be, and without the NaN that it does not have.
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "ensure_ascii": False,
        "separators": (",", ":"),
    }
    return environment


def _safe(name: str) -> Markup:
    """A file of this folder, as it is."""
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))


@cache
def _packed_plotly() -> str:
    """plotly's JavaScript in gzip and base64, a third of its size."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _figures(charts: Sequence[Chart]) -> dict[str, list[Figure]]:
    """The data of charts, by their names."""
    return {chart.name: chart.views for chart in charts}


# --- sections -------------------------------------------------------------------------------------


def _result(summary: Summary, runs: Sequence[RunPage]) -> Section:
    """The main results, what needs attention, and the table of all runs."""
    notices = []
    unfinished = summary.table[summary.table["state"] != "done"]
    if not unfinished.empty:
        texts = zip(unfinished["run_id"], unfinished["state"], unfinished["verdict"], strict=True)
        lines = [f"{name}: {tables.state_and_reason(*words)}" for name, *words in texts]
        more = "The command `ferminet_core summary` writes this page again."
        notices.append(Notice("Not finished", lines, more))
    if flagged := summary.derived["flagged"]:
        lines = [f"{run_id}: {'; '.join(found)}" for run_id, found in flagged.items()]
        notices.append(Notice("Flagged", lines))
    problems = [problem for page in runs for problem in page.problems]
    if warnings := [*summary.warnings, *problems]:
        notices.append(Notice("Warnings", warnings))
    derived = [tables.constants_table(summary), tables.atomisation_table(summary)]
    all_tables = [*derived, tables.scan_table(summary)]
    return Section(
        "Result", _facts(summary), notices, tables=[table for table in all_tables if table]
    )


def _facts(summary: Summary) -> list[Fact]:
    """The constants of the first curve with a minimum, and the mean share of correlation energy."""
    facts = []
    curve: dict[str, Any] = next((c for c in summary.derived["curves"] if "r_e_bohr" in c), {})
    of = f" ({curve['state']})" if curve.get("state") else ""
    for key, name, unit in (
        ("r_e_bohr", "rₑ", "bohr"),
        ("omega_e_inverse_cm", "ωₑ", "cm⁻¹"),
        ("D_e_Eh", "Dₑ", "hartree"),
    ):
        if key in curve:
            value = plus_minus(curve[key]["value"], curve[key]["error"], 1)
            facts.append(Fact(f"{name}{of}", value, unit))
    for name, found in curve.get("non_parallelity", {}).items():
        value = plus_minus(MILLI * found["value_Eh"], MILLI * found["error_Eh"], 1)
        facts.append(Fact(f"non-parallelity, {name}{of}", value, "mEh"))
    if shares := summary.derived["correlation"].values():
        mean = sum(share["percent"] for share in shares) / len(shares)
        facts.append(Fact("correlation energy, mean", f"{mean:.2f}", "%"))
    return facts


def _energy_charts(summary: Summary, runs: Sequence[RunPage]) -> list[Chart]:
    estimates = {
        page.run.run_id: page.line.estimate.energy
        for page in runs
        if page.line and page.line.estimate
    }
    share = correlation_chart(summary)
    return [*scan_charts(summary, estimates), *([share] if share else [])]


def _quantities(summary: Summary) -> Section:
    if summary.quantities.empty:
        return Section("Quantities")
    chart = quantities_chart(summary)
    return Section(
        "Quantities",
        charts=[chart] if chart else [],
        tables=[tables.quantities_table(summary)],
    )


def _comparability(summary: Summary) -> str:
    """Sentences on pseudopotentials, and on points with different starts; empty without these."""
    return " ".join(filter(None, (_potentials(summary), _starts(summary))))


def _potentials(summary: Summary) -> str:
    found = [name or "all electrons" for name in summary.table["pseudopotential"].unique()]
    if found == ["all electrons"]:
        return ""
    which = f"Pseudopotential{'s of the runs' * (len(found) > 1)}: {'; '.join(found)}."
    return (
        f"{which} Total energies compare with those of the same potential only, and differences "
        "along a curve with all."
    )


def _starts(summary: Summary) -> str:
    """A sentence on points that were not optimised in the same way; empty if all were."""
    done = summary.table[summary.table["state"] == "done"]
    counts = done["start"].value_counts(sort=False)
    if len(counts) < 2 or not any(map(of_group, counts.index)):
        return ""
    found = ", ".join(f"{count} {start or 'unknown'}" for start, count in counts.items())
    return (
        f"The points have different starts ({found}), so what is left of their errors may differ "
        "by more than among points with the same start."
    )


def _shared(summary: Summary, folder: Path) -> Section:
    """The groups of a scan, each with its charts."""
    table = tables.groups_table(summary)
    charts = [
        chart
        for number, group in enumerate(summary.groups)
        for chart in group_charts(group, folder, f"group{number}")
    ]
    return Section("Shared wavefunctions", charts=charts, tables=[table] if table else [])


def _zero_variance(summary: Summary, runs: Sequence[RunPage]) -> Section:
    table = tables.variance_table(runs, summary)
    return Section(
        "Zero variance", text=_ZERO_VARIANCE if table else "", tables=[table] if table else []
    )


def _run(page: RunPage, row: pd.Series, details: Markup | None, source: str) -> Run:
    text = state = str(row["state"])
    if state == "done" and row["energy_Eh"] == row["energy_Eh"]:
        text = f"E = {plus_minus(row['energy_Eh'], row['error_Eh'])} hartree"
    return Run(page.name, page.run.run_id, state, text, details, source)


def _settings_and_cost(summary: Summary, runs: Sequence[RunPage]) -> list[Table]:
    found = [
        tables.cost_table(summary, runs),
        *tables.settings_tables(runs),
        tables.versions_table(runs),
    ]
    return [table for table in found if table]

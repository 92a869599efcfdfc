"""report.html: one page on a scan that needs nothing beside itself, neither server nor network.

Tables and text are plain HTML; charts are drawn by plotly, whose JavaScript the page holds in
compressed form. Text from a user's files is escaped here, in figures where they are made.
"""

import base64
import gzip
import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from ferminet_core.analysis.summary import Summary
from ferminet_core.inputs.scan import Scan
from ferminet_core.report import tables
from ferminet_core.report.charts import MILLI, Chart, Figure, Number, Table, plus_minus
from ferminet_core.report.run_page import RunPage, read_run
from ferminet_core.report.scan_charts import correlation_chart, quantities_chart, scan_charts
from ferminet_core.storage import files

NAME = "report.html"
_TEMPLATE = Path(__file__).with_name("page.html")
_LONG = 32  # characters from which the text of a cell is broken into lines
_MANY = 6  # from so many lines on a notice is closed at first
# Styles of a swatch by that of a line; others are dashed.
_SWATCHES = {"solid": "solid", "dot": "dotted"}


def write_report(scan: Scan, summary: Summary, folder: Path) -> None:
    """Write report.html from what is finished of a scan.

    Args:
        scan: the scan.
        summary: of its runs, whose scan.csv lies in `folder` already.
        folder: the scan's; its runs lie in `folder`/runs.

    Raises:
        OSError: a file cannot be read or written.
    """
    runs = [
        read_run(run, folder / "runs" / run.run_id, f"run{number}", summary.references)
        for number, run in enumerate(scan.runs)
    ]
    page = _page(summary, runs, (folder / "scan.csv").read_bytes())
    with files.atomic_file(folder / NAME) as file:
        file.write(page.encode())


def _page(summary: Summary, runs: Sequence[RunPage], csv: bytes) -> str:
    done = int((summary.table["state"] == "done").sum())
    total = len(summary.table)
    state = f"{done} of {total} runs done" if done < total else f"all {total} runs done"
    sections = {
        "Result": _result(summary, runs),
        "Energies": _energies(summary, runs),
        "Quantities": _quantities(summary),
        "Zero variance": _zero_variance(summary, runs),
        "Runs": "".join(_run(number, page, summary) for number, page in enumerate(runs)),
        "Settings and cost": _making(summary, runs),
    }
    sections = {heading: content for heading, content in sections.items() if content}
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(summary.title),
        state=html.escape(f"{summary.name}: {state}"),
        css=_TEMPLATE.with_suffix(".css").read_text(encoding="utf-8"),
        script=_TEMPLATE.with_suffix(".js").read_text(encoding="utf-8"),
        navigation="".join(f'<a href="#{_anchor(h)}">{html.escape(h)}</a>' for h in sections),
        sections="".join(_section(heading, content) for heading, content in sections.items()),
        csv_name=html.escape(f"{summary.name}.csv"),
        csv=base64.b64encode(csv).decode(),
        plotly=_packed_plotly(),
    )


@cache
def _packed_plotly() -> str:
    """plotly's JavaScript, which is a third as large compressed (gzip in base64)."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def _section(heading: str, content: str) -> str:
    name = _anchor(heading)
    return (
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">'
        f"{html.escape(heading)}</h2>{content}</section>"
    )


# --- sections -------------------------------------------------------------------------------------


def _result(summary: Summary, runs: Sequence[RunPage]) -> str:
    """What was found out, what is flagged, what is missing; the table of all runs."""
    parts = [_facts(summary)]
    unfinished = summary.table[summary.table["state"] != "done"]
    if not unfinished.empty:
        lines = [
            f"{row['run_id']}: {row['state']}{', ' + row['verdict'] if row['verdict'] else ''}"
            for _, row in unfinished.iterrows()
        ]
        parts.append(_notice("Not finished", lines, "ferminet_core summary renews this page."))
    flagged = summary.derived["flagged"]
    if flagged:
        lines = [f"{run_id}: {'; '.join(found)}" for run_id, found in flagged.items()]
        parts.append(_notice("Flagged", lines))
    problems = [problem for page in runs for problem in page.problems]
    if warnings := [*summary.warnings, *problems]:
        parts.append(_notice("Warnings", warnings))
    made = [tables.constants_table(summary), tables.atomisation_table(summary)]
    parts += [_table(table) for table in made if table]
    return "".join([*parts, _table(tables.scan_table(summary), _links(runs))])


def _links(runs: Sequence[RunPage]) -> dict[str, str]:
    """Where on the page the runs are, by run_id."""
    return {page.run.run_id: f"run{number}" for number, page in enumerate(runs)}


def _facts(summary: Summary) -> str:
    """The main numbers in large type: of the first curve, else of the correlation energy."""
    facts = []
    curve: dict[str, Any] = next((c for c in summary.derived["curves"] if "r_e_bohr" in c), {})
    for key, name, unit in (
        ("r_e_bohr", "rₑ", "bohr"),
        ("omega_e_inverse_cm", "ωₑ", "cm⁻¹"),
        ("D_e_Eh", "Dₑ", "hartree"),
    ):
        if key in curve:
            facts.append((name, plus_minus(curve[key]["value"], curve[key]["error"], 1), unit))
    for name, found in curve.get("non_parallelity", {}).items():
        value = plus_minus(MILLI * found["value_Eh"], MILLI * found["error_Eh"], 1)
        facts.append((f"non-parallelity, {html.escape(name)}", value, "mEh"))
    if shares := summary.derived["correlation"].values():
        mean = sum(share["percent"] for share in shares) / len(shares)
        facts.append(("correlation energy, mean", f"{mean:.2f}", "%"))
    items = [
        f"<div><dt>{name}</dt><dd>{v} <span>{unit}</span></dd></div>" for name, v, unit in facts
    ]
    return f'<dl class="facts">{"".join(items)}</dl>' if items else ""


def _notice(heading: str, lines: Sequence[str], more: str = "") -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    is_open = "" if len(lines) >= _MANY else " open"
    end = f"<p>{html.escape(more)}</p>" if more else ""
    return (
        f'<details class="notice"{is_open}><summary><h3>{heading} ({len(lines)})</h3></summary>'
        f"<ul>{items}</ul>{end}</details>"
    )


def _energies(summary: Summary, runs: Sequence[RunPage]) -> str:
    estimates = {
        page.run.run_id: page.line.estimate.energy
        for page in runs
        if page.line and page.line.estimate
    }
    charts = scan_charts(summary, estimates)
    if share := correlation_chart(summary):
        charts.append(share)
    return _charts(charts, 3)


def _quantities(summary: Summary) -> str:
    if summary.quantities.empty:
        return ""
    chart = quantities_chart(summary)
    table = _table(tables.quantities_table(summary))
    return (_charts([chart], 3) if chart else "") + table


def _zero_variance(summary: Summary, runs: Sequence[RunPage]) -> str:
    table = tables.variance_table(runs, summary)
    if table is None:
        return ""
    text = (
        "Near an eigenstate the excess energy is proportional to the variance. The line through "
        "the energies and variances that one optimisation passed through, taken to zero variance, "
        "estimates the energy that more of it would reach. It is an estimate, no upper bound, and "
        "no result; where its conditions are not met there is none. The charts are with the runs."
    )
    return f"<p>{text}</p>{_table(table, _links(runs))}"


def _run(number: int, page: RunPage, summary: Summary) -> str:
    """One run, closed; its charts are drawn when it is opened."""
    row = summary.table.iloc[number]
    state = html.escape(str(row["state"]))
    text = state
    if state == "done" and row["energy_Eh"] == row["energy_Eh"]:
        text = f"E = {plus_minus(row['energy_Eh'], row['error_Eh'])} hartree"
    parts = [_table(tables.stages_table(page))]
    if events := tables.events_table(page):
        parts.append(_table(events))
    missing = [stage.stage for stage in page.stages if stage.stage not in page.artefacts]
    if missing:
        parts.insert(0, f"<p>Not finished: {', '.join(missing)}.</p>")
    charts = []
    for heading, some in page.charts.items():
        charts.append(f"<h4>{html.escape(heading)}</h4>{_charts(some, 5)}")
    return (
        f'<details class="run" id="run{number}"><summary><h3>{html.escape(page.run.run_id)}</h3> '
        f'<span class="state {state}">{text}</span></summary>{"".join([*charts, *parts])}</details>'
    )


def _making(summary: Summary, runs: Sequence[RunPage]) -> str:
    made = [
        tables.cost_table(summary, runs),
        *tables.settings_tables(runs),
        tables.versions_table(runs),
    ]
    return "".join(_table(table) for table in made if table)


# --- tables and charts as HTML --------------------------------------------------------------------


def _table(table: Table, links: Mapping[str, str] | None = None) -> str:
    """A table that scrolls by itself where it is too wide; first cells may link to runs."""
    head = "".join(_heading(table, place) for place in range(len(table.columns)))
    rows = []
    for first, *others in table.rows:
        text = html.escape(str(first))
        if target := (links or {}).get(str(first)):
            text = f'<a href="#{target}">{text}</a>'
        rows.append(f'<tr><th scope="row">{text}</th>{"".join(map(_cell, others))}</tr>')
    title = html.escape(table.title)
    return (
        f'<div class="scroll" role="region" aria-label="{title}" tabindex="0"><table>'
        f"<caption>{title}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _heading(table: Table, place: int) -> str:
    """A column's heading, on the side of its entries, with its name in scan.csv."""
    key = table.keys[place] if table.keys else ""
    number = table.rows and isinstance(table.rows[0][place], Number)
    more = ' class="number"' if number and place else ""
    more += f' data-column="{html.escape(key)}"' if key else ""
    return f'<th scope="col"{more}>{html.escape(table.columns[place])}</th>'


def _cell(cell: str | Number) -> str:
    if isinstance(cell, Number):
        value, text = html.escape(cell.value), html.escape(cell.text)
        return f'<td class="number"><data value="{value}">{text}</data></td>'
    long = ' class="long"' if len(cell) > _LONG else ""
    return f"<td{long}>{html.escape(cell)}</td>"


def _charts(charts: Sequence[Chart], level: int) -> str:
    """Charts side by side as far as there is room, with the data that the page draws them from."""
    figures = {chart.name: chart.views for chart in charts}
    data = json.dumps(figures, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    # Nothing in a text can end the element that holds it.
    data = data.replace("<", "\\u003c")
    return (
        f'<div class="charts">{"".join(_chart(chart, level) for chart in charts)}</div>'
        f'<script type="application/json" class="figures">{data}</script>'
    )


def _chart(chart: Chart, level: int) -> str:
    title, text = html.escape(chart.title), html.escape(chart.text)
    controls = _selects(chart) + _legend(chart)
    note = f'<span class="note"> {html.escape(chart.note)}</span>' if chart.note.strip() else ""
    data = ""
    if chart.table:
        data = f"<details><summary>As a table</summary>{_table(chart.table)}</details>"
    height = chart.views[0]["layout"].get("height")
    style = f' style="height:{height}px"' if height else ""
    return (
        f'<figure class="chart" data-chart="{chart.name}"><h{level}>{title}</h{level}>'
        f'<div class="controls">{controls}</div>'
        f'<div class="plot"{style} role="group" aria-label="{title}. {text}"></div>'
        f"<figcaption>{text}{note}</figcaption>{data}</figure>"
    )


def _selects(chart: Chart) -> str:
    """A selection for each choice, in the order of the views."""
    parts = []
    for name, options in chart.choices.items():
        if len(options) < 2:
            continue
        items = "".join(f"<option>{html.escape(option)}</option>" for option in options)
        parts.append(f'<label>{html.escape(name)} <select class="choice">{items}</select></label>')
    return "".join(parts)


def _legend(chart: Chart) -> str:
    """A button for each series, or group of them, that shows and hides it."""
    buttons = []
    data = [t for t in chart.views[0]["data"] if t.get("showlegend", True) and t.get("name")]
    if len(data) < 2:
        return ""
    for trace in data:
        pressed = "false" if trace.get("visible") is False else "true"
        buttons.append(
            f'<button type="button" class="series" aria-pressed="{pressed}">'
            f"{_swatch(trace)}{trace['name']}</button>"
        )
    name = html.escape(chart.title)
    return f'<div role="group" aria-label="Series of {name}">{"".join(buttons)}</div>'


def _swatch(trace: Figure) -> str:
    """A piece of a series' line or marker; its colour is set with the theme."""
    if "lines" in trace["mode"]:
        kind = _SWATCHES.get(trace["line"].get("dash", "solid"), "dashed")
        return f'<i class="swatch" style="border-top-style:{kind}" aria-hidden="true"></i>'
    return '<i class="swatch dot" aria-hidden="true"></i>'

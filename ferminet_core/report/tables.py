"""Tables of the report: the runs, quantities derived from them, settings and cost."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ferminet_core import units
from ferminet_core.analysis.summary import Summary
from ferminet_core.inputs.scan_columns import MILLI, Column
from ferminet_core.report.chart_data import bases, quantity_parameters, short_label
from ferminet_core.report.charts import Cell, Heading, Number, Table, full, plus_minus, rounded
from ferminet_core.report.run_page import RunPage

# Columns that come first, also without any value.
_FIRST = ("energy_Eh", "error_Eh", "verdict", "hf_Eh")


def scan_table(summary: Summary) -> Table:
    """The columns of scan.csv that hold anything, and the difference from published energies.

    Numbers keep all their digits behind those that are shown.
    """
    table = summary.table
    shown = [c for c in summary.columns if c.in_table and not _empty(table, c.name)]
    shown.sort(key=lambda column: column.name not in {*_FIRST, *summary.dataset.coords})
    columns = [(_heading(c), c.text, table[c.name]) for c in shown]
    if (base := bases(summary)[0]).published:
        difference = MILLI * (table["energy_Eh"] - base.values)
        heading = Heading(f"E − {short_label(base.label)} (mEh)")
        place = [column.name for column in shown].index("error_Eh") + 1
        columns.insert(place, (heading, "{:.3f}".format, difference))
    rows = [
        [_cell(values.iloc[row], text) for _, text, values in columns] for row in range(len(table))
    ]
    return Table("All runs", [heading for heading, _, _ in columns], rows)


def state_and_reason(state: str, reason: str) -> str:
    """The state of an unfinished run and its reason, which may begin with the state."""
    return reason if reason.startswith(state) else ", ".join(filter(None, (state, reason)))


def _heading(column: Column) -> Heading:
    return Heading(column.heading, column.name, column.attributes["long_name"])


def _empty(table: pd.DataFrame, name: str) -> bool:
    """Whether a column holds nothing, or geometries that have the names of their runs."""
    if name == "geometry":
        return bool((table["geometry"] == table["run_id"]).all())
    values = table[name]
    return bool((values.isna() | (values.astype(str) == "")).all()) and name not in _FIRST


def _cell(value: Any, text: Callable[[Any], str]) -> Cell:
    """A cell of a column whose numbers are shown as `text`."""
    if isinstance(value, str):
        return value
    return Number("" if pd.isna(value) else text(value), "" if pd.isna(value) else full(value))


def constants_table(summary: Summary) -> Table | None:
    """The constants of each curve; None without a curve."""
    rows: list[list[Cell]] = []
    for curve in summary.derived["curves"]:
        name = f" ({curve['name']})" if curve["name"] else ""
        rows += [[f"{quantity}{name}", *cells] for quantity, *cells in _constants(curve)]
    if not rows:
        return None
    return Table("Constants of the curve", ["quantity", "value", "unit", "remark"], rows)


def _constants(curve: Mapping[str, Any]) -> Iterable[tuple[str, str, str, str]]:
    """(quantity, value, unit, remark) of one curve."""
    if "refused" in curve:
        yield "bond length", "", "", f"not available: {curve['refused']}"
    for key, quantity, unit in (
        ("r_e_bohr", "bond length rₑ", "bohr"),
        ("omega_e_inverse_cm", "harmonic frequency ωₑ", "cm⁻¹"),
        ("minimum_Eh", "energy at the minimum", "hartree"),
        ("D_e_Eh", "depth Dₑ", "hartree"),
    ):
        if key in curve:
            found = curve[key]
            remark = (
                f"error from noise: {rounded(found['error_statistical'])}, from the choice of fit: "
                f"{rounded(found['error_model'])}"
            )
            if key == "r_e_bohr":
                remark += f"; {fitted_points(curve)}"
            elif key == "D_e_Eh":
                remark += f"; {against_fragments(curve)}"
            yield quantity, plus_minus(found["value"], found["error"]), unit, remark
    yield from _with_slopes(curve.get("with_slopes", {}))
    if "D_e_refused" in curve:
        yield "depth Dₑ", "", "", f"not available: {curve['D_e_refused']}"
    for name, found in curve["non_parallelity"].items():
        remark = (
            f"over {found['n_points']} points; "
            f"{MILLI * found['expected_from_noise_Eh']:.2f} mEh expected from noise alone"
        )
        value = plus_minus(MILLI * found["value_Eh"], MILLI * found["error_Eh"])
        yield f"non-parallelity against {name}", value, "mEh", remark


def _with_slopes(found: Mapping[str, Any]) -> Iterable[tuple[str, str, str, str]]:
    """The rows of the constants that slopes and differences determine as well."""
    if "refused" in found:
        yield "bond length rₑ, with slopes", "", "", f"not available: {found['refused']}"
        return
    for key, quantity, unit in (
        ("r_e_bohr", "bond length rₑ, with slopes", "bohr"),
        ("omega_e_inverse_cm", "harmonic frequency ωₑ, with slopes", "cm⁻¹"),
        ("minimum_Eh", "energy at the minimum, with slopes", "hartree"),
    ):
        if key in found:
            value, noise, model = (
                found[key][name] for name in ("value", "error_statistical", "error_model")
            )
            remark = (
                f"error from noise: {rounded(noise)}, from the choice of fit: {rounded(model)}; "
                f"{found['n_slopes']} slopes, {found['n_differences']} differences of energies"
            )
            yield quantity, plus_minus(value, found[key]["error"]), unit, remark


def fitted_points(curve: Mapping[str, Any]) -> str:
    """Which points of a curve its constants are fitted to."""
    low, high = curve["fitted_bohr"]
    text = (
        f"fitted to {len(curve['fitted'])} of {curve['n_points']} points, {low:g} to {high:g} bohr"
    )
    for key, words in (
        ("fitted_suspect", "suspect"),
        ("fitted_unconverged", "not converged"),
        ("fitted_untrained", "not optimised at their geometry"),
    ):
        if curve[key]:
            text += f", {len(curve[key])} of them {words}"
    if (scatter := curve["scatter"]) > 1:
        text += f"; the best fit misses them by {scatter:.2g} times their errors, which is included"
    return text


def against_fragments(found: Mapping[str, Any]) -> str:
    """What a dissociation energy is relative to."""
    text = f"relative to {found['fragments']}"
    if other := found["fragments_not_run"]:
        text += f"; {' and '.join(other)} may lie lower and was not run"
    return text


def atomisation_table(summary: Summary) -> Table | None:
    """Atomisation energies of the molecules whose atoms were all run; None without any."""
    found = summary.derived["atomisation"]
    rows: list[list[Cell]] = [
        [
            run_id,
            plus_minus(entry["value_Eh"], entry["error_Eh"]),
            plus_minus(
                units.HARTREE_IN_KCAL_PER_MOL * entry["value_Eh"],
                units.HARTREE_IN_KCAL_PER_MOL * entry["error_Eh"],
            ),
            against_fragments(entry),
        ]
        for run_id, entry in found.items()
    ]
    columns = ["run", "hartree", "kcal/mol", "remark"]
    return Table("Atomisation energies", columns, rows) if rows else None


def quantities_table(summary: Summary) -> Table:
    """quantities.csv, in mEh."""
    table = summary.quantities
    names = [str(n) for n in table.columns if not (table[n].isna() | (table[n] == "")).all()]
    labels = {entry.column: entry.label for entry in summary.published}
    words = {"value_Eh": "value", "error_Eh": "error", "hf_Eh": "Hartree-Fock"} | labels
    headings = [
        Heading(f"{words.get(n, n.removesuffix('_Eh'))} (mEh)" if n.endswith("_Eh") else n, n)
        for n in names
    ]
    texts = dict.fromkeys(quantity_parameters(summary), "{:g}".format)
    rows = [
        [_cell(row[n], texts.get(n, lambda value: f"{MILLI * value:.3f}")) for n in names]
        for _, row in table.iterrows()
    ]
    return Table("Quantities", headings, rows)


def variance_table(pages: Sequence[RunPage], summary: Summary) -> Table | None:
    """Estimates of the energy at zero variance; None before any optimisation is finished."""
    energy = summary.table.set_index("run_id")["energy_Eh"]
    rows: list[list[Cell]] = []
    for page in pages:
        if page.line is None:
            continue
        cells: list[Cell] = [page.run.run_id]
        if found := page.line.estimate:
            difference = MILLI * (found.energy.value - float(energy[page.run.run_id]))
            measured = not math.isnan(difference)
            cells += [
                plus_minus(found.energy.value, found.energy.error),
                f"{difference:+.3f}" if measured else "",
                f"{MILLI * found.energy.error:.3f}",
                plus_minus(found.slope.value, found.slope.error),
                "",
            ]
        else:
            cells += ["", "", "", "", page.line.reason]
        rows.append(cells)
    columns = [
        "run",
        "estimate (Eh)",
        "estimate − E (mEh)",
        "error (mEh)",
        "slope (1/Eh)",
        "remark",
    ]
    return Table("Estimates at zero variance", columns, rows) if rows else None


def groups_table(summary: Summary) -> Table | None:
    """The groups of a scan with the verdicts of their runs; None without any."""
    rows: list[list[Cell]] = []
    for group in summary.groups:
        facts = summary.derived["groups"][group.name]
        verdicts = [f"{count} {kind}" for kind, count in facts.get("verdicts", {}).items()]
        remarks = [group.reason] if group.reason and group.iterations is None else []
        remarks += [f"{run_id}: {reason}" for run_id, reason in group.left_out.items()]
        rows.append(
            [
                group.name,
                _cell(len(group.members), str),
                group.state,
                _cell(math.nan if group.iterations is None else group.iterations, "{:.0f}".format),
                ", ".join(verdicts),
                facts.get("worst", ""),
                _cell(group.wall_s, units.format_duration),
                "; ".join(remarks),
            ]
        )
    columns = ["group", "geometries", "state", "iterations", "verdicts of its runs"]
    columns += ["largest variance", "wall time", "remark"]
    return Table("Groups", columns, rows) if rows else None


# --- stages, settings and cost --------------------------------------------------------------------


def stages_table(page: RunPage) -> Table:
    """State and provenance of each stage of a run."""
    rows: list[list[Cell]] = []
    for stage in page.stages:
        facts = page.provenance.get(stage.stage, {})
        attrs = page.artefacts.get(stage.stage, {})
        state = stage.state
        if state != "done" and stage.step is not None:
            state += f", step {stage.step} of {stage.total}"
        rows.append(
            [
                stage.stage,
                state,
                str(facts.get("ended", "")),
                units.format_duration(facts["wall_s"]) if facts.get("wall_s") else "",
                str(facts.get("restarts", "")),
                str(attrs.get("seed", "")),
                str(facts.get("git_commit", ""))[:12],
                str(attrs.get("digest", ""))[:12],
                stage.reason,
            ]
        )
    columns = ["stage", "state", "finished", "wall time", "restarts", "seed", "commit", "digest"]
    return Table("Stages", [*columns, "remark"], rows)


def events_table(page: RunPage, most: int = 50) -> Table | None:
    """The events of a run except starts and ends, the latest last; None without any."""
    every = sorted(itertools.chain(*page.events.values()), key=lambda event: str(event.get("time")))
    listed = [event for event in every if event.get("event") not in ("start", "done")]
    if not listed:
        return None
    rows: list[list[Cell]] = []
    for event in listed[-most:]:
        text = str(event.get("text") or event.get("reason") or "")
        if not text and "step" in event:
            text = f"from step {event['step']}"
        names = ("time", "stage", "event")
        rows.append([*(str(event.get(name, "")) for name in names), text])
    title = "Events" if len(listed) <= most else f"The last {most} of {len(listed)} events"
    return Table(title, ["time", "stage", "event", "details"], rows)


def settings_tables(pages: Sequence[RunPage]) -> list[Table]:
    """The settings in which runs differ, and those that all runs share."""
    every = [page.settings for page in pages]
    keys = list(every[0])
    shared = [key for key in keys if all(s.get(key) == every[0][key] for s in every)]
    common: list[list[Cell]] = [[key, _plain(every[0][key])] for key in shared]
    tables = [Table("Settings of all runs", ["setting", "value"], common)]
    differing = [key for key in keys if key not in shared]
    if differing:
        rows: list[list[Cell]] = [
            [page.run.run_id, *(_plain(page.settings.get(key)) for key in differing)]
            for page in pages
        ]
        tables.insert(0, Table("Settings in which runs differ", ["run", *differing], rows))
    return tables


def _plain(value: Any) -> str:
    """A setting as in a system file."""
    return value if isinstance(value, str) else json.dumps(value)


def versions_table(pages: Sequence[RunPage]) -> Table | None:
    """Versions and commits of all finished stages; None before the first."""
    found: dict[str, set[str]] = {}
    for page in pages:
        for facts in page.provenance.values():
            versions = {**facts.get("versions", {}), "python": facts.get("python", "")}
            for name, version in {**versions, "commit": facts.get("git_commit", "")}.items():
                if version:
                    found.setdefault(name, set()).add(str(version))
    rows: list[list[Cell]] = [[name, ", ".join(sorted(some))] for name, some in found.items()]
    return Table("Versions", ["package", "version"], rows) if rows else None


def cost_table(summary: Summary, pages: Sequence[RunPage]) -> Table | None:
    """Wall time of the finished stages of each run, and node hours; None before the first.

    A run bears an equal part of its group's.
    """
    rows: list[list[Cell]] = []
    by_run = summary.table.set_index("run_id")
    stages = list(dict.fromkeys(stage.stage for page in pages for stage in page.stages))
    for page in pages:
        if not page.provenance:
            continue
        row = by_run.loc[page.run.run_id]
        times = [page.provenance.get(stage, {}).get("wall_s") for stage in stages]
        if summary.groups:
            share = sum(group.share(page.run.run_id)[0] for group in summary.groups)
            times.insert(0, share or None)
        rows.append(
            [
                page.run.run_id,
                *(_cell(math.nan if t is None else t, units.format_duration) for t in times),
                _cell(row["wall_s"], units.format_duration),
                _cell(row["node_h"], "{:.3g}".format),
            ]
        )
    if not rows:
        return None
    sums = summary.table[["wall_s", "node_h"]].sum()
    total = [
        _cell(sums["wall_s"], units.format_duration),
        _cell(sums["node_h"], "{:.3g}".format),
    ]
    columns = [*(["part of the group"] if summary.groups else []), *stages]
    rows.append(["all", *[Number("", "")] * len(columns), *total])
    return Table("Cost", ["run", *columns, "wall time", "node hours"], rows)

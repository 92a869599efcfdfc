"""What is reported on geometries that share a wavefunction."""

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from helpers.finished_scan import (
    GROUP_ITERATIONS,
    GROUP_SECONDS,
    RESTART,
    save_finished_group,
    save_finished_run,
)
from helpers.scans import make_scan

from ferminet_core.analysis.summary import Summary, summarise
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.spec_files import write_specs
from ferminet_core.report import group_charts, page, tables
from ferminet_core.report.group_outcomes import group_outcomes
from ferminet_core.report.run_outcomes import run_outcome
from ferminet_core.report.run_page import read_charts, read_run
from ferminet_core.report.scan_files import describe

SYSTEM = """
units: bohr
atoms: ["H 0 0 -R/2", "H 0 0 R/2"]
parameters: {R: [1.2, 1.6, 2.2, 3.0]}
preset: smoke
sharing: {geometries: [r_1.2, r_1.6, r_2.2]}
"""
# Iterations of the group that end a run's series of 400, and of its own.
OWN = 100


def shared_scan(here: Path, left_out: str = "") -> tuple[Scan, Path]:
    """A finished scan of three geometries that were trained together, and one that was not.

    The last member has iterations of its own.
    """
    scan = make_scan(here, SYSTEM)
    write_specs(scan, here / "results")
    folder = here / "results" / scan.name
    save_finished_group(scan.groups[0], folder / "groups" / "shared", left_out)
    for number, run in enumerate(scan.runs):
        place = folder / "runs" / run.run_id
        if run.run_id == left_out:
            continue
        attributes: dict[str, Any] = {"group": "shared", "n_joint_iterations": 400, "took_part": 1}
        if run.run_id == "r_2.2":
            attributes |= {"n_joint_iterations": 400 - OWN}
        if run.run_id == "r_3":
            attributes |= {"n_joint_iterations": 0, "took_part": 0, "n_iterations": 0}
        save_finished_run(run, place, number, **attributes)
    return scan, folder


def summary_of(scan: Scan, folder: Path) -> Summary:
    groups = group_outcomes(folder)
    outcomes = {
        run.run_id: run_outcome(run, folder / "runs" / run.run_id, groups=groups)
        for run in scan.runs
    }
    return summarise(scan, outcomes, groups)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scan, Path]:
    return shared_scan(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def summary(shared: tuple[Scan, Path]) -> Summary:
    return summary_of(*shared)


def test_starts_and_verdicts_of_a_shared_scan(summary: Summary) -> None:
    rows = summary.table.set_index("run_id")
    assert dict(rows["start"]) == {
        "r_1.2": "joint",
        "r_1.6": "joint",
        "r_2.2": f"joint + {OWN} iterations",
        "r_3": "zero-shot",
    }
    assert rows["verdict"]["r_3"].startswith(
        "not optimised at this geometry: zero-shot from shared"
    )
    assert summary.dataset["start"].values.tolist() == rows["start"].tolist()


def test_the_time_of_a_group_is_its_members_and_the_sum_is_right(
    summary: Summary, shared: tuple[Scan, Path]
) -> None:
    rows = summary.table.set_index("run_id")
    own = 4 * 60.0  # four stages
    share = 2 * GROUP_SECONDS / 3
    expected = {"r_1.2": own + share, "r_1.6": own + share, "r_2.2": own + share, "r_3": own}
    assert dict(rows["wall_s"]) == pytest.approx(expected)
    assert rows["wall_s"].sum() == pytest.approx(4 * own + 2 * GROUP_SECONDS)
    assert dict(rows["node_h"]) == pytest.approx({k: v / 3600 for k, v in expected.items()})
    scan, folder = shared
    pages = [read_run(run, folder / "runs" / run.run_id, run.run_id) for run in scan.runs]
    cost = tables.cost_table(summary, pages)
    assert cost is not None
    assert cost.columns[1] == "part of the group"
    parts = [row[1].value for row in cost.rows]  # type: ignore[union-attr]
    assert parts == [str(share)] * 3 + ["", ""]


def test_a_group_in_a_line(summary: Summary) -> None:
    """The run with the largest variance of its inference, whatever its verdict."""
    (line,) = [line for line in describe(summary) if line.startswith("group ")]
    rows = summary.table.set_index("run_id")
    worst = str(rows["variance_Eh2"].idxmax())
    assert line.startswith(
        f"group shared: 3 geometries trained together, {GROUP_ITERATIONS} iterations; "
    )
    assert "1 not optimised at this geometry" in line
    assert f"largest variance {rows['variance_Eh2'][worst]:.2g} hartree^2, of {worst}" in line
    kinds = summary.derived["groups"]["shared"]["verdicts"]
    assert sum(kinds.values()) == 4


def test_a_geometry_that_was_left_out_shows_the_reason(tmp_path: Path) -> None:
    scan, folder = shared_scan(tmp_path, left_out="r_1.6")
    found = summary_of(scan, folder)
    row = found.table.set_index("run_id").loc["r_1.6"]
    assert (row["state"], row["verdict"]) == (
        "broken",
        "left out of the joint optimisation at step 7",
    )
    assert any("without r_1.6 at the end" in line for line in describe(found))
    table = tables.groups_table(found)
    assert table is not None
    assert table.rows[0][-1] == "r_1.6: left out of the joint optimisation at step 7"


def test_a_group_that_is_not_finished(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, SYSTEM)
    write_specs(scan, tmp_path / "results")
    folder = tmp_path / "results" / scan.name
    found = summary_of(scan, folder)
    assert "group shared: 3 geometries trained together, waiting" in describe(found)
    assert found.table["wall_s"].isna().all()
    assert set(found.table["start"]) == {""}


def test_charts_of_a_group(summary: Summary, shared: tuple[Scan, Path]) -> None:
    (group,) = summary.groups
    charts = {c.name: c for c in group_charts.group_charts(group, shared[1], "g")}
    assert list(charts) == ["g-misfit", "g-energy", "g-variance", "g-update"]
    for chart in charts.values():
        go.Figure(chart.views[0])  # refuses what plotly does not know
    for name in ("g-misfit", "g-variance"):
        data = charts[name].views[0]["data"]
        # The worst is drawn last, above the faint others.
        assert [trace["name"] for trace in data] == ["r_1.2", "r_1.6", "r_2.2"]
        assert [trace.get("opacity", 1.0) < 1.0 for trace in data] == [True, True, False]
        assert charts[name].text.endswith("of r_2.2.")
    energy = charts["g-energy"].views[0]
    assert energy["layout"]["yaxis"]["type"] == "log"
    above = np.array([np.nan if y is None else y for y in energy["data"][0]["y"]])
    # The mean energy falls by 0.1 Eh exp(-t / 80), times 1.5 on average, above its last value.
    steps = energy["data"][0]["x0"] + np.arange(above.size)
    window = GROUP_ITERATIONS // 20
    expected = 150.0 * (np.exp(-steps / 80.0) - np.exp(-GROUP_ITERATIONS / 80.0))
    middle = slice(window, GROUP_ITERATIONS // 2)
    # The running mean lags by half of its window: 10 % at this decay.
    assert above[middle] == pytest.approx(expected[middle], rel=0.15)


def test_the_joint_series_of_a_run_are_marked(shared: tuple[Scan, Path]) -> None:
    scan, folder = shared
    headings = {}
    for run in scan.runs:
        place = folder / "runs" / run.run_id
        found = read_charts(read_run(run, place, run.run_id), place, [])
        headings[run.run_id] = next(name for name in found if "ptimisation" in name)
        if run.run_id == "r_2.2":
            energy = next(c for c in found[headings["r_2.2"]] if c.name == "r_2.2-energy")
    assert headings["r_1.2"] == "Joint optimisation of group shared"
    assert (
        headings["r_2.2"] == f"Joint optimisation of group shared, then {OWN} iterations of its own"
    )
    marks = {t["name"]: t["x"][0] for t in energy.views[0]["data"] if t.get("yaxis") == "y2"}
    # Steps of the run's own stage lie behind the joint ones.
    assert marks["starts"] == 400 - OWN
    assert marks["restarts"] == 400 - OWN + RESTART


def test_the_page_shows_the_group_and_what_its_points_have_in_common(
    summary: Summary, shared: tuple[Scan, Path]
) -> None:
    scan, folder = shared
    (folder / "scan.csv").write_text(summary.table.to_csv(index=False))
    page.write_report(scan, summary, folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "Shared wavefunctions</h2>" in text
    assert "<caption>Groups</caption>" in text
    assert text.count("The points have different starts (2 joint, 1 joint + 100 iterations, ") == 1


def test_points_with_one_start_need_no_sentence(tmp_path: Path) -> None:
    text = SYSTEM.replace("{geometries: [r_1.2, r_1.6, r_2.2]}", "scan").replace(", 2.2, 3.0", "")
    scan = make_scan(tmp_path, text)
    write_specs(scan, tmp_path / "results")
    folder = tmp_path / "results" / scan.name
    attributes: dict[str, Any] = {"group": "shared", "n_joint_iterations": 400, "took_part": 1}
    for run in scan.runs:
        save_finished_run(run, folder / "runs" / run.run_id, **attributes)
    assert page._comparability(summary_of(scan, folder)) == ""
    soft = summary_of(scan, folder)
    soft.table["pseudopotential"] = "ccecp (H)"
    assert page._comparability(soft).startswith("Pseudopotential: ccecp (H). Total energies ")

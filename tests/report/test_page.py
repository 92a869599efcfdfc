"""The page on a scan has the numbers of scan.csv, needs no other file, and is safe."""

import base64
import csv
import gzip
import html
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from helpers.finished_scan import (
    N_EQUILIBRATION,
    RESTART,
    ROLLBACK,
    SYSTEM,
    finished_scan_with_page,
    save_finished_run,
    save_finished_scan,
)
from helpers.scans import (
    ATOMS,
    LITERATURE,
    LITHIUM,
    QUANTITIES,
    make_scan,
    morse,
    save_conventional,
    save_run,
    write_literature,
)
from plotly.offline import get_plotlyjs

from ferminet_core import units
from ferminet_core.analysis.summary import summarise
from ferminet_core.inputs.scan import Scan
from ferminet_core.report import page as page_module
from ferminet_core.report.charts import binned, numbers, plus_minus, running_mean
from ferminet_core.report.page import write_report
from ferminet_core.report.run_charts import marks
from ferminet_core.report.run_outcomes import run_outcome
from ferminet_core.report.scan_charts import scan_charts

MEGABYTE = 10**6


class Page(HTMLParser):
    """The elements, tables, figures and text of a page.

    tables: by title; the names of the columns in scan.csv, and rows of (text, value)
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, tuple[list[str], list[list[tuple[str, str | None]]]]] = {}
        self.figures: dict[str, list[dict[str, Any]]] = {}
        self.words: list[str] = []
        self._open: list[str] = []
        self._columns: list[str] = []
        self._rows: list[list[tuple[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "table":
            self._columns, self._rows = [], []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append(("", None))
            if dict(attrs).get("scope") == "col":
                self._columns.append(dict(attrs).get("data-column") or "")
        elif tag == "data":
            self._rows[-1][-1] = ("", dict(attrs)["value"])

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, text: str) -> None:
        last, attributes = self.elements[-1] if self.elements else ("", {})
        if last == "caption":
            self.tables.setdefault(text, (self._columns, self._rows))
        elif last == "script" and attributes.get("class") == "figures" and text.strip():
            self.figures |= json.loads(text)
        if "td" in self._open or "th" in self._open:
            old, value = self._rows[-1][-1]
            self._rows[-1][-1] = (old + text, value)
        if not {"script", "style"} & set(self._open):
            self.words.append(text)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def written(scan: Scan, results: Path) -> Path:
    """Write the page as `write_summary` does, but no pictures; returns its folder."""
    folder = results / scan.name
    folder.mkdir(parents=True, exist_ok=True)
    found = {run.run_id: run_outcome(run, folder / "runs" / run.run_id) for run in scan.runs}
    summary = summarise(scan, found)
    (folder / "scan.csv").write_text(summary.table.to_csv(index=False, lineterminator="\n"))
    write_report(scan, summary, folder)
    return folder


def read_page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scan with its page."""
    return finished_scan_with_page(tmp_path_factory.mktemp("scan"))


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return read_page(folder)


def csv_rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "scan.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_are_those_of_the_table(folder: Path, page: Page) -> None:
    columns, rows = page.tables["All runs"]
    wanted = csv_rows(folder)
    assert {"run_id", "R", "energy_Eh", "error_Eh", "ref_exact_Eh", "verdict"} <= set(columns)
    body = rows[1:]
    assert len(body) == len(wanted) == 6
    for row, expected in zip(body, wanted, strict=True):
        for name, (text, value) in zip(columns, row, strict=True):
            if name:
                assert (text if value is None else value) == expected[name], name
    text, value = body[0][columns.index("energy_Eh")]
    assert value is not None
    assert float(text) == pytest.approx(float(value), abs=5e-7)  # six decimals are shown


def test_the_download_is_the_table_byte_for_byte(folder: Path, page: Page) -> None:
    (link,) = [a for a in page.all("a") if "download" in a]
    kind, _, content = str(link["href"]).partition(",")
    assert kind == "data:text/csv;charset=utf-8;base64"
    assert base64.b64decode(content) == (folder / "scan.csv").read_bytes()


def test_curve_and_residuals_are_drawn_from_the_same_numbers(folder: Path, page: Page) -> None:
    rows = csv_rows(folder)
    energy, error, exact, other = (
        np.array([float(row[name]) for row in rows])
        for name in ("energy_Eh", "error_Eh", "ref_exact_Eh", "ref_other_Eh")
    )
    traces = {trace["name"]: trace for trace in page.figures["curve"][0]["data"]}
    assert traces["FermiNet"]["y"] == energy.tolist()
    assert traces["FermiNet"]["error_y"]["array"] == error.tolist()
    assert traces["FermiNet"]["x"] == [0.8, 1.2, 1.4, 1.7, 2.5, 4.0]
    assert set(traces) == {"exact (test)", "other method", "Hartree-Fock", "FermiNet"}
    # Two published curves in two units; the unit changes fastest. The band is 1 kcal/mol.
    views = page.figures["residuals"]
    assert len(views) == 4
    for view, reference, factor in zip(
        views,
        (exact, exact, other, other),
        (1e3, units.HARTREE_IN_KCAL_PER_MOL) * 2,
        strict=True,
    ):
        (found,) = [t for t in view["data"] if t["name"] == "FermiNet"]
        np.testing.assert_allclose(found["y"], factor * (energy - reference), atol=1e-9)
        np.testing.assert_allclose(found["error_y"]["array"], factor * error, rtol=1e-12)
        band = view["layout"]["shapes"][0]
        assert band["y1"] == pytest.approx(factor / units.HARTREE_IN_KCAL_PER_MOL, rel=1e-12)
    options = re.findall("<option>(.*?)</option>", (folder / "report.html").read_text())
    assert options == ["exact (test)", "other method", "mEh", "kcal/mol"]


def test_conventional_energies_are_drawn_with_both(tmp_path: Path) -> None:
    write_literature(tmp_path)
    scan = make_scan(tmp_path, SYSTEM + LITERATURE)
    for run in scan.runs:
        folder = tmp_path / "results" / "h2" / "runs" / run.run_id
        save_run(folder, -1.0)
        if run is not scan.runs[-1]:
            save_conventional(folder, {("fci", "cc-pvdz"): -1.0, ("uccsd(t)", "cbs(t,q)"): -1.1})
    page = read_page(written(scan, tmp_path / "results"))
    for chart in ("curve", "residuals"):
        found = {trace["name"]: trace for trace in page.figures[chart][0]["data"]}
        assert len(found["FCI/cc-pVDZ"]["x"]) == len(scan.runs) - 1
        assert found["UCCSD(T)/CBS(T,Q)"]["marker"] != found["FCI/cc-pVDZ"]["marker"]
    np.testing.assert_allclose(found["exact (test)"]["y"], 0.0)  # residuals are relative to it
    first = scan.runs[0].parameters["R"]
    np.testing.assert_allclose(found["FCI/cc-pVDZ"]["y"][0], 1e3 * (-1.0 - morse(first)))


def test_conventional_energies_of_single_runs_are_drawn(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, ATOMS, "lih")
    folder = tmp_path / "results" / "lih" / "runs" / scan.runs[0].run_id
    save_run(folder, -8.07)
    save_conventional(folder, {("fci", "cc-pvdz"): -8.01})
    page = read_page(written(scan, tmp_path / "results"))
    (trace,) = [t for t in page.figures["rows"][0]["data"] if t["name"] == "FCI/cc-pVDZ"]
    assert (trace["mode"], trace["y"]) == ("markers", [run.run_id for run in scan.runs])
    # Relative to Hartree-Fock at -8.03 hartree, since no energy is published.
    assert trace["x"] == [pytest.approx(20.0, abs=1e-9), None, None]


def test_every_figure_is_valid_for_plotly(page: Page) -> None:
    assert {chart["data-chart"] for chart in page.all("figure")} == set(page.figures)
    assert len(page.figures) == 2 + 6 * 14
    names = set(page.figures)
    for run in range(6):
        assert {f"run{run}-energy", f"run{run}-variance-line", f"run{run}-blocking"} <= names
        assert {f"run{run}-line-density", f"run{run}-plane-density"} <= names
    for views in page.figures.values():
        for view in views:
            layout = json.loads(json.dumps(view["layout"]).replace('"ink"', '"black"'))
            data = json.loads(json.dumps(view["data"]).replace('"ink"', '"black"'))
            go.Figure(data=data, layout=layout)  # raises on unknown properties


def test_the_page_needs_nothing_else(folder: Path, page: Page) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert "srcset" not in attributes
        assert str(attributes.get("href", "#")).startswith(("#", "data:text/csv"))
    assert not re.search(r"url\(|@import", text)
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert str(policy).startswith("default-src 'none'")
    packed = re.search(r'id="plotly">([^<]*)<', text)
    assert packed is not None
    assert gzip.decompress(base64.b64decode(packed[1])).decode() == get_plotlyjs()


def test_size_of_eight_geometries(tmp_path: Path) -> None:
    write_literature(tmp_path)
    grid = "[0.8, 1.1, 1.4, 1.7, 2.1, 2.8, 4.0, 6.0]"
    text = SYSTEM.replace("[0.8, 1.2, 1.4, 1.7, 2.5, 4.0]", grid) + LITERATURE
    scan = make_scan(tmp_path, text)
    # As long as at preset small.
    save_finished_scan(scan, tmp_path / "results", iterations=2000, records=1000)
    folder = written(scan, tmp_path / "results")
    assert (folder / "report.html").stat().st_size < 5 * MEGABYTE


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Scan, Path]:
    """A finished scan with more runs than one page holds in full, and its folder."""
    monkeypatch.setattr(page_module, "MANY_RUNS", 5)
    scan = make_scan(tmp_path, SYSTEM)
    save_finished_scan(scan, tmp_path / "results")
    return scan, written(scan, tmp_path / "results")


def test_details_of_many_runs_lie_next_to_the_page(large: tuple[Scan, Path]) -> None:
    scan, folder = large
    whole = (folder / "report.html").read_text(encoding="utf-8")
    for run in scan.runs:
        assert f'data-source="report/{run.run_id}.js"' in whole
        script = (folder / "report" / f"{run.run_id}.js").read_text(encoding="utf-8")
        assert "Energy over records" in script
    assert "Energy over records" not in whole


def test_only_changed_details_are_written_again(large: tuple[Scan, Path]) -> None:
    """A second summary of a thousand runs takes the time of those that are new."""
    scan, folder = large
    scripts = sorted((folder / "report").glob("*.js"))
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in scripts}
    changed = scan.runs[2]
    save_finished_run(changed, folder / "runs" / changed.run_id, seed=99)
    (folder / "report" / "r_99.js").write_text("of a run that the scan no longer has")
    written(scan, folder.parent)
    after = sorted((folder / "report").glob("*.js"))
    assert [path.name for path in after] == [path.name for path in scripts]
    again = {path.name for path in after if path.stat().st_ino != before[path.name][0]}
    assert again == {f"{changed.run_id}.js"}


def test_text_of_users_stays_text(tmp_path: Path) -> None:
    write_literature(tmp_path)
    evil = "</script><script>alert('1')</script><img src=x onerror=alert(2)>&amp;"
    text = SYSTEM.replace("H2 <of a test> & more", json.dumps(evil)) + LITERATURE
    scan = make_scan(tmp_path, text.replace("exact (test)", json.dumps(evil)))
    save_finished_run(scan.runs[0], tmp_path / "results" / "h2" / "runs" / scan.runs[0].run_id)
    folder = written(scan, tmp_path / "results")
    plain = read_page(folder)
    scripts = plain.all("script")
    assert plain.all("img") == []
    # Figures of the scan and of one run, plotly, and the script of the page.
    assert [script.get("class") or script.get("id") for script in scripts[-2:]] == ["plotly", None]
    assert all(script.get("type") for script in scripts[:-1])
    assert plain.text.count(evil) >= 2  # as title and as label
    assert "&amp;lt;" not in (folder / "report.html").read_text()  # never escaped twice
    # plotly takes the text of figures for HTML, so there it is escaped.
    names = [trace["name"] for trace in plain.figures["curve"][0]["data"]]
    assert html.escape(evil, quote=False) in names
    assert evil not in names


def test_the_same_results_give_the_same_page(folder: Path, tmp_path: Path) -> None:
    before = (folder / "report.html").read_bytes()
    scan = make_scan(folder.parents[1], SYSTEM + LITERATURE)
    assert (written(scan, folder.parent) / "report.html").read_bytes() == before


def test_unfinished_and_damaged_runs_are_reported(tmp_path: Path) -> None:
    write_literature(tmp_path)
    scan = make_scan(tmp_path, SYSTEM + LITERATURE)
    runs = [tmp_path / "results" / "h2" / "runs" / run.run_id for run in scan.runs]
    empty = read_page(written(scan, tmp_path / "results"))
    assert "0 of 6 runs done" in empty.text
    assert "No run is finished yet." in empty.text
    for number in range(3):
        save_finished_run(scan.runs[number], runs[number], number)
    (runs[1] / "inference.zarr.zip").unlink()
    damaged = runs[2] / "optimise.zarr.zip"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    page = read_page(written(scan, tmp_path / "results"))
    assert "2 of 6 runs done" in page.text
    assert f"{scan.runs[3].run_id}: waiting" in page.text
    assert "Not finished: inference." in page.text
    assert f"{damaged}: damaged or cut short" in page.text
    charts = set(page.figures)
    # The finished stages of a run are drawn.
    assert "run1-energy" in charts
    assert "run1-records" not in charts
    assert "run2-energy" not in charts
    assert "run2-records" in charts
    assert not any(name.startswith("run3") for name in charts)


def test_restarts_and_rollbacks_are_marked(page: Page) -> None:
    traces = {trace["name"]: trace for trace in page.figures["run0-energy"][0]["data"]}
    assert traces["restarts"]["x"] == [RESTART, RESTART, None]
    assert traces["rollbacks"]["x"] == [ROLLBACK, ROLLBACK, None]
    assert "optimise.iterations 200 → 400" in traces["restarts"]["text"][0]
    assert f"Continued from step {RESTART} with optimise.iterations" in page.text
    # Records count from the end of the equilibration; nothing before it is marked.
    history = {"history": [{"step": step, "changes": {}} for step in (20, N_EQUILIBRATION + 30)]}
    assert [mark.step for mark in marks(history, [], N_EQUILIBRATION)] == [30]


def test_energies_and_densities_in_a_run(page: Page) -> None:
    levels = {t["name"]: t["y"] for t in page.figures["run2-energy"][0]["data"]}
    exact = -1.17  # the model curve's minimum, at 1.4 bohr
    assert levels["exact (test)"] == pytest.approx([exact, exact], abs=1e-6)
    assert levels["Hartree-Fock"] == pytest.approx([exact + 0.04] * 2, abs=1e-6)
    (profile,) = page.figures["run5-line-density"][0]["data"]
    width = np.diff(profile["x"]).mean()
    assert width * sum(profile["y"]) == pytest.approx(2, rel=0.02)  # both electrons, but the tails
    layout = page.figures["run5-line-density"][0]["layout"]
    assert [shape["x0"] for shape in layout["shapes"]] == pytest.approx([-2.0, 2.0])
    estimates = page.tables["Estimates at zero variance"][1][1:]
    assert [row[0][0] for row in estimates][2] == "r_1.4"
    value, error = (float(x) for x in estimates[2][1][0].split(" ± "))
    assert abs(value - exact) < 4 * error


def test_rows_quantities_and_correlation(tmp_path: Path) -> None:
    (tmp_path / "li.csv").write_text(LITHIUM)
    scan = make_scan(tmp_path, QUANTITIES, "li")
    for run in scan.runs:
        energy = {"li": -7.49, "li+": -7.29}[run.geometry]
        save_run(tmp_path / "results" / "li" / "runs" / run.run_id, energy)
    page = read_page(written(scan, tmp_path / "results"))
    assert set(page.figures) == {"rows", "correlation", "quantities"}
    kfac, adam = (
        trace for trace in page.figures["rows"][0]["data"] if trace["name"].startswith("FermiNet")
    )
    assert kfac["y"] == ["li+kfac", "li++kfac"]
    assert kfac["x"] == pytest.approx([10.0, 10.0])  # -7.49 minus -7.5, and -7.29 minus -7.3
    assert adam["name"] == "FermiNet adam"
    ip = page.figures["quantities"][1]["data"][1]  # in eV
    assert ip["x"] == pytest.approx([units.HARTREE_IN_EV * (0.2 - 0.19814)])
    assert page.figures["correlation"][0]["data"][0]["x"] == pytest.approx([90.0, 90.0])
    columns, rows = page.tables["Quantities"]
    first = {name: text for name, (text, _) in zip(columns, rows[1], strict=True)}
    assert (first["quantity"], first["variant"]) == ("ip", "kfac")
    assert (first["value_Eh"], first["published_Eh"]) == ("200.000", "198.140")  # in mEh


def test_molecules_at_the_same_distance_are_rows_not_a_curve(tmp_path: Path) -> None:
    text = "units: bohr\npreset: smoke\ngeometries:\n"
    for name, spin, atoms in (
        ("h2", 0, "H 0 0 0, H 0 0 R"),
        ("h3", 1, "H 0 0 0, H 0 0 R, H 0 0 2*R"),
    ):
        text += f"  - {{name: {name}, atoms: [{atoms}], parameters: {{R: 1.8}}, spin: {spin}}}\n"
    summary = summarise(make_scan(tmp_path, text, "chains"), {})
    assert summary.parameter == "R"
    assert [chart.name for chart in scan_charts(summary, {})] == ["rows"]


def test_headings_and_labels_for_screen_readers(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.all("html")[0]["lang"] == "en"
    plots = [div for div in page.all("div") if div.get("class") == "plot"]
    assert len(plots) == len(page.figures)
    assert all(p["role"] == "group" and len(str(p["aria-label"])) > 20 for p in plots)
    assert all(th.get("scope") in ("row", "col") for th in page.all("th"))
    assert all(button.get("type") == "button" for button in page.all("button"))
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    targets = [str(a["href"])[1:] for a in page.all("a") if str(a["href"]).startswith("#")]
    assert set(targets) <= set(names)


def test_bins_and_running_means_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    for n, most in ((7, 10), (10, 10), (23, 10), (1000, 300), (1, 5)):
        series = rng.standard_normal(n)
        series[rng.random(n) < 0.2] = np.nan
        bins = binned(series, most)
        assert bins.end.size <= most
        assert bins.end[-1] == n
        assert set(np.diff(bins.end)) <= {bins.size}
        for end, mean, low, high in zip(bins.end, bins.mean, bins.low, bins.high, strict=True):
            part = series[max(0, end - bins.size) : end]
            part = part[np.isfinite(part)]
            wanted = (part.mean(), part.min(), part.max()) if part.size else (np.nan,) * 3
            assert (mean, low, high) == pytest.approx(wanted, nan_ok=True)
        for window in (1, 4, n):
            smooth = running_mean(series, window)
            for i in range(n):
                part = series[max(0, i + 1 - window) : i + 1]
                part = part[np.isfinite(part)]
                assert smooth[i] == pytest.approx(part.mean() if part.size else np.nan, nan_ok=True)


def test_numbers_as_text() -> None:
    assert numbers([1.0, float("nan"), float("inf")]) == [1.0, None, None]
    assert numbers([123456.789], 4) == [123500.0]
    assert plus_minus(-1.17441, 0.0000386) == "-1.174410 ± 0.000039"
    assert plus_minus(4282.01, 123.96) == "4282 ± 124"
    assert plus_minus(1.5, float("nan")) == "1.5"

"""The report in a real browser: drawing, mouse, keyboard and theme, without any request.

The browser is started once; every test loads the page again.
"""

import base64
import csv
import functools
import json
import os
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest
from helpers.finished_scan import finished_scan_with_page
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from ferminet_core.report import page as page_module

TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    if reason := chromium.why_not():
        # In CI a skipped test would look like a passed one.
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(reason)
    driver = chromium.start()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scan with its page."""
    return finished_scan_with_page(tmp_path_factory.mktemp("scan"))


class Page:
    """The page in the browser."""

    def __init__(
        self, driver: Chrome, path: Path, width: int = 1200, scheme: str = "light"
    ) -> None:
        self.driver = driver
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get_log("browser")  # of pages before
        driver.get(path.as_uri())
        self.until(lambda: self.script("return document.documentElement.dataset.charts"), "charts")

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        WebDriverWait(self.driver, TIMEOUT_S, 0.05).until(lambda _: condition(), what)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def traces(self, chart: str) -> dict[str, Any]:
        """The traces that plotly has drawn in a chart, by name, with their visibility."""
        data = self.script(
            "return JSON.parse(JSON.stringify(document.querySelector(arguments[0]).data))",
            f'[data-chart="{chart}"] .plot',
        )
        return {trace["name"]: trace for trace in data if trace.get("name")}

    def seen(self, chart: str, name: str) -> bool:
        return self.traces(chart)[name].get("visible", True) is True

    def points(self, chart: str) -> int:
        """Markers in a chart's picture."""
        return len(self.all(f'[data-chart="{chart}"] .plot .scatterlayer .point'))

    def button(self, chart: str, name: str) -> WebElement:
        buttons = self.all(f'[data-chart="{chart}"] button.series')
        (found,) = [button for button in buttons if button.text == name]
        return found

    def problems(self) -> list[str]:
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("WARNING", "SEVERE")
        ]


@pytest.fixture
def page(browser: Chrome, folder: Path) -> Page:
    return Page(browser, folder / "report.html")


def test_all_charts_are_drawn_without_a_complaint(page: Page) -> None:
    assert page.script("return document.documentElement.dataset.charts") == "drawn"
    charts = page.all("section:not(#runs) .chart")
    assert len(charts) == 2
    for chart in charts:
        assert chart.find_elements(By.CSS_SELECTOR, ".plot svg.main-svg .scatterlayer .trace")
    assert page.points("curve") > 6
    assert page.problems() == []
    # The browser requested nothing but the page itself.
    loaded = page.script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []


def test_a_run_is_drawn_when_it_is_opened(page: Page) -> None:
    closed = page.all("#runs .chart")
    assert len(closed) == 6 * 14
    assert page.all("#runs .chart.drawn") == []
    page.find("#run2 > summary").click()
    page.until(lambda: len(page.all("#run2 .chart.drawn")) == 14, "charts of the run")
    for chart in page.all("#run2 .chart"):
        assert chart.find_elements(By.CSS_SELECTOR, ".plot svg.main-svg")
        assert chart.find_elements(By.CSS_SELECTOR, ".plot .trace, .plot .hm")
    assert page.all("#run1 .chart.drawn") == []
    assert page.problems() == []


def test_details_next_to_the_page_load_when_a_run_is_opened(
    browser: Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is a file may not request files, but it may load scripts."""
    monkeypatch.setattr(page_module, "MANY_RUNS", 5)
    folder = finished_scan_with_page(tmp_path)
    page = Page(browser, folder / "report.html")
    assert page.all("#runs .chart") == []
    page.find("#run2 > summary").click()
    page.until(lambda: len(page.all("#run2 .chart.drawn")) == 14, "charts of the run")
    assert page.problems() == []
    # A page that was copied without its folder says where the details are.
    (tmp_path / "copy").mkdir()
    alone = tmp_path / "copy" / "report.html"
    alone.write_bytes((folder / "report.html").read_bytes())
    page = Page(browser, alone)
    page.find("#run2 > summary").click()
    page.until(lambda: page.all("#run2 p.missing"), "the line")
    assert "report/" in page.find("#run2 p.missing").text


def test_a_link_in_the_table_opens_its_run(page: Page) -> None:
    page.find('#result a[href="#run4"]').click()
    page.until(lambda: page.all("#run4[open] .chart.drawn"), "the run")


def test_series_are_shown_and_hidden(page: Page) -> None:
    before = page.points("curve")
    button = page.button("curve", "Hartree-Fock")
    assert (button.get_attribute("aria-pressed"), page.seen("curve", "Hartree-Fock")) == (
        "true",
        True,
    )
    button.click()
    page.until(lambda: page.points("curve") == before - 6, "the series' six points gone")
    assert not page.seen("curve", "Hartree-Fock")
    assert page.seen("curve", "FermiNet")
    button.send_keys(Keys.ENTER)
    page.until(lambda: page.points("curve") == before, "the points back")
    assert page.seen("curve", "Hartree-Fock")


def test_reference_and_unit_are_chosen(page: Page, folder: Path) -> None:
    rows = csv_rows(folder)
    reference, unit = page.all('[data-chart="residuals"] select')
    for label, column in (("other method", "ref_other_Eh"), ("exact (test)", "ref_exact_Eh")):
        wanted = [float(row["energy_Eh"]) - float(row[column]) for row in rows]
        for name, factor in (("kcal/mol", 627.5094740631), ("mEh", 1000.0)):
            Select(reference).select_by_visible_text(label)
            Select(unit).select_by_visible_text(name)
            shown = [factor * value for value in wanted]
            page.until(functools.partial(drawn, page, shown), f"{label} in {name}")


def drawn(page: Page, residuals: list[float]) -> bool:
    found: list[float] = page.traces("residuals")["FermiNet"]["y"]
    return found == pytest.approx(residuals, abs=1e-9)  # rounding


def test_numbers_shown_are_those_of_the_csv(page: Page, folder: Path) -> None:
    rows = csv_rows(folder)
    columns, cells = page.script(
        """const table = document.querySelector("#result th[data-column]").closest("table");
        return [[...table.tHead.rows[0].cells].map(c => c.dataset.column || ""),
          [...table.tBodies[0].rows].map(row => [...row.cells].map(
            c => c.querySelector("data") ? c.querySelector("data").value : c.innerText))];"""
    )
    assert len(cells) == len(rows)
    for shown, row in zip(cells, rows, strict=True):
        found = {name: value for name, value in zip(columns, shown, strict=True) if name}
        assert found == {name: row[name] for name in found}
    assert {"run_id", "energy_Eh", "error_Eh", "verdict", "ref_exact_Eh"} <= set(columns)
    link = page.find("a[download]")
    content = urllib.parse.unquote(str(link.get_attribute("href")).partition(",")[2])
    assert base64.b64decode(content) == (folder / "scan.csv").read_bytes()


def test_the_page_of_a_scan_that_was_computed(browser: Chrome) -> None:
    """Every chart of the page named by REPORT is drawn, such as that of `make scan`."""
    name = os.environ.get("REPORT")
    if not name:
        pytest.skip("REPORT names no page")
    path = Path(name).resolve()
    assert path.stat().st_size < 5e6
    page = Page(browser, path)
    assert page.all("section:not(#runs) .chart")
    runs = page.all("#runs details.run")
    assert len(runs) == len(csv_rows(path.parent))
    for run in runs:
        run.find_element(By.TAG_NAME, "summary").click()
    count = len(page.all(".chart"))
    page.until(lambda: len(page.all(".chart.drawn, section:not(#runs) .chart")) == count, "charts")
    for chart in page.all(".chart"):
        assert chart.find_elements(By.CSS_SELECTOR, ".plot .trace, .plot .hm"), chart.text
    assert page.problems() == []


def csv_rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "scan.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def brightness(page: Page, selector: str, name: str) -> float:
    """Mean of red, green and blue of a computed colour."""
    text = page.script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]",
        selector,
        name,
    )
    return sum(float(part) for part in text.strip("rgba()").split(",")[:3]) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_follows_the_system_and_the_button(
    browser: Chrome, folder: Path, scheme: str
) -> None:
    page = Page(browser, folder / "report.html", scheme=scheme)
    text = '[data-chart="curve"] .xtick text'

    def is_dark() -> bool:
        paper = brightness(page, "body", "backgroundColor")
        # The charts' text stands out from the page, whichever it is.
        page.until(lambda: abs(brightness(page, text, "fill") - paper) > 128, "contrast")
        return paper < 128

    assert is_dark() == (scheme == "dark")
    toggle = page.find("#theme")
    assert toggle.get_attribute("aria-pressed") == json.dumps(scheme == "dark")
    toggle.click()
    assert is_dark() == (scheme == "light")
    assert toggle.get_attribute("aria-pressed") == json.dumps(scheme == "light")
    # The choice holds for the next visit, and is forgotten for the next test.
    again = Page(browser, folder / "report.html", scheme=scheme)
    assert (brightness(again, "body", "backgroundColor") < 128) == (scheme == "light")
    again.script("localStorage.clear()")


def test_the_keyboard_reaches_every_control(page: Page) -> None:
    body = page.find("body")
    body.send_keys(Keys.TAB)
    active = page.driver.switch_to.active_element
    assert active.text == "Skip to the results"
    assert active.rect["x"] >= 0  # it is seen once it has the focus
    wanted = {"a[download]", "#theme", "nav a", "select.choice", "button.series", "#run0 > summary"}
    reached: set[str] = set()
    for _ in range(80):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        name, outline, found = page.script(
            """const active = document.activeElement, style = getComputedStyle(active);
            return [active.tagName, `${style.outlineStyle} ${style.outlineWidth}`,
              arguments[0].filter(selector => active.matches(selector))];""",
            sorted(wanted),
        )
        assert name == "BODY" or outline == "solid 3px", (name, outline)  # the focus is seen
        reached.update(found)
        if reached == wanted:
            break
    assert reached == wanted
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.until(lambda: page.all("details.run[open] .chart.drawn"), "the run")


def test_a_phone_scrolls_in_one_direction(browser: Chrome, folder: Path) -> None:
    page = Page(browser, folder / "report.html", width=390)
    page.find("#run0 > summary").click()
    page.until(lambda: len(page.all("#run0 .chart.drawn")) == 14, "charts of the run")
    wide, there = page.script(
        "const root = document.documentElement; return [root.scrollWidth, root.clientWidth]"
    )
    assert wide <= there <= 390
    for plot in page.all(".chart.drawn .plot"):
        assert plot.rect["x"] >= 0
        assert plot.rect["x"] + plot.rect["width"] <= 390
    assert page.problems() == []

"""The files of a scan's results, whatever the texts in its system file, and if a picture fails."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.scans import ATOMS, H2, make_scan, morse, save_run, write_literature

from ferminet_core.errors import InputError
from ferminet_core.inputs.scan import Scan
from ferminet_core.report import page, plots, scan_files
from ferminet_core.report.tables import fitted_points
from ferminet_core.storage import artefacts

# A slip in TeX, a price, a dollar in a legend, a name that a legend would leave out, and glyphs
# that the font lacks.
TEXTS = (r"$\Delta E_{\rm tot$", "costs $5 or $6", r"a\$b", "_hidden", "<b>&amp;", "水 🙂")
ODD = "a\ud83db\x00c\x1b[31m"  # half of a pair, a null, and a terminal's escape
SHOWN = "a\ufffdb\ufffdc\ufffd[31m"


def with_texts(scan: Scan, text: str) -> Scan:
    """The scan with a text as title and as all labels, as an earlier version let them pass."""
    literature = [entry.model_copy(update={"label": text}) for entry in scan.literature]
    return scan.model_copy(update={"title": text, "literature": literature})


def h2(folder: Path) -> Scan:
    write_literature(folder)
    literature = (
        "literature:\n"
        "  - {name: exact, file: h2.csv, where: {method: exact}, match: {R_bohr: R}, kind: exact}\n"
    )
    scan = make_scan(folder, H2.replace("[0.8, 1.0, 1.2, 1.4, 1.7, 2.0, ", "[1.4, ") + literature)
    for run in scan.runs:
        save_run(folder / "results" / "h2" / "runs" / run.run_id, morse(run.parameters["R"]))
    return scan


def svg_texts(path: Path) -> list[str]:
    """The texts of a picture, which is XML."""
    found = ET.parse(path).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()) for element in found]


def test_optimisations_with_other_potentials_are_not_compared() -> None:
    """Their energies are on different scales."""
    table = pd.DataFrame(
        {
            "geometry": ["r_2", "r_2", "r_2", "r_3", "r_3"],
            "pseudopotential": ["", "ccecp (C)", "ccecp (C)", "ccecp (C)", "ccecp (C)"],
        }
    )
    names = ["r_2, all electrons", "r_2, ccecp (C)", "r_2, ccecp (C)", "r_3", "r_3"]
    assert list(scan_files.apart_by_potential(table)["geometry"]) == names


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("text", [*TEXTS, ODD])
def test_texts_are_shown_as_they_are(tmp_path: Path, text: str) -> None:
    shown = SHOWN if text == ODD else text
    scan = with_texts(h2(tmp_path), text)
    lines = scan_files.write_summary(scan, tmp_path / "results")
    assert not [line for line in lines if "cannot be drawn" in line]
    folder = tmp_path / "results" / "h2"
    drawn = svg_texts(folder / "curve.svg")
    assert drawn.count(shown) + drawn.count(f" {shown}") == 2  # the title and the legend
    assert artefacts.load(folder / "scan.zarr.zip").attrs["title"] == shown
    assert f"<title>{shown}</title>" in (folder / "report.html").read_text().replace(
        "&lt;b&gt;&amp;amp;", "<b>&amp;"
    )


def test_texts_of_single_runs_are_shown_as_they_are(tmp_path: Path) -> None:
    scan = with_texts(make_scan(tmp_path, ATOMS, "lih"), TEXTS[0])
    scan_files.write_summary(scan, tmp_path / "results")
    drawn = svg_texts(tmp_path / "results" / "lih" / "curve.svg")
    assert f"{TEXTS[0]}   [0 of 3 runs done]" in drawn


@pytest.mark.parametrize(
    ("module", "name", "file"),
    [(plots, "plot_scan", "curve.svg"), (page, "write_report", "report.html")],
)
def test_a_picture_that_fails_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str, file: str
) -> None:
    def fail(*arguments: object) -> Callable[[], None]:
        raise ValueError("an <odd> $number")

    scan = h2(tmp_path)
    monkeypatch.setattr(module, name, fail)
    lines = scan_files.write_summary(scan, tmp_path / "results")
    (warning,) = [line for line in lines if "cannot be drawn: ValueError: an <odd>" in line]
    assert warning.startswith(f"warning: {file}")
    folder = tmp_path / "results" / "h2"
    assert len(pd.read_csv(folder / "scan.csv")) == len(scan.runs)
    # All files that the workflow expects are there; the failed one gives the reason.
    for other in ("curve.svg", "curve.png", "report.html", "scan.zarr.zip", "summary.json"):
        assert (folder / other).exists()
    assert "cannot be drawn: ValueError" in (folder / file).read_text()


@pytest.mark.parametrize("escape", ["\\0", "\\e", "\\uffff", "\\r"])
def test_characters_that_are_not_printable_are_refused(tmp_path: Path, escape: str) -> None:
    with pytest.raises(InputError, match=r"h2.yaml:2: found the character U\+[0-9A-F]{4}, which"):
        make_scan(tmp_path, H2.replace("units", f'title: "a{escape}b"\nunits', 1))


def test_the_points_of_a_fit_are_named_with_their_verdicts_and_their_scatter() -> None:
    curve: dict[str, Any] = {
        "fitted": ["r_1", "r_1.2", "r_1.4", "r_1.7", "r_2"],
        "fitted_bohr": [1.0, 2.0],
        "fitted_suspect": [],
        "fitted_unconverged": [],
        "fitted_untrained": [],
        "n_points": 9,
        "scatter": 1.0,
    }
    fitted = "fitted to 5 of 9 points, 1 to 2 bohr"
    assert fitted_points(curve) == fitted
    worse = {"fitted_suspect": ["r_1"], "fitted_unconverged": ["r_2", "r_1.2"], "scatter": 2.34}
    assert fitted_points(curve | worse) == (
        f"{fitted}, 1 of them suspect, 2 of them not converged; "
        "the best fit misses them by 2.3 times their errors, which is included"
    )

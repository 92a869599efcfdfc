"""Curves of several states in one scan: nothing of one is fitted to or compared with another."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.scans import BOND, DEPTH, inference_attributes, make_scan, morse

from ferminet_core.analysis.curve_constants import separated
from ferminet_core.analysis.curves import State, curves_of, formula, state_labels
from ferminet_core.analysis.literature import read_published
from ferminet_core.analysis.potential_curve import FitRefusedError
from ferminet_core.analysis.summary import RunOutcome, Summary, summarise
from ferminet_core.errors import InputError
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.report import plots, scan_files
from ferminet_core.report.chart_data import panels
from ferminet_core.report.scan_charts import quantities_chart, scan_charts

GRID = [0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0]
ATOMS = 'atoms: ["H 0 0 -R/2", "H 0 0 R/2"]'
TWO = f"""
units: bohr
preset: smoke
geometries:
  - {{name: singlet, {ATOMS}, parameters: {{R: {GRID}}}}}
  - {{name: triplet, {ATOMS}, spin: 2, parameters: {{R: {GRID}}}}}
  - {{name: h, atoms: ["H 0 0 0"], spin: 1}}
variants: [{{name: base}}, {{name: adam, overrides: {{optimise.optimiser: adam}}}}]
"""
GAPS = """
quantities:
  - {name: vertical, of: {triplet: 1, singlet: -1}}
  - {name: bond, of: {h: 2, singlet: -1}, at: minima, published: 0.17}
  - {name: adiabatic, of: {triplet: 1, singlet: -1}, at: minima}
"""
ENTRY = "  - {name: %s, file: h2.csv, where: {state: %s}, match: {R_bohr: R}, kind: exact%s}\n"


def repulsive(distance: float) -> float:
    return float(-1.0 + 0.4 * np.exp(1.0 - distance))


def energy_of(run: RunSpec) -> float:
    """The model curve of a run's state; Adam lies 1 mEh higher."""
    r = run.parameters.get("R")
    shift = 1e-3 if run.variant else 0.0
    if r is None:
        return -0.5
    return shift + (repulsive(r) if run.molecule.spin == 2 else float(morse(r)))


def done(energy: float, error: float = 1e-4) -> RunOutcome:
    attributes = inference_attributes(energy, error_Eh=error)
    return RunOutcome("done", "", attributes, {"e_hf": energy + 0.04, "method": "uhf"})


def summary_of(
    folder: Path, text: str, energy: Callable[[RunSpec], float] = energy_of, **missing: Any
) -> Summary:
    rows = [(r, s, float(e(r)), n) for r in GRID for s, e, n in ((1, morse, 0), (3, repulsive, 2))]
    lines = [f"{r},{name},{value!r},{spin}" for r, name, value, spin in rows]
    (folder / "h2.csv").write_text("\n".join(["R_bohr,state,value,two_s", *lines]) + "\n")
    scan = make_scan(folder, text)
    return summarise(scan, {run.run_id: done(energy(run)) for run in scan.runs})


def test_each_state_has_its_own_constants_and_outliers(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, TWO)
    found = {curve["name"]: curve for curve in summary.derived["curves"]}
    assert list(found) == ["singlet", "singlet, adam", "triplet", "triplet, adam"]
    for name, shift in (("singlet", 0.0), ("singlet, adam", 1e-3)):
        curve = found[name]
        assert abs(curve["r_e_bohr"]["value"] - BOND) < 2 * curve["r_e_bohr"]["error"]
        assert abs(curve["D_e_Eh"]["value"] - DEPTH + shift) < 2 * curve["D_e_Eh"]["error"]
        assert curve["fragments"] == "H + H"
        # The fit says which points took part: neighbours of one state about the lowest.
        assert set(curve["fitted"]) <= {i for i in curve["fitted"] if i.startswith("singlet_r_")}
        assert curve["fitted_bohr"][0] < BOND < curve["fitted_bohr"][1]
    assert "do not bracket a minimum" in found["triplet"]["refused"]
    deviations = [v["rules"].get("smoothness") for v in summary.derived["verdicts"].values()]
    assert sum(found is not None for found in deviations) == 4 * (len(GRID) - 4)
    row = summary.table.set_index("run_id").loc["triplet_r_1.4+adam"]
    assert (row["molecule"], row["total_charge"], row["spin_2S"]) == ("H2", 0, 2)
    lines = scan_files.describe(summary)
    assert any(
        re.match(r"r_e \(singlet, adam\) = 1\.40.*\(fitted to \d of 9 points", x) for x in lines
    )
    assert any(line.startswith("no r_e (triplet): ") for line in lines)


def test_literature_without_a_state_belongs_to_that_of_the_file(tmp_path: Path) -> None:
    text = TWO + "literature:\n" + ENTRY % ("exact", 1, "")
    summary = summary_of(tmp_path, text)
    table = summary.table.set_index("run_id")
    assert table.loc["singlet_r_1.4", "ref_exact_Eh"] == morse(1.4)
    assert table["ref_exact_Eh"][table["spin_2S"] != 0].isna().all()
    npe = {c["name"]: c["non_parallelity"] for c in summary.derived["curves"]}
    assert npe["singlet"]["exact"]["value_Eh"] == pytest.approx(0.0, abs=1e-9)
    assert npe["triplet"] == {}
    # A singlet below is not below the exact energy of another state.
    assert summary.derived["flagged"] == {}
    summary = summary_of(tmp_path, "spin: 2\n" + text.replace("singlet, a", "singlet, spin: 0, a"))
    assert summary.table["ref_exact_Eh"].notna().sum() == 2 * len(GRID)
    assert set(summary.table["spin_2S"][summary.table["ref_exact_Eh"].notna()]) == {2}


@pytest.mark.parametrize(
    "entries",
    [
        ENTRY % ("a", 1, "") + ENTRY % ("b", 3, ", spin: 2"),
        ENTRY % ("a", 1, ", geometry: singlet") + ENTRY % ("b", 3, ", geometry: triplet"),
        "  - {name: a, file: h2.csv, match: {R_bohr: R, two_s: spin}, kind: exact}\n",
    ],
)
def test_literature_of_several_states(tmp_path: Path, entries: str) -> None:
    """By state, by entry of `geometries`, or by a column of one table."""
    summary = summary_of(tmp_path, TWO + "literature:\n" + entries + GAPS)
    assert not [line for line in summary.warnings if "literature" in line]
    for curve in summary.derived["curves"]:
        (npe,) = curve["non_parallelity"].values()
        assert npe["value_Eh"] == pytest.approx(0.0, abs=1e-9)
    # The published gap, from what belongs to each state.
    gaps = summary.quantities[summary.quantities["quantity"] == "vertical"]
    exact = [repulsive(r) - morse(r) for r in gaps["R"]]
    np.testing.assert_allclose(gaps["published_Eh"], exact, atol=1e-12)
    # Residuals of each state are against its own: zero, and 1 mEh with Adam.
    lower = plots._curve_figure(summary).axes[1]
    drawn = [np.asarray(c.get_ydata(), float) for c in lower.lines if str(c.get_marker()) in "osD^"]
    heights = sorted(float(y[0]) for y in drawn if len(y) == len(GRID) and np.ptp(y) < 1e-6)
    np.testing.assert_allclose(heights, [0.0, 0.0, 1.0, 1.0], atol=1e-9)
    charts = {chart.name: chart for chart in scan_charts(summary, {})}
    for view in charts["residuals"].views[:1]:
        points = [t for t in view["data"] if t["name"].startswith("FermiNet")]
        assert len(points) == 4
        assert all(abs(y) < 1.1 for trace in points for y in trace["y"])
    assert quantities_chart(summary) is not None


def test_literature_that_fits_several_molecules_is_not_guessed(tmp_path: Path) -> None:
    square = "{name: square, atoms: [H 0 0 0, H 0 0 R, H 0 R 0, H 0 R R], parameters: {R: [1.4]}}"
    text = TWO.replace("  - {name: h,", f"  - {square}\n  - {{name: h,")
    summary = summary_of(tmp_path, text + "literature:\n" + ENTRY % ("exact", 1, ""))
    (warning,) = summary.warnings
    assert "fits several geometries (singlet, square); name one with `geometry`" in warning
    assert summary.table["ref_exact_Eh"].isna().all()
    summary = summary_of(tmp_path, text + "literature:\n" + ENTRY % ("exact", 1, ", charge: 1"))
    assert "no run that it may belong to has charge 1" in summary.warnings[0]
    with pytest.raises(InputError, match="unknown entry of `geometries` 'singlt'; did you mean"):
        summary_of(tmp_path, text + "literature:\n" + ENTRY % ("x", 1, ", geometry: singlt"))


def test_each_state_has_its_own_lines(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, TWO + "literature:\n" + ENTRY % ("exact", 1, ""))
    upper = plots._curve_figure(summary).axes[0]
    handles, labels = upper.get_legend_handles_labels()
    assert labels == [
        *("exact", "HF, singlet", "HF, triplet"),
        *("FermiNet singlet", "FermiNet singlet, adam"),
        *("FermiNet triplet", "FermiNet triplet, adam"),
    ]
    lines = dict(zip(labels, handles, strict=True))
    hf = np.asarray(lines["HF, triplet"].get_ydata(), float)
    np.testing.assert_allclose(hf, [repulsive(r) + 0.04 for r in GRID])
    chart = scan_charts(summary, {})[0].views[0]["data"]
    assert [trace["name"].replace("Hartree-Fock", "HF") for trace in chart] == labels
    points = [trace["marker"] for trace in chart if trace["name"].startswith("FermiNet")]
    assert len({(m["color"], m["symbol"]) for m in points}) == 4


def test_molecules_are_drawn_apart(tmp_path: Path) -> None:
    lih = f"{{name: lih, atoms: [Li 0 0 0, H 0 0 R], parameters: {{R: {GRID}}}}}"
    text = TWO.replace("  - {name: h,", f"  - {lih}\n  - {{name: h,")
    summary = summary_of(
        tmp_path, text, lambda r: energy_of(r) - 7.0 * ("Li" in r.molecule.symbols)
    )
    names = [(chart.name, chart.title) for chart in scan_charts(summary, {})]
    assert names == [
        ("curve", "Energy: H2"),
        ("residuals", "Difference from a reference: H2"),
        ("curve-1", "Energy: LiH"),
        ("residuals-1", "Difference from a reference: LiH"),
    ]
    figure = plots._curve_figure(summary)
    assert [axes.get_title(loc="right") for axes in figure.axes] == ["H2", "LiH"]
    assert figure.axes[1].get_ylim()[1] < -7.0


def test_a_case_may_choose_the_state(tmp_path: Path) -> None:
    text = f"""
units: bohr
preset: smoke
{ATOMS}
parameters: {{R: {GRID}, M: [0, 2]}}
cases: [{{where: M == 2, spin: 2}}]
"""
    summary = summary_of(tmp_path, text)
    assert summary.parameter == "R"
    assert [c["name"] for c in summary.derived["curves"]] == ["H2, spin 0", "H2, spin 2"]
    assert "r_e_bohr" in summary.derived["curves"][0]


def test_gaps_between_curves(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, TWO + GAPS)
    table = summary.quantities
    vertical = table[table["quantity"] == "vertical"]
    assert list(zip(vertical["variant"], vertical["R"], strict=True)) == [
        (variant, r) for variant in ("", "adam") for r in GRID
    ]
    exact = [repulsive(r) - morse(r) for r in vertical["R"]]
    np.testing.assert_allclose(vertical["value_Eh"], exact, atol=1e-12)
    np.testing.assert_allclose(vertical["error_Eh"], np.sqrt(2) * 1e-4)
    bond = table[(table["quantity"] == "bond") & (table["variant"] == "")].iloc[0]
    assert abs(bond["value_Eh"] - DEPTH) < 2 * bond["error_Eh"]
    assert bond["error_Eh"] > 2e-4  # twice that of the one atom, and that of the minimum
    assert (bond["published_Eh"], np.isnan(bond["R"])) == (0.17, True)
    # The triplet has no minimum: no number, but a reason.
    assert "adiabatic" not in set(table["quantity"])
    assert [w for w in summary.warnings if "'adiabatic': triplet has no minimum: the lowest" in w]
    lines = scan_files.describe(summary)
    assert any(line.startswith("vertical (adam): 9 values from 42.") for line in lines)
    rows = summary.dataset.sizes["quantity_row"]
    assert rows == len(table) == 2 * len(GRID) + 2
    np.testing.assert_array_equal(summary.dataset["quantity_value_Eh"], table["value_Eh"])


@pytest.mark.parametrize(
    ("quantity", "line"),
    [
        ("{name: a, of: {tripled: 1}}", "of.tripled: unknown geometry 'tripled'; did you mean"),
        ("{name: a, of: {triplet: 1, singlet: -1}, published: 1}", "published: one value for many"),
        ("{name: a, of: {h: 1}, at: minima}", "at: no geometry of this quantity has parameters"),
        ("{name: a, of: {singlet: 1, other: -1}}", "singlet and other have no values of their"),
    ],
)
def test_quantities_that_make_no_sense_are_refused(
    tmp_path: Path, quantity: str, line: str
) -> None:
    other = f"{{name: other, {ATOMS}, parameters: {{R: [9.0]}}}}"
    text = TWO.replace("  - {name: h,", f"  - {other}\n  - {{name: h,")
    with pytest.raises(InputError, match=re.escape(line)):
        make_scan(tmp_path, f"{text}quantities:\n  - {quantity}\n")


HE, HE_ION, H, H_ANION = ("He", 0), ("He", 1), ("H", 0), ("H", -1)


@pytest.mark.parametrize(
    ("symbols", "charge", "run", "energy", "words", "not_run"),
    [
        (("H", "H"), 1, {H: -0.5}, -0.5, "H+ + H", ()),
        (("He", "H"), 1, {HE: -2.9, HE_ION: -2.0, H: -0.5}, -2.9, "He + H+", ()),
        (("He", "H"), 1, {HE: -2.9}, -2.9, "He + H+", ("He+ + H",)),
        (("He", "H"), 1, {HE_ION: -2.0, H: -0.5}, -2.5, "He+ + H", ("He + H+",)),
        (("H", "H"), -1, {H: -0.5, H_ANION: -0.527}, -1.027, "H- + H", ()),
        (("H", "H", "H"), 1, {H: -0.5}, -1.0, "H+ + H + H", ()),
    ],
)
def test_an_ion_dissociates_into_the_lowest_fragments(
    symbols: tuple[str, ...],
    charge: int,
    run: dict[tuple[str, int], float],
    energy: float,
    words: str,
    not_run: tuple[str, ...],
) -> None:
    found = separated(symbols, charge, {key: (value, 1e-3) for key, value in run.items()})
    assert found.energy == pytest.approx(energy, abs=1e-12)
    assert (found.fragments, found.not_run) == (words, not_run)
    # One run stands for all atoms of a kind; a bare proton has no error.
    kinds = {"H+ + H + H": 2.0, "H- + H": np.sqrt(2), "He+ + H": np.sqrt(2)}
    assert found.error == pytest.approx(kinds.get(words, 1.0) * 1e-3)


def test_a_core_is_no_nucleus() -> None:
    """LiH+ with a pseudopotential of Li: what is left of Li+ has no electron, and the energy 0."""
    hydrogen = {("H", 0): (-0.5, 0.0)}
    found = separated(("Li", "H"), 1, hydrogen, {"Li": 2})
    assert (found.energy, found.fragments) == (-0.5, "Li+ + H")
    with pytest.raises(FitRefusedError):
        separated(("Li", "H"), 1, hydrogen)


PSEUDO = f"""
units: bohr
preset: smoke
{ATOMS.replace("atoms:", "atoms: ")}
parameters: {{R: {GRID}}}
variants:
  - {{name: base}}
  - {{name: cc, pseudopotential: ccecp, overrides: {{reference.basis: ccecp-cc-pvdz}}}}
literature:
"""


def test_pseudopotentials_have_curves_and_published_energies_of_their_own(tmp_path: Path) -> None:
    text = PSEUDO + ENTRY % ("exact", 1, "") + ENTRY % ("soft", 3, ", pseudopotential: ccecp")
    summary = summary_of(tmp_path, text)
    names = [curve["name"] for curve in summary.derived["curves"]]
    assert names == ["H2, all electrons", "H2, ccecp, cc"]
    table = summary.table.set_index("run_id")
    assert table["pseudopotential"]["r_1.4"] == ""
    assert table["pseudopotential"]["r_1.4+cc"] == "ccecp (H)"
    for column, variant in (("ref_exact_Eh", ""), ("ref_soft_Eh", "cc")):
        compared = table[table[column].notna()]
        assert set(compared["variant"]) == {variant}
        assert len(compared) == len(GRID)
    assert summary.warnings == []
    # Above the literature of the other potential: nothing is flagged.
    lower = ENTRY % ("exact", 1, ", pseudopotential: bfd")
    summary = summary_of(tmp_path, PSEUDO + lower)
    assert "ref_exact_Eh" not in summary.table or summary.table["ref_exact_Eh"].isna().all()
    (line,) = summary.warnings
    assert "those of the pseudopotential bfd for all elements, and no run has the same" in line


CO = """
units: bohr
preset: smoke
atoms: ["C 0 0 0", "O 0 0 R"]
parameters: {R: [2.1, 2.2]}
"""
CO_ENTRY = "literature: [{name: x, file: co.csv, match: {R: R}, kind: exact, pseudopotential: %s}]"


def of_variants(folder: Path, literature: str, variants: str) -> tuple[set[str], str, list[str]]:
    """Variants with published energies, the warning, and the names of the curves."""
    folder.mkdir(exist_ok=True)
    (folder / "co.csv").write_text("R,value\n2.1,-21.7\n2.2,-21.6\n")
    scan = make_scan(folder, f"{CO}{CO_ENTRY % literature}\nvariants: [{variants}]\n")
    (published,), warnings = read_published(scan)
    names = [curve.name for curve in curves_of(scan.runs, "R")]
    found = {run.variant for run in scan.runs if run.run_id in published.values}
    return found, " ".join(warnings), names


@pytest.mark.parametrize(
    ("literature", "expected"),
    [
        ("ccecp", {"both"}),
        ("cc-ECP", {"both"}),
        ("{C: ccecp, O: CCECP}", {"both"}),
        ("{C: ccecp}", {"carbon"}),
        ("{C: ccecp, O: none}", {"carbon"}),
        ("none", {""}),
        ("{C: none}", {""}),
        ("bfd", set()),
        ("{O: ccecp}", set()),
        ("{Cl: ccecp}", set()),
    ],
)
def test_published_energies_are_of_the_same_potentials_on_the_same_elements(
    tmp_path: Path, literature: str, expected: set[str]
) -> None:
    variants = "{name: base}, {name: both, pseudopotential: CCECP}, "
    variants += "{name: carbon, pseudopotential: {C: ccecp}}"
    found, warning, names = of_variants(tmp_path, literature, variants)
    assert found == expected
    assert bool(warning) != bool(expected)
    assert names == ["CO, all electrons", "CO, ccecp (C, O), both", "CO, ccecp (C), carbon"]


def test_energies_without_cores_are_drawn_apart(tmp_path: Path) -> None:
    """Those of the cores are tens of hartree."""
    variants = "{name: base}, {name: cc, pseudopotential: ccecp}, {name: he, pseudopotential: "
    scan = make_scan(tmp_path, f"{CO}variants: [{variants}{{C: ccecp}}}}]\n")
    summary = summarise(scan, {run.run_id: done(-1.0) for run in scan.runs})
    parts = panels(summary)
    assert [name for name, _ in parts] == [
        *("CO, all electrons", "CO, ccecp (C, O)", "CO, ccecp (C)"),
    ]
    assert [len(part.table) for _, part in parts] == [2, 2, 2]


def test_a_name_means_all_elements_and_the_warning_says_how_to_name_some(tmp_path: Path) -> None:
    variant = "{name: some, pseudopotential: {C: ccecp}}"
    _, warning, _ = of_variants(tmp_path, "ccecp", variant)
    assert "(they have ccecp (C)); to compare with these give {C: ccecp}; its columns" in warning
    assert of_variants(tmp_path, "{C: ccecp}", variant)[:2] == ({"some"}, "")
    assert "'CL', which no run has" in of_variants(tmp_path, "{CL: ccecp}", variant)[1]


def test_files_of_one_name_with_other_numbers_are_other_potentials(tmp_path: Path) -> None:
    for folder, number in (("a", 1.5), ("b", 1.25)):
        (tmp_path / folder).mkdir()
        text = f"ECP\nC nelec 2\nC ul\n1 15.0 4.0\n3 {number} 60.0\nC S\n2 8.0 50.0\nEND\n"
        (tmp_path / folder / "c.nwchem").write_text(text)
    one = "{name: a, pseudopotential: {C: a/c.nwchem}}"
    two = one + ", {name: b, pseudopotential: {C: b/c.nwchem}}"
    assert of_variants(tmp_path, "{C: a/c.nwchem}", one)[:2] == ({"a"}, "")
    found, _, names = of_variants(tmp_path, "{C: a/c.nwchem}", two)
    assert "b" not in found
    assert len(set(names)) == len(names) == 2
    numbers = "CO, c.nwchem (C), numbers "
    state = State("", ("C", "O"), 0, 0)
    scan = make_scan(tmp_path, f"{CO}variants: [{two}]\n")
    first, second = (
        tuple(p.model_copy(update={"name": "c.nwchem"}) for p in run.molecule.pseudopotentials)
        for run in (scan.runs[0], scan.runs[-1])
    )
    states = [state._replace(potentials=potentials) for potentials in (first, second)]
    assert list(state_labels(states).values()) == [f"{numbers}1", f"{numbers}2"]


def test_fragments_that_were_not_run_are_named() -> None:
    with pytest.raises(FitRefusedError, match=r"fragments He\+ \+ H or He \+ H\+"):
        separated(("He", "H"), 1, {})
    # Ions of a neutral molecule are no substitute for its atoms.
    with pytest.raises(FitRefusedError, match="no finished run of the free atom Li"):
        separated(("Li", "H"), 0, {("Li", 1): (-7.28, 0.0), H_ANION: (-0.53, 0.0), H: (-0.5, 0.0)})


def test_depth_of_an_ion_names_its_fragments(tmp_path: Path) -> None:
    text = TWO.replace("spin: 2", "charge: 1, spin: 1").replace("triplet", "cation")
    summary = summary_of(tmp_path, text, lambda r: energy_of(r) + 0.5 * (r.molecule.charge == 1))
    curve = {c["name"]: c for c in summary.derived["curves"]}["cation"]
    assert curve["molecule"] == "H2+"
    assert abs(curve["D_e_Eh"]["value"] - DEPTH) < 2 * curve["D_e_Eh"]["error"]
    assert sorted(curve["fragments"].split(" + ")) == ["H", "H+"]
    assert any("(relative to H+ + H)" in line for line in scan_files.describe(summary))


def test_labels_are_the_shortest_that_tell_states_apart() -> None:
    h2, cation = State("", ("H", "H"), 0, 0), State("", ("H", "H"), 1, 1)
    assert state_labels([h2]) == {h2: ""}
    assert list(state_labels([h2, cation]).values()) == ["H2", "H2+"]
    triplet, chain = h2._replace(spin=2), State("chain", ("H",) * 4, 0, 0)
    assert list(state_labels([h2, triplet, chain]).values()) == [
        "H2, spin 0",
        "H2, spin 2",
        "chain",
    ]
    assert [formula("O", -2), formula(("Li", "H")), formula("NN", 1)] == ["O 2-", "LiH", "N2+"]

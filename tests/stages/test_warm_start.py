"""Warm starts: who starts from whom, and walkers that follow the nuclei; `test_chain` runs them."""

import time
from pathlib import Path

import numpy as np
import pytest

from ferminet_core.errors import InputError
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import load_spec
from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import write_specs
from ferminet_core.inputs.warm_starts import central, generations, spanning_tree
from ferminet_core.vmc.space_warp import space_warp

SYSTEM = """
name: warm
units: bohr
atoms: [H 0 0 0, H 0 0 R]
parameters: {R: [1.0, 1.4, 2.0, 4.0]}
preset: smoke
overrides: {optimise.iterations: 30, optimise.delay: 100}
"""


def hydrogen(bond: float, shift: float = 0.0) -> Molecule:
    return Molecule(symbols=("H", "H"), positions=((0, 0, shift), (0, 0, shift + bond)))


def planned(folder: Path, text: str) -> dict[str, tuple[str, int, float | None]]:
    """Neighbour, iterations and delay of each run of a system file."""
    path = folder / "system.yaml"
    path.write_text(SYSTEM + text)
    return {
        run.run_id: (
            run.neighbour,
            run.config.optimise.iterations,
            run.config.optimise.delay,
        )
        for run in load_scan(path).runs
    }


# --- the graph ------------------------------------------------------------------------------------


def distance(a: Molecule, b: Molecule) -> float:
    """Root of the summed squared displacements of the nuclei about their centre, bohr."""
    first, second = (np.array(m.positions) - np.mean(m.positions, axis=0) for m in (a, b))
    return float(np.linalg.norm(first - second))


def test_translations_do_not_count() -> None:
    molecules = {"a": hydrogen(1.4), "far": hydrogen(1.5), "near": hydrogen(1.44, shift=7.0)}
    assert spanning_tree(molecules, ["a"]) == {"near": "a", "far": "near"}


def test_tree_is_a_chain_from_the_anchor_outwards() -> None:
    molecules = {f"r{r:g}": hydrogen(r) for r in (1.0, 4.0, 1.4, 2.0)}
    assert central(molecules) == "r2"  # farthest other: 2 bohr; from r1.4 it is 2.6
    assert spanning_tree(molecules, ["r2"]) == {"r1.4": "r2", "r1": "r1.4", "r4": "r2"}
    both = spanning_tree(molecules, ["r1", "r4"])
    assert both == {"r1.4": "r1", "r2": "r1.4"}
    assert generations(both) == {"r1.4": 1, "r2": 2, "r1": 0}


def test_no_other_tree_is_shorter() -> None:
    """Against every way to give each of five molecules in a plane a parent."""
    rng = np.random.default_rng(3)
    ends = rng.normal(size=(5, 2))
    molecules = {
        f"m{i}": Molecule(symbols=("H", "H"), positions=((0, 0, 0), (2 + x, y, 1.0)))
        for i, (x, y) in enumerate(ends)
    }

    def length(parents: dict[str, str]) -> float:
        return sum(distance(molecules[a], molecules[b]) for a, b in parents.items())

    names = list(molecules)
    others = names[1:]
    shortest = min(
        length(parents)
        for choice in np.ndindex(*(5,) * 4)
        if generations(parents := {n: names[c] for n, c in zip(others, choice, strict=True)})
    )
    assert length(spanning_tree(molecules, ["m0"])) == pytest.approx(shortest, rel=1e-12)


def test_a_run_that_descends_from_itself_has_no_generation() -> None:
    assert generations({}) == {}
    assert generations({"d": "c", "a": "b", "b": "", "c": "b"}) == {"d": 2, "c": 1, "b": 0, "a": 1}
    assert generations({"a": "b", "b": "c", "c": "a", "d": "a"}) is None
    assert generations({"a": "a"}) is None


def test_equal_distances_are_decided_by_the_order() -> None:
    """Not by rounding: the grid and its mirror image give the same tree."""
    grid = [1.0 + 0.1 * i for i in range(12)]
    molecules = {f"r{i}": hydrogen(r) for i, r in enumerate(grid)}
    moved = {f"r{i}": hydrogen(r, shift=0.3) for i, r in enumerate(grid)}
    tree = spanning_tree(molecules, ["r0", "r11"])
    assert tree == spanning_tree(moved, ["r0", "r11"])
    assert central(molecules) == central(moved) == "r5"  # r6 is as central


def test_a_chain_of_two_thousand_geometries_is_planned_in_a_second() -> None:
    """It was minutes. A recursion over the chain would end at a thousand."""
    molecules = {f"r{i}": hydrogen(1.0 + 1e-3 * i) for i in range(2000)}
    began = time.process_time()
    tree = spanning_tree(molecules, [central(molecules)])
    found = generations(tree)
    assert time.process_time() - began < 1.0
    assert found is not None
    assert max(found.values()) == 1000
    alone = generations(spanning_tree(molecules, ["r1999"]))
    assert alone is not None
    assert alone["r0"] == 1999


def test_a_longer_chain_than_snakemake_can_follow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferminet_core.inputs.warm_starts.MAX_GENERATIONS", 2)
    text = SYSTEM + "warm_start: {anchors: [%s]}\n"
    path = tmp_path / "chain.yaml"
    path.write_text(text % "r_1.4")
    load_scan(path)
    path.write_text(text % "r_4")
    line = r"chain\.yaml:\d+: warm_start: found 3 warm starts in a row; allowed: 2; name more"
    with pytest.raises(InputError, match=line):
        load_scan(path)


# --- the system file ------------------------------------------------------------------------------


def test_runs_are_independent_by_default(tmp_path: Path) -> None:
    assert set(planned(tmp_path, "").values()) == {("", 30, 100.0)}


def test_neighbours_take_a_share_of_the_iterations(tmp_path: Path) -> None:
    found = planned(tmp_path, "warm_start: {anchors: [r_4], share: 0.1}")
    assert found == {
        "r_4": ("", 30, 100.0),
        "r_2": ("r_4", 3, 10.0),
        "r_1.4": ("r_2", 3, 10.0),
        "r_1": ("r_1.4", 3, 10.0),
    }
    assert planned(tmp_path, "warm_start: neighbours")["r_1.4"] == ("r_2", 6, 20.0)


def test_each_variant_has_its_own_start(tmp_path: Path) -> None:
    found = planned(
        tmp_path,
        "warm_start: {anchors: [r_1]}\nvariants:\n"
        "  - {name: outwards}\n  - {name: inwards, warm_start: {anchors: [r_4]}}\n"
        "  - {name: apart, warm_start: independent}\n",
    )
    assert found["r_2+outwards"][0] == "r_1.4+outwards"
    assert found["r_2+inwards"][0] == "r_4+inwards"
    assert found["r_2+apart"] == ("", 30, 100.0)


def test_other_networks_and_molecules_are_no_neighbours(tmp_path: Path) -> None:
    path = tmp_path / "system.yaml"
    path.write_text(
        SYSTEM
        + "geometries: [{name: h, atoms: [H 0 0 0], spin: 1}]\n"
        + "cases: [{where: R > 3, overrides: {network.layers: 2}}]\nwarm_start: neighbours\n"
    )
    found = {run.run_id: run.neighbour for run in load_scan(path).runs}
    assert found == {"h": "", "r_4": "", "r_1.4": "", "r_1": "r_1.4", "r_2": "r_1.4"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("warm_start: neighbors", "warm_start"),
        ("warm_start: {anchors: [r_5]}", "unknown geometry 'r_5'"),
        ("warm_start: {share: 0}", "warm_start.share"),
        ("warm_start: {part: 0.5}", "warm_start.part: unknown key"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(tmp_path, text)


def test_a_new_geometry_takes_no_neighbour_from_another(tmp_path: Path) -> None:
    path = tmp_path / "system.yaml"
    path.write_text(SYSTEM + "warm_start: {anchors: [r_1]}\n")
    paths = write_specs(load_scan(path), tmp_path)
    before = {spec: (spec.stat().st_mtime_ns, load_spec(spec).neighbour) for spec in paths}
    path.write_text(path.read_text().replace("2.0, 4.0", "2.0, 3.0, 4.0"))
    after = {spec: load_spec(spec).neighbour for spec in write_specs(load_scan(path), tmp_path)}
    new = tmp_path / "warm/spec/r_3.json"
    assert after.pop(new) == "r_2"
    assert after == {spec: neighbour for spec, (_, neighbour) in before.items()}
    assert {spec: spec.stat().st_mtime_ns for spec in paths} == {
        spec: time for spec, (time, _) in before.items()
    }


def test_anchors_that_change_places_leave_no_cycle(tmp_path: Path) -> None:
    path = tmp_path / "system.yaml"
    path.write_text(SYSTEM + "warm_start: {anchors: [r_1]}\n")
    write_specs(load_scan(path), tmp_path)
    path.write_text(SYSTEM + "warm_start: {anchors: [r_4]}\n")
    found = [load_spec(spec) for spec in write_specs(load_scan(path), tmp_path)]
    assert generations({spec.run_id: spec.neighbour for spec in found}) is not None
    assert [spec.run_id for spec in found if not spec.neighbour] == ["r_4"]


# --- the walkers ----------------------------------------------------------------------------------


def test_electrons_at_a_nucleus_stay_at_it() -> None:
    before = np.array([[0.0, 0, 0], [0, 0, 1.4], [0, 3, 0]])
    after = before + np.random.default_rng(0).normal(size=before.shape)
    np.testing.assert_allclose(space_warp(before, before, after), after, rtol=0, atol=1e-14)


def test_a_translation_moves_all_electrons_alike() -> None:
    rng = np.random.default_rng(1)
    electrons, before = rng.normal(size=(20, 4, 3)), rng.normal(size=(3, 3))
    shift = np.array([0.3, -1.0, 2.0])
    moved = space_warp(electrons, before, before + shift)
    # Weights that sum to one within rounding.
    np.testing.assert_allclose(moved, electrons + shift, rtol=0, atol=1e-13)


def test_an_electron_between_two_nuclei_moves_with_both() -> None:
    before = np.array([[0.0, 0, -1.0], [0, 0, 1.0]])
    after = before + np.array([[0.0, 0, 0], [0, 0, 1.0]])
    moved = space_warp(np.array([[0.0, 0, 0], [0, 0, 0.5]]), before, after)
    # Weights 1/2; and (1/0.5)^4 against (1/1.5)^4, which is 81 to 1.
    np.testing.assert_allclose(moved[:, 2], [0.5, 0.5 + 81 / 82], rtol=1e-14)

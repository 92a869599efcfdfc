"""Which runs share a wavefunction: groups, settings, names and errors."""

from pathlib import Path

import pytest
from helpers.scans import make_scan

from ferminet_core.errors import InputError
from ferminet_core.inputs.config import OPTIMISER_DEFAULTS
from ferminet_core.inputs.group_files import group_spec
from ferminet_core.inputs.groups import MAX_MEMBERS
from ferminet_core.inputs.overrides import presets
from ferminet_core.inputs.run_spec import GroupSpec, load_spec, parse_spec
from ferminet_core.inputs.run_table import SHARED_DEFAULTS
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.spec_files import write_specs
from ferminet_core.inputs.system_file import json_schema

H2 = """units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {R: [3.0, 1.4, 2.0]}
preset: smoke
"""
STATES = """units: bohr
preset: smoke
sharing: scan
geometries:
  - {name: singlet, atoms: [H 0 0 -R/2, H 0 0 R/2]}
  - {name: triplet, atoms: [H 0 0 -R/2, H 0 0 R/2], spin: 2}
  - {name: h, atoms: [H 0 0 0], spin: 1}
parameters: {R: [1.4, 2.0]}
"""


def members(scan: Scan) -> dict[str, list[str]]:
    return {group.run_id: [m.run_id for m in group.members] for group in scan.groups}


def test_a_scan_has_no_groups_unless_it_asks_for_sharing(tmp_path: Path) -> None:
    for text in (H2, H2 + "sharing: none\n"):
        scan = make_scan(tmp_path, text)
        assert scan.groups == []
        assert all(run.group == "" and "sharing" not in run.request for run in scan.runs)


def test_the_geometries_of_a_curve_are_a_group(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, H2 + "sharing: scan\n")
    (group,) = scan.groups
    # In an order of their own, so that another order in the file changes nothing.
    assert members(scan) == {"shared": ["r_1.4", "r_2", "r_3"]}
    assert [run.run_id for run in scan.runs] == ["r_3", "r_1.4", "r_2"]
    molecules = {run.run_id: run.molecule for run in scan.runs}
    assert {m.run_id: m.molecule for m in group.members} == molecules
    assert group.molecule == molecules["r_2"]
    smoke = presets()["smoke"]["optimise.iterations"]
    assert group.config.optimise.iterations == smoke
    for run in scan.runs:
        assert (run.group, run.config.optimise.iterations) == ("shared", 0)
        assert run.request["sharing"] == {"finish": 0}
        optimise = group.config.optimise.model_copy(update={"iterations": 0})
        assert run.config == group.config.model_copy(update={"optimise": optimise})


def test_geometries_that_are_not_trained_start_from_the_group_too(tmp_path: Path) -> None:
    sharing = "sharing: {geometries: [r_3, r_1.4], finish: 7}\n"
    scan = make_scan(tmp_path, H2 + sharing)
    assert members(scan) == {"shared": ["r_1.4", "r_3"]}
    assert {run.group for run in scan.runs} == {"shared"}
    assert {run.config.optimise.iterations for run in scan.runs} == {7}


def test_each_state_is_a_group_and_an_atom_runs_alone(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, STATES)
    assert members(scan) == {
        "shared_singlet": ["singlet_r_1.4", "singlet_r_2"],
        "shared_triplet": ["triplet_r_1.4", "triplet_r_2"],
    }
    (atom,) = (run for run in scan.runs if run.run_id == "h")
    assert atom.group == ""
    assert atom.config.optimise.iterations == presets()["smoke"]["optimise.iterations"]
    assert atom.config.optimise.optimiser == "spring"


def test_a_run_that_shares_with_no_other_one_may_have_any_optimiser(tmp_path: Path) -> None:
    kfac = "spin: 1, overrides: {optimise.optimiser: kfac}}\nparameters"
    scan = make_scan(tmp_path, STATES.replace("spin: 1}\nparameters", kfac))
    (atom,) = (run for run in scan.runs if run.run_id == "h")
    optimise = atom.config.optimise
    expected = OPTIMISER_DEFAULTS["kfac"]
    assert {name: getattr(optimise, name) for name in expected} == expected


def test_other_settings_are_another_group(tmp_path: Path) -> None:
    text = H2.replace("[3.0, 1.4, 2.0]", "[1.0, 1.4, 5.0, 6.0]") + "sharing: scan\n"
    longer = "cases: [{where: R > 4, overrides: {optimise.iterations: 50}}]\n"
    scan = make_scan(tmp_path, text + longer)
    assert members(scan) == {"shared": ["r_1", "r_1.4"], "shared_2": ["r_5", "r_6"]}
    conventional = "cases: [{where: R > 4, overrides: {conventional.methods: [uhf]}}]\n"
    assert len(make_scan(tmp_path, text + conventional).groups) == 1


def test_a_variant_has_groups_of_its_own(tmp_path: Path) -> None:
    text = H2 + (
        "variants:\n  - {name: base}\n  - {name: joint, sharing: scan}\n"
        "  - {name: warm, warm_start: neighbours}\n"
    )
    scan = make_scan(tmp_path, text)
    assert list(members(scan)) == ["shared+joint"]
    for run in scan.runs:
        assert (run.group != "") == (run.variant == "joint")
        optimiser = "spring" if run.variant == "joint" else "kfac"
        assert run.config.optimise.optimiser == optimiser


def test_spring_has_its_own_rate_whatever_the_preset_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(presets()["smoke"], "optimise.learning_rate", 0.3)
    assert make_scan(tmp_path, H2).runs[0].config.optimise.learning_rate == 0.3
    shared = make_scan(tmp_path, H2 + "sharing: scan\n").groups[0].config.optimise
    assert shared.learning_rate == SHARED_DEFAULTS["optimise.learning_rate"]
    given = H2 + "sharing: scan\noverrides: {optimise.learning_rate: 0.02}\n"
    assert make_scan(tmp_path, given).groups[0].config.optimise.learning_rate == 0.02


WRONG = [
    ("sharing: scans\n", "found 'scans'; did you mean 'scan'"),
    ("sharing: 3\n", "found 3; allowed: none, scan, or {geometries, finish}"),
    ("sharing: {geometries: [r_1.4, r_9]}\n", "sharing.geometries[1]: unknown geometry 'r_9'"),
    ("sharing: {geometries: [r_2, r_2]}\n", "sharing.geometries[1]: 'r_2' is given twice"),
    ("sharing: {geometries: [r_2]}\n", "sharing.geometries: found ['r_2']; allowed: all, or two"),
    ("sharing: {geometries: 2}\n", "sharing.geometries: found 2; allowed: all or a list"),
    ("sharing: {finish: -1}\n", "sharing.finish: found -1; allowed: at least 0"),
    ("sharing: {walkers: 32}\n", "sharing.walkers: unknown key; it is a setting, written as"),
    ("sharing: {anchors: [r_2]}\n", "sharing.anchors: unknown key; allowed: finish, geometries"),
    ("sharing: scan\nwarm_start: neighbours\n", "sharing: `warm_start` is given as well"),
    (
        "sharing: scan\nvariants: [{name: a}, {name: b, warm_start: neighbours}]\n",
        "variants[1].warm_start: `sharing` is given as well",
    ),
    (
        "warm_start: neighbours\nvariants: [{name: a, sharing: scan}]\n",
        "variants[0].sharing: `warm_start` is given as well",
    ),
    (
        "sharing: scan\noverrides: {optimise.optimiser: kfac}\n",
        "sharing: run r_1.4: found optimise.optimiser 'kfac'; sharing needs 'spring'; KFAC's",
    ),
    ("sharing: scan\noverrides: {optimise.optimiser: adam}\n", "sharing needs 'spring'"),
    ("shared: scan\n", "shared: unknown key; give `sharing: scan`"),
    ("group: all\n", "group: unknown key; give `sharing: scan`"),
    (
        "cases: [{where: R > 2, sharing: scan}]\n",
        "cases[0].sharing: unknown key; give `sharing: scan` at the top of the file or in a",
    ),
]


@pytest.mark.parametrize(("text", "line"), WRONG, ids=[line for _, line in WRONG])
def test_one_line_says_what_is_wrong(text: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        make_scan(tmp_path, H2 + text)
    (found,) = str(refused.value).splitlines()
    assert found.startswith(f"{tmp_path / 'h2.yaml'}:")
    assert line in found


def test_a_group_has_a_bound(tmp_path: Path) -> None:
    text = H2.replace("[3.0, 1.4, 2.0]", f"{{start: 1, stop: 5, num: {MAX_MEMBERS + 1}}}")
    with pytest.raises(InputError, match=f"found {MAX_MEMBERS + 1} geometries of one kind; all"):
        make_scan(tmp_path, text + "sharing: scan\n")


def test_the_schema_knows_the_key() -> None:
    schema = json_schema()
    assert "sharing" in schema["properties"]
    assert "sharing" in schema["$defs"]["Variant"]["properties"]


def test_a_group_s_spec_file_holds_the_group(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, H2 + "sharing: scan\n")
    write_specs(scan, tmp_path)
    stored = load_spec(group_spec(tmp_path / "h2", "shared"))
    assert isinstance(stored, GroupSpec)
    assert stored.members == scan.groups[0].members
    assert stored.molecule == scan.groups[0].molecule
    assert stored.stage_hash("joint_optimise") == scan.groups[0].stage_hash("joint_optimise")
    with pytest.raises(InputError, match=r"here: members\[2\].molecule: is missing"):
        parse_spec(stored.model_dump_json().replace('"molecule":', '"molecules":', 4), "here")


def test_a_group_is_all_its_geometries(tmp_path: Path) -> None:
    """The hash and the fingerprint change with each of them; those of a run stay as they were."""
    (group,) = make_scan(tmp_path, H2 + "sharing: scan\n").groups
    (moved,) = make_scan(tmp_path, H2.replace("3.0", "3.1") + "sharing: scan\n").groups
    assert moved.molecule == group.molecule
    for stage in ("joint_pretrain", "joint_optimise"):
        assert moved.stage_hash(stage) != group.stage_hash(stage)
    assert moved.fingerprint != group.fingerprint
    run = make_scan(tmp_path, H2).runs[0]
    assert run.fingerprint == run.molecule.fingerprint

"""What a scan that shares a wavefunction keeps when it grows, shrinks or changes."""

import json
from pathlib import Path

import pytest
from helpers.scans import make_scan

from ferminet_core.inputs.group_files import group_spec
from ferminet_core.inputs.run_spec import GroupSpec, load_spec
from ferminet_core.inputs.spec_files import Changes, find_changes, write_specs

H2 = """units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {R: [1.4, 2.0, 3.0]}
preset: smoke
sharing: scan
"""
LONGER = H2.replace("3.0]", "3.0, 4.0]")
MORE = "overrides: {optimise.iterations: 50}\n"


def begin(results: Path, *groups: str) -> None:
    """Pretend that the members of these groups were pretrained."""
    for name in groups or ("shared",):
        path = results / "h2" / "groups" / name / "joint_pretrain.zarr.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def written(results: Path, text: str = H2) -> None:
    write_specs(make_scan(results, text), results)


def changes(results: Path, text: str) -> Changes:
    return find_changes(make_scan(results, text), results)


def group_in(text: str) -> list[str]:
    return [member["run_id"] for member in json.loads(text)["members"]]


def test_a_new_scan_writes_its_group_once(tmp_path: Path) -> None:
    first = changes(tmp_path, H2)
    specs = {f"spec/{name}.json" for name in ("r_1.4", "r_2", "r_3", "groups/shared")}
    assert set(first.texts) == {*specs, "runs.txt"}
    assert dict(first.groups) == dict.fromkeys(("r_1.4", "r_2", "r_3"), "shared")
    assert dict(first.members) == {"shared": ("r_1.4", "r_2", "r_3")}
    written(tmp_path)
    assert dict(changes(tmp_path, H2).texts) == {}
    # Another order of the same geometries is the same group.
    turned = changes(tmp_path, H2.replace("[1.4, 2.0, 3.0]", "[3.0, 1.4, 2.0]"))
    assert set(turned.texts) == {"runs.txt"}


def test_before_its_first_result_a_group_follows_the_file(tmp_path: Path) -> None:
    written(tmp_path)
    found = changes(tmp_path, LONGER)
    assert set(found.texts) == {"spec/groups/shared.json", "spec/r_4.json", "runs.txt"}
    assert group_in(found.texts["spec/groups/shared.json"]) == ["r_1.4", "r_2", "r_3", "r_4"]


def test_later_a_new_geometry_starts_from_the_group_as_it_is(tmp_path: Path) -> None:
    written(tmp_path)
    begin(tmp_path)
    found = changes(tmp_path, LONGER)
    assert set(found.texts) == {"spec/r_4.json", "runs.txt"}
    assert json.loads(found.texts["spec/r_4.json"])["group"] == "shared"
    assert found.members["shared"] == ("r_1.4", "r_2", "r_3")


SOME = H2.replace("sharing: scan", "sharing: {geometries: [r_1.4, r_2]}")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (SOME, SOME.replace("r_2]", "r_2, r_3]"), " adds r_3, which starts from it as it is; to"),
        (H2, SOME, " leaves out r_3, which stays; to"),
        (
            SOME,
            SOME.replace("r_2]", "r_3]"),
            " adds r_3, which starts from it as it is, and leaves",
        ),
        (H2, LONGER, " adds r_4, which"),
    ],
)
def test_other_members_than_the_file_asks_for_are_told(
    before: str, after: str, told: str, tmp_path: Path
) -> None:
    written(tmp_path, before)
    assert changes(tmp_path, after).warnings == ()  # it follows the file
    begin(tmp_path)
    assert changes(tmp_path, before).warnings == ()
    (line,) = changes(tmp_path, after).warnings
    assert line.startswith("group shared keeps the geometries that its training began with (r_1.4")
    assert told in line
    assert line.endswith(f"python -m ferminet_core reset {tmp_path}/h2/groups/shared all")


def test_a_group_that_the_file_no_longer_asks_for_is_told(tmp_path: Path) -> None:
    """Of two molecules, with the list of the first one's geometries and then the other's."""
    text = """units: bohr
geometries:
  - {name: a, atoms: [H 0 0 -R/2, H 0 0 R/2], parameters: {R: [1.4, 2.0]}}
  - {name: b, atoms: [H 0 0 -R/2, He 0 0 R/2], charge: 1, parameters: {R: [1.4, 2.0]}}
preset: smoke
sharing: {geometries: [a_r_1.4, a_r_2]}
"""
    other = text.replace("[a_r_1.4, a_r_2]", "[b_r_1.4, b_r_2]")
    written(tmp_path, text)
    begin(tmp_path, "shared_a")
    found = changes(tmp_path, other)
    assert found.members["shared_a"] == ("a_r_1.4", "a_r_2")
    (line,) = found.warnings
    assert "leaves out a_r_1.4 and a_r_2, which stays" in line


def test_a_geometry_that_leaves_the_scan_stays_in_the_group(tmp_path: Path) -> None:
    written(tmp_path)
    begin(tmp_path)
    for grid in ("[1.4, 2.0]", "[1.4]"):  # the last one would run alone in a new scan
        found = changes(tmp_path, H2.replace("[1.4, 2.0, 3.0]", grid))
        assert set(found.texts) == {"runs.txt"}
        assert found.groups["r_1.4"] == "shared"
        assert found.members == {"shared": ("r_1.4", "r_2", "r_3")}
        assert found.obsolete == ()
        assert found.warnings == ()


def test_a_moved_member_changes_the_group(tmp_path: Path) -> None:
    written(tmp_path)
    begin(tmp_path)
    moved = H2.replace("H 0 0 -R/2", "H 0 0.1 -R/2")
    found = changes(tmp_path, moved)
    assert set(found.texts) == {
        *(f"spec/{name}.json" for name in ("r_1.4", "r_2", "r_3", "groups/shared"))
    }
    written(tmp_path, moved)
    stored = load_spec(group_spec(tmp_path / "h2", "shared"))
    assert isinstance(stored, GroupSpec)
    assert stored.members[0].molecule.positions[0][1] == 0.1


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        ("optimise.iterations: 50", True),
        ("checkpoint.keep: 7", True),
        ("sharing.walkers: 32", False),
        ("seed: 3", False),
    ],
)
def test_only_a_change_that_a_resume_allows_keeps_the_members(
    setting: str, kept: bool, tmp_path: Path
) -> None:
    written(tmp_path)
    begin(tmp_path)
    text = changes(tmp_path, f"{LONGER}overrides: {{{setting}}}\n").texts["spec/groups/shared.json"]
    assert group_in(text) == ["r_1.4", "r_2", "r_3", *([] if kept else ["r_4"])]
    key, _, value = setting.partition(": ")
    section, _, name = key.partition(".")
    config = json.loads(text)["config"]
    assert (config[section][name] if name else config[section]) == int(value)


def test_a_member_with_settings_of_its_own_leaves_the_group(tmp_path: Path) -> None:
    written(tmp_path)
    begin(tmp_path)
    apart = "cases: [{where: R > 2.5, overrides: {seed: 1}}]\n"
    found = changes(tmp_path, H2 + apart)
    assert group_in(found.texts["spec/groups/shared.json"]) == ["r_1.4", "r_2"]
    assert "r_3" not in found.groups


def test_conventional_energies_do_not_touch_the_group(tmp_path: Path) -> None:
    written(tmp_path)
    found = changes(tmp_path, H2 + "overrides: {conventional.methods: [uhf]}\n")
    assert {Path(name).parent.name for name in found.texts} == {"conventional"}


def test_groups_keep_their_names(tmp_path: Path) -> None:
    """Geometries that the file names first would take the first name."""
    late = "cases: [{where: R > 2.5, overrides: {seed: 1}}]\n"
    four = H2.replace("[1.4, 2.0, 3.0]", "[1.4, 2.0, 3.0, 4.0]") + late
    written(tmp_path, four)
    begin(tmp_path, "shared", "shared_2")
    turned = changes(tmp_path, four.replace("[1.4, 2.0, 3.0, 4.0]", "[3.0, 3.5, 4.0, 1.4, 2.0]"))
    assert set(turned.texts) == {"spec/r_3.5.json", "runs.txt"}
    assert turned.groups["r_3.5"] == turned.groups["r_3"] == "shared_2"
    assert turned.groups["r_1.4"] == "shared"


def test_without_sharing_the_group_is_forgotten(tmp_path: Path) -> None:
    written(tmp_path)
    begin(tmp_path)
    alone = H2.replace("sharing: scan\n", "")
    found = changes(tmp_path, alone)
    assert found.obsolete == ("spec/groups/shared.json",)
    assert dict(found.groups) == {}
    assert set(found.texts) == {*(f"spec/r_{r}.json" for r in ("1.4", "2", "3")), "runs.txt"}
    written(tmp_path, alone)
    assert not group_spec(tmp_path / "h2", "shared").exists()
    assert dict(changes(tmp_path, alone).texts) == {}

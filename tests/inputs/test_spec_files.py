"""What a scan's folder lacks, the frozen scan, and the number of electrons for profiles."""

import json
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.scans import ATOMS, make_scan

from ferminet_core.errors import InputError
from ferminet_core.inputs.run_spec import load_spec
from ferminet_core.inputs.scan import Scan, load_scan
from ferminet_core.inputs.spec_files import (
    FROZEN_SCAN,
    conventional_spec,
    electrons,
    find_changes,
    freeze,
    write_specs,
)


def test_finding_changes_writes_nothing(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, ATOMS, "atoms")
    changes = find_changes(scan, tmp_path / "results")
    assert set(changes.texts) == {"spec/lih.json", "spec/li.json", "spec/h.json", "runs.txt"}
    assert changes.texts["runs.txt"].split() == ["lih", "li", "h"]
    assert not (tmp_path / "results").exists()
    write_specs(scan, tmp_path / "results")
    assert dict(find_changes(scan, tmp_path / "results").texts) == {}
    for name, text in changes.texts.items():
        assert (tmp_path / "results" / "atoms" / name).read_text() == text


def test_energies_that_are_no_longer_asked_for_renew_the_list(tmp_path: Path) -> None:
    asked = ATOMS + "overrides: {conventional.methods: [uhf]}\n"
    write_specs(make_scan(tmp_path, asked, "atoms"), tmp_path)
    scan = make_scan(tmp_path, ATOMS, "atoms")
    changes = find_changes(scan, tmp_path)
    assert set(changes.texts) == {"runs.txt"}
    assert set(changes.obsolete) == {
        f"spec/conventional/{name}.json" for name in ("lih", "li", "h")
    }
    write_specs(scan, tmp_path)
    assert not conventional_spec(tmp_path / "atoms", "li").exists()
    assert find_changes(scan, tmp_path).obsolete == ()


def test_the_run_that_another_one_started_from_stays(tmp_path: Path) -> None:
    text = (
        "units: bohr\natoms: [H 0 0 -R/2, H 0 0 R/2]\npreset: smoke\n"
        "parameters: {R: [1.0, %s3.0]}\nwarm_start: {anchors: [r_1]}\n"
    )
    first = find_changes(make_scan(tmp_path, text % "", "h2"), tmp_path)
    assert dict(first.neighbours) == {"r_3": "r_1"}
    write_specs(make_scan(tmp_path, text % "", "h2"), tmp_path)
    more = make_scan(tmp_path, text % "2.5, ", "h2")
    assert {run.run_id: run.neighbour for run in more.runs}["r_3"] == "r_2.5"
    assert dict(find_changes(more, tmp_path).neighbours) == {"r_3": "r_1", "r_2.5": "r_1"}


def test_a_curve_that_grows_keeps_its_anchor(tmp_path: Path) -> None:
    """Its centre moves, but what is optimised stays: the old anchor and the new one's start."""
    text = (
        "units: bohr\natoms: [H 0 0 -R/2, H 0 0 R/2]\npreset: smoke\n"
        "parameters: {R: [1.0, 1.2, 1.4%s]}\nwarm_start: neighbours\n"
    )
    write_specs(make_scan(tmp_path, text % "", "h2"), tmp_path)
    longer = make_scan(tmp_path, text % ", 1.6, 1.8", "h2")
    planned = {run.run_id: run.neighbour for run in longer.runs}
    assert (planned["r_1.2"], planned["r_1.4"]) == ("r_1.4", "")
    # Nothing has begun: all runs follow the new plan.
    assert "spec/r_1.2.json" in find_changes(longer, tmp_path).texts
    for name in ("r_1", "r_1.2", "r_1.4"):
        path = tmp_path / "h2" / "runs" / name / "optimise.zarr.zip"
        path.parent.mkdir(parents=True)
        path.touch()
    changes = find_changes(longer, tmp_path)
    assert set(changes.texts) == {"spec/r_1.6.json", "spec/r_1.8.json", "runs.txt"}
    assert dict(changes.neighbours) == {
        "r_1": "r_1.2",
        "r_1.4": "r_1.2",
        "r_1.6": "r_1.4",
        "r_1.8": "r_1.6",
    }


@pytest.mark.parametrize(
    "path", sorted((ROOT / "systems").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_frozen_scan_is_the_same_scan(path: Path, tmp_path: Path) -> None:
    scan = load_scan(path)
    frozen = load_scan(freeze(scan, tmp_path))
    assert frozen.model_copy(update={"path": scan.path}) == scan


def test_a_frozen_scan_takes_no_settings(tmp_path: Path) -> None:
    path = freeze(make_scan(tmp_path, ATOMS, "atoms"), tmp_path / "results")
    with pytest.raises(InputError, match="--preset and --set need a system file"):
        load_scan(path, preset="small")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match="is damaged"):
        load_scan(path)


def owner(scan: Scan, results: Path) -> str:
    return str(json.loads(freeze(scan, results).read_text())["path"])


def test_a_project_may_move_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own system files are known by their path in it, others by the absolute one."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(project)
    results = project / "results"
    assert owner(make_scan(project, ATOMS, "atoms"), results) == "atoms.yaml"
    other = make_scan(elsewhere, ATOMS, "atoms")
    with pytest.raises(InputError, match=rf"was made from atoms.yaml, not from {elsewhere}/atoms"):
        find_changes(other, results)
    assert "runs.txt" in find_changes(other, results, takeover=True).texts
    assert owner(other, results) == f"{elsewhere}/atoms.yaml"
    write_specs(other, results)
    moved = tmp_path / "moved"
    assert owner(load_scan("atoms.yaml"), results) == "atoms.yaml"
    project.rename(moved)
    monkeypatch.chdir(moved)
    assert dict(find_changes(load_scan("atoms.yaml"), moved / "results").texts) == {}


def test_a_damaged_frozen_scan_has_no_owner(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, ATOMS, "atoms")
    write_specs(scan, tmp_path)
    (tmp_path / "atoms" / FROZEN_SCAN).write_text('{"path": ')
    assert dict(find_changes(scan, tmp_path).texts) == {}


@pytest.mark.parametrize("name", [FROZEN_SCAN, "runs.txt", "spec"])
def test_a_file_that_cannot_be_read_is_not_written_anew(tmp_path: Path, name: str) -> None:
    """It may hold another owner, other runs, or the start of a run that took days."""
    scan = make_scan(tmp_path, ATOMS, "atoms")
    names = [str(path.relative_to(tmp_path / "atoms")) for path in write_specs(scan, tmp_path)]
    path = tmp_path / "atoms" / (names[0] if name.startswith("spec") else name)
    path.unlink(missing_ok=True)
    path.symlink_to(path)  # a loop, which nobody can open
    with pytest.raises(OSError, match="symbolic links") as error:
        find_changes(scan, tmp_path)
    assert error.value.filename == str(path)


def test_electrons_of_a_spec_file(tmp_path: Path) -> None:
    paths = write_specs(make_scan(tmp_path, ATOMS, "atoms"), tmp_path)
    assert [electrons(path) for path in paths] == [4, 3, 1]
    # Snakemake takes this for "not known yet", by the very name of the input file.
    with pytest.raises(FileNotFoundError) as missing:
        electrons("spec/none.json")
    assert missing.value.filename == "spec/none.json"


def write_old_names(path: Path) -> None:
    """Change a spec or a scan to what the version before the renaming wrote."""
    text = path.read_text()
    assert "spin_penalty" in text
    path.write_text(text.replace("spin_penalty", "singlet_penalty"))


def test_files_with_the_old_name_of_a_setting_are_the_same(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, ATOMS + "overrides: {optimise.spin_penalty: 0.3}\n", "atoms")
    (path, *_) = paths = write_specs(scan, tmp_path)
    frozen = freeze(scan, tmp_path)
    today = load_spec(path)
    for file in (*paths, frozen):
        write_old_names(file)
    assert load_spec(path) == today
    assert load_spec(path).config.optimise.spin_penalty == 0.3
    assert load_scan(frozen).runs == scan.runs
    # A request with another name is the same request: the run keeps its spec file.
    assert dict(find_changes(scan, tmp_path).texts) == {}


def test_a_system_file_has_to_use_the_new_name(tmp_path: Path) -> None:
    text = ATOMS + "overrides: {optimise.singlet_penalty: 0.3}\n"
    with pytest.raises(InputError, match=r"singlet_penalty: .*did you mean 'spin_penalty'\?"):
        make_scan(tmp_path, text, "atoms")

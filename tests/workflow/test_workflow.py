"""Which jobs Snakemake would run, for several system files and after edits; nothing is computed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.workflow import JOINT, STAGES, SYSTEM, Workflow, all_stages

from ferminet_core.inputs.scan import load_scan


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    workflow = Workflow(tmp_path_factory.mktemp("finished"))
    assert workflow.jobs() == all_stages(3)
    workflow.pretend_done("r_1.4", "r_2", "r_3")
    assert workflow.jobs() == {}
    return workflow


@pytest.fixture
def finished(workflow: Workflow, finished_once: Workflow) -> Workflow:
    shutil.copytree(finished_once.results, workflow.results)  # with the files' times
    return workflow


PRODUCT = """
units: bohr
atoms: [O 0 0 0, H 0 R*sin(A) R*cos(A), H 0 -R*sin(A) R*cos(A)]
parameters: {R: {start: 1.6, stop: 2.0, num: 3}, A: [0.8, 0.9]}
variants: [{name: kfac}, {name: adam, overrides: {optimise.optimiser: adam}}]
preset: smoke
"""

ATOMS = """
units: bohr
preset: smoke
geometries:
  - {name: he, atoms: [He 0 0 0]}
  - {name: li, atoms: [Li 0 0 0], spin: 1}
"""


@pytest.mark.parametrize(("text", "n_runs"), [(PRODUCT, 12), (ATOMS, 2)])
def test_one_chain_per_run(tmp_path: Path, text: str, n_runs: int) -> None:
    assert Workflow(tmp_path, text).jobs() == all_stages(n_runs)


# A scan, atoms, variants, warm starts, a shared wavefunction, and conventional energies.
# All system files are loaded by tests/inputs/test_scan.py.
KINDS = ("h2", "atoms", "kfac_vs_adam", "n2_warm", "h2_shared", "n2_ecp")


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_the_jobs_of_the_project_s_systems(tmp_path: Path, name: str) -> None:
    workflow = Workflow(tmp_path)
    workflow.system = ROOT / "systems" / f"{name}.yaml"
    jobs = workflow.jobs()
    scan = load_scan(workflow.system)
    wanted = all_stages(len(scan.runs)) | dict.fromkeys(JOINT, len(scan.groups))
    wanted["conventional"] = sum(bool(run.config.conventional.methods) for run in scan.runs)
    assert jobs == {rule: count for rule, count in wanted.items() if count}


def test_edits_that_recompute_nothing(finished: Workflow) -> None:
    """The system file touched, a comment or its title changed; the code touched."""
    finished.system.touch()
    assert finished.jobs() == {}
    finished.system.write_text(f"# a comment\ntitle: Another title\n{SYSTEM}")
    assert finished.jobs() == {}
    for path in (
        ROOT / "ferminet_core" / "cli" / "commands.py",
        ROOT / "workflow" / "rules" / "stages.smk",
    ):
        stat = path.stat()
        os.utime(path)
        try:
            assert finished.jobs() == {}
        finally:
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_another_bond_length_computes_that_one_only(finished: Workflow) -> None:
    finished.system.write_text(SYSTEM.replace("3.0]", "3.0, 4.0]"))
    assert finished.jobs() == all_stages(1)


def test_a_bond_length_less_renews_the_table_only(finished: Workflow) -> None:
    finished.system.write_text(SYSTEM.replace(", 3.0]", "]"))
    assert finished.jobs() == {"specs": 1, "summary": 1}


def test_an_override_of_one_geometry_recomputes_that_one_only(finished: Workflow) -> None:
    case = "cases: [{where: R > 2.5, overrides: {reference.method: uhf}}]\n"
    finished.system.write_text(SYSTEM + case)
    assert finished.jobs() == all_stages(1)


@pytest.mark.slow
def test_conventional_energies_are_a_branch_beside_the_chain(finished: Workflow) -> None:
    """They come and change without touching the chain, and the chain without touching them."""
    asked = "overrides: {conventional.methods: [%s]%s}\n"
    finished.system.write_text(SYSTEM + asked % ("fci", ""))
    assert finished.jobs() == {"specs": 1, "conventional": 3, "summary": 1}
    finished.pretend_done("r_1.4", "r_2", "r_3", stages=[*STAGES, "conventional"])
    assert finished.jobs() == {}
    finished.system.write_text(SYSTEM + asked % ("fci, uhf", ""))
    assert finished.jobs() == {"specs": 1, "conventional": 3, "summary": 1}
    finished.pretend_done("r_1.4", "r_2", "r_3", stages=[*STAGES, "conventional"])
    finished.system.write_text(SYSTEM + asked % ("fci, uhf", ", optimise.clip: 3"))
    assert finished.jobs() == all_stages(3)
    case = "cases: [{where: R > 2.5, overrides: {conventional.methods: [fci]}}]\n"
    finished.system.write_text(SYSTEM.replace("[1.4, ", "[1.4, 1.6, ") + case)
    (finished.results / "test" / "runs" / "r_3" / "conventional.zarr.zip").unlink()
    assert finished.jobs()["conventional"] == 1


def test_a_table_of_an_unfinished_scan_holds_nothing_back(finished: Workflow) -> None:
    """After a failure the table is newer than everything; what is missing is still made."""
    run = finished.results / "test" / "runs" / "r_2"
    for stage in ("optimise", "inference"):
        (run / f"{stage}.zarr.zip").unlink()
    assert finished.jobs() == {"optimise": 1, "inference": 1, "summary": 1}


def test_conventional_energies_that_are_no_longer_asked_for(finished: Workflow) -> None:
    """Their specs go, and the table is renewed without them."""
    finished.system.write_text(SYSTEM + "overrides: {conventional.methods: [fci]}\n")
    finished.pretend_done("r_1.4", "r_2", "r_3", stages=[*STAGES, "conventional"])
    finished.system.write_text(SYSTEM)
    assert finished.jobs() == {"specs": 1, "summary": 1}
    folder = finished.results / "test" / "spec" / "conventional"
    assert len(list(folder.iterdir())) == 3
    assert finished.snakemake("specs").returncode == 0
    assert list(folder.iterdir()) == []


def test_another_preset_is_another_scan(finished: Workflow) -> None:
    assert finished.jobs(preset="small") == all_stages(3)
    assert finished.snakemake("specs", config={"preset": "small"}).returncode == 0
    assert (finished.results / "test-small" / "spec" / "r_1.4.json").is_file()


def test_overrides_reach_the_spec(workflow: Workflow) -> None:
    config = {"set": "optimise.iterations=7 mcmc.walkers=32"}
    assert workflow.snakemake("specs", config=config).returncode == 0
    spec = json.loads((workflow.results / "test" / "spec" / "r_1.4.json").read_text())
    assert spec["config"]["optimise"]["iterations"] == 7
    assert spec["config"]["mcmc"]["walkers"] == 32


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SYSTEM.replace("atoms", "atms"), "atms"),
        (SYSTEM.replace("H 0 0 R/2", "Hx 0 0 R/2"), "Hx"),
        (SYSTEM + "spin: 1\n", "spin"),
        (SYSTEM.replace("units: bohr", ""), "units"),
    ],
)
def test_bad_input_ends_with_one_line_and_no_job(tmp_path: Path, text: str, found: str) -> None:
    workflow = Workflow(tmp_path, text)
    line = refusal(workflow)
    assert line.startswith(f"error: {workflow.system}")
    assert found in line
    assert not workflow.results.exists()


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"sytem": "h2"}, "--config sytem: unknown key; did you mean 'system'?"),
        ({"preset": "1_0"}, "--preset: unknown preset '1_0'"),
        ({"system": "1e5"}, "systems/1e5.yaml"),
        ({"results": ""}, "--config results: ''"),
        ({"takeover": "maybe"}, "--config takeover: 'maybe' is not one of"),
        ({"preset": "smal"}, "--preset: unknown preset 'smal'; did you mean 'small'?"),
    ],
)
def test_bad_configuration_ends_with_one_line_and_no_job(
    workflow: Workflow, config: dict[str, str], found: str
) -> None:
    assert found in refusal(workflow, **config)
    assert not workflow.results.exists()


def test_names_and_paths_are_text(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """For YAML the first is the number 20261128; a shell leaves the tilde of the second alone."""
    monkeypatch.setenv("HOME", str(workflow.folder / "home"))
    workdir = workflow.folder / "workdir"
    assert workflow.snakemake("specs", config={"results": "2026_11_28"}).returncode == 0
    assert workflow.snakemake("specs", config={"results": "~/x"}).returncode == 0
    for folder in (workdir / "2026_11_28", workflow.folder / "home" / "x"):
        assert (folder / "test" / "spec" / "r_2.json").exists()
    assert [path.name for path in workdir.iterdir() if path.name[0] != "."] == ["2026_11_28"]


@pytest.mark.parametrize(
    "config",
    [
        "{system: %s, results: '2026_11_29'}",
        "[system=%s, results=2026_11_29]",
    ],
)
def test_texts_of_a_profile_are_text(workflow: Workflow, config: str) -> None:
    profile = workflow.folder / "profile"
    profile.mkdir()
    here = (ROOT / "cluster_profiles/local/config.yaml").read_text()
    (profile / "config.yaml").write_text(f"{here}\nconfig: {config % workflow.system}\n")
    command = workflow.command("specs")
    command = command[: command.index("--config")]
    command[command.index("--profile") + 1] = str(profile)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (workflow.folder / "workdir/2026_11_29/test/runs.txt").exists()


def test_a_number_in_a_configuration_file_is_refused(workflow: Workflow) -> None:
    file = workflow.folder / "config.yaml"
    file.write_text(f"system: {workflow.system}\nresults: 2026_11_28\n")
    command = workflow.command("--configfile", str(file))
    command = command[: command.index("--config")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    line = "results: 20261128 is not of type 'string'; put quotes around it"
    assert line in done.stderr


def refusal(workflow: Workflow, **config: str) -> str:
    """The only line of a Snakemake that refuses its input."""
    done = workflow.snakemake(config=config)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Using profile")]
    assert len(lines) == 1
    return lines[0]


def test_a_missing_system_is_named(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path)
    workflow.system = Path("no_such_system")
    done = workflow.snakemake()
    assert done.returncode == 2
    assert "systems/no_such_system.yaml" in done.stderr

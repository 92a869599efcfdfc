"""The command line: exit codes, one clear line per error, and what a driven stage leaves behind.

The stages driven here are toys: what is tested is the driving.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import xarray as xr
from helpers.paths import ROOT
from helpers.stages import SYSTEM, Oscillator, command, failing, job_for, run
from typer.testing import CliRunner

from ferminet_core import units
from ferminet_core.cli.commands import app
from ferminet_core.errors import ArtefactError, BrokenRunError, InputError
from ferminet_core.inputs.run_spec import GroupSpec, Member, RunSpec, load_spec
from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import write_specs
from ferminet_core.parallel import jax_setup
from ferminet_core.runner import progress, run_stage
from ferminet_core.runner.attempt import Record
from ferminet_core.storage import artefacts, files, provenance
from ferminet_core.storage.lease import Lease


@pytest.fixture
def system_file(tmp_path: Path) -> Path:
    path = tmp_path / "h2.yaml"
    path.write_text(SYSTEM)
    return path


@pytest.fixture
def spec(system_file: Path, tmp_path: Path) -> RunSpec:
    return load_spec(write_specs(load_scan(system_file), tmp_path / "results")[0])


def test_a_stage_is_driven_to_its_artefact(spec: RunSpec, tmp_path: Path) -> None:
    job = job_for(spec, tmp_path)
    digest = run(job, Oscillator())
    ds = artefacts.load(job.out)
    assert digest == artefacts.digest(job.out)
    assert ds.sizes == {"walker": 1000, "step": 40}
    # Exact: 1/4. 40 steps of 1000 walkers: x^2/2 has deviation 1/sqrt(8), so 5 sigma = 0.009.
    assert float(ds["energy_Eh"].mean()) == pytest.approx(0.25, abs=0.009)
    assert ds.attrs["stage"] == "optimise"
    assert ds.attrs["run_id"] == spec.run_id
    assert ds.attrs["seed"] == spec.stage_seed("optimise")
    assert ds.attrs["stage_hash"] == spec.stage_hash("optimise")
    assert RunSpec.model_validate_json(ds.attrs["spec"]) == spec
    status = files.read_json(job.work / "status.json")
    assert status is not None
    assert (status["state"], status["step"], status["total"]) == ("done", 40, 40)
    provenance = files.read_json(job.provenance_path)
    assert provenance is not None
    assert provenance["n_steps"] == 40
    assert provenance["first_step_s"] > 0
    assert provenance["jax"]["xla_compile_s"] == 0.0


def test_a_finished_measurement_shows_its_result_and_not_its_last_block(
    spec: RunSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Measurement(Oscillator):
        def result(self, state: Any, series: dict[str, np.ndarray]) -> xr.Dataset:
            return super().result(state, series).assign_attrs(energy_Eh=-2.9, error_Eh=0.0048)

    job = job_for(spec, tmp_path)
    run(job, Measurement())
    status = files.read_json(job.work / "status.json")
    assert status is not None
    assert (status["energy_Eh"], status["error_Eh"]) == (-2.9, 0.0048)
    assert "E = -2.9000 +- 0.0048 Eh" in capsys.readouterr().err.splitlines()[-1]


def test_an_artefact_holds_nothing_volatile(spec: RunSpec, tmp_path: Path) -> None:
    """Two runs of one seed give the same digest, wherever and whenever they are made."""
    first = run(job_for(spec, tmp_path / "a"), Oscillator())
    second = run(job_for(spec, tmp_path / "b"), Oscillator())
    assert first == second


def test_parents_are_recorded_by_digest(spec: RunSpec, tmp_path: Path) -> None:
    parent = job_for(spec, tmp_path / "parent")
    digest = run(parent, Oscillator())
    child = job_for(spec, tmp_path, optimise=parent.out)
    run(child, Oscillator())
    assert json.loads(artefacts.load(child.out).attrs["parents"]) == {"optimise": digest}


def test_a_parent_of_another_molecule_is_refused(system_file: Path, tmp_path: Path) -> None:
    short, long = load_scan(system_file).runs
    parent = job_for(short, tmp_path / "parent")
    run(parent, Oscillator())
    with pytest.raises(InputError, match="another molecule"):
        run_stage.load_parents(job_for(long, tmp_path, optimise=parent.out))


def test_a_parent_of_another_stage_is_refused(spec: RunSpec, tmp_path: Path) -> None:
    parent = job_for(spec, tmp_path / "parent")
    run(parent, Oscillator())
    with pytest.raises(InputError, match="holds stage 'optimise', but --reference needs"):
        run_stage.load_parents(job_for(spec, tmp_path, reference=parent.out))


def test_a_broken_run_is_refused_until_something_changes(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_for(spec, tmp_path)
    with pytest.raises(BrokenRunError, match="not finite"):
        run(job, Oscillator(failing(20, BrokenRunError("energy is not finite"))))
    status = files.read_json(job.work / "status.json")
    assert status is not None
    assert (status["state"], status["reason"]) == ("broken", "energy is not finite")
    assert not job.out.exists()
    with pytest.raises(BrokenRunError, match="failed before"):
        run(job, Oscillator())
    monkeypatch.setattr(provenance, "code_hash", lambda: "newer code")
    run(job, Oscillator())
    assert job.out.exists()


def test_a_process_that_ends_during_compilation_says_that_it_continues(
    spec: RunSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_for(spec, tmp_path)
    held = Lease(job.work).acquire(lambda: "held", lambda line: None)
    with held, Record(job, {}, held) as record:
        record.abandon("received SIGINT")
    status = files.read_json(job.work / "status.json")
    assert status is not None
    assert (status["state"], status["reason"]) == ("resumable", "received SIGINT")
    expected = "optimise: received SIGINT; continues from the last checkpoint when run again\n"
    assert capsys.readouterr().err.endswith(expected)


def test_only_disk_and_lease_may_keep_the_end_of_an_attempt_unrecorded(
    spec: RunSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_for(spec, tmp_path)
    held = Lease(job.work).acquire(lambda: "held", lambda line: None)
    with held, Record(job, {}, held) as record:
        no_text: Any = object()
        with pytest.raises(TypeError, match="JSON"):  # a bug
            record.abandon(no_text)
        (job.work / "lock.json").unlink()
        record.abandon("received SIGTERM")  # after another process took the lease
    assert "received SIGTERM; continues" in capsys.readouterr().err


def test_a_bug_leaves_its_reason_in_the_status(spec: RunSpec, tmp_path: Path) -> None:
    job = job_for(spec, tmp_path)
    with pytest.raises(ZeroDivisionError):
        run(job, Oscillator(failing(20, ZeroDivisionError("division by zero"))))
    status = files.read_json(job.work / "status.json")
    assert status is not None
    assert (status["state"], status["reason"]) == ("failed", "division by zero")
    run(job, Oscillator())  # not refused: only broken runs are


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("systems/x.yaml: bad"), 2, "error: systems/x.yaml: bad\n"),
        (BrokenRunError("not finite"), 65, "error: not finite\n"),
        (ArtefactError("a.zarr.zip: damaged"), 74, "error: a.zarr.zip: damaged\n"),
        (OSError(28, "No space left on device"), 74, "error: [Errno 28] No space left on device\n"),
        (OSError(), 74, "error: OSError\n"),
        (MemoryError("fci: no room"), 74, "error: not enough memory: fci: no room\n"),
    ],
)
def test_errors_become_one_line_and_a_code(
    error: Exception,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ferminet_core import __main__
    from ferminet_core.cli import commands

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(commands, "app", fail)
    assert __main__.main() == code
    assert capsys.readouterr().err == line


def test_a_bug_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ferminet_core import __main__
    from ferminet_core.cli import commands

    def fail(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(commands, "app", fail)
    assert __main__.main() == 70
    assert "Traceback" in capsys.readouterr().err


def test_bad_input_ends_with_one_line(tmp_path: Path, system_file: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(SYSTEM.replace("atoms", "atms"))
    done = command("check", bad)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "atms" in done.stderr
    assert "atoms" in done.stderr
    assert command("digest", tmp_path / "none.zarr.zip").returncode == 74
    assert command("check", system_file, "--nonsense").returncode == 2


def test_a_summary_of_a_scan_without_results_names_those_that_have(
    tmp_path: Path, system_file: Path
) -> None:
    results = tmp_path / "results"
    (results / "test-paper" / "spec").mkdir(parents=True)
    done = command("summary", system_file, "--results", results)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{results}/h2: no such folder of results; " in done.stderr
    assert "there are: test-paper; see --preset" in done.stderr
    assert [path.name for path in results.iterdir()] == ["test-paper"]


def test_a_tilde_that_the_shell_left_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from ferminet_core import __main__

    monkeypatch.setenv("HOME", "/home/x")
    arguments = ["summary", "~/a.yaml", "--results=~/r", "--set", "a.b=~", "--results", "~"]
    monkeypatch.setattr("sys.argv", ["program", *arguments])
    expected = ["summary", "/home/x/a.yaml", "--results=/home/x/r"]
    assert __main__.words() == [*expected, "--set", "a.b=~", "--results", "/home/x"]


def test_check_prints_the_run_table_and_writes_nothing(tmp_path: Path, system_file: Path) -> None:
    before = sorted(tmp_path.iterdir())
    done = command("check", system_file)
    assert done.returncode == 0, done.stderr
    assert "r_1.4" in done.stdout
    assert "r_2 " in done.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_check_tells_of_literature_that_will_stay_empty(system_file: Path) -> None:
    (system_file.parent / "published.csv").write_text("R_bohr,value\n9.0,-1.0\n")
    entries = [
        "{name: exact, kind: exact, file: published.csv, match: {R_bohr: R}}",
        "{name: vmc, kind: method, file: published.csv, match: {r_bohr: R}}",
    ]
    with system_file.open("a") as file:
        file.write(f"literature: [{', '.join(entries)}]\n")
    done = command("check", system_file)
    assert done.returncode == 0, done.stderr
    unmatched, no_column = done.stderr.splitlines()
    assert unmatched.startswith("warning: literature 'exact': nothing in ")
    assert "has no column 'r_bohr' (it has R_bohr, value)" in no_column


def test_check_prints_every_setting(system_file: Path) -> None:
    done = command("check", system_file, "--resolved", "--set", "optimise.iterations=7")
    assert done.returncode == 0, done.stderr
    assert "iterations: 7" in done.stdout


def test_check_prints_the_schema() -> None:
    schema = json.loads(command("check", "--schema").stdout)
    assert "atoms" in json.dumps(schema)


SHARED = {"--out", "--work", "--wall-time", "--force", "--attempt", "--wait", "--no-wait"}
ON_RANKS = {"--devices", "--ranks", "--gpus"}


@pytest.mark.parametrize(
    ("stage", "own"),
    [
        ("reference", set()),
        ("conventional", {"--devices"}),
        ("joint_pretrain", {"--reference", *ON_RANKS}),
        ("joint_optimise", {"--joint-pretrain", *ON_RANKS}),
        ("pretrain", {"--reference", "--neighbour", "--group", *ON_RANKS}),
        ("optimise", {"--pretrain", *ON_RANKS}),
        ("inference", {"--optimise", "--reference", *ON_RANKS}),
    ],
)
def test_options_of_the_stage_commands(stage: str, own: set[str]) -> None:
    """Job scripts and workflow rules use these names."""
    group: Any = typer.main.get_command(app)
    spec, *options = group.commands[stage].params
    assert spec.opts == ["spec"]
    names = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    assert names == SHARED | own
    assert all(option.help for option in (spec, *options))


def test_a_warm_start_needs_the_neighbour_that_its_spec_names(
    spec: RunSpec, tmp_path: Path
) -> None:
    path = tmp_path / "spec.json"
    files_of_the_job: list[str | Path] = [
        "--reference",
        tmp_path / "r",
        "--out",
        tmp_path / "o",
        "--work",
        tmp_path,
    ]
    path.write_text(spec.model_dump_json())
    done = command("pretrain", path, *files_of_the_job, "--neighbour", tmp_path / "n")
    assert done.returncode == 2
    assert "needs none" in done.stderr
    path.write_text(spec.model_copy(update={"neighbour": "r_2"}).model_dump_json())
    done = command("pretrain", path, *files_of_the_job)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --neighbour: found None; ")
    assert "needs the optimisation of 'r_2'" in done.stderr
    # The neighbour's artefact is of another geometry than its spec file, as after an edit of units.
    here, far = (
        ((0.0, 0.0, 0.0), (0.0, 0.0, bond)) for bond in (2.0, 2.0 * units.ANGSTROM_IN_BOHR)
    )
    origin = spec.molecule.model_copy(update={"positions": here})
    made = spec.model_copy(update={"run_id": "r_2", "molecule": origin})
    moved = made.model_copy(update={"molecule": origin.model_copy(update={"positions": far})})
    (tmp_path / "r_2.json").write_text(moved.model_dump_json())
    attributes = {"stage": "optimise", "run_id": "r_2", "spec": made.model_dump_json()}
    artefacts.save(xr.Dataset(attrs=attributes), tmp_path / "n.zarr.zip")
    done = command("pretrain", path, *files_of_the_job, "--neighbour", tmp_path / "n.zarr.zip")
    assert done.returncode == 2
    assert "r_2.json asks for: computed with H1-H2 = 2 bohr, the file says 3.77945" in done.stderr


def test_a_run_of_a_group_needs_what_its_spec_names(spec: RunSpec, tmp_path: Path) -> None:
    scan, own = tmp_path / "h2", spec.model_copy(update={"group": "shared"})
    members = [Member(run_id=r, parameters={}, molecule=spec.molecule) for r in ("r_1.4", "r_2")]
    whole = GroupSpec(**{**dict(spec), "run_id": "shared"}, members=tuple(members))
    other = whole.model_copy(update={"members": whole.members[:1]})
    made = tmp_path / "joint.zarr.zip"
    attributes = {"stage": "joint_optimise", "run_id": "shared", "spec": other.model_dump_json()}
    artefacts.save(xr.Dataset(attrs=attributes), made)
    (scan / "spec" / "groups").mkdir(parents=True)
    run_file, group_file = scan / "spec" / "r_1.4.json", scan / "spec" / "groups" / "shared.json"
    run_file.write_text(own.model_dump_json())
    group_file.write_text(whole.model_dump_json())
    job: list[str | Path] = ["--out", tmp_path / "o", "--work", tmp_path / "w"]
    reference: list[str | Path] = ["--reference", tmp_path / "r"]
    for words, wrong in (
        (["pretrain", run_file, *reference], "--group: found None; the spec"),
        (["pretrain", run_file, *reference], "needs joint_optimise of the group 'shared'"),
        (["pretrain", run_file, *reference, "--group", made], "asks for: computed without r_2"),
        (["pretrain", group_file, *reference], "is the spec of a group; pretrain needs that of a"),
        (["joint_pretrain", run_file, *reference], "a run; joint_pretrain needs that of a group"),
        (["joint_pretrain", group_file, *reference], "found 1 files; the group 'shared' has 2 mem"),
    ):
        done = CliRunner().invoke(app, list(map(str, [*words, *job])))
        assert isinstance(done.exception, InputError)
        assert wrong in str(done.exception)


def test_every_command_has_help() -> None:
    """In one process, to be quick; `check` and `--help` must not load JAX, PySCF or pandas."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from ferminet_core.cli.commands import app\n"
        "for name in sys.argv[1:]:\n"
        "    done = CliRunner().invoke(app, [name, '--help'])\n"
        "    assert done.exit_code == 0, name\n"
        "    print(done.output)\n"
        "print({'jax', 'pyscf', 'pandas', 'xarray', 'numpy'} & set(sys.modules))\n"
    )
    names = [
        "check",
        "plan",
        "reference",
        "pretrain",
        "optimise",
        "inference",
        "conventional",
        "summary",
        "digest",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("set()\n")


def test_a_plan_imports_jax_after_its_settings() -> None:
    """A plan of this machine settles threads and messages of JAX before it imports JAX."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from ferminet_core.cli.commands import app\n"
        "done = CliRunner().invoke(app, ['plan', sys.argv[1], '--device', 'h100'])\n"
        "assert done.exit_code == 0, done.output\n"
        "print('jax' in sys.modules)\n"
    )
    system = str(ROOT / "systems" / "n2_ecp.yaml")
    done = subprocess.run(
        [sys.executable, "-c", code, system], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_a_process_uses_the_cores_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NPROC", "XLA_FLAGS", "OMP_NUM_THREADS", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XLA_FLAGS", "--xla_something")
    # As Snakemake does in a rule of three threads: LAPACK's sums would depend on it.
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    jax_setup.prepare_process(3)
    assert os.environ["NPROC"] == "3"
    assert os.environ["OMP_NUM_THREADS"] == "1"
    flags = "--xla_something --xla_force_host_platform_device_count=3"
    assert os.environ["XLA_FLAGS"] == flags
    # A second run on the same GPU would find no memory.
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


@pytest.mark.parametrize(
    ("wanted", "walkers", "expected"), [(2, 64, 2), (3, 64, 2), (8, 60, 6), (5, 7, 1), (9, 4, 4)]
)
def test_devices_divide_the_walkers(wanted: int, walkers: int, expected: int) -> None:
    assert jax_setup.usable_devices(wanted, walkers) == expected


def test_cache_folder_can_be_moved_and_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERMINET_CACHE", str(tmp_path))
    folder = jax_setup.cache_folder("1.2")
    assert folder == tmp_path / "jax-1.2" / jax_setup.processor_type()
    monkeypatch.setenv("FERMINET_CACHE", "off")
    assert jax_setup.cache_folder("1.2") is None
    monkeypatch.delenv("FERMINET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    default = jax_setup.cache_folder("1.2")
    assert default is not None
    assert default.parents[1] == tmp_path / "cache" / "ferminet_core"


def test_the_second_process_compiles_nothing(tmp_path: Path) -> None:
    code = (
        "from ferminet_core.parallel.jax_setup import configure_jax, prepare_process\n"
        "prepare_process(2)\n"
        "log = configure_jax('float64')\n"
        "import jax, jax.numpy as jnp\n"
        "x = jax.jit(lambda x: jnp.linalg.slogdet(x)[1])(jnp.eye(5))\n"
        "assert x.dtype == jnp.float64 and jax.device_count() == 2\n"
        "assert jax.config.jax_default_matmul_precision == 'highest'\n"
        "print(log.cache_hits, log.cache_misses, log.n_compiled)\n"
    )
    # JAX, where this process has imported it, has set the last one.
    unset = ("XLA_FLAGS", "NPROC", "TF_CPP_MIN_LOG_LEVEL")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment["FERMINET_CACHE"] = str(tmp_path)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        for _ in range(2)
    ]
    cold, warm = ([int(word) for word in done.stdout.split()] for done in outputs)
    assert cold[0] == 0
    assert cold[1] > 0
    assert warm[0] == cold[1]
    assert warm[1] == 0
    assert outputs[1].stderr == ""  # XLA's complaints about tuning hints are kept away


def test_progress_lines_are_few_and_say_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    clock = iter(float(t) for t in range(0, 100000, 1))
    monkeypatch.setattr("ferminet_core.runner.progress.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    reading = progress.read_stats({"energy_Eh": np.array([-1.1, -1.2]), "pmove": 0.5})
    with progress.StageProgress("optimise", "r_1.4", 1000, stream) as shown:
        for step in range(1, 1001):
            shown.update(step, 1000, reading)
        shown.finish(1000, progress.Reading(None, None, None))
    lines = stream.getvalue().splitlines()
    # One update a second: lines after 5, 15, 35, 75 and then every 60 s.
    assert len(lines) == 2 + 4 + (1000 - 75) // 60
    assert lines[0] == "r_1.4 optimise: starting"
    assert lines[1] == ("r_1.4 optimise: step 5/1000, 1/s, 17 min left, E = -1.1500 Eh, pmove 0.50")
    assert lines[-1].startswith("r_1.4 optimise: done, 1000 steps in 17 min, E = -1.1500 Eh")


def test_a_block_is_read_into_one_error_bar() -> None:
    stats = {"energy_Eh": np.array([-1.0, np.nan, -2.0]), "error_Eh": np.array([0.3, 0.4])}
    reading = progress.read_stats(stats)
    assert reading.energy == -1.5  # a step that isn't finite is left out
    assert reading.error == pytest.approx(0.25)  # sqrt(0.09 + 0.16) / 2
    assert reading.pmove is None

"""A wheel, installed without the checkout, holds every module and data file and runs."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.paths import ROOT
from helpers.stages import SYSTEM

from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import write_specs

pytestmark = pytest.mark.slow


class Installed(NamedTuple):
    """The wheel, and the folder of the environment that it is installed in."""

    wheel: Path
    environment: Path

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs where the checkout is out of reach."""
        variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run(
            [self.environment / "bin" / program, *arguments],
            cwd=self.environment.parent,
            env=variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


def _python(module: str, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", module, *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own, with the dependencies of the running one."""
    here = tmp_path_factory.mktemp("wheel")
    source, environment = here / "source", here / "environment"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ferminet_core", source / "ferminet_core", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _python("pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", here, source)
    (wheel,) = here.glob("*.whl")
    _python("venv", "--without-pip", environment)
    interpreter = environment / "bin/python"
    _python("pip", "--python", interpreter, "install", "--no-deps", "--no-index", wheel)
    # A folder named in a .pth file comes after the environment's own, and the .pth files in it,
    # such as that of an editable installation, are not read.
    (packages,) = environment.glob("lib/python*/site-packages")
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (packages / "dependencies.pth").write_text("\n".join(paths) + "\n")
    return Installed(wheel, environment)


def test_the_wheel_holds_every_file_of_the_package(installed: Installed) -> None:
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "ferminet_core").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    assert {name for name in names if name.startswith("ferminet_core/")} == files
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_installed_package_runs(installed: Installed, tmp_path: Path) -> None:
    found = installed.run("python", "-c", "import ferminet_core; print(ferminet_core.__file__)")
    assert Path(found.stdout.strip()).is_relative_to(installed.environment), found.stderr
    system, results = tmp_path / "h2.yaml", tmp_path / "results"
    system.write_text(SYSTEM)
    spec = write_specs(load_scan(system), results)[0]
    out, work = (
        results / "h2/runs" / spec.stem / name for name in ("reference.zarr.zip", "reference.work")
    )
    for arguments in (
        ("check", system),
        ("reference", spec, "--out", out, "--work", work),
        ("summary", system, "--results", results),
        ("status", results / "h2"),
    ):
        done = installed.run("ferminet-core", *arguments)
        assert done.returncode == 0, (arguments[0], done.stderr)
    assert out.is_file()
    assert "r_1.4" in (results / "h2/report.html").read_text()


def test_the_program_is_named_as_it_was_called(installed: Installed) -> None:
    names = {"ferminet-core": (), "python": ("-m", "ferminet_core")}
    for program, words in names.items():
        shown = installed.run(program, *words, "--help").stdout
        assert f"Usage: {' '.join((program, *words))} " in shown
        failed = installed.run(program, *words, "check", "missing.yaml")
        assert failed.returncode == 2
        assert failed.stderr.startswith("error: missing.yaml")
        assert failed.stderr.count("\n") == 1

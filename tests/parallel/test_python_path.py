"""Packages on PYTHONPATH, as module files of clusters leave them, through the real command line."""

import importlib.metadata
import os
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.stages import command

from ferminet_core.errors import InputError


def plant(folder: Path, version: str = "") -> str:
    """A NumPy that cannot be imported here, perhaps with a version; the PYTHONPATH."""
    (folder / "numpy").mkdir()
    (folder / "numpy" / "__init__.py").write_text("raise ImportError('for another Python')\n")
    if version:
        (folder / f"numpy-{version}.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: numpy\nVersion: {version}\n"
        (folder / f"numpy-{version}.dist-info" / "METADATA").write_text(text)
    return f"{ROOT}{os.pathsep}{folder}"


@pytest.mark.parametrize("version", ["", "1.21.0"])
def test_another_version_of_a_package_is_refused_in_one_line(version: str, tmp_path: Path) -> None:
    done = command("check", "h2.yaml", PYTHONPATH=plant(tmp_path, version))
    assert done.returncode == InputError.exit_code
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: PYTHONPATH: {tmp_path} holds another numpy (")
    assert "unset PYTHONPATH" in line
    assert importlib.metadata.version("numpy") in line


def test_the_same_version_is_accepted(tmp_path: Path) -> None:
    path = plant(tmp_path, importlib.metadata.version("numpy"))
    assert command("--help", PYTHONPATH=path).returncode == 0


def test_folders_without_such_packages_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    path = os.pathsep.join([str(ROOT), str(tmp_path), "", "/nowhere"])
    assert command("--help", PYTHONPATH=path).returncode == 0

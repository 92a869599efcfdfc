"""The scripts in docs/examples run and print what the documentation says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.finished_scan import SYSTEM, finished_scan_with_page
from helpers.paths import ROOT
from helpers.scans import LITERATURE, make_scan

from ferminet_core.inputs.spec_files import write_specs

EXAMPLES = ROOT / "docs/examples"
EXACT = -1.174476  # hartree, at 1.4 bohr (Sims and Hagstrom 2006)


def output_of(name: str, *arguments: Path, here: Path, cache: Path) -> str:
    # Both molecules are the same, so that the second finds what the first has compiled.
    variables = {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # as in conftest, with one device
    }
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        cwd=here,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("h2_in_twenty_lines.py", marks=pytest.mark.slow),
        # The same calculation again; its other calls are those of tests/interface.
        pytest.param("readme_example.py", marks=pytest.mark.campaign),
    ],
)
def test_a_molecule_in_code(name: str, tmp_path: Path, compiled: Path) -> None:
    """The energy lies above the exact one, within its error, and below Hartree-Fock (-1.1336)."""
    printed = output_of(name, here=tmp_path, cache=compiled)
    found = re.search(r"(-1\.\d+) \+- (0\.\d+) hartree", printed)
    assert found is not None, printed
    energy, error = map(float, found.groups())
    # Five standard errors are exceeded by chance once in two million runs.
    assert EXACT - 5 * error < energy < -1.1336
    assert error < 0.005  # of 50 records of 64 walkers with a spread of some 0.1 hartree


def test_the_example_in_the_readme_is_short() -> None:
    assert len((EXAMPLES / "readme_example.py").read_text().splitlines()) <= 15


def test_a_finished_scan(tmp_path: Path, compiled: Path) -> None:
    folder = finished_scan_with_page(tmp_path)
    write_specs(make_scan(tmp_path, SYSTEM + LITERATURE), tmp_path / "results")
    printed = output_of("analyse_a_scan.py", folder, here=tmp_path, cache=compiled)
    assert len(re.findall(r"^ *r_[\d.]+ +-\d", printed, re.MULTILINE)) == 6
    assert "density of r_1.4" in printed
    for name in ("curve.png", "density.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

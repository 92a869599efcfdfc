"""Variables of make: a misspelt one is refused, before anything is set up or run."""

import os
import shutil
import subprocess

import pytest
from helpers.paths import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def dry(*variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--dry-run", "scan", *variables],
        cwd=ROOT,
        # Without the options of the make that runs the tests.
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("variable", "line"),
    [
        ("SYTEM=lih", "unknown variable SYTEM; did you mean SYSTEM? allowed: SYSTEM RESULTS"),
        ("system=lih", "unknown variable system; did you mean SYSTEM? allowed: SYSTEM"),
        ("Presets=smoke", "unknown variable Presets; did you mean PRESET? allowed: SYSTEM"),
        ("WALKERS=3", "unknown variable WALKERS; allowed: SYSTEM RESULTS PRESET"),
    ],
)
def test_an_unknown_variable_is_refused(variable: str, line: str) -> None:
    done = dry(variable)
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stdout == ""


def test_known_variables_reach_snakemake_whole() -> None:
    done = dry("SYSTEM=lih", "SET=optimise.iterations=500 seed=2", "PRESET=smoke", "ARGS=--quiet")
    assert done.returncode == 0
    assert '"system=lih"' in done.stdout
    assert '"preset=smoke"' in done.stdout
    assert '"set=optimise.iterations=500 seed=2"' in done.stdout

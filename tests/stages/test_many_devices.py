"""Sixteen devices give the numbers of one, and exchange what `plan` counts."""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers.paths import ROOT

DEVICES = 16


@pytest.fixture(scope="module")
def report() -> Any:
    flags = (
        f"--xla_force_host_platform_device_count={DEVICES}",
        "--xla_backend_optimization_level=0",
    )
    done = subprocess.run(
        [sys.executable, "-m", "helpers.many_devices"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "tests",
        env={
            **os.environ,
            "XLA_FLAGS": " ".join(flags),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        },
    )
    found = json.loads(done.stdout)
    assert found["devices"] == DEVICES
    return found


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["energies", "kfac", "spring", "joint"])
def test_sixteen_devices_give_the_numbers_of_one(name: str, report: Any) -> None:
    one, many = (np.array(report[name][which]) for which in ("one", "many"))
    assert np.abs(one).max() > 1e-3
    # Order of summation in double precision. Local energies are those of single walkers, up to 65
    # hartree with terms some hundred times as large: 1e-11. Sums over 32 walkers: 1e-15 of terms of
    # order one, times 1e5 by the damping of 1e-3 under curvatures of up to 100. A mean over one
    # device's two walkers would differ by a whole step, 1e-2.
    np.testing.assert_allclose(many, one, rtol=0, atol=1e-10)


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["kfac", "spring"])
def test_devices_exchange_what_the_plan_counts(name: str, report: Any) -> None:
    counted = report[name]["messages"]
    half = counted.get("all-gather", 0) + counted.get("all-to-all", 0)
    # Parameters are padded to equal parts, 362 to 368.
    assert counted["all-reduce"] + half / 2 == pytest.approx(sum(report[name]["planned"]), rel=0.02)

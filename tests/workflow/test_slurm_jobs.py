"""What the workflow reads from Slurm's words. tests/slurm has the executor on a real Slurm."""

import importlib
from types import ModuleType

import pytest
from helpers.paths import ROOT


@pytest.fixture
def slurm_jobs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "workflow" / "executors")
    return importlib.import_module("slurm_jobs")


def test_states_of_jobs_and_array_tasks(slurm_jobs: ModuleType) -> None:
    states = slurm_jobs.read_states("12_3|RUNNING\n12_[4-6,9%2]|PENDING\n13|CANCELLED by 1000\n\n")
    found = {name: slurm_jobs.state_of(name, states) for name in ("12_3", "12_5", "13", "1", "14")}
    assert found == {
        "12_3": "RUNNING",
        "12_5": "PENDING",
        "13": "CANCELLED",
        "1": None,
        "14": None,
    }


@pytest.mark.parametrize(
    ("words", "hopeless"),
    [
        ("Batch job submission failed: Invalid partition name specified", True),
        ("Batch job submission failed: Requested node configuration is not available", True),
        ("Batch job submission failed: Job violates accounting/QOS policy (job submit limit, "
        "user's size and/or time limits)", False),
        ("Unable to contact slurm controller (connect failure)", False),
        ("Batch job submission failed: Socket timed out on send/recv operation", False),
    ],
)  # fmt: skip
def test_which_refusals_pass_with_time(slurm_jobs: ModuleType, words: str, hopeless: bool) -> None:
    assert bool(slurm_jobs.HOPELESS.search(words)) is hopeless

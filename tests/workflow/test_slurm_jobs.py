"""What the workflow reads from Slurm's words. tests/slurm has the executor on a real Slurm."""

import importlib
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

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


def test_a_fault_gives_up_only_jobs_that_are_not_submitted(
    slurm_jobs: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Submitted jobs run. As failed ones they would be started again next to themselves."""
    submitted, given_up = [], []

    def submit(batch: Any) -> list[Any]:
        if batch.tasks == (("second",),):
            raise OSError("no process can be started")
        submitted.append(batch.tasks)
        return []

    executor = SimpleNamespace(
        _cut=lambda jobs: iter([((job,),) for job in jobs]),
        _options=lambda tasks: "sbatch",
        _ending=threading.Event(),
        _submit_patiently=submit,
        _give_up=lambda info, reason: given_up.append((info.job, reason)),
    )
    slurm_jobs.Executor._submit_all(executor, ["first", "second", "third"])
    reason = "not submitted: OSError: no process can be started"
    assert submitted == [(("first",),)]
    assert given_up == [("second", reason), ("third", reason)]
    assert "in submit\n" in capsys.readouterr().err

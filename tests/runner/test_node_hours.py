"""The node hours of a stage: every attempt at it, on as many nodes as each had."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.stages import Oscillator, PowerCutError, failing, job_for, run, spec_of

from ferminet_core.parallel import distributed
from ferminet_core.parallel.distributed import Member, Ranks
from ferminet_core.runner import work_files
from ferminet_core.storage import files


def on_nodes(*names: str) -> Ranks:
    """Two ranks on each of these nodes, as the provenance sees them."""
    ranks = Ranks()
    ranks.members = [Member(i, name, name, 1, ()) for i, name in enumerate(names * 2)]
    return ranks


def test_attempts_count_with_the_nodes_that_each_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(work_files, "time", SimpleNamespace(monotonic=lambda: now))

    def stage(fails_at: int) -> Oscillator:
        def at(step: int) -> None:
            nonlocal now
            now += 10.0
            failing(fails_at, PowerCutError())(step)

        return Oscillator(at)

    job = job_for(spec_of(tmp_path), tmp_path)
    monkeypatch.setattr(distributed, "_current", on_nodes("n1", "n2", "n3"))
    with pytest.raises(PowerCutError):
        run(job, stage(30))
    monkeypatch.setattr(distributed, "_current", on_nodes("n1"))
    run(job, stage(0))
    record = files.read_json(job.provenance_path)
    assert record is not None
    # 10, 20 and the lost 30 on three nodes; 30 and 40 on one.
    assert record["node_s"] == 3 * 30.0 + 20.0


def test_attempts_of_an_earlier_version_count_as_one_node(tmp_path: Path) -> None:
    writer = work_files.StatusWriter(tmp_path, "optimise", 10)
    writer.continues(100.0)
    writer.update("resumable", 5)
    again = work_files.StatusWriter(tmp_path, "optimise", 10, nodes=2)
    again.continues(60.0)  # the checkpoint's, which are among those of the status
    assert 100.0 <= again.node_s < 110.0

"""What the summary reads from the files of a run."""

from pathlib import Path

import pytest
from helpers.scans import make_scan, save_run

from ferminet_core.report.run_outcomes import run_outcome
from ferminet_core.storage import files


def test_node_hours_are_those_of_the_nodes(tmp_path: Path) -> None:
    """Stages of 1, 30 and 5 s; without a record of nodes a stage ran on one."""
    run = make_scan(tmp_path).runs[0]
    save_run(tmp_path, -1.17)
    assert run_outcome(run, tmp_path).node_h == pytest.approx(36 / 3600)
    path = tmp_path / "optimise.provenance.json"
    record = files.read_json(path)
    assert record is not None
    ranks = [{"rank": i, "node": f"n{i // 4}", "pid": i} for i in range(8)]
    files.write_json(path, record | {"ranks": ranks})  # of earlier versions
    assert run_outcome(run, tmp_path).node_h == pytest.approx((1 + 2 * 30 + 5) / 3600)
    files.write_json(path, record | {"ranks": ranks, "node_s": 100.0})
    assert run_outcome(run, tmp_path).node_h == pytest.approx(106 / 3600)
    assert run_outcome(run, tmp_path).wall_s == 36.0

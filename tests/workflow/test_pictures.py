"""A picture that cannot be drawn, in the workflow: Snakemake deletes what a failed job wrote."""

import os
from pathlib import Path

import pandas as pd
import pytest
from helpers.scans import save_run
from helpers.workflow import Workflow

# Loaded by every Python at its start: no figure gets any axes.
BROKEN = """
import matplotlib.figure

def subplots(self, *arguments, **options):
    raise RuntimeError("no axes today")

matplotlib.figure.Figure.subplots = subplots
"""


@pytest.mark.slow
def test_the_table_survives_a_picture_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = Workflow(tmp_path)
    run_ids = ("r_1.4", "r_2", "r_3")
    workflow.pretend_done(*run_ids)
    scan = workflow.results / "test"
    moment = (scan / "scan.csv").stat().st_mtime
    for path in scan.glob("*.*"):
        if path.name != "runs.txt":
            path.unlink()
    for run_id in run_ids:
        save_run(scan / "runs" / run_id, -1.1)
        for path in (scan / "runs" / run_id).iterdir():
            os.utime(path, (moment, moment))
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = workflow.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: curve.svg and curve.png cannot be drawn: RuntimeError" in done.stdout
    table = pd.read_csv(scan / "scan.csv")
    assert list(table["energy_Eh"]) == [-1.1] * 3
    assert "no axes today" in (scan / "curve.svg").read_text()
    assert workflow.jobs() == {}

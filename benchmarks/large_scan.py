"""Processor seconds and memory of the commands on a finished scan of many geometries.

    make scan SYSTEM=h2
    .venv/bin/python -m benchmarks.large_scan results/h2/runs/r_1.4 --geometries 1000

Every run of the scan is a copy of one finished run of H2, with its own geometry and energy. Each
command runs twice. The first time counts for the table; the second shows what it need not repeat.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ferminet_core.inputs.run_spec import RunSpec, parse_spec
from ferminet_core.inputs.scan import Scan, load_scan
from ferminet_core.inputs.spec_files import freeze, write_specs
from ferminet_core.inputs.stage_table import declared
from ferminet_core.runner.status import STAGES
from ferminet_core.storage import artefacts, files

SYSTEM = """\
title: H2, {n} geometries
units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {{R: [{grid}]}}
preset: small
"""

app = typer.Typer(add_completion=False, help=__doc__)


def system_file(folder: Path, n: int) -> Path:
    """A system file of H2 with n bond lengths from 0.8 to 8 bohr."""
    path = folder / "large.yaml"
    grid = ", ".join(f"{bond:.6g}" for bond in np.linspace(0.8, 8.0, n))
    path.write_text(SYSTEM.format(n=n, grid=grid), encoding="utf-8")
    return path


def copy_runs(scan: Scan, model: Path, folder: Path) -> None:
    """Write the files of all runs of a scan from those of one finished run."""
    stored = {stage: artefacts.load(model / f"{stage}.zarr.zip") for stage in STAGES}
    records = {stage: files.read_json(model / f"{stage}.provenance.json") or {} for stage in STAGES}
    events = {stage: (model / f"{stage}.work" / "events.jsonl").read_bytes() for stage in STAGES}
    status = {stage: (model / f"{stage}.work" / "status.json").read_bytes() for stage in STAGES}
    rng = np.random.default_rng(0)
    for run in scan.runs:
        target = folder / "runs" / run.run_id
        target.mkdir(parents=True, exist_ok=True)
        digests: dict[str, str] = {}
        shift = float(_morse(run) + 1e-4 * rng.standard_normal())
        for stage in STAGES:
            ds = stored[stage]
            made_with = parse_spec(ds.attrs["spec"], str(model))
            own = {
                name: getattr(run, name)
                for name in ("scan", "run_id", "geometry", "molecule", "parameters", "request")
            }
            attributes: dict[str, Any] = {
                "spec": made_with.model_copy(update=own).model_dump_json(),
                "run_id": run.run_id,
                "parents": json.dumps({name: digests[name] for name in declared(stage).parents}),
            }
            for name in ("energy_Eh", "e_hf"):
                if name in ds.attrs:
                    attributes[name] = float(ds.attrs[name]) + shift
            ds = ds.assign_attrs(attributes)
            digests[stage] = artefacts.save(ds, target / f"{stage}.zarr.zip")
            files.write_json(target / f"{stage}.provenance.json", records[stage])
            work = target / f"{stage}.work"
            work.mkdir(exist_ok=True)
            (work / "events.jsonl").write_bytes(events[stage])
            (work / "status.json").write_bytes(status[stage])


def _morse(run: RunSpec) -> float:
    """Energy of H2 above that of the model's bond length, about; hartree."""
    (_, _, low), (_, _, high) = run.molecule.positions
    well = 1.0 - np.exp(-1.03 * (high - low - 1.4))
    return float(0.1745 * well**2)


def measure(words: list[str]) -> str:
    """Run a command of the package; the cells of its row: processor seconds, peak MB."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ferminet_core", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    error = process.stderr.read().decode(errors="replace")
    _, code, usage = os.wait4(process.pid, 0)
    seconds = usage.ru_utime + usage.ru_stime
    failed = "" if code == 0 else f" (failed: {error.strip().splitlines()[-1:]})"
    return f"{seconds:.1f} | {usage.ru_maxrss / 1024:.0f}{failed}"


@app.command()
def main(
    model: Annotated[Path, typer.Argument(help="Folder of a finished run of H2, preset small.")],
    geometries: Annotated[int, typer.Option(min=5, help="Number of geometries.")] = 1000,
    folder: Annotated[Path | None, typer.Option(help="Keep the scan here; reused.")] = None,
) -> None:
    """Print a table of commands."""
    with tempfile.TemporaryDirectory() as scratch:
        here = folder or Path(scratch)
        here.mkdir(parents=True, exist_ok=True)
        system = system_file(here, geometries)
        results = here / "results"
        scan = load_scan(system)
        target = results / scan.name
        if not (target / "scan.json").exists():
            write_specs(scan, results)
            copy_runs(scan, model, target)
            freeze(scan, results)
        print("| command | s | peak MB | again, s | peak MB |")
        print("|---|---|---|---|---|")
        for words in (
            ["check", str(system)],
            ["plan", str(system)],
            ["status", str(target)],
            ["summary", str(target / "scan.json"), "--results", str(results)],
            ["cite", str(target)],
        ):
            print(f"| {words[0]} | {measure(words)} | {measure(words)} |", flush=True)
        size = (target / "report.html").stat().st_size
        print(f"\nreport.html: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.large_scan")

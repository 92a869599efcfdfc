"""A finished scan of H2 with small artefacts and series of known form, to test its page."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ferminet_core.analysis.statistics import summarise_energy
from ferminet_core.inputs.run_spec import GroupSpec, RunSpec
from ferminet_core.inputs.scan import Scan
from ferminet_core.report import scan_files
from ferminet_core.runner.work_files import append_event
from ferminet_core.storage import artefacts, files, provenance
from helpers.scans import LITERATURE, inference_attributes, make_scan, morse, write_literature

SYSTEM = """
title: H2 <of a test> & more
units: bohr
atoms: ["H 0 0 -R/2", "H 0 0 R/2"]
parameters: {R: [0.8, 1.2, 1.4, 1.7, 2.5, 4.0]}
preset: smoke
"""
N_WALKERS = 16
RESTART, ROLLBACK = 100, 180  # iterations of the optimisation
N_EQUILIBRATION = 50
GROUP_ITERATIONS, GROUP_SECONDS = 300, 600.0


def finished_scan_with_page(here: Path) -> Path:
    """Write a finished scan with literature and its page; returns its folder."""
    write_literature(here)
    scan = make_scan(here, SYSTEM + LITERATURE)
    folder = save_finished_scan(scan, here / "results")
    scan_files.write_summary(scan, here / "results")
    return folder


def save_finished_scan(
    scan: Scan, results: Path, iterations: int = 400, records: int = 200
) -> Path:
    """Write the files of a finished scan of H2; returns its folder."""
    folder = results / scan.name
    for number, run in enumerate(scan.runs):
        save_finished_run(run, folder / "runs" / run.run_id, number, iterations, records)
    return folder


def save_finished_run(
    run: RunSpec,
    folder: Path,
    seed: int = 0,
    iterations: int = 400,
    records: int = 200,
    **optimised: Any,
) -> None:
    """Artefacts, provenance and events of a run with one restart and one rollback.

    `optimised` are further attributes of the optimisation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    energy = float(morse(math.dist(*run.molecule.positions)))
    stored = {"run_id": run.run_id, "spec": run.model_dump_json(), "seed": 7}
    stages = {
        "reference": xr.Dataset(attrs={"e_hf": energy + 0.04, "method": "rhf"}),
        "pretrain": _pretraining(rng, energy, iterations),
        "optimise": _optimisation(rng, energy, iterations).assign_attrs(
            {"n_iterations": iterations, **optimised}
        ),
        "inference": _inference(rng, run, energy, records),
    }
    history = [{"step": RESTART, "code_hash": "", "changes": {"optimise.iterations": [200, 400]}}]
    for stage, ds in stages.items():
        ds = ds.assign_attrs({"stage": stage, **stored})
        artefacts.save(ds, folder / f"{stage}.zarr.zip")
        facts = provenance.provenance(stage, "2026-01-01T00:00:00+00:00", 60.0)
        more = {"history": history if stage == "optimise" else []}
        files.write_json(folder / f"{stage}.provenance.json", {**facts, **more})
    text = f"the update is not finite: back to step {ROLLBACK}, learning rate times 0.5"
    append_event(folder / "optimise.work", "note", stage="optimise", text=text)


def save_finished_group(group: GroupSpec, folder: Path, left_out: str = "") -> None:
    """Artefacts and provenance of a group, without parameters and walkers.

    The last geometry has the largest misfit and variance. `left_out` names a member that the
    optimisation went on without.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, n, many = np.random.default_rng(3), GROUP_ITERATIONS, len(group.members)
    level = np.linspace(1.0, 2.0, many) * np.exp(-np.arange(n) / 80.0)[:, None]
    both = ("step", "geometry")
    noise = 1e-4 * rng.standard_normal((n, many))
    energy = -1.0 - 0.01 * np.arange(many) + 0.1 * level + noise
    # In each update one of the geometries rests.
    energy[np.arange(n), np.arange(n) % many] = np.nan
    reasons = {left_out: "left out of the joint optimisation at step 7"} if left_out else {}
    stages = {
        "joint_pretrain": xr.Dataset(
            {"orbital_misfit": (both, level + 0.01)}, attrs={"converged": 1, "n_iterations": n}
        ),
        "joint_optimise": xr.Dataset(
            {
                "energy_Eh": (both, energy),
                "variance_Eh2": (both, np.where(np.isnan(energy), np.nan, 0.1 * level + 1e-3)),
                "update_norm": ("step", np.exp(-np.arange(n) / 200.0)),
            },
            attrs={"n_iterations": n, "left_out": json.dumps(reasons)},
        ),
    }
    for stage, ds in stages.items():
        ds = ds.assign_attrs({"stage": stage, "run_id": group.run_id})
        artefacts.save(ds, folder / f"{stage}.zarr.zip")
        facts = provenance.provenance(stage, "2026-01-01T00:00:00+00:00", GROUP_SECONDS)
        files.write_json(folder / f"{stage}.provenance.json", facts)


def _pretraining(rng: np.random.Generator, energy: float, n: int) -> xr.Dataset:
    step = np.arange(n)
    readings = np.where(step % 50 == 49, energy + 0.05 + np.exp(-step / 50), np.nan)
    series = {
        "orbital_misfit": np.exp(-step / 80) * (1 + 0.1 * rng.standard_normal(n)),
        "energy_Eh": readings,
        "error_Eh": np.where(np.isfinite(readings), 0.01, np.nan),
    }
    return xr.Dataset({k: ("step", v) for k, v in series.items()}, attrs={"converged": 1})


def _optimisation(rng: np.random.Generator, energy: float, n: int) -> xr.Dataset:
    """Two states 0.4 hartree apart; the weight of the upper one falls as a power of the step."""
    weight = 0.05 / (1 + np.arange(n) / 10)
    variance = 0.16 * weight
    error = np.sqrt(variance / N_WALKERS)
    series = {
        "energy_Eh": energy + 0.4 * weight + error * rng.standard_normal(n),
        "error_Eh": error,
        "variance_Eh2": variance,
        "pmove": 0.5 + 0.02 * rng.standard_normal(n),
        "n_nonfinite": np.zeros(n),
        "n_frozen": np.zeros(n),
        "width": np.full(n, 0.4),
        "gradient_norm": weight * np.exp(0.3 * rng.standard_normal(n)),
        "update_norm": weight,
        "learning_rate": 0.05 / (1 + np.arange(n) / 1000),
    }
    return xr.Dataset({k: ("step", v) for k, v in series.items()}, attrs={"n_rollbacks": 1})


def _inference(rng: np.random.Generator, run: RunSpec, energy: float, n: int) -> xr.Dataset:
    """Independent local energies, and electrons in 1s orbitals, one about each nucleus."""
    local = energy + 0.02 * rng.standard_normal((n, N_WALKERS))
    found = summarise_energy(local, 0)
    shape = (5, N_WALKERS, 2)
    direction = rng.standard_normal((*shape, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    nuclei = np.array(run.molecule.positions)
    walkers = nuclei + rng.gamma(3.0, 0.5, shape)[..., None] * direction
    attributes = inference_attributes(
        found.mean,
        error_Eh=found.error,
        error_bootstrap_Eh=found.error_bootstrap,
        variance_Eh2=found.variance,
        tau=found.tau,
        hf_Eh=energy + 0.04,
        n_samples=n,
        n_walkers=N_WALKERS,
        n_equilibration=N_EQUILIBRATION,
    )
    variables = {
        "energy_local": (("sample", "walker"), local),
        "equilibration_Eh": ("equilibration", energy + 0.01 * rng.standard_normal(N_EQUILIBRATION)),
        "walkers": (("kept", "walker", "electron", "xyz"), walkers.astype(np.float32)),
    }
    return xr.Dataset(variables, attrs=attributes)

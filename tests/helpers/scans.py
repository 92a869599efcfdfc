"""Scans with invented results in the files that a summary reads."""

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ferminet_core.analysis.summary import Summary
from ferminet_core.inputs.observable_table import OBSERVABLES
from ferminet_core.inputs.scan import Scan, load_scan
from ferminet_core.inputs.spec_files import conventional_spec
from ferminet_core.storage import artefacts, files, provenance

H2 = """
units: bohr
atoms: ["H 0 0 -R/2", "H 0 0 R/2"]
parameters: {R: [0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0]}
preset: smoke
"""
ATOMS = """
units: bohr
preset: smoke
geometries:
  - {name: lih, atoms: ["Li 0 0 0", "H 0 0 3.015"]}
  - {name: li, atoms: ["Li 0 0 0"], spin: 1}
  - {name: h, atoms: ["H 0 0 0"], spin: 1}
"""
LITERATURE = """
literature:
  - name: exact
    label: exact (test)
    file: h2.csv
    where: {method: exact}
    match: {R_bohr: R}
    kind: exact
  - name: other
    label: other method
    file: h2.csv
    where: {method: other}
    match: {R_bohr: R}
    error: error
    kind: method
"""


# A Morse curve like that of H2: depth (hartree), stiffness (1/bohr), bond length (bohr).
DEPTH, STIFFNESS, BOND = 0.17, 1.03, 1.4


def morse(distance: float) -> float:
    return DEPTH * (1 - np.exp(-STIFFNESS * (distance - BOND))) ** 2 - 1.0 - DEPTH


def write_literature(folder: Path) -> None:
    rows = []
    for r in np.arange(0.5, 6.0, 0.1):
        # The grids differ by rounding: 1e-7.
        rows.append({"R_bohr": r + 1e-7, "method": "exact", "value": morse(r), "unit": "Eh"})
        other = {"value": morse(r) + 1e-3 * r, "error": 2e-4, "unit": "Eh"}
        rows.append({"R_bohr": round(r, 6), "method": "other", **other})
    pd.DataFrame(rows).to_csv(folder / "h2.csv", index=False)


def make_scan(folder: Path, text: str = H2 + LITERATURE, name: str = "h2") -> Scan:
    (folder / f"{name}.yaml").write_text(text)
    return load_scan(folder / f"{name}.yaml")


def inference_attributes(energy: float, **changes: Any) -> dict[str, Any]:
    attributes = {
        "stage": "inference",
        "energy_Eh": energy,
        "error_Eh": 1e-4,
        "error_bootstrap_Eh": 1.1e-4,
        "variance_Eh2": 0.01,
        "tau": 2.5,
        "rhat": 1.002,
        **{name: 0.001 for o in OBSERVABLES for name in o.columns},
        "n_nonfinite": 0,
        "n_outliers": 2,
        "pmove": 0.52,
        "n_samples": 1000,
        "n_walkers": 256,
        "n_opt": 2000,
        "n_equilibration": 50,
        "hf_Eh": energy + 0.04,
        "hf_method": "rhf",
        "flags": "[]",
        "flags_sampling": "[]",
    }
    return attributes | changes


def rows(summary: Summary) -> dict[float, dict[Hashable, Any]]:
    """The table's rows by bond length."""
    return rows_of(summary.table)


def rows_of(table: pd.DataFrame) -> dict[float, dict[Hashable, Any]]:
    return {row["R"]: row for row in table.to_dict("records")}


QUANTITIES = """
units: bohr
preset: smoke
geometries:
  - {name: li, atoms: ["Li 0 0 0"], spin: 1}
  - {name: li+, atoms: ["Li 0 0 0"], charge: 1}
variants: [{name: kfac}, {name: adam, overrides: {optimise.optimiser: adam}}]
literature:
  - {name: limit, file: li.csv, where: {method: HF}, match: {atom: geometry}, kind: method}
  - {name: exact, file: li.csv, where: {method: exact}, match: {atom: geometry}, kind: exact}
correlation: {hartree_fock: limit, exact: exact}
quantities:
  - {name: ip, of: {li+: 1, li: -1}, published: 0.19814}
  - {name: twice, of: {li: 2}}
"""
LITHIUM = "atom,method,value\nli,HF,-7.4\nli,exact,-7.5\nli+,exact,-7.3\n"


def save_run(folder: Path, energy: float) -> None:
    """Save those parts of a finished run that the summary reads."""
    folder.mkdir(parents=True, exist_ok=True)
    reference = {"stage": "reference", "e_hf": energy + 0.04, "method": "rhf"}
    artefacts.save(xr.Dataset(attrs=reference), folder / "reference.zarr.zip")
    artefacts.save(xr.Dataset(attrs=inference_attributes(energy)), folder / "inference.zarr.zip")
    for stage, seconds in (("reference", 1.0), ("optimise", 30.0), ("inference", 5.0)):
        record = provenance.provenance(stage, provenance.utc_now(), seconds)
        files.write_json(folder / f"{stage}.provenance.json", record)


def save_conventional(folder: Path, energies: dict[tuple[str, str], float]) -> None:
    """Save those parts of a run's conventional energies that the summary reads.

    A method without an energy in one of the basis sets was refused there.
    """
    methods, bases = (list(dict.fromkeys(names)) for names in zip(*energies, strict=True))
    values = [[energies.get((m, b), np.nan) for b in bases] for m in methods]
    missing = {b: {m: "refused" for m in methods if (m, b) not in energies} for b in bases}
    ds = xr.Dataset(
        {"energy": (("method", "basis"), np.array(values))},
        coords={"method": methods, "basis": bases},
        attrs={"notes": json.dumps(missing)},
    )
    spec = conventional_spec(folder.parents[1], folder.name)
    spec.parent.mkdir(parents=True, exist_ok=True)
    spec.write_text("{}")
    folder.mkdir(parents=True, exist_ok=True)
    artefacts.save(ds, folder / "conventional.zarr.zip")

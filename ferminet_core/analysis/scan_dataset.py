"""The table of a scan as a dataset for xarray, with what the table has no columns for."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from pandas.api.types import is_numeric_dtype

from ferminet_core.analysis.literature import Reference
from ferminet_core.inputs.basis_sets import basis_label
from ferminet_core.inputs.scan import Scan

_DIPOLE = tuple(f"dipole_{axis}{end}" for axis in "xyz" for end in ("", "_error"))
# In the dataset but not in the table, whose columns are fixed.
_MORE_NUMBERS = (
    "error_bootstrap_Eh",
    *_DIPOLE,
    "n_walkers",
    "n_equilibration",
)
_UNITS = {"Eh": "hartree", "Eh2": "hartree^2", "s": "s", "h": "h"}
_OTHER_UNITS = {"tau": "recorded samples"} | dict.fromkeys(_DIPOLE, "e bohr")


def scan_dataset(
    scan: Scan,
    table: pd.DataFrame,
    inferences: Sequence[Mapping[str, Any]],
    conventional: Sequence[xr.Dataset | None],
    references: list[Reference],
) -> xr.Dataset:
    """The scan over the dimension `run`, with what does not change from host to host.

    Missing numbers are NaN, counts included.

    Args:
        scan: gives name, title and parameters.
        table: of the scan.
        inferences: attributes of the inferences in the table's order, empty where there is none.
        conventional: artefacts of the conventional energies in the same order, None without one.
        references: published energies, whose columns the table has.
    """
    ds = xr.Dataset(attrs={"stage": "summary", "scan": scan.name, "title": scan.title or scan.name})
    digests = [str(found.get("digest", "")) for found in inferences]
    ds.attrs["parents"] = json.dumps(dict(zip(table["run_id"], digests, strict=True)))
    for name in table.columns:
        if name in ("wall_s", "node_h"):
            continue
        kind = np.float64 if is_numeric_dtype(table[name]) else np.str_
        ds[name] = ("run", table[name].to_numpy(dtype=kind), _unit(name))
    for name in _MORE_NUMBERS:
        numbers = [float(found.get(name, np.nan)) for found in inferences]
        ds[name] = ("run", np.array(numbers), _unit(name))
    ds = ds.assign({variable.name: variable for variable in _conventional(conventional)})
    for reference in references:
        ds[reference.column].attrs |= {"label": reference.label, "kind": reference.kind}
        errors = [reference.errors.get(i, np.nan) for i in table["run_id"]]
        ds[f"ref_{reference.name}_error_Eh"] = ("run", np.array(errors), _unit("_Eh"))
    return ds.set_coords(["run_id", "geometry", "variant", *scan.parameters, "state"])


def _conventional(found: Sequence[xr.Dataset | None]) -> list[xr.DataArray]:
    """Conventional energies over the dimension `run`, one variable for each method and basis.

    Its name is such as "uccsd_t_ccpvtz_Eh"; its attributes are method, basis and label. What no run
    has an energy for is left out.

    Args:
        found: the artefacts of all runs in the table's order, None where there is none.
    """
    by_run = [{} if ds is None else energies_by_method(ds) for ds in found]
    variables = []
    for method, basis in dict.fromkeys(pair for energies_ in by_run for pair in energies_):
        numbers = np.array([energies_.get((method, basis), np.nan) for energies_ in by_run])
        if np.isnan(numbers).all():
            continue
        words = (method.replace("(t)", "_t"), re.sub("[^a-z0-9+*]", "", basis.lower()), "Eh")
        label = f"{method.upper()}/{basis_label(basis)}"
        attributes = {"units": "hartree", "method": method, "basis": basis, "label": label}
        variables.append(xr.DataArray(numbers, dims="run", name="_".join(words), attrs=attributes))
    return variables


def energies_by_method(ds: xr.Dataset) -> dict[tuple[str, str], float]:
    """{(method, basis): hartree} of a run's conventional energies."""
    return {
        (str(method), str(basis)): float(ds["energy"].loc[method, basis])
        for basis in ds["basis"].values
        for method in ds["method"].values
    }


def _unit(name: str) -> dict[str, str]:
    """The `units` attribute that follows from a variable's name; empty for pure numbers."""
    unit = _OTHER_UNITS.get(name) or _UNITS.get(name.rpartition("_")[2] if "_" in name else "")
    return {"units": unit} if unit else {}

"""The table of a scan as an xarray dataset, with what the table has no columns for."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ferminet_core.analysis.literature import PublishedEnergies
from ferminet_core.inputs.basis_sets import basis_label
from ferminet_core.inputs.messages import replace_unprintable
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.scan_columns import Column, Kind


def scan_dataset(
    scan: Scan,
    columns: Sequence[Column],
    table: pd.DataFrame,
    inferences: Sequence[Mapping[str, Any]],
    conventional: Sequence[xr.Dataset | None],
    published: Sequence[PublishedEnergies],
) -> xr.Dataset:
    """The scan over the dimension `run`, without anything that differs between hosts.

    Missing numbers are NaN, counts included.

    Args:
        scan: gives name, title and parameters.
        columns: of the scan.
        table: of the scan.
        inferences: attributes of the inferences in the table's order, empty where there is none.
        conventional: artefacts of the conventional energies in the same order, None without one.
        published: energies to compare with, whose columns the table has.
    """
    ds = xr.Dataset(
        attrs={
            "stage": "summary",
            "scan": scan.name,
            "title": replace_unprintable(scan.title or scan.name),
        }
    )
    digests = [str(found.get("digest", "")) for found in inferences]
    ds.attrs["parents"] = json.dumps(dict(zip(table["run_id"], digests, strict=True)))
    for column in columns:
        if column.in_dataset:
            ds[column.name] = ("run", _values(column, table, inferences), column.attributes)
    ds = ds.assign({variable.name: variable for variable in _conventional(conventional)})
    for entry in published:
        ds[entry.column].attrs |= {"label": entry.label, "kind": entry.kind}
        errors = np.array([entry.errors.get(i, np.nan) for i in table["run_id"]])
        meaning = f"published standard error: {entry.label}"
        attributes = {"long_name": meaning, "units": "hartree"}
        ds[f"ref_{entry.name}_error_Eh"] = ("run", errors, attributes)
    return ds.set_coords(["run_id", "geometry", "variant", *scan.parameters, "state"])


def _values(
    column: Column, table: pd.DataFrame, inferences: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """The values of a column (run,): those of the table, else of the inferences."""
    if column.in_table:
        kind = np.str_ if column.kind is Kind.TEXT else np.float64
        return table[column.name].to_numpy(dtype=kind)
    return np.array([float(found.get(column.name, np.nan)) for found in inferences])


def _conventional(found: Sequence[xr.Dataset | None]) -> list[xr.DataArray]:
    """Conventional energies over the dimension `run`, one variable for each method and basis.

    Their names are such as "uccsd_t_ccpvtz_Eh"; their attributes are method, basis and label. A
    method and basis without any energy is left out.

    Args:
        found: the artefacts of all runs in the table's order, None where there is none.
    """
    by_run = [{} if ds is None else energies_by_method(ds) for ds in found]
    variables = []
    for method, basis in dict.fromkeys(pair for energies in by_run for pair in energies):
        numbers = np.array([energies.get((method, basis), np.nan) for energies in by_run])
        if np.isnan(numbers).all():
            continue
        words = (method.replace("(t)", "_t"), re.sub("[^a-z0-9+*]", "", basis.lower()), "Eh")
        label = f"{method.upper()}/{basis_label(basis)}"
        attributes = {
            "long_name": f"{label} energy",
            "units": "hartree",
            "method": method,
            "basis": basis,
            "label": label,
        }
        variables.append(xr.DataArray(numbers, dims="run", name="_".join(words), attrs=attributes))
    return variables


def energies_by_method(ds: xr.Dataset) -> dict[tuple[str, str], float]:
    """{(method, basis): hartree} of a run's conventional energies."""
    return {
        (str(method), str(basis)): float(ds["energy"].loc[method, basis])
        for basis in ds["basis"].values
        for method in ds["method"].values
    }

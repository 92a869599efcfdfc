"""Energies that follow from several runs: ionization potentials, affinities, correlation energy.

A quantity is a sum of factors times total energies, Q = sum_g c_g E_g, as an ionization potential
E(cation) - E(atom); the errors of separate runs are independent. The same sum is formed of the
Hartree-Fock energies and of each column of published energies.
"""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ferminet_core.inputs.system_file import CorrelationSpec, QuantitySpec


def quantities(specs: list[QuantitySpec], done: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """One row per quantity and variant whose runs are all done.

    Args:
        specs: the declarations of the system file.
        done: finished rows of the scan table.
        columns: of published energies (hartree) in the table.

    Returns:
        quantity, variant, value_Eh, error_Eh, hf_Eh, `columns`, and published_Eh for the value that
        the system file gives; NaN where an energy is missing.
    """
    rows = []
    for variant in done["variant"].unique():
        runs = done[done["variant"] == variant].set_index("geometry")
        for spec in specs:
            if not set(spec.of) <= set(runs.index):
                continue
            row: dict[str, Any] = {
                "quantity": spec.name,
                "variant": variant,
                "value_Eh": _sum(spec.of, runs["energy_Eh"]),
                "error_Eh": math.hypot(*(c * runs["error_Eh"][g] for g, c in spec.of.items())),
            }
            row |= {name: _sum(spec.of, runs[name]) for name in ("hf_Eh", *columns)}
            row["published_Eh"] = math.nan if spec.published is None else spec.published
            rows.append(row)
    names = ["quantity", "variant", "value_Eh", "error_Eh", "hf_Eh", *columns, "published_Eh"]
    return pd.DataFrame(rows, columns=names)


def _sum(factors: Mapping[str, float], energies: pd.Series) -> float:
    return sum(factor * float(energies[geometry]) for geometry, factor in factors.items())


def correlation(spec: CorrelationSpec | None, done: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Share of the correlation energy in per cent, {run_id: {percent, error}}, of finished rows.

    100 (E_HF - E) / (E_HF - E_exact), with both limits from the literature. A run for which either
    limit is not known is left out.
    """
    if spec is None:
        return {}
    found = {}
    for _, row in done.iterrows():
        limit = float(row[f"ref_{spec.hartree_fock}_Eh"])
        whole = limit - float(row[f"ref_{spec.exact}_Eh"])
        if math.isfinite(whole) and whole != 0:
            found[str(row["run_id"])] = {
                "percent": 100 * (limit - float(row["energy_Eh"])) / whole,
                "error": 100 * float(row["error_Eh"]) / abs(whole),
            }
    return found

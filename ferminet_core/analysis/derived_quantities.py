"""Energies that follow from several runs: ionization potentials, affinities, correlation energy.

A quantity is a sum of factors times total energies, Q = sum_g c_g E_g, as an ionization potential
E(cation) - E(atom), or the gap between two states at each geometry; the errors of separate runs are
independent. The same sum is formed of the Hartree-Fock energies and of each column of published
energies.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ferminet_core.analysis.curves import state_of
from ferminet_core.analysis.literature import PublishedEnergies, most_trusted
from ferminet_core.analysis.potential_curve import FitRefusedError
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.system_keys import CorrelationSpec, QuantitySpec


class Sources(NamedTuple):
    """What quantities are made of.

    runs: of the scan; done: finished rows of the scan table; published: energies whose columns the
    table has; constants: of the curves
    """

    runs: Sequence[RunSpec]
    done: pd.DataFrame
    published: Sequence[PublishedEnergies]
    constants: Sequence[Mapping[str, Any]]


def quantities(
    specs: Sequence[QuantitySpec], sources: Sources, parameters: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Rows for each quantity and variant whose runs are all done, and a line for each minimum lost.

    A quantity of entries of `geometries` with parameters, such as the gap between two curves, has a
    row for each of their common values, or a single one of their minima.

    Args:
        specs: the declarations of the system file.
        sources: what they are made of.
        parameters: of the scan.

    Returns:
        quantity, variant, `parameters`, value_Eh, error_Eh, hf_Eh, the columns of published
        energies, and published_Eh; NaN where something is missing or has no value. published_Eh is
        the value that the system file gives, or else, over a grid, the same sum of the most trusted
        published energies of each state.
    """
    rows: list[dict[str, Any]] = []
    warnings: list[str] = []
    for variant in sources.done["variant"].unique():
        runs = sources.done[sources.done["variant"] == variant].set_index("geometry")
        for spec in specs:
            head = {"quantity": spec.name, "variant": variant}
            if spec.at == "minima":
                try:
                    rows.append(head | _of_minima(spec, variant, runs, sources))
                except FitRefusedError as error:
                    of = f" ({variant})" if variant else ""
                    warnings.append(f"quantity {spec.name!r}{of}: {error}")
                continue
            rows += [
                head | values | _of_runs(spec, factors, runs, sources.published)
                for values, factors in _places(spec, sources.runs)
                if set(factors) <= set(runs.index)
            ]
    columns = [entry.column for entry in sources.published]
    numbers = ["value_Eh", "error_Eh", "hf_Eh", *columns, "published_Eh"]
    names = ["quantity", "variant", *parameters, *numbers]
    table = pd.DataFrame(rows, columns=names)
    return table.astype(dict.fromkeys(names[2:], float)), warnings


def _places(
    spec: QuantitySpec, runs: Sequence[RunSpec]
) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    """The parameters of each value of a quantity, and the factors by the names of geometries.

    Entries of `geometries` with parameters stand for their geometries with these. A quantity
    without any has one value, without parameters.
    """
    entries = _by_entry(spec, runs)
    fixed = {name: factor for name, factor in spec.of.items() if name not in entries}
    if not entries:
        yield {}, fixed
        return
    first, *others = entries.values()
    for place in first:
        if all(place in other for other in others):
            own = {entries[name][place]: spec.of[name] for name in entries}
            yield dict(place), {**fixed, **own}


def _by_entry(
    spec: QuantitySpec, runs: Sequence[RunSpec]
) -> dict[str, dict[tuple[tuple[str, float], ...], str]]:
    """The geometries of each entry with parameters that a quantity names, by their parameters."""
    single = {run.geometry for run in runs}
    entries: dict[str, dict[tuple[tuple[str, float], ...], str]] = {}
    for run in runs:
        entry = state_of(run).entry
        if run.parameters and entry in spec.of and entry not in single:
            entries.setdefault(entry, {})[tuple(sorted(run.parameters.items()))] = run.geometry
    return entries


def _of_runs(
    spec: QuantitySpec,
    factors: Mapping[str, float],
    runs: pd.DataFrame,
    published: Sequence[PublishedEnergies],
) -> dict[str, float]:
    """A quantity of single runs, with the same sums of other energies."""
    row = {
        "value_Eh": _sum(factors, runs["energy_Eh"]),
        "error_Eh": math.hypot(*(c * runs["error_Eh"][g] for g, c in factors.items())),
    }
    row |= {name: _sum(factors, runs[name]) for name in ("hf_Eh", *(e.column for e in published))}
    known = math.nan if spec.published is None else spec.published
    if factors.keys() != spec.of.keys():  # over a grid, where the file gives no value
        best = {g: most_trusted(published, [runs["run_id"][g]]) for g in factors}
        known = sum(
            factor * (float(runs[entry.column][g]) if (entry := best[g]) else math.nan)
            for g, factor in factors.items()
        )
    return row | {"published_Eh": known}


def _of_minima(
    spec: QuantitySpec, variant: str, runs: pd.DataFrame, sources: Sources
) -> dict[str, float]:
    """A quantity of the minima of curves, and of the runs without parameters that it names.

    Raises:
        FitRefusedError: a curve has no minimum, or a run is not done.
    """
    entries = _by_entry(spec, sources.runs)
    minima = {
        entry: [c for c in sources.constants if c["variant"] == variant and c["entry"] == entry]
        for entry in entries
    }
    values, errors = [], []
    for name, factor in spec.of.items():
        if name not in entries and name not in runs.index:
            raise FitRefusedError(f"{name} is not done")
        if name in runs.index:
            energy, error = float(runs["energy_Eh"][name]), float(runs["error_Eh"][name])
        elif len(minima[name]) == 1 and "minimum_Eh" in minima[name][0]:
            found = minima[name][0]["minimum_Eh"]
            energy, error = found["value"], found["error"]
        elif len(minima[name]) > 1:
            raise FitRefusedError(f"charge or spin changes along {name}")
        else:
            reason = minima[name][0]["refused"] if minima[name] else "no run of it is done"
            raise FitRefusedError(f"{name} has no minimum: {reason}")
        values.append(factor * energy)
        errors.append(factor * error)
    known = math.nan if spec.published is None else spec.published
    return {"value_Eh": sum(values), "error_Eh": math.hypot(*errors), "published_Eh": known}


def quantity_variables(table: pd.DataFrame) -> dict[str, tuple[str, np.ndarray, dict[str, str]]]:
    """The rows of quantities.csv as variables of a dataset, over the dimension `quantity_row`."""
    found = {}
    for column in table.columns:
        text = column in ("quantity", "variant")
        name = str(column) if column == "quantity" else f"quantity_{column}"
        meaning = f"{column} of a quantity" if column != "quantity" else "name of a quantity"
        units = {"units": "hartree"} if str(column).endswith("_Eh") else {}
        values = table[column].to_numpy(dtype=np.str_ if text else np.float64)
        found[name] = ("quantity_row", values, {"long_name": meaning, **units})
    return found


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

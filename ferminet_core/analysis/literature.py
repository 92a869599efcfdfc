"""Published energies to compare a scan with.

A file that is missing or does not fit gives a warning and empty values, and never fails a scan: its
results do not depend on what is already known.
"""

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ferminet_core import units
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.system_file import LiteratureSpec
from ferminet_core.inputs.text_files import read_text

# Numbers in a table and in a grid that differ by less are the same.
NUMBER_TOLERANCE = 1e-6
# Endings of columns with lengths, by the unit that they say.
_LENGTHS = {"_bohr": "bohr", "_angstrom": "angstrom"}
MAX_TABLE_BYTES = 10_000_000
_UNITS = frozenset({"Eh", "hartree", "Hartree", "a.u."})


class PublishedEnergies(NamedTuple):
    """Energies of one published curve or list, matched to the runs of a scan; hartree."""

    name: str
    label: str
    kind: str  # exact, experiment or method
    source: str
    values: dict[str, float]  # by run_id; absent where nothing matches
    errors: dict[str, float]  # by run_id; absent where none is given
    curve: np.ndarray  # (points, 2): (parameter, energy) of the whole curve; empty for a list
    sources: tuple[str, ...]  # from the column `source` of the rows, for the bibliography

    @property
    def column(self) -> str:
        """Their column in the scan table."""
        return f"ref_{self.name}_Eh"


def read_published(scan: Scan) -> tuple[list[PublishedEnergies], list[str]]:
    """Every literature entry of a scan, and a line for each that could not be used."""
    warnings: list[str] = []
    return [_read_entry(spec, scan, warnings) for spec in scan.literature], warnings


def _read_entry(spec: LiteratureSpec, scan: Scan, warnings: list[str]) -> PublishedEnergies:
    values: dict[str, float] = {}
    errors: dict[str, float] = {}
    curve = np.empty((0, 2))
    sources: tuple[str, ...] = ()
    table = _read_rows(spec, warnings)
    if table is not None and (reason := _wrong_unit(spec, scan)):
        warnings.append(f"literature {spec.name!r}: {reason}; its columns stay empty")
        table = None
    if table is not None:
        for run in scan.runs:
            rows = _matching_rows(table, spec, run)
            if rows.empty:
                continue
            energies = rows[spec.value].to_numpy(dtype=float)
            if np.ptp(energies) > NUMBER_TOLERANCE:
                warnings.append(
                    f"literature {spec.name!r}: {len(rows)} different values in {spec.file} match "
                    f"run {run.run_id}; narrow them with `where`"
                )
                continue
            values[run.run_id] = float(energies[0])
            if spec.error is not None and np.isfinite(rows[spec.error].iloc[0]):
                errors[run.run_id] = float(rows[spec.error].iloc[0])
        if not values:
            warnings.append(f"literature {spec.name!r}: nothing in {spec.file} matches any run")
        curve = _curve(table, spec)
        if "source" in table.columns:
            sources = tuple(sorted(set(table["source"].dropna().astype(str))))
    return PublishedEnergies(
        name=spec.name,
        label=spec.label or spec.name,
        kind=spec.kind,
        source=Path(spec.file).name,
        values=values,
        errors=errors,
        curve=curve,
        sources=sources,
    )


def _wrong_unit(spec: LiteratureSpec, scan: Scan) -> str:
    """The column whose name says another unit of length than its parameter has, if there is one."""
    for column, parameter in spec.match.items():
        said = next((unit for end, unit in _LENGTHS.items() if column.lower().endswith(end)), "")
        found = length_unit(scan.runs, parameter) if said else ""
        if found not in ("", said):
            return f"its column {column} is in {said}, the parameter {parameter} in {found}"
    return ""


def length_unit(runs: Sequence[RunSpec], parameter: str) -> str:
    """The unit in which a parameter is a distance between two nuclei, in all runs that have it.

    Returns:
        "bohr" or "angstrom"; empty for other parameters.
    """
    having = [run for run in runs if parameter in run.parameters]
    for unit, factor in (("bohr", 1.0), ("angstrom", units.ANGSTROM_IN_BOHR)):
        if having and all(
            any(
                # Lengths of a system file have about as many digits.
                math.isclose(math.dist(p, q), factor * run.parameters[parameter], rel_tol=1e-6)
                for p, q in itertools.combinations(run.molecule.positions, 2)
            )
            for run in having
        ):
            return unit
    return ""


def _read_rows(spec: LiteratureSpec, warnings: list[str]) -> pd.DataFrame | None:
    """The rows that fulfil `where`, with numbers in the columns of values and errors."""

    def refuse(reason: str) -> None:
        warnings.append(f"literature {spec.name!r}: {reason}; its columns stay empty")

    try:
        # "NA" and "NaN" could be molecules; only empty cells are missing.
        text = io.StringIO(read_text(spec.file, MAX_TABLE_BYTES))
        table = pd.read_csv(text, keep_default_na=False, na_values=[""])
    except OSError as error:
        refuse(f"{spec.file} cannot be read ({error.strerror or error})")
        return None
    except ValueError as error:  # pandas' parser errors and wrong encodings are ValueErrors
        refuse(f"{spec.file} is not a table in CSV ({error})")
        return None
    wanted = [spec.value, *spec.where, *spec.match, *([spec.error] if spec.error else [])]
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        refuse(f"{spec.file} has no column {missing[0]!r} (it has {', '.join(table.columns)})")
        return None
    for column, value in spec.where.items():
        table = table[_equal(table[column], value)]
    if "unit" in table.columns and not table["unit"].isin(_UNITS).all():
        refuse(f"{spec.file} has values in units other than hartree; leave them out with `where`")
        return None
    table = table.assign(**{spec.value: pd.to_numeric(table[spec.value], errors="coerce")})
    if spec.error is not None:
        table = table.assign(**{spec.error: pd.to_numeric(table[spec.error], errors="coerce")})
    return table[np.isfinite(table[spec.value])]


def _equal(column: pd.Series, value: str | float) -> pd.Series:
    """Which entries equal `value`: numbers to 1e-6, anything else as text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        numbers = pd.to_numeric(column, errors="coerce")
        return (numbers - float(value)).abs() <= NUMBER_TOLERANCE
    return column.astype(str).str.strip() == str(value).strip()


def _matching_rows(table: pd.DataFrame, spec: LiteratureSpec, run: RunSpec) -> pd.DataFrame:
    """The rows that belong to `run`; none where it lacks a parameter they are matched by."""
    for column, parameter in spec.match.items():
        value = run.geometry if parameter == "geometry" else run.parameters.get(parameter)
        if value is None:
            return table.iloc[:0]
        table = table[_equal(table[column], value)]
    return table


def _curve(table: pd.DataFrame, spec: LiteratureSpec) -> np.ndarray:
    """(parameter, energy) of all rows, for drawing, where rows are matched by one parameter."""
    parameters = [column for column, name in spec.match.items() if name != "geometry"]
    if len(parameters) != 1 or len(spec.match) != 1:
        return np.empty((0, 2))
    points = np.column_stack(
        [pd.to_numeric(table[parameters[0]], errors="coerce"), table[spec.value]]
    ).astype(float)
    points = points[np.isfinite(points).all(axis=1)]
    return points[np.argsort(points[:, 0], kind="stable")]

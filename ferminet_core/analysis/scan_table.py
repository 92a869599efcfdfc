"""The table of a scan: its columns, its rows with their types, and the rows with an energy."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ferminet_core.analysis.literature import PublishedEnergies
from ferminet_core.inputs.scan_columns import (
    AFTER_PARAMETERS,
    COLUMNS,
    Column,
    Kind,
    fixed,
    parameter_column,
)


def published_column(published: PublishedEnergies) -> Column:
    """The column of a curve of published energies."""
    return Column(
        published.column,
        Kind.NUMBER,
        f"{published.label} (Eh)",
        "hartree",
        f"published energy: {published.label}",
        fixed(6),
    )


def columns(
    parameters: Iterable[str],
    published: Iterable[PublishedEnergies],
    units: Mapping[str, str] | None = None,
) -> list[Column]:
    """All columns of a scan, in the order of scan.csv.

    Args:
        parameters: the names of the scan's parameters.
        published: energies to compare with.
        units: of parameters, where they are known.
    """
    place = [column.name for column in COLUMNS].index(AFTER_PARAMETERS)
    return [
        *COLUMNS[:place],
        *(parameter_column(name, (units or {}).get(name, "")) for name in parameters),
        *COLUMNS[place:],
        *(published_column(energies) for energies in published),
    ]


def table(rows: Sequence[Mapping[str, Any]], declared: Iterable[Column]) -> pd.DataFrame:
    """The columns of scan.csv with their types, one row for each of `rows`.

    Args:
        rows: values by the names of columns; other entries are left out.
        declared: all columns of the scan.
    """
    chosen = [column for column in declared if column.in_table]
    result = pd.DataFrame(rows, columns=[column.name for column in chosen])
    for column in chosen:
        values = result[column.name]
        if column.kind is Kind.COUNT:
            result[column.name] = values.astype("Int64")
        elif column.kind is Kind.TEXT:
            result[column.name] = values.astype(object).where(values.notna(), "").astype(str)
        else:
            result[column.name] = pd.to_numeric(values).astype("float64")
    return result


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a scan table that have an energy with an error."""
    usable = (rows["state"] == "done") & rows["energy_Eh"].notna() & rows["error_Eh"].notna()
    return rows[usable]

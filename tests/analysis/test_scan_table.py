"""Every column is declared once, and every declared column is written."""

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers.paths import ROOT
from helpers.scans import inference_attributes, make_scan, morse, write_literature
from pandas.api.types import is_string_dtype

from ferminet_core.analysis.run_start import RunStart
from ferminet_core.analysis.summary import RunOutcome, Summary, summarise
from ferminet_core.errors import InputError
from ferminet_core.inputs.scan_columns import COLUMNS, Kind


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    """A scan with one finished run."""
    write_literature(tmp_path)
    scan = make_scan(tmp_path)
    run = scan.runs[0]
    attributes = inference_attributes(morse(run.parameters["R"]), neighbour="r_1.4")
    reference = {"e_hf": -1.0, "method": "rhf"}
    outcome = RunOutcome("done", "", attributes, reference, 60.0, 0.02, start=RunStart("r_1.4"))
    return summarise(scan, {run.run_id: outcome})


def test_columns_written_are_those_declared(summary: Summary) -> None:
    declared = {column.name: column for column in summary.columns}
    assert len(declared) == len(summary.columns)
    assert list(summary.table.columns) == [c.name for c in summary.columns if c.in_table]
    # Errors of published energies have no column of their own.
    extra = {"ref_exact_error_Eh", "ref_other_error_Eh"}
    written = {str(name) for name in summary.dataset.variables} - extra
    assert written == {c.name for c in summary.columns if c.in_dataset}
    kinds = {Kind.COUNT: "Int64", Kind.NUMBER: "float64"}
    for name, values in summary.table.items():
        kind = declared[str(name)].kind
        assert is_string_dtype(values) if kind is Kind.TEXT else values.dtype == kinds[kind], name


def test_every_declared_column_gets_a_value(summary: Summary) -> None:
    row = summary.table.iloc[0]
    # A scan without variants, of all electrons.
    empty = {str(name) for name, value in row.items() if value == "" or value is None}
    assert empty == {"variant", "pseudopotential"}
    # The series give no estimate.
    assert set(row.index[row.isna()]) == {"left_Eh", "left_error_Eh"}
    first: xr.Dataset = summary.dataset.isel(run=0)
    numbers = {str(n): float(v) for n, v in first.variables.items() if v.dtype.kind == "f"}
    missing = {name for name, value in numbers.items() if np.isnan(value)}
    assert missing == {"ref_exact_error_Eh", "left_Eh", "left_error_Eh"}


def test_attributes_of_the_dataset_are_those_of_the_columns(summary: Summary) -> None:
    for column in summary.columns:
        if column.in_dataset:
            attributes = summary.dataset[column.name].attrs
            assert attributes["long_name"] == column.meaning.replace("`", "")
            assert attributes.get("units", "") == column.unit
    units = {name: summary.dataset[name].attrs["units"] for name in ("energy_Eh", "R", "dipole_x")}
    assert units == {"energy_Eh": "hartree", "R": "bohr", "dipole_x": "e bohr"}


@pytest.mark.parametrize("name", [column.name for column in COLUMNS])
def test_no_parameter_may_have_the_name_of_a_column(tmp_path: Path, name: str) -> None:
    text = f"units: bohr\natoms: [H 0 0 0, H 0 0 {name}]\nparameters: {{{name}: [1.4]}}\n"
    with pytest.raises(InputError, match=f"{name}.* is a column of the scan table"):
        make_scan(tmp_path, text)


def test_the_documentation_lists_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    import hooks

    text = "\n".join(hooks.GENERATED["columns"]())
    sys.modules.pop("hooks")
    for column in COLUMNS:
        assert f"| `{column.name}` |" in text
        assert column.heading
        assert column.meaning
    assert "<!-- generated: columns -->" in (ROOT / "docs" / "results.md").read_text()

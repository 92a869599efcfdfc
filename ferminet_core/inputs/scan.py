"""From a system file to the table of runs.

A run is a geometry in one variant of the settings. The Snakefile expands the table on every start,
so neither JAX nor PySCF is imported here.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ferminet_core.errors import InputError
from ferminet_core.inputs import basis_sets
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.run_table import RunPlan, expand
from ferminet_core.inputs.system_file import CorrelationSpec, LiteratureSpec, QuantitySpec


class Scan(BaseModel):
    """A system file's runs, and what is to be drawn beside them."""

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    path: Path
    preset: str
    parameters: tuple[str, ...]
    runs: list[RunSpec]
    literature: list[LiteratureSpec]  # `file` relative to the working directory
    quantities: list[QuantitySpec]
    correlation: CorrelationSpec | None


def load_scan(
    path: Path | str,
    preset: str | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
) -> Scan:
    """Read, validate and expand a system file.

    Args:
        path: the system file, or the `scan.json` that a workflow has written
        preset: instead of the file's own; another one is added to the scan's name
        overrides: settings above all others, as a mapping or as `key=value` texts

    Raises:
        InputError: anything wrong, one line for each problem; for basis sets see `check_bases`.
    """
    if Path(path).suffix == ".json":
        if preset is not None or overrides:
            raise InputError(f"{path}: found with --preset or --set; allowed: a system file")
        return _frozen(Path(path))
    plan = expand(Path(path), preset, overrides)
    runs = [_run_spec(plan.name, run) for run in plan.runs]
    folder = plan.path.parent
    return Scan(
        name=plan.name,
        title=plan.title,
        path=plan.path,
        preset=plan.preset,
        parameters=plan.parameters,
        runs=runs,
        literature=[
            entry.model_copy(update={"file": os.path.normpath(folder / entry.file)})
            for entry in plan.literature
        ],
        quantities=plan.quantities,
        correlation=plan.correlation,
    )


def _frozen(path: Path) -> Scan:
    """The scan in a `scan.json`."""
    try:
        return Scan.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise InputError(f"{path}: is damaged; run Snakemake to write it again") from None


def _run_spec(scan: str, run: RunPlan) -> RunSpec:
    molecule = run.molecule
    return RunSpec(
        scan=scan,
        run_id=run.run_id,
        geometry=run.geometry,
        variant=run.variant,
        parameters=run.parameters,
        molecule=molecule,
        config=run.config,
        neighbour=run.neighbour,
        request={
            "molecule": molecule.model_dump(mode="json"),
            "preset": run.preset,
            "overrides": run.overrides,
            **({"share": run.share} if run.neighbour else {}),
        },
    )


def check_bases(runs: Iterable[RunSpec], where: str) -> None:
    """Check that the runs' basis sets exist for their elements; imports PySCF.

    Raises:
        InputError: unknown basis set or element missing; the line begins with `where`.
    """
    symbols: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        named = [("reference.basis", run.config.reference.basis)]
        if run.config.conventional.methods:
            named += [("conventional.basis", name) for name in run.config.conventional.basis]
        for pair in named:
            symbols.setdefault(pair, set()).update(run.molecule.symbols)
    for (key, name), elements in symbols.items():
        try:
            basis_sets.check_basis(name, elements, key)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

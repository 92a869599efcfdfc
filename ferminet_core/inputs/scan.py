"""From a system file to the specs of its runs.

A run is one geometry in one variant of the settings. The Snakefile expands the table on every
start, so this module imports neither JAX nor PySCF.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ferminet_core.errors import InputError
from ferminet_core.inputs import basis_sets
from ferminet_core.inputs.geometries import points
from ferminet_core.inputs.groups import with_groups
from ferminet_core.inputs.overrides import (
    DEFAULT_PRESET,
    check_given,
    check_preset,
    command_line,
)
from ferminet_core.inputs.parameter_values import entry_name
from ferminet_core.inputs.run_spec import GroupSpec, RunSpec
from ferminet_core.inputs.run_table import run_table
from ferminet_core.inputs.system_file import check_quantities, parse_system
from ferminet_core.inputs.system_keys import (
    MAX_SCAN_NAME,
    NAME,
    PLAIN_VARIANT,
    CorrelationSpec,
    LiteratureSpec,
    QuantitySpec,
    SystemFile,
)
from ferminet_core.inputs.text_files import read_text
from ferminet_core.inputs.warm_starts import with_neighbours
from ferminet_core.inputs.yaml_file import YamlFile, read_yaml

# Of a stored scan: ten thousand runs take 30 MB.
MAX_SCAN_BYTES = 200_000_000


class Scan(BaseModel):
    """The runs of a system file, and what the summary compares them with."""

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    path: Path
    preset: str
    parameters: tuple[str, ...]
    runs: list[RunSpec]
    literature: list[LiteratureSpec]  # with `file` relative to the working directory
    quantities: list[QuantitySpec]
    correlation: CorrelationSpec | None
    # The geometries that share a wavefunction.
    groups: list[GroupSpec] = []
    # Of the file's top level. Published energies without a state of their own belong to it.
    charge: int = 0
    spin: int = 0


def load_scan(
    path: Path | str,
    preset: str | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
) -> Scan:
    """Read, validate and expand a system file.

    Args:
        path: The system file, or the `scan.json` that a workflow has written.
        preset: Preset instead of the file's own. A different one is added to the scan's name.
        overrides: Settings above all others, as a mapping or as `key=value` texts.

    Raises:
        InputError: Anything in the file is wrong; one line for each problem. `check_bases` checks
            basis sets.
    """
    path = os.path.expanduser(path)
    if Path(path).suffix == ".json":
        if preset is not None or overrides:
            raise InputError(f"{path}: --preset and --set need a system file")
        return _frozen(Path(path))
    file = read_yaml(Path(path))
    system = parse_system(file)
    own_preset = system.preset or DEFAULT_PRESET
    if preset is not None:
        check_preset(preset, lambda: "--preset")
    base_name = _name(system, file)
    by_variant = points(system, file, base_name)
    geometries = next(iter(by_variant.values()))
    check_quantities(
        system, file, [(entry_name(p.name, p.parameters), p.name, p.parameters) for p in geometries]
    )
    settings = command_line(overrides)
    used = check_given(preset or system.preset, lambda: f"{file.path}: preset")
    name = base_name if used == own_preset else f"{base_name}-{used}"
    runs = run_table(file.path, system, by_variant, name, used, settings)
    runs, groups = with_groups(with_neighbours(runs, system, file), system, file)
    return Scan(
        name=name,
        title=system.title,
        path=file.path,
        preset=used,
        parameters=tuple(dict.fromkeys(p for point in geometries for p in point.parameters)),
        runs=runs,
        groups=groups,
        literature=[
            entry.model_copy(update={"file": _beside(file.path, entry.file)})
            for entry in system.literature
        ],
        quantities=system.quantities,
        correlation=system.correlation,
        charge=system.charge,
        spin=system.spin,
    )


def _beside(system: Path, name: str) -> str:
    """The path of a file that a system file names, relative to the working directory."""
    return os.path.normpath(system.parent / os.path.expanduser(name))


def _frozen(path: Path) -> Scan:
    """The scan in a `scan.json`. Published energies may lie next to it, as in an archive."""
    try:
        scan = Scan.model_validate_json(read_text(path, MAX_SCAN_BYTES))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise InputError(f"{path}: is damaged; run Snakemake to write it again") from None
    literature = [
        entry.model_copy(update={"file": str(beside)})
        if (beside := path.parent / entry.file).is_file()
        else entry
        for entry in scan.literature
    ]
    return scan.model_copy(update={"literature": literature})


def _name(system: SystemFile, file: YamlFile) -> str:
    """The scan's name: the one in the file, or the file's own."""
    name = system.name or file.path.stem.lower()
    if not re.fullmatch(NAME, name) or len(name) > MAX_SCAN_NAME:
        raise InputError(
            f"{file.path}: the file's name {file.path.stem!r} cannot name its results; "
            f"give a `name:` of at most {MAX_SCAN_NAME} characters of the form {NAME}"
        )
    return name


def check_bases(runs: Iterable[RunSpec], where: str) -> None:
    """Check that the runs' basis sets exist for their elements. Imports PySCF.

    Raises:
        InputError: A basis set is unknown or lacks an element; the line begins with `where`, and
            names the variants where others have no such problem.
    """
    asked: dict[tuple[str, str, tuple[tuple[str, str], ...]], set[str]] = {}
    variants: dict[tuple[str, str, tuple[tuple[str, str], ...]], dict[str, None]] = {}
    known = set()
    for run in runs:
        known.add(run.variant)
        potentials = tuple((p.symbol, p.name) for p in run.molecule.pseudopotentials)
        named = [("reference.basis", run.config.reference.basis)]
        if run.config.conventional.methods:
            named += [("conventional.basis", name) for name in run.config.conventional.basis]
        for pair in named:
            asked.setdefault((*pair, potentials), set()).update(run.molecule.symbols)
            variants.setdefault((*pair, potentials), {})[run.variant or PLAIN_VARIANT] = None
    for (key, name, potentials), symbols in asked.items():
        own = variants[key, name, potentials]
        try:
            basis_sets.check_basis(name, symbols, key, dict(potentials))
        except InputError as error:
            few = f"variant {', '.join(own)}: " if len(own) < len(known) else ""
            raise InputError(f"{where}: {few}{error}") from None

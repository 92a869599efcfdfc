"""Published energies to compare a scan with.

A file that is missing or does not fit gives a warning and empty values, and never fails a scan: its
results do not depend on what is already known. Published energies belong to one state, with
all electrons or certain pseudopotentials, and are never compared with the runs of another that
happens to have the same parameters.
"""

import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ferminet_core import units
from ferminet_core.analysis.curves import State, state_of
from ferminet_core.inputs.messages import did_you_mean, replace_unprintable, show
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.origin import potential_label, potentials_of
from ferminet_core.inputs.pseudopotentials import NONE, Choice, canonical, is_file
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.system_keys import LiteratureSpec
from ferminet_core.inputs.text_files import read_text

# Numbers in a table and in a grid that differ by less are the same.
NUMBER_TOLERANCE = 1e-6
# Endings of columns with lengths, by the unit that they say.
_LENGTHS = {"_bohr": "bohr", "_angstrom": "angstrom"}
MAX_TABLE_BYTES = 10_000_000
# Facts of a run that rows may be matched by, apart from the scan's parameters.
_FACTS = ("geometry", "charge", "spin")
_UNITS = frozenset({"Eh", "hartree", "Hartree", "a.u."})


class PublishedEnergies(NamedTuple):
    """Energies of one published curve or list, matched to the runs of a scan; hartree."""

    name: str
    label: str
    kind: str  # exact, experiment or method
    source: str
    values: dict[str, float]  # by run_id; absent where nothing matches
    errors: dict[str, float]  # by run_id; absent where none is given
    curves: dict[State, np.ndarray]  # (points, 2): (parameter, energy); none of a list
    sources: tuple[str, ...]  # from the column `source` of the rows, for the bibliography

    @property
    def column(self) -> str:
        """Their column in the scan table."""
        return f"ref_{self.name}_Eh"


def most_trusted(
    published: Sequence[PublishedEnergies], run_ids: Iterable[str]
) -> PublishedEnergies | None:
    """The energies to compare these runs with: exact before experiment before method."""
    runs = set(run_ids)
    for kind in ("exact", "experiment", "method"):
        for entry in published:
            if entry.kind == kind and not runs.isdisjoint(entry.values):
                return entry
    return None


def read_published(scan: Scan) -> tuple[list[PublishedEnergies], list[str]]:
    """Every literature entry of a scan, and a line for each that could not be used."""
    warnings: list[str] = []
    return [_read_entry(spec, scan, warnings) for spec in scan.literature], warnings


def _read_entry(spec: LiteratureSpec, scan: Scan, warnings: list[str]) -> PublishedEnergies:
    values: dict[str, float] = {}
    errors: dict[str, float] = {}
    curves: dict[State, np.ndarray] = {}
    sources: tuple[str, ...] = ()
    table = _read_rows(spec, warnings)
    if table is not None and (reason := _wrong_unit(spec, scan)):
        warnings.append(f"literature {spec.name!r}: {reason}; its columns stay empty")
        table = None
    if table is not None:
        own = _own_runs(spec, scan, warnings)
        for run in own:
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
        if own and not values:
            warnings.append(f"literature {spec.name!r}: nothing in {spec.file} matches any run")
        curves = {state_of(run): curve for run in own if (curve := _curve(table, spec, run)).size}
        if "source" in table.columns:
            sources = tuple(sorted(set(table["source"].dropna().astype(str))))
    return PublishedEnergies(
        name=spec.name,
        label=replace_unprintable(spec.label or spec.name),
        kind=spec.kind,
        source=Path(spec.file).name,
        values=values,
        errors=errors,
        curves=curves,
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


def _own_runs(spec: LiteratureSpec, scan: Scan, warnings: list[str]) -> list[RunSpec]:
    """The runs of the state that an entry belongs to.

    An entry may name its state, or match rows by it. Where it does neither and the scan has several
    states with its parameters, it belongs to the state at the file's top level.
    """

    def refuse(reason: str) -> list[RunSpec]:
        warnings.append(f"literature {spec.name!r}: {reason}; its columns stay empty")
        return []

    matched = set(spec.match.values())
    own = [
        run
        for run in scan.runs
        if all(name in run.parameters or name in _FACTS for name in matched)
        and spec.geometry in (None, state_of(run).entry)
    ]
    if own:
        own, reason = _of_its_potentials(spec, own)
        if reason:
            return refuse(reason)
    for key in ("charge", "spin"):
        given, found = getattr(spec, key), {getattr(run.molecule, key) for run in own}
        if given is None and (matched & {"geometry", key} or len(found) < 2):
            continue
        wanted = getattr(scan, key) if given is None else given
        own = [run for run in own if getattr(run.molecule, key) == wanted]
        if not own:
            default = "" if given is not None else ", that of the file's top level; give its own"
            return refuse(f"no run that it may belong to has {key} {wanted}{default}")
    names: dict[tuple[float, ...], set[str]] = {}
    for run in own:
        told_apart = tuple(
            getattr(run.molecule, key) for key in ("charge", "spin") if key in matched
        )
        names.setdefault(told_apart, set()).add(state_of(run).entry)
    for several in names.values():
        if len(several) > 1 and "geometry" not in matched:
            listed = ", ".join(sorted(name or "the one at the top" for name in several))
            return refuse(f"fits several geometries ({listed}); name one with `geometry`")
    return own


def _of_its_potentials(spec: LiteratureSpec, runs: list[RunSpec]) -> tuple[list[RunSpec], str]:
    """The runs with the potentials of an entry, and what is wrong if there are none.

    Total energies without the cores are on another scale.
    """
    asked = spec.pseudopotential
    known = {symbol for run in runs for symbol in run.molecule.symbols}
    if isinstance(asked, Mapping) and (unknown := sorted(asked.keys() - known)):
        hint = did_you_mean(unknown[0], known)
        return [], f"`pseudopotential` names {show(unknown[0])}, which no run has{hint}"
    own = [run for run in runs if _has_potentials(run.molecule, asked)]
    if not own:
        return [], _other_potentials(asked, [run.molecule for run in runs])
    # Variants may take files of one name from two folders.
    found = {potential for run in own for potential in potentials_of(run.molecule)}
    symbols = [potential.symbol for potential in found]
    if several := [symbol for symbol in symbols if symbols.count(symbol) > 1]:
        return [], f"fits runs whose potentials of {several[0]} have different numbers"
    return own, ""


def _other_potentials(asked: Choice | None, molecules: Sequence[Molecule]) -> str:
    """What the potentials of an entry are, and those of molecules that have others."""
    what, hint = "all electrons", ""
    if isinstance(asked, Mapping):
        what = f"the pseudopotentials {_as_mapping(asked)}"
    elif asked is not None and asked != NONE:
        what = f"the pseudopotential {asked} for all elements"
        for molecule in molecules:
            some = dict.fromkeys(molecule.cores, asked)
            if some and _has_potentials(molecule, some):
                hint = f"; to compare with these give {_as_mapping(some)}"
    labels = dict.fromkeys(potential_label(of.pseudopotentials) for of in molecules)
    return (
        f"the energies are those of {what}, and no run has the same (they have "
        f"{'; '.join(labels)}){hint}"
    )


def _as_mapping(asked: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{symbol}: {name}' for symbol, name in asked.items())}}}"


def _has_potentials(molecule: Molecule, asked: Choice | None) -> bool:
    """Whether a molecule has the potentials that an entry names, and no others."""
    if asked is None or isinstance(asked, str):
        asked = dict.fromkeys(molecule.symbols, asked or NONE)
    wanted = {s: n for s, n in asked.items() if s in molecule.symbols and n != NONE}
    found = {potential.symbol: potential.name for potential in molecule.pseudopotentials}
    return wanted.keys() == found.keys() and all(
        canonical(found[symbol]) == canonical(name)
        # A stored file may have lost its folder.
        or (is_file(name) and found[symbol] == Path(name).name)
        for symbol, name in wanted.items()
    )


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
    """The rows that belong to `run`."""
    for column, name in spec.match.items():
        table = table[_equal(table[column], _fact(run, name))]
    return table


def _fact(run: RunSpec, name: str) -> str | float:
    """The parameter of a run, or else its geometry, charge or spin."""
    if name in run.parameters:
        return run.parameters[name]
    return run.geometry if name == "geometry" else float(getattr(run.molecule, name))


def _curve(table: pd.DataFrame, spec: LiteratureSpec, run: RunSpec) -> np.ndarray:
    """(parameter, energy) of all rows of a run's state, if one parameter matches them; else empty.

    Rows are matched by `charge` or `spin` besides, but not by the name of a geometry.
    """
    along = [column for column, name in spec.match.items() if name in run.parameters]
    if len(along) != 1 or "geometry" in set(spec.match.values()) - run.parameters.keys():
        return np.empty((0, 2))
    for column, name in spec.match.items():
        if column != along[0]:
            table = table[_equal(table[column], _fact(run, name))]
    points = np.column_stack(
        [pd.to_numeric(table[along[0]], errors="coerce"), table[spec.value]]
    ).astype(float)
    points = points[np.isfinite(points).all(axis=1)]
    return points[np.argsort(points[:, 0], kind="stable")]

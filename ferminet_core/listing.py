"""What `check` prints: run table, resolved settings, JSON schema."""

import json
import sys

import yaml
from rich.console import Console
from rich.table import Table

from ferminet_core.scan import Scan
from ferminet_core.system import Molecule
from ferminet_core.system_file import json_schema

# Into a file or a pipe the table is written whole: a width taken from no terminal would cut it.
_UNCUT = 10_000


def print_runs(scan: Scan) -> None:
    """The run table: one row per run."""
    table = Table(box=None, pad_edge=False)
    variants = any(run.variant for run in scan.runs)
    for name in ("run", "geometry", *(["variant"] if variants else []), *scan.parameters):
        table.add_column(name)
    for name in ("formula", "charge", "2S", "up/down", "basis", "walkers", "iterations"):
        table.add_column(name, justify="right")
    for run in scan.runs:
        molecule, config = run.molecule, run.config
        cells = [run.run_id, run.geometry, *([run.variant] if variants else [])]
        cells += [f"{run.parameters[n]:g}" if n in run.parameters else "" for n in scan.parameters]
        cells += [
            formula(molecule),
            f"{molecule.charge:+d}" if molecule.charge else "0",
            str(molecule.spin),
            f"{molecule.n_up}/{molecule.n_down}",
            config.reference.basis,
            str(config.mcmc.walkers),
            str(config.optimise.iterations),
        ]
        table.add_row(*cells)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=_UNCUT)
    count = "1 run" if len(scan.runs) == 1 else f"{len(scan.runs)} runs"
    console.print(f"{scan.path}: scan {scan.name!r}, preset {scan.preset!r}, {count}")
    console.print(table)


def formula(molecule: Molecule) -> str:
    """The elements in their first order with counts: "H2O" for O, H, H is "OH2"."""
    counts = {symbol: molecule.symbols.count(symbol) for symbol in molecule.symbols}
    return "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in counts.items())


def print_resolved(scan: Scan) -> None:
    """Every setting of every run as YAML, one document per run."""
    for run in scan.runs:
        document = {
            "run_id": run.run_id,
            "molecule": run.molecule.model_dump(mode="json"),
            "config": run.config.model_dump(mode="json"),
        }
        sys.stdout.write("---\n")
        yaml.safe_dump(document, sys.stdout, sort_keys=False)


def print_schema() -> None:
    """The JSON schema of system files, for editors that complete and check YAML by one."""
    json.dump(json_schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")

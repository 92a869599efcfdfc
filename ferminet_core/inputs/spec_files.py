"""The spec files of the runs, `<results>/<scan>/spec/`: when they are written, what they keep."""

import json
import math
import os
from pathlib import Path

from ferminet_core.inputs.config import Config
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import RunSpec, canonical_json, check_version, load_spec
from ferminet_core.inputs.scan import Scan, check_bases
from ferminet_core.inputs.warm_starts import is_forest

# Positions (bohr) that differ by less are the same request: a constant's next CODATA value, or
# another order of additions, is no reason to compute a geometry again.
SAME_POSITION = 1e-8


def conventional_spec(scan: Path, run_id: str) -> Path:
    """The spec file of a run's conventional energies; it is there if the run asks for any.

    Args:
        scan: folder of the scan.
        run_id: of the run.
    """
    return scan / "spec" / "conventional" / f"{run_id}.json"


def write_specs(scan: Scan, results_dir: Path | str) -> list[Path]:
    """Write the runs' spec files, `<results>/<scan>/spec/<run_id>.json`; returns all their paths.

    A file is rewritten only if its run's request changed. A run thus keeps the settings that it was
    made with when newer code brings other defaults, and the files of runs that need no work keep
    their times; it also keeps the neighbour that it started from when another, nearer one comes.
    Conventional energies have a file of their own (`conventional_spec`), so that asking for others
    touches nothing that the Monte Carlo waits on. Basis sets of new or changed runs are checked
    before anything is written.

    Raises:
        InputError: unknown basis set.
    """
    folder = Path(results_dir) / scan.name
    paths = [folder / "spec" / f"{run.run_id}.json" for run in scan.runs]
    changed = [*_changed_chains(scan, paths), *_changed_conventional(scan, folder)]
    if changed:
        names = {part.run_id for part, _ in changed}
        check_bases((run for run in scan.runs if run.run_id in names), str(scan.path))
    for part, path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        left_out = set(Config.model_fields) - part.config.model_fields_set
        text = part.model_dump_json(indent=1, exclude={"config": left_out})
        _write_atomically(path, text + "\n")
    for run in scan.runs:
        if not run.config.conventional.methods:
            conventional_spec(folder, run.run_id).unlink(missing_ok=True)
    return paths


def _part(run: RunSpec, conventional: bool) -> RunSpec:
    """What is stored in one of a run's two spec files, with the settings of its stages alone: those
    of the conventional energies, or those of all other stages."""
    section = "conventional"
    config = Config(**{k: v for k, v in run.config if (k == section) is conventional})
    overrides = {
        key: value
        for key, value in run.request["overrides"].items()
        if key.startswith(f"{section}.") is conventional
    }
    request = {**run.request, "overrides": overrides}
    if conventional:
        request.pop("share", None)
        run = run.model_copy(update={"neighbour": ""})
    return run.model_copy(update={"config": config, "request": request})


def _changed_chains(scan: Scan, paths: list[Path]) -> list[tuple[RunSpec, Path]]:
    """What the spec files of the chain should hold and do not."""
    pairs = [(_part(run, False), path) for run, path in zip(scan.runs, paths, strict=True)]
    stored = {run.run_id: _stored_neighbour(path, run) for run, path in pairs}
    planned = {run.run_id: run.neighbour for run in scan.runs}
    kept = {name: n for name, n in stored.items() if n is not None and n in {"", *planned}}
    neighbours = {**planned, **kept}
    if not is_forest(neighbours):
        neighbours = planned
    return [
        (run.model_copy(update={"neighbour": neighbours[run.run_id]}), path)
        for run, path in pairs
        if stored[run.run_id] != neighbours[run.run_id]
    ]


def _changed_conventional(scan: Scan, folder: Path) -> list[tuple[RunSpec, Path]]:
    """The same for the spec files of the conventional energies of runs that ask for them."""
    pairs = [
        (_part(run, True), conventional_spec(folder, run.run_id))
        for run in scan.runs
        if run.config.conventional.methods
    ]
    return [(run, path) for run, path in pairs if _stored_neighbour(path, run) is None]


def load_run(scan: Path, run_id: str) -> RunSpec:
    """A run as its two spec files have it together.

    Args:
        scan: folder of the scan.
        run_id: of the run.

    Raises:
        InputError: as `load_spec`.
    """
    run = load_spec(scan / "spec" / f"{run_id}.json")
    path = conventional_spec(scan, run_id)
    if not path.exists():
        return run
    update = {"conventional": load_spec(path).config.conventional}
    return run.model_copy(update={"config": run.config.model_copy(update=update)})


def _stored_neighbour(path: Path, run: RunSpec) -> str | None:
    """The neighbour in a spec file, empty without one; None where the file is missing, damaged, or
    does not answer this request."""
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
        check_version(spec, str(path))
        stored = spec["request"]
        molecule = Molecule.model_validate(stored.pop("molecule"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    # Through JSON, as the stored one went: tuples become lists.
    request = json.loads(canonical_json(run.request))
    del request["molecule"]
    same = stored == request and _same(molecule, run.molecule)
    return str(spec.get("neighbour", "")) if same else None


def _same(a: Molecule, b: Molecule) -> bool:
    return (a.symbols, a.charge, a.spin) == (b.symbols, b.charge, b.spin) and all(
        math.dist(p, q) < SAME_POSITION for p, q in zip(a.positions, b.positions, strict=True)
    )


def _write_atomically(path: Path, text: str) -> None:
    """Write by a rename: several processes may expand the same table at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def neighbours(scan: Scan, results_dir: Path) -> dict[str, str]:
    """Which run each one starts from by its spec file, of those that start from another."""
    folder = results_dir / scan.name / "spec"
    warm = [run.run_id for run in scan.runs if run.neighbour]
    return {run_id: load_spec(folder / f"{run_id}.json").neighbour for run_id in warm}

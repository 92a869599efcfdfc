"""Files that say what a scan has to compute, in `<results>/<scan>/`.

`spec/<run>.json` holds one run, `spec/groups/<group>.json` a group of runs that share a
wavefunction, and `runs.txt` the names of all runs. A spec file is rewritten only if the request of
its run or group changed. `scan.json` holds the whole scan as it was when the last jobs
started. The main process of a workflow is the only one that reads the system file; jobs read these
files, so an edit of the system file does not reach them.
"""

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from ferminet_core.errors import ArtefactError, InputError
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.group_files import (
    CurrentGroup,
    current_groups,
    group_spec,
    group_specs,
    has_begun,
    kept_lines,
    members,
)
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.origin import request_part, same_molecule
from ferminet_core.inputs.run_spec import (
    RunSpec,
    canonical_json,
    check_version,
    load_spec,
    request_of_today,
)
from ferminet_core.inputs.scan import MAX_SCAN_BYTES, Scan, check_bases
from ferminet_core.inputs.text_files import read_text
from ferminet_core.inputs.warm_starts import generations
from ferminet_core.storage import files

RUN_LIST = "runs.txt"
FROZEN_SCAN = "scan.json"


@dataclass(frozen=True)
class Changes:
    """What the files of a scan lack compared with its system file.

    Attributes:
        texts: Texts to write, by path relative to the folder of the scan.
        obsolete: Files to delete, relative to the folder of the scan: specs of conventional
            energies and of groups that no run asks for any more.
        neighbours: The run that each run starts from, of those that start from another.
        groups: The group that each run starts from, of those that start from one.
        members: The runs whose geometries each group is trained for.
        warnings: Lines on what stays as it is although the system file has changed.
    """

    texts: Mapping[str, str]
    obsolete: tuple[str, ...]
    neighbours: Mapping[str, str]
    groups: Mapping[str, str]
    members: Mapping[str, tuple[str, ...]]
    warnings: tuple[str, ...]


class Start(NamedTuple):
    """What a run starts from: another run, a group, or neither (empty names)."""

    neighbour: str
    group: str


def conventional_spec(scan: Path, run_id: str) -> Path:
    """The spec file of a run's conventional energies. It exists if the run asks for any.

    Args:
        scan: Folder of the scan.
        run_id: Name of the run.
    """
    return scan / "spec" / "conventional" / f"{run_id}.json"


def find_changes(scan: Scan, results_dir: Path | str, takeover: bool = False) -> Changes:
    """Compare the files of a scan with its system file. Nothing is written.

    A run whose request is the same keeps its spec file, and with it the settings that it was made
    with, even if newer code has other defaults. It also keeps the neighbour that it started from,
    even if the scan now has a nearer one. A group whose training has begun keeps its members; a
    geometry that is added later starts from their wavefunction. Conventional energies have spec
    files of their own, so that other methods do not touch the input of the Monte Carlo stages.

    Args:
        scan: The scan as its system file has it now.
        results_dir: Folder of all results.
        takeover: Accept a folder that was made from another system file.

    Raises:
        InputError: The folder was made from another system file, or a new or changed run has an
            unknown basis set.
    """
    folder = Path(results_dir) / scan.name
    owner, path = _owner(folder), _system_path(scan)
    taken_over = owner not in (None, path)
    if taken_over and not takeover:
        raise InputError(
            f"{folder}: was made from {owner}, not from {path}; give another folder with results=, "
            "or continue in this one with takeover=yes"
        )
    begun = {run.run_id: _stored_group(folder, run.run_id) for run in scan.runs if run.group}
    groups = current_groups(scan, folder, begun)
    chains, starts = _changed_chains(scan, folder, groups)
    used = {name: start.group for name, start in starts.items() if start.group}
    trained = members(folder, groups, used.values())
    changed = [*chains, *_changed_conventional(scan, folder)]
    if changed:
        names = {part.run_id for part, _ in changed}
        check_bases((run for run in scan.runs if run.run_id in names), str(scan.path))
    changed += [(g.spec, group_spec(folder, name)) for name, g in groups.items() if g.changed]
    texts = {str(path.relative_to(folder)): _text(part) for part, path in changed}
    not_asked = (run.run_id for run in scan.runs if not run.config.conventional.methods)
    obsolete = [
        path for path in (conventional_spec(folder, run) for run in not_asked) if path.exists()
    ]
    obsolete += [path for path in group_specs(folder) if path.stem not in trained]
    # The table depends on the list of runs. It is also renewed when energies are no longer wanted,
    # and when another system file describes the scan.
    run_ids = [run.run_id for run in scan.runs]
    if _listed(folder) != run_ids or obsolete or taken_over:
        texts[RUN_LIST] = "\n".join(run_ids) + "\n"
    return Changes(
        texts=texts,
        obsolete=tuple(str(path.relative_to(folder)) for path in obsolete),
        neighbours={name: start.neighbour for name, start in starts.items() if start.neighbour},
        groups=used,
        members=trained,
        warnings=tuple(kept_lines(scan, folder, groups, used, trained)),
    )


def write_specs(scan: Scan, results_dir: Path | str) -> list[Path]:
    """Write what `find_changes` finds, each file by a rename.

    Returns:
        The paths of the spec files of all runs.

    Raises:
        InputError: As `find_changes`.
    """
    folder = Path(results_dir) / scan.name
    changes = find_changes(scan, results_dir)
    for name, text in changes.texts.items():
        _write(folder / name, text)
    for name in changes.obsolete:
        (folder / name).unlink(missing_ok=True)
    return [_spec(folder, run.run_id) for run in scan.runs]


def freeze(scan: Scan, results_dir: Path | str) -> Path:
    """Write the whole scan to `scan.json` in its folder; returns its path.

    Raises:
        ArtefactError: The folder cannot be written.
    """
    path = Path(results_dir) / scan.name / FROZEN_SCAN
    frozen = scan.model_copy(update={"path": Path(_system_path(scan))})
    try:
        _write(path, frozen.model_dump_json() + "\n")
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def electrons(spec: Path | str) -> int:
    """Number of electrons of the run in a spec file; for expressions in profiles.

    Raises:
        FileNotFoundError: The file does not exist yet. Snakemake then asks again later.
        InputError: As `load_spec`.
    """
    os.stat(spec)
    return load_spec(spec).molecule.n_electrons


def _spec(folder: Path, run_id: str) -> Path:
    return folder / "spec" / f"{run_id}.json"


def _text(part: RunSpec) -> str:
    """A spec file's text, with the sections that are set."""
    left_out = set(Config.model_fields) - part.config.model_fields_set
    return part.model_dump_json(indent=1, exclude={"config": left_out}) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_file(path) as file:
        file.write(text.encode())


def _listed(folder: Path) -> list[str]:
    """The runs in the list of a scan; none without a list, or with a damaged one."""
    return (_stored_text(folder / RUN_LIST) or "").split()


def _owner(folder: Path) -> str | None:
    """The system file that a scan's folder was made from; None if the folder does not say."""
    frozen = files.parse_object(_stored_text(folder / FROZEN_SCAN) or "") or {}
    return str(frozen["path"]) if "path" in frozen else None


def _stored_text(path: Path) -> str | None:
    """The text of a file that this module writes; None if it is missing or no text.

    Raises:
        OSError: The file cannot be read. Its content is unknown, so it must not be overwritten.
    """
    try:
        return read_text(path, MAX_SCAN_BYTES)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EILSEQ):
            return None
        raise


def _system_path(scan: Scan) -> str:
    """The path of a scan's system file.

    It is relative inside the working directory, so that a project can be moved as a whole.
    Elsewhere it is absolute.
    """
    relative = os.path.relpath(scan.path)
    return os.path.abspath(scan.path) if relative.startswith(os.pardir) else relative


def _part(run: RunSpec, conventional: bool) -> RunSpec:
    """The content of one of a run's two spec files.

    One file holds the settings of the conventional energies, the other those of all other stages.
    """
    section = "conventional"
    config = Config(**{k: v for k, v in run.config if (k == section) is conventional})
    request = request_part(run.request, conventional)
    if conventional:
        run = run.model_copy(update={"neighbour": "", "group": ""})
    return run.model_copy(update={"config": config, "request": request})


def _changed_chains(
    scan: Scan, folder: Path, groups: Mapping[str, CurrentGroup]
) -> tuple[list[tuple[RunSpec, Path]], dict[str, Start]]:
    """What the spec files of the chain should hold and do not, and what all runs start from."""
    pairs = [(_part(run, False), _spec(folder, run.run_id)) for run in scan.runs]
    stored = {run.run_id: _stored_start(path, run) for run, path in pairs}
    planned = {run.run_id: run.neighbour for run in scan.runs}
    known = {"", *planned}
    kept = {name: s.neighbour for name, s in stored.items() if s and s.neighbour in known}
    neighbours = {**planned, **kept}
    if generations(neighbours) is None:
        neighbours = planned
    names = {group.planned: name for name, group in groups.items()}
    starts = {}
    for run in scan.runs:
        before, group = stored[run.run_id], names.get(run.group, "")
        if before and before.group and not group and has_begun(folder, before.group):
            group = before.group  # whose other runs have left the scan
        starts[run.run_id] = Start(neighbours[run.run_id], group)
    changed = [
        (run.model_copy(update=starts[run.run_id]._asdict()), path)
        for run, path in pairs
        if stored[run.run_id] != starts[run.run_id]
    ]
    return changed, starts


def _stored_group(folder: Path, run_id: str) -> str:
    """The group in a run's spec file, whatever else the file asks for; empty if it has none."""
    try:
        return str(json.loads(read_text(_spec(folder, run_id))).get("group", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _changed_conventional(scan: Scan, folder: Path) -> list[tuple[RunSpec, Path]]:
    """The same for the conventional energies of the runs that ask for them."""
    pairs = [
        (_part(run, True), conventional_spec(folder, run.run_id))
        for run in scan.runs
        if run.config.conventional.methods
    ]
    return [(run, path) for run, path in pairs if _stored_start(path, run) is None]


def load_run(scan: Path, run_id: str) -> RunSpec:
    """A run with the settings of both its spec files.

    Args:
        scan: Folder of the scan.
        run_id: Name of the run.

    Raises:
        InputError: As `load_spec`.
    """
    run = load_spec(_spec(scan, run_id))
    path = conventional_spec(scan, run_id)
    if not path.exists():
        return run
    update = {"conventional": load_spec(path).config.conventional}
    return run.model_copy(update={"config": run.config.model_copy(update=update)})


def _stored_start(path: Path, run: RunSpec) -> Start | None:
    """What the run in a spec file starts from.

    It is None if the file is missing, is damaged, or answers another request.
    """
    spec = files.parse_object(_stored_text(path) or "") or {}
    check_version(spec, str(path))
    request = spec.get("request")
    if not isinstance(request, dict):
        return None
    stored = request_of_today(request)
    try:
        molecule = Molecule.model_validate(stored.pop("molecule", None))
    except ValidationError:
        return None
    # Like the stored request, this one passes through JSON: tuples become lists.
    request = json.loads(canonical_json(run.request))
    del request["molecule"]
    optimised = path.parents[1] / "runs" / run.run_id / "optimise.zarr.zip"
    if ("share" in stored) != ("share" in request) and optimised.exists():
        # More points of a curve may move its anchor. What is optimised keeps its start.
        stored.pop("share", None)
        request.pop("share", None)
    same = stored == request and same_molecule(molecule, run.molecule)
    return Start(*(str(spec.get(key, "")) for key in Start._fields)) if same else None

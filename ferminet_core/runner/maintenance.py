"""Operations on runs and groups from outside: stop running stages, reset stages, archive a scan."""

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from ferminet_core.errors import ArtefactError, InputError, describe
from ferminet_core.inputs import stage_table
from ferminet_core.inputs.group_files import GROUPS
from ferminet_core.inputs.scan import Scan, load_scan
from ferminet_core.inputs.spec_files import FROZEN_SCAN, load_run
from ferminet_core.runner import curve
from ferminet_core.runner.status import (
    STAGES,
    group_folders,
    is_group,
    run_folders,
    run_states,
    stages_of,
)
from ferminet_core.runner.stopping import REQUEST
from ferminet_core.storage import artefacts, files, lease, provenance
from ferminet_core.storage.lease import Lease

# Files of a scan in an archive. Work folders with their checkpoints are not archived.
_ARCHIVED = (
    "spec/*.json",
    "spec/conventional/*.json",
    "spec/groups/*.json",
    "runs/*/*.zarr.zip",
    "runs/*/*.provenance.json",
    "groups/*/*.zarr.zip",
    "groups/*/*.provenance.json",
    "logs/**/*.log",
    "*.csv",
    "*.json",
    "*.svg",
    "*.png",
    "*.html",
    "*.zarr.zip",
    "runs.txt",
    "system/*",  # these two of an unpacked archive
    "literature/**/*.*",
)
_MANIFEST = "MANIFEST.json"


def request_stop(path: Path) -> list[str]:
    """Ask the running stages of a run, a group, a scan or all scans to write a checkpoint and stop.

    Returns:
        A line for each of these stages.

    Raises:
        InputError: No stage is running there, or there is no such folder.
    """
    if not path.exists() and path.parent.name not in ("runs", GROUPS):  # it need not have begun
        raise InputError(f"{path}: no such folder (try results, or results/h2)")
    asked = []
    for run in (*group_folders(path), *run_folders(path)):
        for stage in stages_of(run):
            work = run / f"{stage}.work"
            holder = lease.holder_of(work)
            if holder is not None:
                files.write_json(work / REQUEST, {"time": provenance.utc_now()})
                asked.append(f"{run.name} {stage}: asked {lease.describe(holder)} to stop")
    if not asked:
        raise InputError(f"{path}: no stage is running there")
    return asked


def reset(path: Path, stage: str) -> list[Path]:
    """Delete results, checkpoints and records of a stage, or of `all`, in a run, group or scan.

    The artefacts of later stages are deleted as well, also those of the runs that start from a
    group, or a workflow would take them for the results that it is asked for. Their work folders
    stay: a later stage whose parents turn out the same puts its result in place again.

    Returns:
        The deleted files and folders.

    Raises:
        InputError: There is no such run, group, scan or stage.
        LockedError: A process works on one of them. Nothing was deleted.
    """
    known = tuple(entry.name for entry in stage_table.STAGES)
    if stage not in (*known, "all"):
        raise InputError(f"stage: found {stage!r}; allowed: {', '.join(known)}, all")
    folders = [path] if path.parent.name in ("runs", GROUPS) and path.is_dir() else []
    if (path / "spec").is_dir():
        folders = [*group_folders(path), *run_folders(path)]
    if not folders:
        raise InputError(
            f"{path}: not the folder of a scan, a run or a group, such as results/h2/runs/r_1.4"
        )
    if stage != "all":
        folders = [f for f in folders if is_group(f) is stage_table.declared(stage).of_group]
    if not folders:
        raise InputError(f"{path}: has no stage {stage!r}")
    whole = [
        (folder, name)
        for folder in folders
        for name in (known if stage == "all" else (stage,))
        if is_group(folder) is stage_table.declared(name).of_group
    ]
    wholly = set(whole)
    later = dict.fromkeys(follows for folder, name in whole for follows in _later(folder, name))
    deleted = []
    with contextlib.ExitStack() as held:
        for folder, name in whole:
            deleted += _held_files(folder, name, held)
        for folder, name in later:
            if (folder, name) not in wholly:
                deleted += _held_files(folder, name, held, ("zarr.zip",))
        for file in deleted:
            if file.is_dir():
                shutil.rmtree(file)
            else:
                file.unlink()
    return deleted


def _later(folder: Path, stage: str) -> list[tuple[Path, str]]:
    """The stages that follow from one of a run or a group, with the folder of each."""
    of_group = stage_table.declared(stage).of_group
    names, found = {stage}, []
    for entry in stage_table.STAGES:
        if entry.of_group is of_group and names & set(entry.parents):
            names.add(entry.name)
            found.append((folder, entry.name))
    for entry in stage_table.of_runs() if of_group else ():
        if entry.group in names:
            for run in _runs_of(folder):
                found += [(run, entry.name), *_later(run, entry.name)]
    return found


def _runs_of(group: Path) -> list[Path]:
    """The folders of the runs that start from the group with this folder."""
    found = []
    for run in run_folders(group.parents[1]):
        with contextlib.suppress(InputError):
            if load_run(group.parents[1], run.name).group == group.name:
                found.append(run)
    return found


def _held_files(
    run: Path,
    stage: str,
    held: contextlib.ExitStack,
    endings: Sequence[str] = ("zarr.zip", "provenance.json", "work"),
) -> list[Path]:
    """The files of a stage of a run, under a lease that lasts as long as `held` is open.

    What was measured of a group's wavefunction goes with it.
    """
    names = [stage, curve.NAME] if stage == curve.JOINT else [stage]
    reason = "run the command stop first"
    for name in names:
        work = run / f"{name}.work"
        if work.is_dir():  # otherwise no process works there, and a lease would make the folder
            held.enter_context(Lease(work).acquire(lambda: reason, lambda line: None))
    return [path for n in names for e in endings if (path := run / f"{n}.{e}").exists()]


def archive(scan: Path, out: Path, tell: Callable[[str], None]) -> Path:
    """Pack a finished scan into one tar file, with a manifest of sha256 sums, and verify it.

    It holds the system file and the published energies as well, so that the command `summary` runs
    on the unpacked `scan.json`. The file appears once it is verified.

    Args:
        scan: Folder of the scan.
        out: The file to write.
        tell: Called with lines on the progress.

    Raises:
        InputError: There is no scan, or it has unfinished runs.
        ArtefactError: An artefact is damaged, or the file cannot be written.
    """
    runs = run_folders(scan)
    if not runs or not (scan / "spec").is_dir():
        raise InputError(f"{scan}: not the folder of a scan, such as results/h2")
    unfinished = [
        f"{state.run} ({state.stage}: {state.state})"
        for run in runs
        for state in run_states(run)
        if state.stage not in STAGES[:-1] and state.state != "done"
    ]
    if unfinished:
        raise InputError(f"{scan}: not finished: {', '.join(unfinished)}")
    content = _content(scan, tell)
    try:
        with files.atomic_file(out) as file:
            sums = _pack(content, file, scan.resolve().name)
            file.flush()
            _verify(Path(file.name), out, sums)
    except OSError as error:
        raise ArtefactError(f"{out}: cannot be written: {describe(error)}") from error
    return out


def _content(scan: Path, tell: Callable[[str], None]) -> dict[str, Path | bytes]:
    """What an archive holds, by name: files, and a `scan.json` that names the packed literature.

    Raises:
        InputError: `scan.json` is damaged.
        ArtefactError: An artefact is damaged.
    """
    found: dict[str, Path | bytes] = {
        str(path.relative_to(scan)): path for name in _ARCHIVED for path in scan.glob(name)
    }
    found.pop(_MANIFEST, None)  # of an unpacked archive
    artefact_names = sorted(name for name in found if name.endswith(".zarr.zip"))
    for number, name in enumerate(artefact_names, 1):
        tell(f"verifying {number} of {len(artefact_names)}: {scan / name}")
        artefacts.load(scan / name)
    if FROZEN_SCAN in found:
        found |= _sources(load_scan(scan / FROZEN_SCAN), scan, tell)
    return found


def _sources(frozen: Scan, scan: Path, tell: Callable[[str], None]) -> dict[str, Path | bytes]:
    """The system file and the tables of published energies, and `scan.json` with their new names.

    A file that is gone is left out with a warning. The summary of the scan lacks it, too.
    """
    found: dict[str, Path | bytes] = {}
    names: dict[str, str] = {}  # of the tables in the archive, by their present paths
    name = f"system/{frozen.path.name}"
    system = next((path for path in (scan / name, frozen.path) if path.is_file()), None)
    if system is None:
        tell(f"warning: {frozen.path} is not there, and is left out")
    else:
        found[name] = system
    for entry in frozen.literature:
        if not Path(entry.file).is_file():
            tell(f"warning: literature {entry.name!r}: {entry.file} is not there, and is left out")
        elif entry.file not in names:
            base = Path(entry.file).name
            name = f"literature/{base}"
            if name in found:  # a table of the same name from another folder
                name = f"literature/{len(names)}/{base}"
            names[entry.file], found[name] = name, Path(entry.file)
    packed = [
        entry.model_copy(update={"file": names.get(entry.file, entry.file)})
        for entry in frozen.literature
    ]
    text = frozen.model_copy(update={"literature": packed}).model_dump_json() + "\n"
    return {**found, FROZEN_SCAN: text.encode()}


def _pack(content: Mapping[str, Path | bytes], file: BinaryIO, folder: str) -> dict[str, str]:
    """Write a tar file with a manifest. Returns the sha256 sums by name.

    Links become the files that they lead to.
    """
    sums = {name: _sha256(part) for name, part in sorted(content.items())}
    manifest = {"schema": 1, "written": provenance.utc_now(), "sha256": sums}
    parts = {_MANIFEST: json.dumps(manifest, indent=2).encode() + b"\n", **content}
    with tarfile.open(
        fileobj=file, mode="w", format=tarfile.PAX_FORMAT, dereference=True
    ) as archive:
        for name, part in parts.items():
            if isinstance(part, Path):
                archive.add(part, arcname=f"{folder}/{name}")
                continue
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mtime = len(part), int(time.time())
            archive.addfile(member, io.BytesIO(part))
    return {f"{folder}/{name}": value for name, value in sums.items()}


def _sha256(part: Path | bytes) -> str:
    if isinstance(part, bytes):
        return hashlib.sha256(part).hexdigest()
    with open(part, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path, out: Path, sums: Mapping[str, str]) -> None:
    """Check that an archive, to be named `out`, holds files with these sums."""
    with tarfile.open(path) as tar:
        # The types of `file_digest` ask for more of a file than it uses.
        found = {
            member.name: hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }
    wrong = [name for name, value in sums.items() if found.get(name) != value]
    if wrong:
        raise ArtefactError(
            f"{out}: differs from the files that were packed: {', '.join(wrong[:3])}; "
            "nothing was written"
        )

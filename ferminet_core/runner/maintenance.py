"""Operations on runs from outside: stop running stages, reset stages, archive a scan."""

import contextlib
import hashlib
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ferminet_core.errors import ArtefactError, InputError
from ferminet_core.inputs import stage_table
from ferminet_core.runner.status import STAGES, run_folders, run_states, stages_of
from ferminet_core.runner.stopping import REQUEST
from ferminet_core.storage import artefacts, files, lease, provenance
from ferminet_core.storage.lease import Lease

# Files of a scan in an archive. Work folders with their checkpoints are not archived.
_ARCHIVED = (
    "spec/*.json",
    "spec/conventional/*.json",
    "runs/*/*.zarr.zip",
    "runs/*/*.provenance.json",
    "logs/**/*.log",
    "*.csv",
    "*.json",
    "*.svg",
    "*.png",
    "*.html",
    "*.zarr.zip",
    "runs.txt",
)


def request_stop(path: Path) -> list[str]:
    """Ask the running stages of a run, a scan or all scans to write a checkpoint and stop.

    Returns:
        A line for each of these stages.

    Raises:
        InputError: No stage is running there.
    """
    asked = []
    for run in run_folders(path):
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
    """Delete results, checkpoints and records of a stage, or of `all`, in a run or a scan.

    Returns:
        The deleted files and folders.

    Raises:
        InputError: There is no such run, scan or stage.
        LockedError: A process works on one of them. Nothing was deleted.
    """
    known = tuple(entry.name for entry in stage_table.STAGES)
    if stage not in (*known, "all"):
        raise InputError(f"stage: found {stage!r}; allowed: {', '.join(known)}, all")
    runs = [path] if path.parent.name == "runs" and path.is_dir() else []
    if (path / "spec").is_dir():
        runs = run_folders(path)
    if not runs:
        raise InputError(
            f"{path}: not the folder of a scan or a run, such as results/h2/runs/r_1.4"
        )
    deleted = []
    with contextlib.ExitStack() as held:
        for run in runs:
            for name in known if stage == "all" else (stage,):
                deleted += _held_files(run, name, held)
        for file in deleted:
            if file.is_dir():
                shutil.rmtree(file)
            else:
                file.unlink()
    return deleted


def _held_files(run: Path, stage: str, held: contextlib.ExitStack) -> list[Path]:
    """The files of a stage of a run, under a lease that lasts as long as `held` is open."""
    work = run / f"{stage}.work"
    if work.is_dir():  # otherwise no process works there, and a lease would make the folder
        reason = "run the command stop first"
        held.enter_context(Lease(work).acquire(lambda: reason, lambda line: None))
    candidates = (run / f"{stage}.zarr.zip", run / f"{stage}.provenance.json", work)
    return [path for path in candidates if path.exists()]


def archive(scan: Path, out: Path, tell: Callable[[str], None]) -> Path:
    """Pack a finished scan into one tar file, with a manifest of sha256 sums, and verify it.

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
    manifest = scan / "MANIFEST.json"  # of an earlier archive, if there is one
    packed = sorted({path for pattern in _ARCHIVED for path in scan.glob(pattern)} - {manifest})
    for number, path in enumerate(packed, 1):
        if path.name.endswith(".zarr.zip"):
            tell(f"verifying {number} of {len(packed)}: {path}")
            artefacts.load(path)
    sums = {str(path.relative_to(scan)): _sha256(path) for path in packed}
    files.write_json(manifest, {"schema": 1, "written": provenance.utc_now(), "sha256": sums})
    try:
        with (
            files.atomic_file(out) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for path in (manifest, *packed):
                tar.add(path, arcname=f"{scan.name}/{path.relative_to(scan)}")
    except OSError as error:
        raise ArtefactError(f"{out}: cannot be written: {error.strerror or error}") from error
    _verify(out, scan.name, sums)
    return out


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path, name: str, sums: Mapping[str, str]) -> None:
    """Check that an archive holds files with these sums."""
    with tarfile.open(path) as tar:
        # The types of `file_digest` ask for more of a file than it uses.
        found = {
            member.name: hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }
    wrong = [key for key, value in sums.items() if found.get(f"{name}/{key}") != value]
    if wrong:
        raise ArtefactError(
            f"{path}: differs from the files that were packed: {', '.join(wrong[:3])}"
        )

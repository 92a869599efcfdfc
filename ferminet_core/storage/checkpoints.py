"""Checkpoints: all that a loop needs to continue, one file each, in `<stage>.work/ckpt/`.

A checkpoint is an artefact (`artefacts`): not a pickle, with one digest over everything, and put in
place by one rename. It holds the state's arrays ("state.<path>") and the series so far
("series.<name>"). Its attributes are the whole spec, the parents' digests, the seed, and the
division of the loop into devices, chunks and blocks. Random numbers are functions of seed, step and
walker, so a checkpoint stores no state of a generator.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ferminet_core.errors import ArtefactError, ReadError
from ferminet_core.storage import artefacts

_NAME = re.compile(r"(\d{9,})\.zarr\.zip")
Tell = Callable[[str], None]


class Checkpoint(NamedTuple):
    """step: steps done; leaves: arrays of the state by path; series: by name; attrs: its origin."""

    step: int
    leaves: dict[str, np.ndarray]
    series: dict[str, np.ndarray]
    attrs: dict[str, Any]


def _dimensions(name: str, array: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{name}.{axis}" for axis in range(array.ndim))


def steps_in(folder: Path) -> dict[int, Path]:
    """The checkpoint files of a folder by step, oldest first."""
    with contextlib.suppress(FileNotFoundError):
        found = ((_NAME.fullmatch(path.name), path) for path in Path(folder).iterdir())
        return dict(sorted((int(match[1]), path) for match, path in found if match))
    return {}


def save(
    folder: Path,
    step: int,
    leaves: Mapping[str, np.ndarray],
    series: dict[str, np.ndarray],
    attrs: Mapping[str, Any],
    guard: Callable[[], None],
) -> Path:
    """Write a checkpoint. Older ones stay (see `prune`).

    Args:
        folder: Folder of the checkpoints.
        step: Steps done.
        leaves: Arrays of the state by path.
        series: Series so far, by name.
        attrs: Origin of the checkpoint.
        guard: As in `artefacts.save`.

    Raises:
        ArtefactError: The checkpoint cannot be written. Older ones are unchanged.
    """
    variables = {f"state.{name}": array for name, array in leaves.items()}
    variables |= {f"series.{name}": array for name, array in series.items()}
    ds = xr.Dataset(
        {name: (_dimensions(name, array), array) for name, array in variables.items()},
        attrs={**attrs, "kind": "checkpoint", "step": step},
    )
    path = Path(folder) / f"{step:09d}.zarr.zip"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(f"{folder}: cannot be created: {error.strerror or error}") from error
    artefacts.save(ds, path, guard)
    return path


def load(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        ArtefactError: The file is missing, damaged, of another format version, or not a checkpoint.
    """
    ds = artefacts.load(path)
    step = ds.attrs.get("step")
    match = _NAME.fullmatch(Path(path).name)
    if ds.attrs.get("kind") != "checkpoint" or match is None or int(match[1]) != step:
        raise ArtefactError(f"{path}: not a checkpoint of that step")

    def part(prefix: str) -> dict[str, np.ndarray]:
        names = (str(name) for name in ds.variables)
        return {n.removeprefix(prefix): ds[n].to_numpy() for n in names if n.startswith(prefix)}

    return Checkpoint(int(step), part("state."), part("series."), dict(ds.attrs))


def newest(folder: Path, aside: Path, tell: Tell) -> Checkpoint | None:
    """The newest whole checkpoint. Damaged ones are reported and moved to the folder `aside`.

    Raises:
        ReadError: A checkpoint cannot be read at the moment. An older one would repeat work.
    """
    for path in reversed(steps_in(folder).values()):
        try:
            return load(path)
        except ReadError:
            raise
        except ArtefactError as error:
            kept = set_aside(path, aside)
            tell(f"damaged checkpoint kept as {kept}: {error}")
    return None


def set_aside(path: Path, aside: Path) -> Path:
    """Move a file to the folder `aside` under a free name. Returns its new path."""
    aside.mkdir(parents=True, exist_ok=True)
    target = next(p for p in _numbered(aside / path.name) if not p.exists())
    path.rename(target)
    return target


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    number = 1
    while True:
        yield path.with_name(f"{path.name}.{number}")
        number += 1


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints. Files that cannot be deleted stay."""
    for path in list(steps_in(folder).values())[: -keep or None]:
        with contextlib.suppress(OSError):
            path.unlink()

"""Checkpoints: all that a loop needs to go on, one file each, in `<stage>.work/ckpt/`.

A checkpoint is an artefact (`store`): no pickle, one digest over everything, put in place by one
rename. It holds the state's arrays ("state.<path>"), the series so far ("series.<name>"), and as
attributes the whole spec, the parents' digests, the seed, and how the loop was parted over devices,
chunks and blocks. Random numbers are functions of seed, step and walker, so they need no more.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ferminet_core.errors import ArtefactError
from ferminet_core.storage import artefacts

_NAME = re.compile(r"(\d{9,})\.zarr\.zip")
Tell = Callable[[str], None]


class Checkpoint(NamedTuple):
    """step: iterations done; leaves: the state's arrays by path; series; attrs: what it is of."""

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
    """Write a checkpoint; older ones are left alone (`prune`). `guard` as in `store.save`.

    Raises:
        ArtefactError: it cannot be written; the older ones stay as they are.
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
        raise ArtefactError(f"{folder}: cannot be made: {error.strerror or error}") from error
    artefacts.save(ds, path, guard)
    return path


def load(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        ArtefactError: missing, damaged, of another format version, or no checkpoint.
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
    """The newest checkpoint that is whole; damaged ones are named and moved to `aside`."""
    for path in reversed(steps_in(folder).values()):
        try:
            return load(path)
        except ArtefactError as error:
            kept = set_aside(path, aside)
            tell(f"checkpoint left out, kept as {kept}: {error}")
    return None


def set_aside(path: Path, aside: Path) -> Path:
    """Move a file to a folder under a name that is free there; returns its new path."""
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
    """Delete all but the newest `keep` checkpoints; what cannot be deleted stays."""
    for path in list(steps_in(folder).values())[: -keep or None]:
        with contextlib.suppress(OSError):
            path.unlink()

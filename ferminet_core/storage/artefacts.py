"""Artefacts: one `xarray.Dataset` in one zip file holding a Zarr v3 group.

A file is written under a temporary name and renamed, so it is either absent, old or whole. Zarr
silently reads a missing chunk as fill values. Therefore the root attribute `digest` covers all
names, types, shapes, values and attributes, and `load` verifies it. Nothing is pickled. Saving the
same dataset twice gives the same bytes with the same versions of zarr and its codecs, and always
the same digest.

`open_dataset` opens a file without reading its arrays. Without this package, in two steps, since
Zarr 3 takes a path for a folder:

    import xarray as xr, zarr
    xr.open_zarr(zarr.storage.ZipStore(path, mode="r"), consolidated=False)
"""

import contextlib
import errno
import hashlib
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore, ZipStore

from ferminet_core.errors import ArtefactError, ReadError
from ferminet_core.storage.files import atomic_file

FORMAT_VERSION = 1
MAX_CHUNK_BYTES = 64 * 2**20
_DIGEST = "digest"
_FORMAT = "format_version"
# xarray's own name for the list of non-index coordinates
_COORDINATES = "coordinates"
# Equal data gives equal bytes.
_ZIP_MAGIC = b"PK\x03\x04"  # first bytes of every zip that holds a file
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold
# Exceptions of Python's zip reader for files that are cut short or have flipped bits.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


def save(ds: xr.Dataset, path: Path, guard: Callable[[], None] = lambda: None) -> str:
    """Write `ds` to `path` atomically and return its digest (sha256, hex).

    This function sets the attributes `digest` and `format_version`, whatever `ds` has under these
    names. Variables may hold numbers, booleans and strings. Attributes may be anything that JSON
    can hold. `guard` is called right before the rename that puts the file in place.

    Raises:
        TypeError: A dtype is not supported (object, time), or JSON cannot hold an attribute.
        ValueError: A variable name cannot be a path component.
        ArtefactError: The file cannot be written (permissions, full disk).
    """
    path = Path(path)
    arrays = {_checked_name(name): _plain_array(name, var) for name, var in ds.variables.items()}
    attributes = _json_attributes(ds.attrs, "dataset")
    attributes.pop(_DIGEST, None)
    attributes[_FORMAT] = FORMAT_VERSION
    auxiliary = sorted(str(name) for name in ds.coords if name not in ds.dims)
    if auxiliary:
        attributes[_COORDINATES] = " ".join(auxiliary)
    dims = {str(name): tuple(str(d) for d in var.dims) for name, var in ds.variables.items()}
    variable_attributes = {
        str(name): _json_attributes(var.attrs, str(name)) for name, var in ds.variables.items()
    }
    digest_hex = _content_digest(arrays, dims, variable_attributes, attributes)

    members: dict[str, Buffer] = {}
    group = zarr.create_group(
        store=MemoryStore(members),
        zarr_format=3,
        attributes={**attributes, _DIGEST: digest_hex},
    )
    for name, array in arrays.items():
        stored = group.create_array(
            name,
            shape=array.shape,
            dtype=np.dtypes.StringDType() if array.dtype.kind == "U" else array.dtype,
            chunks=_chunk_shape(array.shape, array.dtype.itemsize),
            dimension_names=dims[name],
            attributes=variable_attributes[name],
            config={"write_empty_chunks": True},
        )
        if array.size:
            stored[...] = array.astype(stored.dtype, copy=False)
    try:
        with (
            atomic_file(path, guard) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ):
            for key in sorted(members):
                info = zipfile.ZipInfo(key, _ZIP_TIME)
                info.external_attr = 0o644 << 16
                archive.writestr(info, members[key].to_bytes())
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be written: {error.strerror or error}") from error
    return digest_hex


def load(path: Path, only: Iterable[str] | None = None) -> xr.Dataset:
    """Read an artefact into memory: all of it, with a verified digest, or some variables.

    Args:
        path: The file.
        only: Variables to read in addition to the attributes. The digest covers all variables, so
            only the zip's own checksums are verified then.

    Raises:
        ArtefactError: The file is missing, cut short, damaged or incomplete, is not an artefact of
            this package with a known format version, or lacks a variable. One line names the file.
        ReadError: The file cannot be read at the moment.
    """
    path = Path(path)
    wanted = None if only is None else set(only)
    members = _read_members(path, wanted)
    attributes, stored = _open_group(path, members)
    if wanted is not None and (missing := sorted(wanted - set(stored))):
        raise ArtefactError(f"{path}: holds no variable {', '.join(missing)}")
    try:
        arrays = {name: _read_array(array) for name, array in stored.items()}
    except (ValueError, RuntimeError, TypeError) as error:
        raise ArtefactError(f"{path}: unreadable data: {error}") from error
    dims = {
        name: tuple(getattr(array.metadata, "dimension_names", None) or ())
        for name, array in stored.items()
    }
    variable_attributes = {name: dict(array.attrs) for name, array in stored.items()}
    expected = attributes.pop(_DIGEST, None)
    content = arrays, dims, variable_attributes, attributes
    if wanted is None and _content_digest(*content) != expected:
        raise ArtefactError(
            f"{path}: content does not match its digest (damaged or incomplete); "
            "delete the file and run the stage again"
        )
    auxiliary = str(attributes.pop(_COORDINATES, "")).split()
    variables = {
        name: xr.Variable(dims[name], array, variable_attributes[name])
        for name, array in arrays.items()
    }
    ds = xr.Dataset(variables, attrs={**attributes, _DIGEST: expected})
    return ds.set_coords([name for name in auxiliary if name in variables])


def attributes(path: Path) -> dict[str, Any]:
    """The attributes of an artefact, the digest among them; its arrays are not read.

    Raises:
        ArtefactError: The file is missing, cut short, or not an artefact of this package.
    """
    members = _read_members(path, set())
    if "zarr.json" not in members:
        raise ArtefactError(f"{path}: not an artefact of this package (a zip without a Zarr group)")
    try:
        found = json.loads(members["zarr.json"].to_bytes())["attributes"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{path}: unreadable Zarr metadata: {error}") from error
    _check_format(path, found)
    return dict(found)


def load_present(path: Path, names: Iterable[str]) -> xr.Dataset:
    """The attributes of an artefact and those of some variables that it has.

    Args:
        path: The file.
        names: Variables, which may be missing.

    Raises:
        ArtefactError: As `load`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            present = {name.split("/")[0] for name in archive.namelist() if "/" in name}
    except _ZIP_ERRORS:
        present = set()  # `load` finds the words for it
    return load(path, only=present.intersection(names))


def open_dataset(path: str | Path) -> xr.Dataset:
    """Open an artefact by its path, without reading its arrays before they are used.

    The digest is not verified; `load` does that. The file stays open until the dataset is closed,
    for which a `with` block is enough.

    Args:
        path: a file such as inference.zarr.zip or scan.zarr.zip.

    Raises:
        ArtefactError: the file is missing, damaged or not a Zarr group; one line that names it.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file")
    try:
        store = ZipStore(path, mode="r")
        ds = xr.open_zarr(store, chunks=None, consolidated=False)
    except (*_ZIP_ERRORS, KeyError) as error:
        raise ArtefactError(f"{path}: cannot be opened: {error}") from error
    ds.set_close(store.close)
    return ds


def _open_group(
    path: Path, members: dict[str, Buffer]
) -> tuple[dict[str, Any], dict[str, zarr.Array]]:
    """Root attributes and arrays of a group in memory."""
    if "zarr.json" not in members:
        raise ArtefactError(f"{path}: not an artefact of this package (a zip without a Zarr group)")
    try:
        group = zarr.open_group(store=MemoryStore(members), mode="r", zarr_format=3)
        attributes = dict(group.attrs)
        # By name, because the group's own listing warns of extra files. The digest finds those.
        names = sorted(key.removesuffix("/zarr.json") for key in members if "/zarr.json" in key)
        stored = {name: _open_array(group, name) for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{path}: unreadable Zarr metadata: {error}") from error
    _check_format(path, attributes)
    return attributes, stored


def _check_format(path: Path, attributes: Mapping[str, Any]) -> None:
    found = attributes.get(_FORMAT)
    if found is None:
        raise ArtefactError(f"{path}: not an artefact of this package (it has no {_FORMAT})")
    if found != FORMAT_VERSION:
        raise ArtefactError(
            f"{path}: {_FORMAT} is {found!r}, this version of the package reads {FORMAT_VERSION}; "
            "use the version that wrote it, or delete the file and run the stage again"
        )


def digest(path: Path) -> str:
    """The verified digest (sha256, hex) of an artefact's arrays and attributes.

    Raises:
        ArtefactError: As `load`.
    """
    return str(load(path).attrs[_DIGEST])


def _checked_name(name: Hashable) -> str:
    """A variable name that Zarr and the list of coordinates can hold."""
    text = str(name)
    if not text or "/" in text or " " in text or text in {".", "..", "zarr.json"}:
        raise ValueError(f"variable name {text!r} cannot be stored")
    return text


def _plain_array(name: Hashable, variable: xr.Variable) -> np.ndarray:
    """The values as a little-endian, C-ordered array of a storable dtype."""
    array = np.asarray(variable.values)
    if array.dtype.kind == "T" or (
        array.dtype.kind == "O" and array.size and all(isinstance(v, str) for v in array.flat)
    ):
        # Text from pandas arrives as objects. It is stored and read back as fixed-width strings.
        array = _fixed_width(array)
    if array.dtype.kind not in "biufcU":
        raise TypeError(f"variable {name!r}: dtype {array.dtype} cannot be stored")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _open_array(group: zarr.Group, name: str) -> zarr.Array:
    """An array of the group. This package never writes a nested group."""
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is a group, not an array")
    return array


def _read_array(array: zarr.Array) -> np.ndarray:
    """The values of a stored array; text as fixed-width strings."""
    values = np.asarray(array[...])
    return _fixed_width(values) if values.dtype.kind == "T" else values


def _fixed_width(text: np.ndarray) -> np.ndarray:
    """Strings of variable width (NumPy's or objects) as a fixed-width array of the same shape."""
    return np.array(text.tolist(), dtype=np.str_).reshape(text.shape)


def _json_attributes(attributes: Mapping[Any, Any], owner: str) -> dict[str, Any]:
    """Attributes as plain JSON values (array scalars become numbers, tuples lists)."""

    def default(value: Any) -> Any:
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError(f"attribute of {owner}: {type(value).__name__} cannot be stored")

    return json.loads(json.dumps(dict(attributes), default=default))


def _content_digest(
    arrays: Mapping[str, np.ndarray],
    dims: Mapping[str, tuple[str, ...]],
    variable_attributes: Mapping[str, Mapping[str, Any]],
    attributes: Mapping[str, Any],
) -> str:
    """sha256 over names, types, dimensions, shapes, values and attributes, in sorted order."""
    sha = hashlib.sha256()
    sha.update(_canonical(attributes))
    for name in sorted(arrays):
        array = arrays[name]
        is_text = array.dtype.kind == "U"
        # The width of the longest string is a property of the memory, not of the content.
        dtype = "str" if is_text else array.dtype.newbyteorder("<").str
        header = [name, dtype, list(dims[name]), list(array.shape), variable_attributes[name]]
        sha.update(_canonical(header))
        if is_text:
            sha.update(_canonical(array.tolist()))
        elif array.size:
            sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces, ended by a line feed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunks of at most about 64 MiB, split along the leading dimensions, as few as possible."""
    chunks = [max(1, length) for length in shape]
    for axis, length in enumerate(chunks):
        pieces = math.ceil(math.prod(chunks) * itemsize / MAX_CHUNK_BYTES)
        if pieces <= 1:
            break
        chunks[axis] = math.ceil(length / min(length, pieces))
    return tuple(chunks)


def _read_members(path: Path, wanted: set[str] | None) -> dict[str, Buffer]:
    """The files inside the zip, each checked against its CRC.

    All files are read, or only those of the group itself and of the wanted arrays.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file")
    make = default_buffer_prototype().buffer.from_bytes
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                name
                for name in archive.namelist()
                if wanted is None or name == "zarr.json" or name.split("/")[0] in wanted
            ]
            return {name: make(archive.read(name)) for name in names}
    except _ZIP_ERRORS as error:
        # A seek to a place before the beginning, which a damaged table of contents asks for.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise ReadError(f"{path}: cannot be read: {error.strerror}") from error
        if _is_foreign(path):
            raise ArtefactError(f"{path}: not an artefact of this package ({error})") from error
        raise ArtefactError(
            f"{path}: damaged or cut short ({error}); delete the file and run the stage again"
        ) from error


def _is_foreign(path: Path) -> bool:
    """Whether a file that cannot be read was never an artefact, by its name or first bytes."""
    if not path.name.endswith(".zarr.zip"):
        return True
    with contextlib.suppress(OSError), open(path, "rb") as file:
        begins = file.read(len(_ZIP_MAGIC))
        return begins not in (_ZIP_MAGIC, b"") and not zipfile.is_zipfile(file)
    return False

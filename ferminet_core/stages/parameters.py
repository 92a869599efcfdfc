"""Trees of arrays as named variables of a dataset, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ferminet_core.errors import ArtefactError

# marks the variable that stands for an empty dict or list
_EMPTY = "empty_container"


def to_variables(tree: Any, prefix: str = "params") -> dict[str, xr.Variable]:
    """Flatten nested dicts and lists of arrays to variables named "params.a.b.0.c".

    Args:
        tree: nested dict (string keys) and list of arrays (numpy, JAX or Python numbers).
        prefix: first component of the names; keeps several trees apart in one dataset.

    Returns:
        One `xarray.Variable` per leaf, its dtype unchanged, with dimensions of its own. An empty
        dict or list becomes a variable of size zero, so that the tree comes back the same.

    Raises:
        TypeError: a container other than dict and list, or a key that is not a string.
        ValueError: a key that is empty, a number, or holds "." or "/".
    """
    if isinstance(tree, (dict, list)) and not tree:
        kind = "dict" if isinstance(tree, dict) else "list"
        return {prefix: xr.Variable((f"{prefix}.0",), np.zeros(0, np.int8), {_EMPTY: kind})}
    if isinstance(tree, dict):
        items = [(_checked_key(key, prefix), value) for key, value in tree.items()]
    elif isinstance(tree, list):
        items = [(str(index), value) for index, value in enumerate(tree)]
    elif tree is None or isinstance(tree, (tuple, str, bytes)):
        raise TypeError(f"{prefix}: a parameter tree holds dicts, lists and arrays, not {tree!r}")
    else:
        array = np.asarray(tree)
        return {prefix: xr.Variable([f"{prefix}.{axis}" for axis in range(array.ndim)], array)}
    flat: dict[str, xr.Variable] = {}
    for key, value in items:
        flat |= to_variables(value, f"{prefix}.{key}")
    return flat


def from_variables(ds: xr.Dataset, prefix: str = "params") -> Any:
    """The tree that `to_variables` flattened into `ds`; leaves are numpy arrays.

    Raises:
        ArtefactError: `ds` holds no such variables, or a list with a missing entry.
    """
    leaves = {
        str(name): variable
        for name, variable in ds.variables.items()
        if str(name) == prefix or str(name).startswith(prefix + ".")
    }
    if not leaves:
        raise ArtefactError(f"no variables {prefix}.* in this artefact")
    return _unflatten(leaves, prefix)


def _unflatten(leaves: Mapping[str, xr.Variable], prefix: str) -> Any:
    """Rebuild the subtree whose leaves' names start with `prefix`."""
    if prefix in leaves:
        kind = leaves[prefix].attrs.get(_EMPTY)
        return {"dict": {}, "list": []}[kind] if kind else leaves[prefix].values
    children: dict[str, dict[str, xr.Variable]] = {}
    for name, variable in leaves.items():
        key = name[len(prefix) + 1 :].split(".", 1)[0]
        children.setdefault(key, {})[name] = variable
    subtree = {key: _unflatten(below, f"{prefix}.{key}") for key, below in children.items()}
    if not all(key.isdigit() for key in subtree):
        return subtree
    if sorted(map(int, subtree)) != list(range(len(subtree))):
        raise ArtefactError(f"{prefix}: entries {sorted(subtree)} do not form a whole list")
    return [subtree[str(index)] for index in range(len(subtree))]


def _checked_key(key: Any, prefix: str) -> str:
    """A dict key that survives the flattening."""
    if not isinstance(key, str):
        raise TypeError(f"{prefix}: key {key!r} is not a string")
    if not key or key.isdigit() or "." in key or "/" in key:
        raise ValueError(f"{prefix}: key {key!r} is empty, a number, or holds '.' or '/'")
    return key

"""Parts of JAX and kfac-jax that this package replaces.

Each function replaces one part, says for which version and why, and does nothing when called again.
`tests/parallel/test_patches.py` compares each with the installed version and fails when the
upstream code has changed: then look whether the replacement can go.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ferminet_core.storage import files


class _OrderedSet(set[Any]):
    """A set that iterates in the order of insertion."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._order = dict.fromkeys(items)
        super().__init__(self._order)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._order)


def _put_whole(cache: Any, key: str, value: bytes) -> None:
    """Store an executable under its name only once it is whole."""
    path = Path(str(cache.path)) / f"{key}-cache"
    if not path.exists():
        with files.atomic_file(path) as file:
            file.write(value)


def keep_executables_whole() -> None:
    """Make JAX's compilation cache write its files atomically (JAX 0.9.1, `LRUCache.put`).

    JAX writes straight to the final name and never replaces an existing file. A process killed in
    between, or a full disk, would leave a stump on which every later start fails.
    """
    from jax._src.lru_cache import LRUCache

    LRUCache.put = _put_whole  # type: ignore[method-assign, assignment]


def key_executables_by_device_kind() -> None:
    """Leave the topology of the devices out of JAX's cache keys.

    This replaces `cache_key._hash_accelerator_config` of JAX 0.9.1. The topology of CPUs differs
    from rank to rank, and only rank 0 keeps its compiled programs. All other ranks would therefore
    compile at every start. The name of the cache folder holds the part of the topology that
    describes the processors. For CPUs only.
    """
    from jax._src import cache_key

    cache_key._hash_accelerator_config = cache_key._hash_devices  # type: ignore[assignment]


def order_layer_inputs() -> None:
    """Give kfac-jax's tracer a fixed order of layer inputs (kfac-jax 0.0.8, `tracer`).

    kfac-jax iterates over a set of variables, in the order of memory addresses. Every process would
    then compile another program and never hit the compilation cache. A fixed order changes no
    number.
    """
    from kfac_jax._src import tracer

    vars(tracer)["set"] = _OrderedSet

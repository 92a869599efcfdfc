"""Each replacement of upstream code is for the installed version, and still needed.

A failure here after an upgrade says: look at the new upstream code. Where it no longer needs the
replacement, delete the replacement and its test; otherwise adapt both to the new version.
"""

import inspect
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from jax._src import cache_key, config, lru_cache
from kfac_jax._src import tracer

from ferminet_core.parallel import patches


def source(module: ModuleType) -> str:
    """The file itself: a replaced function would give the source of its replacement."""
    return Path(inspect.getfile(module)).read_text(encoding="utf-8")


def test_jax_is_the_version_that_is_patched() -> None:
    assert version("jax") == "0.9.1"


def test_jax_still_writes_executables_straight_to_their_names() -> None:
    assert "      cache_path.write_bytes(val)\n" in source(lru_cache)
    # The replacement has no eviction: it is for a cache without a limit of its size.
    assert config.compilation_cache_max_size.value == -1


def test_an_executable_has_its_name_only_once_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches.keep_executables_whole()
    cache = lru_cache.LRUCache(str(tmp_path), max_size=-1)
    cache.put("first", b"whole")
    assert cache.get("first") == b"whole"
    cache.put("first", b"other")  # what is there stays
    assert cache.get("first") == b"whole"

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        cache.put("second", b"stump")
    assert cache.get("second") is None


def test_jax_still_hashes_the_topology_and_by_kind_two_ranks_share_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = source(cache_key)
    assert "get_topology_for_devices(accelerator_devices).serialize()" in text
    assert "_hash_accelerator_config(hash_obj, devices)" in text  # looked up when called
    monkeypatch.setattr(cache_key, "_hash_accelerator_config", cache_key._hash_accelerator_config)
    patches.key_executables_by_device_kind()
    hashed: list[list[bytes]] = []
    for rank in (0, 1):
        device = SimpleNamespace(device_kind="cpu", id=rank, process_index=rank)
        parts: list[bytes] = []
        cache_key._hash_accelerator_config(
            SimpleNamespace(update=parts.append), np.asarray([device])
        )
        hashed.append(parts)
    assert hashed[0] == hashed[1]
    assert hashed[0]


def test_kfac_jax_is_the_version_that_is_patched() -> None:
    assert version("kfac-jax") == "0.0.8"


def test_kfac_jax_still_iterates_over_a_set_of_variables() -> None:
    assert "list(set(v for v in layer_tag_invars" in source(tracer)


def test_a_set_of_the_tracer_keeps_the_order_of_insertion() -> None:
    patches.order_layer_inputs()
    items = [object() for _ in range(100)]
    made = vars(tracer)["set"](iter([*items, items[0]]))
    assert list(made) == items
    assert made - {items[0]} == set(items[1:])

"""Artefacts come back whole, and anything less is noticed."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from ferminet_core.errors import ArtefactError
from ferminet_core.storage import artefacts


def example() -> xr.Dataset:
    rng = np.random.default_rng(1)
    return xr.Dataset(
        {
            "energy_local": (
                ("sample", "walker"),
                rng.standard_normal((5, 4)),
                {"units": "hartree"},
            ),
            "walkers": (("walker", "electron", "xyz"), rng.standard_normal((4, 2, 3)).astype("f4")),
            "n_nonfinite": ("sample", np.arange(5)),
            "accepted": ("walker", np.array([True, False, True, True])),
            "zeros": ("sample", np.zeros(5)),
            "empty": ("nothing", np.zeros(0, np.float32)),
            "width": ((), np.float32(0.3)),
            "atom": ("nucleus", np.array(["Li", "H"])),
        },
        coords={"sample": np.arange(5) * 10, "label": ("walker", list("abcd"))},
        attrs={"stage": "inference", "energy_Eh": -1.1745, "rhat": float("nan"), "shape": (1, 2)},
    )


def test_round_trip_keeps_values_types_dimensions_and_attributes(tmp_path: Path) -> None:
    ds = example()
    digest = artefacts.save(ds, tmp_path / "a.zarr.zip")
    loaded = artefacts.load(tmp_path / "a.zarr.zip")
    xr.testing.assert_equal(loaded, ds)
    assert {n: v.dtype for n, v in loaded.variables.items()} == {
        n: v.dtype for n, v in ds.variables.items()
    }
    assert set(loaded.coords) == {"sample", "label"}
    assert loaded["energy_local"].attrs == {"units": "hartree"}
    assert loaded.attrs["digest"] == digest == artefacts.digest(tmp_path / "a.zarr.zip")
    assert loaded.attrs["shape"] == [1, 2]
    assert np.isnan(loaded.attrs["rhat"])


def test_some_variables_can_be_read_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    artefacts.save(example(), path)
    some = artefacts.load(path, only=("energy_local", "label"))
    assert set(some.variables) == {"energy_local", "label"}
    assert set(some.coords) == {"label"}
    np.testing.assert_array_equal(some["energy_local"], example()["energy_local"])
    assert some.attrs == artefacts.load(path).attrs
    assert not artefacts.load(path, only=()).variables
    with pytest.raises(ArtefactError, match=r"a\.zarr\.zip: holds no variable nothing, pmove"):
        artefacts.load(path, only=("zeros", "pmove", "nothing"))
    # What is read is checked, what is not is not even looked at.
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("walkers/c/0/0/0")
        start = info.header_offset + 30 + len(info.filename) + len(info.extra)
    damaged = bytearray(path.read_bytes())
    damaged[start] ^= 1
    path.write_bytes(damaged)
    artefacts.load(path, only=("energy_local",))
    with pytest.raises(ArtefactError, match="damaged"):
        artefacts.load(path, only=("walkers",))


def test_same_content_gives_same_bytes_and_other_content_another_digest(tmp_path: Path) -> None:
    first, second = tmp_path / "a.zarr.zip", tmp_path / "b.zarr.zip"
    digest = artefacts.save(example(), first)
    # Saving what was loaded changes nothing: digest and version are not part of themselves.
    assert artefacts.save(artefacts.load(first), second) == digest
    assert first.read_bytes() == second.read_bytes()
    changed = example()
    changed["zeros"][3] = 1e-300
    others = {
        artefacts.save(changed, second),
        artefacts.save(example().assign_attrs(stage="x"), second),
        artefacts.save(example().rename(zeros="noughts"), second),
        artefacts.save(example().rename_dims(electron="e"), second),
        artefacts.save(example().assign(width=np.float64(np.float32(0.3))), second),
    }
    assert len(others) == 5
    assert digest not in others


def test_opens_with_xarray_alone(tmp_path: Path) -> None:
    artefacts.save(example(), tmp_path / "a.zarr.zip")
    with zarr.storage.ZipStore(tmp_path / "a.zarr.zip", mode="r") as zip_store:
        opened = xr.open_zarr(zip_store, consolidated=False).load()
    xr.testing.assert_equal(opened, example())
    assert set(opened.coords) == {"sample", "label"}


def test_opens_by_its_path_and_reads_an_array_when_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    artefacts.save(example(), path)
    with artefacts.open_dataset(str(path)) as opened:
        assert not any(variable.variable._in_memory for variable in opened.data_vars.values())
        xr.testing.assert_equal(opened.load(), example())
        assert set(opened.coords) == {"sample", "label"}
    path.write_bytes(path.read_bytes()[:-100])
    for name, words in (("a.zarr.zip", "cannot be opened"), ("b.zarr.zip", "no such file")):
        with pytest.raises(ArtefactError, match=f"{name}: {words}"):
            artefacts.open_dataset(tmp_path / name)


def test_large_arrays_get_few_chunks_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefacts, "MAX_CHUNK_BYTES", 4096)
    ds = xr.Dataset({"a": (("x", "y"), np.arange(5000.0).reshape(10, 500))})  # 40 kB
    artefacts.save(ds, tmp_path / "a.zarr.zip")
    with zarr.storage.ZipStore(tmp_path / "a.zarr.zip", mode="r") as zip_store:
        chunks = zarr.open_array(zip_store, path="a", mode="r").chunks
    assert chunks == (1, 500)
    xr.testing.assert_equal(artefacts.load(tmp_path / "a.zarr.zip"), ds)
    assert artefacts._chunk_shape((3, 2000), 8) == (1, 500)  # a row alone is too large
    assert artefacts._chunk_shape((), 8) == ()


@pytest.mark.parametrize(
    ("ds", "words"),
    [
        (xr.Dataset({"a": ("x", np.array([{}, 1], dtype=object))}), "dtype object"),
        (xr.Dataset({"a": ("x", np.array(["2020-01-01"], dtype="M8[ns]"))}), "datetime64"),
        (xr.Dataset(attrs={"a": {1, 2}}), "set cannot be stored"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path: Path, ds: xr.Dataset, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        artefacts.save(ds, tmp_path / "a.zarr.zip")
    assert list(tmp_path.iterdir()) == []


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    artefacts.save(example(), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 251):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtefactError, match=r"a\.zarr\.zip"):
            artefacts.load(path)


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    artefacts.save(example(), path)
    whole = path.read_bytes()
    original = artefacts.load(path)
    noticed = 0
    messages: set[str] = set()
    positions = range(0, len(whole), 17)
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            # Some bits of a zip say nothing on the content: time stamps, permissions.
            assert artefacts.load(path).identical(original)
        except ArtefactError as error:
            noticed += 1
            messages.add(str(error))
    # Times and permissions take about a tenth of this small file.
    assert noticed > 0.8 * len(positions)
    assert not any("\n" in message for message in messages)


def rewrite(path: Path, **changes: bytes | None) -> None:
    """Replace (or, with None, leave out) members of a zip, with right checksums."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= {name: data for name, data in changes.items() if data is not None}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if name not in changes or changes[name] is not None:
                archive.writestr(name, data)


def test_a_missing_chunk_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    artefacts.save(example(), path)
    # Zarr itself reads it as zeros, which it would be right about for `zeros` alone.
    rewrite(path, **{"energy_local/c/0/0": None})
    with pytest.raises(ArtefactError, match="does not match its digest"):
        artefacts.load(path)


def test_changed_metadata_and_other_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    artefacts.save(example(), path)
    with zipfile.ZipFile(path) as archive:
        root = archive.read("zarr.json")
    rewrite(path, **{"zarr.json": root.replace(b"-1.1745", b"-1.1755")})
    with pytest.raises(ArtefactError, match="does not match its digest"):
        artefacts.load(path)
    rewrite(path, **{"zarr.json": root.replace(b'"format_version": 1', b'"format_version": 99')})
    with pytest.raises(ArtefactError, match="format_version is 99"):
        artefacts.load(path)
    rewrite(path, **{"zarr.json": b"{"})
    with pytest.raises(ArtefactError, match="unreadable Zarr metadata"):
        artefacts.load(path)
    rewrite(path, **{"zarr.json": None})
    with pytest.raises(ArtefactError, match="not an artefact"):
        artefacts.load(path)
    with pytest.raises(ArtefactError, match=r"absent\.zarr\.zip: no such file"):
        artefacts.load(tmp_path / "absent.zarr.zip")


@pytest.mark.parametrize("name", ["scan.csv", "a.zarr.zip"])
def test_no_one_is_advised_to_delete_another_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("R,E\n1.4,-1.17\n")
    with pytest.raises(ArtefactError, match="not an artefact of this package") as found:
        artefacts.digest(path)
    assert "delete" not in str(found.value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zarr.json", '{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    for read in (artefacts.digest, artefacts.attributes):
        with pytest.raises(ArtefactError, match="not an artefact of this package") as found:
            read(path)
        assert "delete" not in str(found.value)


def test_attributes_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    artefacts.save(example(), path)
    assert artefacts.attributes(path).items() >= artefacts.load(path).attrs.items()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtefactError, match="damaged or cut short"):
        artefacts.attributes(path)


def test_a_crash_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zarr.zip"
    digest = artefacts.save(example(), path)

    def crash(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        artefacts.save(example().assign_attrs(stage="other"), path)
    monkeypatch.undo()
    assert artefacts.digest(path) == digest
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr.zip"]


def test_an_unwritable_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"a\.zarr\.zip: cannot be written: No such file"):
        artefacts.save(example(), tmp_path / "absent" / "a.zarr.zip")

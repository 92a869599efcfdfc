"""Input files as text: regular files only, up to a bound."""

import os
from pathlib import Path

import pytest

from ferminet_core.inputs.text_files import read_text


def test_text_of_a_file_and_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfna\xc3\xafve\r\n")
    (tmp_path / "b").symlink_to("a")
    assert read_text(tmp_path / "a") == read_text(tmp_path / "b") == "na\xefve\r\n"


def test_encodings_are_tried_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"caf\xe9")
    assert read_text(tmp_path / "a", encodings=("utf-8-sig", "latin-1")) == "caf\xe9"
    with pytest.raises(OSError, match="it is not UTF-8 text"):
        read_text(tmp_path / "a")


def test_the_bound_is_the_largest_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123456789")
    assert len(read_text(tmp_path / "a", 9)) == 9
    with pytest.raises(OSError, match="it is larger than 8 bytes"):
        read_text(tmp_path / "a", 8)


def test_what_is_no_file_is_refused_and_no_descriptor_stays_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    for path, reason in (
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe", "it is a device or a pipe"),
        (Path("/dev/zero"), "it is a device or a pipe"),
        (Path("a\0b"), "no file can have this name"),
        (Path("a\ud800"), "no file can have this name"),
    ):
        with pytest.raises(OSError, match=reason):
            read_text(path)
    assert len(before) == (len(os.listdir("/proc/self/fd")) if before else 0)

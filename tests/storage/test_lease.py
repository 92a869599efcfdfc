"""One process at a time on a work folder, and none waits for a dead one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ferminet_core.errors import LockedError
from ferminet_core.storage import files, lease
from ferminet_core.storage.lease import Lease


def now(work: Path) -> Lease:
    return Lease(work).acquire(lambda: "no waiting", lambda line: None)


def holding_process(work: Path) -> subprocess.Popen[str]:
    """Another process that holds the lease until it is killed."""
    code = (
        "import sys, pathlib, signal\n"
        "from ferminet_core.storage.lease import Lease\n"
        "lease = Lease(pathlib.Path(sys.argv[1])).acquire(lambda: 'no', print)\n"
        "print('held', flush=True)\n"
        "signal.pause()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(work)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    child.stdout.close()
    return child


def test_the_second_steps_aside_and_names_the_first(tmp_path: Path) -> None:
    with now(tmp_path) as first:
        first.check()
        with pytest.raises(LockedError, match=f"process {os.getpid()} on .*; no waiting"):
            now(tmp_path)
        assert lease.holder_of(tmp_path) is not None
    assert lease.holder_of(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    now(tmp_path).release()


def test_a_live_holder_is_waited_for_and_a_killed_one_is_not(tmp_path: Path) -> None:
    child = holding_process(tmp_path)
    told: list[str] = []
    taken = threading.Event()

    def take() -> None:
        Lease(tmp_path).acquire(lambda: None, told.append)
        taken.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    assert not taken.wait(1.5)
    assert told == [
        f"waiting for {lease.describe(json.loads((tmp_path / lease.NAME).read_text()))}"
        ", which works on this stage"
    ]
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert taken.wait(10.0)  # far less than the expiry of a lease
    assert lease.EXPIRY_S > 10.0


def test_a_stopped_process_keeps_its_lease_only_while_it_renews_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder of whose machine nothing is known: its time stamp stands still."""
    monkeypatch.setattr(lease, "EXPIRY_S", 1.5)
    child = holding_process(tmp_path)
    child.send_signal(signal.SIGKILL)
    child.wait()
    path = tmp_path / lease.NAME
    files.write_json(path, {**json.loads(path.read_text()), "machine": "another node"})
    began = time.monotonic()
    now_held = Lease(tmp_path).acquire(lambda: None, lambda line: None)
    # Not before the expiry, counted from a file written up to 0.1 s before `began`. The upper limit
    # only guards against a hang: a lease is looked at again after 0.5 s.
    assert 1.4 < time.monotonic() - began < 10.0
    now_held.check()
    now_held.release()


def test_a_renewed_lease_of_another_machine_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRY_S", 0.6)
    path = tmp_path / lease.NAME
    files.write_json(path, {"token": "x", "machine": "another node", "host": "n7", "pid": 1})
    deadline = time.monotonic() + 2.5

    def look() -> str | None:
        os.utime(path)  # its holder lives
        return "enough" if time.monotonic() > deadline else None

    with pytest.raises(LockedError, match="process 1 on n7"):
        Lease(tmp_path).acquire(look, lambda line: None)


def test_a_file_server_with_a_wrong_clock_hides_no_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utime, link = os.utime, os.link

    def stamp(path: Path, times: tuple[float, float] | None = None) -> None:
        utime(path, times or (time.time() - 3600,) * 2)  # without times, the server decides

    def create(source: Path, target: Path) -> None:
        link(source, target)
        stamp(target)

    monkeypatch.setattr(os, "utime", stamp)
    monkeypatch.setattr(os, "link", create)
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    monkeypatch.setattr(lease, "_machine", lambda: "the holder's node")
    with now(tmp_path):
        monkeypatch.setattr(lease, "_machine", lambda: "another node")
        assert lease.holder_of(tmp_path) is not None
        utime(tmp_path / lease.NAME, (0, 0))
        deadline = time.monotonic() + 20  # guards against a hang
        while lease.holder_of(tmp_path) is None:  # until the next renewal
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_lease_that_cannot_be_read_now_is_not_lost(tmp_path: Path) -> None:
    held = now(tmp_path)
    path = tmp_path / lease.NAME
    content = path.read_text()
    path.unlink()
    path.mkdir()  # reading it is an error of the file system
    with pytest.raises(IsADirectoryError):
        held.check()
    path.rmdir()
    path.write_text(content)
    held.check()
    held.release()
    assert not path.exists()


def test_whoever_lost_its_lease_writes_nothing(tmp_path: Path) -> None:
    first = now(tmp_path)
    path = tmp_path / lease.NAME
    files.write_json(path, {**json.loads(path.read_text()), "token": "another", "host": "n7"})
    with pytest.raises(LockedError, match=r"taken over by process .* on n7"):
        first.check()
    target = tmp_path / "status.json"
    with pytest.raises(LockedError):
        files.write_json(target, {"x": 1}, first.check)
    assert not target.exists()
    first.release()
    assert path.exists()  # not its own


def test_of_many_contenders_one_takes_a_dead_lease(tmp_path: Path) -> None:
    """Twelve processes' worth of threads on one dead lease, several times."""
    for _ in range(5):
        path = tmp_path / lease.NAME
        holder = {"token": "dead", "machine": lease._machine(), "pid": 2**22 + 1, "ticks": 1}
        files.write_json(path, holder)
        got: list[Lease] = []
        barrier = threading.Barrier(12)

        def contend(barrier: threading.Barrier = barrier, got: list[Lease] = got) -> None:
            barrier.wait()
            with contextlib.suppress(LockedError):
                got.append(now(tmp_path))

        threads = [threading.Thread(target=contend) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        holders = []
        for one in got:
            try:
                one.check()
                holders.append(one)
            except LockedError:
                continue
        assert len(holders) == 1
        holders[0].release()


def test_a_file_system_without_hard_links_serves_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with now(tmp_path) as first:
        first.check()
        with pytest.raises(LockedError):
            now(tmp_path)
    source, target = tmp_path / "result", tmp_path / "output"
    source.write_bytes(b"x")
    files.publish(source, target)
    assert target.read_bytes() == b"x"

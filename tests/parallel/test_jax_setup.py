"""What a process finds on its machine: devices, and a cache that is bounded and its own."""

import os
import re
import time
from pathlib import Path

import pytest
from helpers.stages import command, spec_of

from ferminet_core.errors import ArtefactError, InputError
from ferminet_core.parallel import jax_setup

TYPE = jax_setup.processor_type()


# --- devices --------------------------------------------------------------------------------------


def pretrain(folder: Path, *options: str, **environment: str) -> tuple[int, list[str]]:
    """Exit code and lines of a stage that ends after its first line: its parent is missing."""
    path = folder / "spec.json"
    path.write_text(spec_of(folder).model_dump_json())
    files = [f"--reference={folder / 'none'}", f"--out={folder / 'p.zarr.zip'}"]
    files.append(f"--work={folder / 'w'}")
    # The tests' own variables choose CPUs.
    variables = {"JAX_PLATFORMS": "", "FERMINET_CACHE": str(folder / "cache"), **environment}
    done = command("pretrain", path, *files, *options, **variables)
    return done.returncode, done.stderr.splitlines()


def driver(folder: Path) -> str:
    """A search path with a driver's tool that lists two GPUs."""
    tool = folder / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\n'\n")
    tool.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_the_first_line_names_time_attempt_and_devices(tmp_path: Path) -> None:
    code, lines = pretrain(tmp_path, "--devices", "2", "--attempt", "3", XLA_FLAGS="")
    assert code == ArtefactError.exit_code
    host = re.escape(os.uname().nodename)
    expected = rf"r_1\.4 pretrain: 20\d\d-\d\d-\d\dT\S+, attempt 3, 2 x cpu on {host}"
    assert re.fullmatch(expected, lines[0])


def test_gpus_that_jax_leaves_idle_are_told(tmp_path: Path) -> None:
    _, lines = pretrain(tmp_path, PATH=driver(tmp_path))
    assert '; 2 NVIDIA GPUs stay idle: pip install "jax[cuda12]==' in lines[0]
    _, lines = pretrain(tmp_path, PATH=driver(tmp_path), CUDA_VISIBLE_DEVICES="-1")
    assert "idle" not in lines[0]


def test_gpus_for_a_jax_on_cpus_are_refused(tmp_path: Path) -> None:
    temporary = {"TMPDIR": str(tmp_path)}
    code, lines = pretrain(tmp_path, "--gpus", "1", PATH=driver(tmp_path), **temporary)
    assert code == InputError.exit_code
    assert lines[-1].startswith("error: --gpus: found 1, but JAX computes on CPUs; install ")
    # Who asks for CPUs by name gets them.
    cpus = {"PATH": driver(tmp_path), "JAX_PLATFORMS": "cpu", **temporary}
    code, lines = pretrain(tmp_path, "--gpus", "1", **cpus)
    assert code == ArtefactError.exit_code
    assert " x cpu on " in lines[0]


# --- the compilation cache ------------------------------------------------------------------------


def executable(base: Path, name: str, age_s: float, size: int = 1000) -> Path:
    path = base / "jax-0.9.1" / "x86_64-abc" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    return path


def test_the_cache_loses_what_was_used_longest_ago(tmp_path: Path) -> None:
    old = executable(tmp_path, "a-cache", 300.0)
    used = executable(tmp_path, "b-cache", 400.0)
    os.utime(used, (time.time() - 10.0, used.stat().st_mtime))  # read again since
    left_over = executable(tmp_path, ".c-cache.0123.tmp", 500.0)  # of a killed process
    new = executable(tmp_path, "d-cache", 20.0)
    other = tmp_path / "notes.txt"
    other.write_text("not of the cache")
    jax_setup.trim_cache(tmp_path, 4000.0)
    assert all(path.exists() for path in (old, used, left_over, new))
    jax_setup.trim_cache(tmp_path, 2500.0)
    assert [path.exists() for path in (old, used, left_over, new)] == [False, True, False, True]
    jax_setup.trim_cache(tmp_path, 0.0)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [other]


def test_every_start_keeps_the_cache_within_its_bound(tmp_path: Path) -> None:
    old = executable(tmp_path / "cache", "a-cache", 300.0, size=20_000)
    pretrain(tmp_path, FERMINET_CACHE_GB="0.00001")
    assert not old.exists()
    code, lines = pretrain(tmp_path, FERMINET_CACHE_GB="much")
    assert code == InputError.exit_code
    assert lines == ["error: FERMINET_CACHE_GB: found 'much'; allowed: gigabytes above 0 (try 2)"]


def kept(folder: Path) -> bool:
    return jax_setup._made(folder / "jax-0.9.1" / TYPE) is not None


def test_code_that_others_may_have_put_there_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kept(tmp_path)
    (tmp_path / "jax-0.9.1" / TYPE).chmod(0o777)
    assert not kept(tmp_path)
    assert "everyone can write to it; set FERMINET_CACHE" in capsys.readouterr().err


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_another_user_made_in_a_common_one_is_not_used(tmp_path: Path) -> None:
    common = tmp_path / "tmp"
    common.mkdir()
    common.chmod(0o1777)
    assert kept(common)
    os.chown(common / "jax-0.9.1", 65534, 65534)
    assert not kept(common)
    common.chmod(0o755)  # a project's folder, where colleagues share a cache
    assert kept(common)


@pytest.mark.parametrize("home", ["/proc/none", None])
def test_without_a_home_folder_nothing_is_kept(
    home: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("FERMINET_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home:
        monkeypatch.setenv("HOME", home)
    else:  # as for a user whom the system does not know, in a container
        monkeypatch.setattr(Path, "home", no_home)
    assert jax_setup._made(jax_setup.cache_folder("0.9.1")) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("compiled code is not kept: ")
    assert line.endswith('set FERMINET_CACHE to a folder that can be written, or to "off"')

"""The number of cores: what a container's control groups grant, as the kernel shows it."""

import os
from pathlib import Path

import pytest

from ferminet_core.parallel import cpu_quota, jax_setup

V2 = "29 23 0:26 {root} {point} rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 25 0:30 {root} {point} rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
MEMORY = "34 25 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"


def process(folder: Path, groups: str, mounts: str) -> Path:
    """The part of /proc/self that names control groups."""
    (folder / "cgroup").write_text(groups)
    (folder / "mountinfo").write_text(mounts)
    return folder


def group(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")
    return folder


def test_a_container_with_a_name_space_of_its_own(tmp_path: Path) -> None:
    """As in Docker and Kubernetes with version 2: its own group is the root of what it sees."""
    tree = group(tmp_path / "tree", cpu__max="150000 100000")
    proc = process(tmp_path, "0::/\n", V2.format(root="/", point=tree))
    assert cpu_quota.cpu_quota(proc) == 1.5


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    tree = group(tmp_path / "tree")  # the root group of the machine has no limit
    group(tree / "slice", cpu__max="200000 100000")
    group(tree / "slice" / "job", cpu__max="max 100000")
    proc = process(tmp_path, "0::/slice/job\n", V2.format(root="/", point=tree))
    assert cpu_quota.cpu_quota(proc) == 2.0


def test_a_container_of_version_1(tmp_path: Path) -> None:
    """It sees its own group as the root of the mount, and its path in the tree of the machine."""
    tree = group(tmp_path / "tree", cpu__cfs_quota_us="400000", cpu__cfs_period_us="100000")
    groups = "4:memory:/docker/a1\n1:cpu,cpuacct:/docker/a1\n0::/\n"
    mounts = MEMORY + V1.format(root="/docker/a1", point=tree)
    proc = process(tmp_path, groups, mounts)
    assert cpu_quota.cpu_quota(proc) == 4.0
    group(tree, cpu__cfs_quota_us="-1")
    assert cpu_quota.cpu_quota(proc) is None


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (2.0, 2), (2.9, 2), (0.5, 1), (64.0, 8)])
def test_cores_are_bounded_by_the_quota(
    quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(jax_setup, "cpu_quota", lambda: quota)
    assert jax_setup.available_cores() == cores

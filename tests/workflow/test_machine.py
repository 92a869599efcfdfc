"""What Snakemake takes from the machine: its cores, and no home folder."""

import os
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.workflow import Workflow
from snakemake.profiles import ProfileConfigFileParser  # type: ignore[import-untyped]

from ferminet_core.parallel import jax_setup


@pytest.mark.parametrize("profile", ["local", "whole-node"])
def test_the_cores_of_a_profile_are_those_that_a_container_grants(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(jax_setup, "cpu_quota", lambda: 6.5)
    with open(ROOT / "cluster_profiles" / profile / "config.yaml") as file:
        assert int(ProfileConfigFileParser().parse(file)["cores"]) == 6


def test_a_scan_needs_no_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/none")  # where not even root can make a folder
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert Workflow(tmp_path).jobs()["reference"] == 3

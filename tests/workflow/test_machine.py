"""What Snakemake takes from the machine and leaves on it: cores, no home folder, logs."""

import os
import re
from pathlib import Path

import pytest
from configargparse import ConfigFileParserException  # type: ignore[import-untyped]
from helpers.paths import ROOT
from helpers.workflow import Workflow
from snakemake.profiles import ProfileConfigFileParser  # type: ignore[import-untyped]

from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import write_specs
from ferminet_core.parallel import jax_setup


@pytest.mark.parametrize("profile", ["local", "whole-node"])
def test_the_cores_of_a_profile_are_those_that_a_container_grants(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(jax_setup, "cpu_quota", lambda: 6.5)
    with open(ROOT / "cluster_profiles" / profile / "config.yaml") as file:
        assert int(ProfileConfigFileParser().parse(file)["cores"]) == 6


def of_optimise(gpus: int, nodes: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The resources of an optimisation in the profile for GPUs."""
    monkeypatch.setenv("FERMINET_GPUS", str(gpus))
    monkeypatch.setenv("FERMINET_NODES", str(nodes))
    with open(ROOT / "cluster_profiles" / "slurm-gpu" / "config.yaml") as file:
        found = ProfileConfigFileParser().parse(file)["set-resources"]
    words = (entry.partition(":") for entry in found)
    return dict(word.split("=", 1) for rule, _, word in words if rule == "optimise")


@pytest.mark.parametrize(("gpus", "nodes"), [(4, 1), (8, 1), (4, 2), (1, 2), (8, 64)])
def test_every_gpu_of_every_node_has_a_rank(
    gpus: int, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = of_optimise(gpus, nodes, monkeypatch)
    assert found["gres"] == f"'gpu:{gpus}'"
    assert (found["nodes"], found["tasks_per_node"]) == (str(nodes), str(gpus))
    assert found["mpi"].startswith("'srun ")
    assert found["slurm_extra"] == "'--signal=USR1@60'"


def test_one_gpu_has_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    found = of_optimise(1, 1, monkeypatch)
    assert found == {"gres": "'gpu:1'", "cpus_per_task": "8", "mem_mb_per_cpu": "2000"}


def test_a_whole_node_has_as_many_runs_as_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus in ("1", "8"):
        monkeypatch.setenv("FERMINET_GPUS", gpus)
        with open(ROOT / "cluster_profiles" / "whole-node" / "config.yaml") as file:
            assert ProfileConfigFileParser().parse(file)["resources"] == [f"gpu={gpus}"]


@pytest.mark.parametrize("profile", ["slurm-gpu", "whole-node"])
@pytest.mark.parametrize("gpus", ["four", "0", "-1", ""])
def test_a_wrong_number_of_gpus_is_named(
    profile: str, gpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERMINET_GPUS", gpus)
    expected = re.escape(f"FERMINET_GPUS: found {gpus!r}; allowed: a whole number")
    path = ROOT / "cluster_profiles" / profile / "config.yaml"
    with open(path) as file, pytest.raises(ConfigFileParserException, match=expected):
        ProfileConfigFileParser().parse(file)


def test_a_scan_needs_no_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/none")  # where not even root can make a folder
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert Workflow(tmp_path).jobs()["reference"] == 3


def test_the_log_of_a_stage_keeps_all_attempts(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path)
    write_specs(load_scan(workflow.system), workflow.results)
    scan = workflow.results / "test"
    kept = scan / "runs" / "r_2" / "reference.work" / "attempts.log"
    kept.parent.mkdir(parents=True)
    kept.write_text("why the first attempt failed\n")
    done = workflow.snakemake(str(scan / "runs" / "r_2" / "reference.zarr.zip"))
    assert done.returncode == 0, done.stderr
    first, second = kept.read_text().splitlines()
    assert first == "why the first attempt failed"
    assert re.match(r"r_2 reference: 20\S+, attempt 1, 1 x cpu on ", second)
    assert (scan / "logs" / "r_2" / "reference.log").read_text() == f"{second}\n"

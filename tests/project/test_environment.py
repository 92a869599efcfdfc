"""pyproject.toml, requirements.lock, environment.yml and what is installed say the same."""

import importlib.metadata
import re
import tomllib
from typing import Any

import pytest
import yaml
from helpers.paths import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PYTHONS = ("3.11", "3.12", "3.13")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked() -> list[Requirement]:
    lines = re.findall(r"^(\S+==.*?) \\$", LOCK, flags=re.MULTILINE)
    return [Requirement(line) for line in lines]


def conda_pins() -> list[Requirement]:
    data = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip_section = next(entry for entry in data["dependencies"] if isinstance(entry, dict))
    return [Requirement(line) for line in pip_section["pip"]]


def pins_for(requirements: list[Requirement], python: str) -> dict[str, str]:
    """Versions that hold on Linux for a Python version."""
    place = {
        "python_version": python,
        "python_full_version": f"{python}.5",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
    }
    chosen: dict[str, str] = {}
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate(place):
            name = canonicalize_name(requirement.name)
            assert name not in chosen, f"{name} is pinned twice for Python {python}"
            chosen[name] = str(requirement.specifier).removeprefix("==")
    return chosen


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_has_what_the_project_asks_for(python: str) -> None:
    extras = project()["optional-dependencies"]
    wanted = [*project()["dependencies"], *extras["mpi"], *extras["dev"]]
    pins = pins_for(locked(), python)
    for line in wanted:
        requirement = Requirement(line)
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), line


def test_jax_and_kfac_are_exactly_these() -> None:
    pins = pins_for(locked(), "3.11")
    assert (pins["jax"], pins["jaxlib"], pins["kfac-jax"]) == ("0.9.1", "0.9.1", "0.0.8")
    extras = project()["optional-dependencies"]
    assert extras["cuda12"] == ["jax[cuda12]==0.9.1"]
    assert extras["cuda13"] == ["jax[cuda13]==0.9.1"]


def test_one_pin_is_a_nightly_and_distrax_still_asks_for_it() -> None:
    """The line in pyproject.toml says why; it can go once this fails."""
    nightly = [r.name for r in locked() if next(iter(r.specifier)).prereleases]
    assert nightly == ["tfp-nightly"]
    (asked,) = [line for line in project()["dependencies"] if line.startswith("tfp-nightly")]
    assert (
        Requirement(asked).specifier
        == next(r for r in locked() if r.name == "tfp-nightly").specifier
    )
    requires = importlib.metadata.requires("distrax") or []
    assert "tfp-nightly" in {canonicalize_name(Requirement(line).name) for line in requires}


def test_every_pin_has_hashes() -> None:
    entries = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE | re.IGNORECASE)[1:]
    assert len(entries) == len(locked()) > 100
    assert [e for e in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}$", e, re.M)] == []


def test_lock_names_no_index_host_or_path() -> None:
    """So that any mirror, or a folder of wheels, serves it."""
    for line in LOCK.splitlines():
        pin = r"[a-z0-9._-]+==[^\s/]+( ; [^/]+)? \\"
        hash_line = r"    --hash=sha256:[0-9a-f]{64}( \\)?"
        assert re.fullmatch(f"{pin}|{hash_line}", line, re.IGNORECASE), line


@pytest.mark.parametrize("python", PYTHONS)
def test_conda_environment_has_the_same_pins(python: str) -> None:
    pins, conda = pins_for(locked(), python), pins_for(conda_pins(), python)
    assert conda.items() <= pins.items()
    direct = {canonicalize_name(Requirement(line).name) for line in project()["dependencies"]}
    assert direct <= set(conda)


def test_conda_environment_says_that_it_was_not_solved() -> None:
    assert "not solved" in (ROOT / "environment.yml").read_text(encoding="utf-8")


def test_installed_versions_are_the_locked_ones() -> None:
    import sys

    pins = pins_for(locked(), f"{sys.version_info.major}.{sys.version_info.minor}")
    wrong = {
        name: (version, importlib.metadata.version(name))
        for name, version in pins.items()
        if importlib.metadata.version(name) != version
    }
    assert wrong == {}


def test_python_versions_agree() -> None:
    assert project()["requires-python"] == ">=3.11,<3.14"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in makefile
    assert makefile.count("--python-version 3.11") == 2

"""Molecules and settings that are built in code."""

from pathlib import Path

import pytest

import ferminet_core
from ferminet_core.units import ANGSTROM_IN_BOHR


def test_a_pseudopotential_is_that_of_a_system_file(tmp_path: Path) -> None:
    path = tmp_path / "hcl.yaml"
    path.write_text(
        "{units: bohr, atoms: [H 0 0 0, Cl 0 0 2.4], preset: smoke, pseudopotential: {Cl: ccecp}, "
        "overrides: {reference.basis: ccecp-cc-pvdz}}"
    )
    (run,) = ferminet_core.load_system(path).runs
    atoms = ["H 0 0 0", "Cl 0 0 2.4"]
    found = ferminet_core.molecule(atoms, pseudopotential={"Cl": "ccecp"})
    assert found == run.molecule
    assert found.electrons == (4, 4)
    with pytest.raises(ferminet_core.InputError, match=r"^pseudopotential\.Br: no atom is Br"):
        ferminet_core.molecule(atoms, pseudopotential={"Br": "ccecp"})


def test_a_molecule_and_settings_are_those_of_a_system_file(tmp_path: Path) -> None:
    path = tmp_path / "lih.yaml"
    path.write_text(
        "{units: angstrom, atoms: [Li 0 0 0, H 0 0 3/2], charge: 1, spin: 1, preset: smoke, "
        "overrides: {optimise.iterations: 7, network: {layers: 2}}}"
    )
    (run,) = ferminet_core.load_system(path).runs
    atoms = ["Li 0 0 0", "H 0 0 3/2"]
    assert ferminet_core.molecule(atoms, units="angstrom", charge=1, spin=1) == run.molecule
    config = ferminet_core.configuration(
        "smoke", network={"layers": 2}, **{"optimise.iterations": 7}
    )
    assert config == run.config


def test_units() -> None:
    atoms = ["H 0 0 0", "H 0 0 1"]
    found = [ferminet_core.molecule(atoms, units=units) for units in ("bohr", "angstrom")]
    assert [m.positions[1] for m in found] == [(0, 0, 1), (0, 0, ANGSTROM_IN_BOHR)]


def test_an_xyz_file(tmp_path: Path) -> None:
    path = tmp_path / "h2.xyz"
    path.write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    expected = ferminet_core.molecule(["H 0 0 0", "H 0 0 0.74"], units="angstrom")
    assert ferminet_core.molecule(path, units="angstrom") == expected


@pytest.mark.parametrize(
    ("content", "units", "line"),
    [
        ("2\n\nH 0 0 0\nH 0 0 0.74\n", None, "units: is missing; allowed: angstrom"),
        ("2\nunits=bohr\nH 0 0 0\nH 0 0 1.4\n", "angstrom", "atoms: .*: found units of bohr"),
        ("1\n\nHe 0 0 0\n1\n\nHe 0 0 1\n", "bohr", "atoms: .*: has 2 frames; allowed: one"),
        ("1\nLattice='9 0 0 0 9 0 0 0 9'\nHe 0 0 0\n", "bohr", "atoms: .*periodic cell"),
        ("9" * 5000, "bohr", "atoms: .*allowed: the number of atoms"),
    ],
)
def test_a_wrong_xyz_file_is_one_line(
    content: str, units: str | None, line: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(content)
    with pytest.raises(ferminet_core.InputError, match=f"^{line}") as caught:
        ferminet_core.molecule(path, units=units)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((["H 0 0 0"], "inch", 0, 1), "units: found 'inch'"),
        ((["Hx 0 0 0"], "bohr", 0, 1), r"atoms\[0\]: unknown element 'Hx'"),
        ((["H 0 0 R"], "bohr", 0, 1), r"atoms\[0\]: .*R"),
        ((["H 0 0 0"], "bohr", 0, 0), "molecule: spin: found 0"),
        ((["H 0 0 1e6"], "bohr", 0, 1), r"molecule: atom 1 \(H\): found a coordinate of 1e\+06"),
        ((["H 0 0 0"], "bohr", -200, 1), "molecule: charge: found -200; allowed: at least -1"),
        ((["H 0 0 0"], "bohr", -(10**9), 1), "molecule: charge: found -1000000000"),
        ((["H 0 0 0"], "bohr", -(10**5000), 1), "molecule: charge: found a number of thousands"),
        ((["D 0 0 0"], "bohr", 0, 1), r"atoms\[0\]: unknown element 'D'; deuterium"),
        (("H 0 0 0", "bohr", 0, 1), "atoms: found 'H 0 0 0'; allowed: a list"),
    ],
)
def test_a_wrong_molecule_is_one_line(arguments: tuple, line: str) -> None:
    with pytest.raises(ferminet_core.InputError, match=f"^{line}") as caught:
        ferminet_core.molecule(*arguments)
    assert "\n" not in str(caught.value)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ferminet_core.InputError, match=r"optimise.iteration: unknown setting"):
        ferminet_core.configuration("smoke", optimise={"iteration": 3})
    with pytest.raises(ferminet_core.InputError, match="preset: unknown preset 'smoky'"):
        ferminet_core.configuration("smoky")
    with pytest.raises(ferminet_core.InputError, match=r"preset: is missing; allowed: .*small"):
        ferminet_core.configuration(seed=3)
    with pytest.raises(ferminet_core.InputError, match="walkers: found 1000000000000; allowed: at"):
        ferminet_core.configuration("smoke", mcmc={"walkers": 10**12})
    with pytest.raises(ferminet_core.InputError, match="seed: found a number of thousands of dig"):
        ferminet_core.configuration("smoke", seed=10**5000)

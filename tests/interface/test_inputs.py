"""Molecules and settings that are built in code."""

from pathlib import Path

import pytest

import ferminet_core
from ferminet_core.units import ANGSTROM_IN_BOHR


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
    ("arguments", "line"),
    [
        ((["H 0 0 0"], "inch", 0, 1), "units: found 'inch'"),
        ((["Hx 0 0 0"], "bohr", 0, 1), r"atoms\[0\]: unknown element 'Hx'"),
        ((["H 0 0 R"], "bohr", 0, 1), r"atoms\[0\]: .*R"),
        ((["H 0 0 0"], "bohr", 0, 0), "molecule: spin: found 0"),
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

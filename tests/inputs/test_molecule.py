"""Molecules: electrons, nuclear repulsion, and everything that cannot be."""

import math
import re
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ferminet_core import units
from ferminet_core.errors import InputError
from ferminet_core.inputs.molecule import ELEMENTS, Molecule

WATER = Molecule(
    symbols=("O", "H", "H"),
    positions=((0.0, 0.0, 0.2217), (0.0, 1.4309, -0.8867), (0.0, -1.4309, -0.8867)),
)


def atom(symbol: str, charge: int = 0, spin: int = 0) -> Molecule:
    return Molecule(symbols=(symbol,), positions=((0.0, 0.0, 0.0),), charge=charge, spin=spin)


@pytest.mark.parametrize(
    ("symbol", "charge", "spin", "electrons"),
    [
        ("H", 0, 1, (1, 0)),
        ("H", -1, 0, (1, 1)),
        ("He", 0, 0, (1, 1)),
        ("He", 0, 2, (2, 0)),
        ("Li", 0, 1, (2, 1)),
        ("N", 0, 3, (5, 2)),
        ("Ne", 9, 1, (1, 0)),
        ("Kr", 0, 0, (18, 18)),
    ],
)
def test_electrons(symbol: str, charge: int, spin: int, electrons: tuple[int, int]) -> None:
    molecule = atom(symbol, charge, spin)
    assert molecule.electrons == (molecule.n_up, molecule.n_down) == electrons
    assert molecule.n_electrons == sum(electrons)


def test_nuclear_charges_are_places_in_the_periodic_table() -> None:
    assert len(ELEMENTS) == len(set(ELEMENTS)) == 94
    known = {"Ne": 10, "Ar": 18, "Ca": 20, "Fe": 26, "Zn": 30, "Kr": 36, "Xe": 54, "Au": 79}
    known |= {"Rn": 86, "Pu": 94}
    assert {symbol: ELEMENTS.index(symbol) + 1 for symbol in known} == known
    assert WATER.charges == (8.0, 1.0, 1.0)


def test_nuclear_repulsion() -> None:
    h2 = Molecule(symbols=("H", "H"), positions=((0.0, 0.0, -0.7), (0.0, 0.0, 0.7)))
    assert h2.nuclear_repulsion == pytest.approx(1 / 1.4, rel=1e-15)  # one rounding
    assert atom("He").nuclear_repulsion == 0.0
    z, x = np.array(WATER.charges), np.array(WATER.positions)
    distances = np.linalg.norm(x[:, None] - x, axis=-1) + np.diag([np.inf] * 3)
    # Roundings of a sum of three.
    expected = np.sum(z[:, None] * z / distances) / 2
    assert WATER.nuclear_repulsion == pytest.approx(expected, rel=1e-14)


def test_repulsion_agrees_with_pyscf() -> None:
    gto = pytest.importorskip("pyscf.gto")
    mole = gto.M(
        atom=list(zip(WATER.symbols, WATER.positions, strict=True)),
        unit="bohr",
        basis="sto-3g",
        verbose=0,
    )
    # Two roundings of the same sum.
    assert WATER.nuclear_repulsion == pytest.approx(mole.energy_nuc(), rel=1e-13)


def test_round_trip_keeps_the_fingerprint() -> None:
    again = Molecule.model_validate_json(WATER.model_dump_json())
    assert again == WATER
    assert again.fingerprint == WATER.fingerprint
    assert re.fullmatch("[0-9a-f]{64}", again.fingerprint)


def test_fingerprint_sees_everything() -> None:
    moved = (*WATER.positions[:2], (0.0, -1.4309, -0.8867000001))
    others = [
        WATER.model_copy(update={"symbols": ("S", "H", "H")}),
        WATER.model_copy(update={"positions": moved}),
        WATER.model_copy(update={"charge": 2}),
        WATER.model_copy(update={"spin": 2}),
    ]
    assert len({molecule.fingerprint for molecule in (WATER, *others)}) == 5


@pytest.mark.parametrize(
    ("molecule", "line"),
    [
        ({"symbols": ("H",)}, "spin: found 0 .* impossible with 1 electron; did you mean 1"),
        (
            {"symbols": ("He",), "spin": 1},
            "impossible with 2 electrons; did you mean 0.* allowed: 0, 2",
        ),
        ({"symbols": ("He",), "spin": 4}, "did you mean 2"),
        ({"symbols": ("He",), "spin": -2}, "spin: found -2 .*; did you mean 0"),
        ({"symbols": ("Ne",), "spin": 3}, "allowed: 0, 2, 4, 6, 8, ..."),
        ({"symbols": ("H",), "charge": 1}, "charge: found 1, .* 0 electrons; allowed: at most 0"),
        ({"symbols": ("He",), "charge": 5}, "leaves -3 electrons; allowed: at most 1"),
        ({"symbols": ("h",), "spin": 1}, "unknown element 'h'; did you mean 'H'"),
        ({"symbols": ("CL",), "spin": 1}, "unknown element 'CL'; did you mean 'Cl'"),
        ({"symbols": ("Hee",)}, "unknown element 'Hee'; did you mean 'He'"),
        ({"symbols": ("Zz",)}, "unknown element 'Zz'; allowed: H to Kr"),
        ({"symbols": ("He",), "spin": 0.5}, "spin: found 0.5; allowed: a valid integer"),
        ({"symbols": ("He",), "charge": True}, "charge: found True; allowed: a valid integer"),
        ({"symbols": ()}, "symbols: found ()"),
        ({"symbols": ("H", "H")}, "2 symbols for 1 positions"),
        (
            {"symbols": ("He",), "positions": ((0.0, math.nan, 0.0),)},
            "positions\\[0\\]\\[1\\]: found nan; allowed: a finite number",
        ),
        (
            {"symbols": ("H", "He", "H"), "positions": ((0, 0, 0), (0, 0, 2), (0, 1e-4, 0))},
            "atoms 1 \\(H\\) and 3 \\(H\\) coincide: 0.0001 bohr apart; allowed: at least 0.001",
        ),
    ],
)
def test_each_impossible_molecule_has_its_line(molecule: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line) as caught:
        Molecule.make(**{"positions": ((0.0, 0.0, 0.0),), **molecule}, where="h2.yaml: geometry a")
    assert str(caught.value).startswith("h2.yaml: geometry a: ")
    assert "\n" not in str(caught.value)


def test_molecules_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        WATER.charge = 1  # type: ignore[misc]


def test_units_are_consistent() -> None:
    """Through other constants of CODATA 2018, to their ten digits or so."""
    speed_of_light, planck, charge = 299792458.0, 6.62607015e-34, 1.602176634e-19
    fine_structure, electron_mass = 7.2973525693e-3, 9.1093837015e-31
    hartree = electron_mass * (fine_structure * speed_of_light) ** 2
    wavenumber = hartree / (planck * speed_of_light) / 100
    bohr = planck / (2 * math.pi) / (electron_mass * speed_of_light * fine_structure)
    ratios = [
        units.HARTREE_IN_JOULE / hartree,
        units.HARTREE_IN_EV / (hartree / charge),
        units.HARTREE_IN_INVERSE_CM / wavenumber,
        units.BOHR_IN_ANGSTROM * 1e-10 / bohr,
        units.BOHR_IN_ANGSTROM * units.ANGSTROM_IN_BOHR,
        units.ATOMIC_MASS_UNIT_IN_ELECTRON_MASSES / (1.66053906660e-27 / electron_mass),
        units.CHEMICAL_ACCURACY * units.HARTREE_IN_KCAL_PER_MOL,
    ]
    assert ratios == pytest.approx([1.0] * len(ratios), rel=1e-9)
    # As in every textbook, to its seven digits.
    assert abs(units.HARTREE_IN_KCAL_PER_MOL - 627.5095) < 5e-5


@pytest.mark.parametrize(
    ("molecule", "line"),
    [
        ({"charge": -2}, r"charge: found -2; allowed: at least -1 \(an atom in vacuum binds"),
        ({"charge": -(10**9)}, "charge: found -1000000000; allowed: at least -1"),
        ({"positions": ((0.0, -1000.1, 0.0),)}, r"found a coordinate of -1000\.1 bohr; allowed:"),
        ({"symbols": ("Kr",) * 6, "positions": tuple((0.0, 0.0, float(i)) for i in range(6))},
         "found 216 electrons; allowed: at most 200"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused_but_a_stored_molecule_stays(
    molecule: dict[str, Any], line: str
) -> None:
    """A molecule that an earlier version accepted must still open."""
    parts = {"symbols": ("He",), "positions": ((0.0, 0.0, 0.0),), **molecule}
    with pytest.raises(InputError, match=f"^given: .*{line}"):
        Molecule.make(**parts, where="given")
    n = sum(ELEMENTS.index(symbol) + 1 for symbol in parts["symbols"]) - parts.get("charge", 0)
    assert Molecule.model_validate({**parts, "spin": n % 2}).n_electrons == n


@pytest.mark.parametrize("symbol", ["D", "Rb", "U", "X-H", "H1", "Bq", "Zz", "6"])
def test_a_line_about_an_element_says_which_there_are(symbol: str) -> None:
    with pytest.raises(InputError, match=r"; .*allowed: H to Kr($|, .* to Pu$)") as caught:
        Molecule.make((symbol,), ((0.0, 0.0, 0.0),))
    assert "did you mean" not in str(caught.value)

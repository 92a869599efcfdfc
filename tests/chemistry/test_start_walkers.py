"""Start configurations: exact sampling of which atoms hold the electrons, and their distances."""

import itertools

import numpy as np
import pytest

from ferminet_core.chemistry.gaussian_basis import build_mole
from ferminet_core.chemistry.hartree_fock import solve
from ferminet_core.chemistry.orbitals import Shells
from ferminet_core.chemistry.start_walkers import (
    _place,
    orthogonal_orbitals,
    sample_sites,
    start_walkers,
)
from ferminet_core.errors import ArtefactError
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.start_settings import ReferenceConfig

# Seeded, so a test passes always or never; five standard errors leave room for changes of the seed.
SIGMAS = 5.0


def diatomic(first: str, second: str, distance: float) -> Molecule:
    half = 0.5 * distance
    return Molecule(symbols=(first, second), positions=((0.0, 0.0, -half), (0.0, 0.0, half)))


def on_second_atom(walkers: np.ndarray) -> np.ndarray:
    """Whether each electron is nearer to the atom at z > 0: (W, n)."""
    return walkers[..., 2] > 0.0


def test_sites_follow_the_squared_determinant() -> None:
    rng = np.random.default_rng(5)
    orbitals = np.linalg.qr(rng.normal(size=(5, 3)))[0]
    size = 20000
    sites = np.sort(sample_sites(rng, orbitals, size), axis=1)
    for subset in itertools.combinations(range(5), 3):
        expected = np.linalg.det(orbitals[list(subset)]) ** 2
        found = np.mean(np.all(sites == subset, axis=1))
        error = np.sqrt(expected * (1.0 - expected) / size)
        assert abs(found - expected) < SIGMAS * error


def test_a_full_shell_is_always_full_and_no_electrons_take_no_sites() -> None:
    rng = np.random.default_rng(0)
    full = sample_sites(rng, np.linalg.qr(rng.normal(size=(4, 4)))[0], 50)
    assert np.array_equal(np.sort(full, axis=1), np.tile(np.arange(4), (50, 1)))
    assert sample_sites(rng, np.zeros((4, 0)), 50).shape == (50, 0)


def test_rhf_gives_covalent_and_ionic_patterns_alike() -> None:
    molecule = diatomic("H", "H", 10.0)
    reference = solve(molecule, ReferenceConfig(method="rhf", basis="cc-pvdz"))
    walkers = start_walkers(np.random.default_rng(1), reference, molecule, 4000)
    second = on_second_atom(walkers)
    ionic = np.mean(second[:, 0] == second[:, 1])
    # Both electrons in sigma_g = (a + b) / sqrt 2: each of the four patterns has probability 1/4.
    assert abs(ionic - 0.5) < SIGMAS * np.sqrt(0.25 / 4000)


def test_uhf_gives_covalent_patterns_of_both_spins() -> None:
    molecule = diatomic("H", "H", 10.0)
    reference = solve(molecule, ReferenceConfig(basis="cc-pvdz"))
    assert reference.sizes["determinant"] == 2
    walkers = start_walkers(np.random.default_rng(2), reference, molecule, 4000)
    second = on_second_atom(walkers)
    # An electron of the most diffuse orbital lies beyond the mid-plane, 5 bohr away, once in 500.
    assert np.mean(second[:, 0] == second[:, 1]) < 0.01
    assert abs(np.mean(second[:, 0]) - 0.5) < SIGMAS * np.sqrt(0.25 / 4000)


def test_mean_occupation_of_an_atom_is_its_loewdin_population() -> None:
    molecule = diatomic("Li", "H", 3.015)
    reference = solve(molecule, ReferenceConfig(basis="cc-pvdz"))
    momenta = reference["shell_momentum"].to_numpy()
    centres = np.repeat(reference["shell_centre"].to_numpy(), 2 * momenta + 1)
    for spin in ("up", "down"):
        orbitals = orthogonal_orbitals(reference, spin)[0]
        sites = sample_sites(np.random.default_rng(3), orbitals, 4000)
        on_lithium = np.sum(centres[sites] == 0, axis=1)
        expected = np.sum(orbitals[centres == 0] ** 2)
        error = np.std(on_lithium) / np.sqrt(4000)
        assert abs(np.mean(on_lithium) - expected) < SIGMAS * error


@pytest.mark.parametrize("cartesian", [False, True], ids=["spherical", "cartesian"])
def test_electrons_are_placed_with_the_second_moments_of_their_orbitals(cartesian: bool) -> None:
    nucleus = np.asarray([[1.0, -2.0, 0.5]])
    molecule = Molecule(symbols=("N",), positions=(tuple(nucleus[0]),), spin=3)
    reference = solve(molecule, ReferenceConfig(basis="cc-pvtz"), cartesian)  # s to f
    mole = build_mole(molecule, "cc-pvtz", cartesian)
    with mole.with_common_origin(nucleus[0]):
        moments = mole.intor("int1e_rr").reshape(3, 3, mole.nao, mole.nao)
    size = 4000
    sites = np.repeat(np.arange(mole.nao)[:, None], size, axis=1)
    shells = Shells.from_dataset(reference)
    d = _place(np.random.default_rng(7), shells, nucleus, sites) - nucleus
    products = d[..., :, None] * d[..., None, :]
    found, error = products.mean(axis=1), products.std(axis=1) / np.sqrt(size)
    norm = np.diagonal(mole.intor("int1e_ovlp"))
    expected = np.moveaxis(np.diagonal(moments, axis1=2, axis2=3) / norm, -1, 0)
    # 30 or 35 orbitals with six moments each, and a grid good to 1e-3.
    assert np.all(np.abs(found - expected) < SIGMAS * error + 1e-3 * np.abs(expected))


def test_spins_come_in_order_and_no_electron_of_a_spin_is_fine() -> None:
    positions = ((0.0, 0.0, 0.0), (0.0, 0.0, 3.0))
    triplet = Molecule(symbols=("H", "H"), positions=positions, spin=2)
    reference = solve(triplet, ReferenceConfig(basis="sto-3g"))
    walkers = start_walkers(np.random.default_rng(0), reference, triplet, 64)
    assert walkers.shape == (64, 2, 3)
    assert np.isfinite(walkers).all()


def test_nuclei_are_the_molecule_s() -> None:
    molecule = diatomic("N", "N", 2.068)
    reference = solve(molecule, ReferenceConfig(basis="cc-pvdz"))
    shift = np.asarray([10.0, 0.0, 0.0])
    moved = molecule.model_copy(
        update={"positions": tuple(tuple(shift + r) for r in np.asarray(molecule.positions))}
    )
    here = start_walkers(np.random.default_rng(8), reference, molecule, 4096)
    there = start_walkers(np.random.default_rng(8), reference, moved, 4096)
    assert here.shape == (4096, 14, 3)
    np.testing.assert_allclose(there - shift, here, atol=1e-12)


def test_another_molecule_s_reference_is_refused() -> None:
    reference = solve(diatomic("H", "H", 1.4), ReferenceConfig(basis="sto-3g"))
    with pytest.raises(ArtefactError, match=r"1 \+ 1 electrons.* 2 \+ 2"):
        start_walkers(np.random.default_rng(0), reference, diatomic("Li", "H", 3.0), 4)

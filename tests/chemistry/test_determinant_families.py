"""Families of determinants against full configuration interaction, and at broken bonds."""

import itertools

import numpy as np
import pytest
from helpers.molecules import atom, diatomic
from pyscf import ao2mo, fci, gto, scf

from ferminet_core.chemistry import determinant_families as families
from ferminet_core.chemistry.determinant_families import Determinant
from ferminet_core.chemistry.gaussian_basis import build_mole
from ferminet_core.chemistry.hartree_fock import solve
from ferminet_core.chemistry.orbitals import half_power
from ferminet_core.chemistry.start_walkers import start_walkers
from ferminet_core.chemistry.symmetry import operations
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.start_settings import ReferenceConfig


def vector(mole: gto.Mole, one: Determinant) -> np.ndarray:
    """A determinant over the strings of PySCF's full CI in Loewdin's orbitals."""
    half = half_power(mole.intor("int1e_ovlp"))
    spins = []
    for orbitals in (one.up, one.down):
        block, n = half @ orbitals, orbitals.shape[1]
        strings = fci.cistring.make_strings(range(mole.nao), n)
        rows = [[a for a in range(mole.nao) if int(s) >> a & 1] for s in strings]
        spins.append(np.array([np.linalg.det(block[row]) for row in rows]))
    return np.outer(*spins)


def random_determinant(mole: gto.Mole, rng: np.random.Generator) -> Determinant:
    inverse = np.linalg.inv(half_power(mole.intor("int1e_ovlp")))
    up, down = (inverse @ np.linalg.qr(rng.normal(size=(mole.nao, n)))[0] for n in mole.nelec)
    return Determinant(up, down, np.zeros(mole.nelec[0]), np.zeros(mole.nelec[1]))


def spin_flips(one: Determinant) -> list[Determinant]:
    """Determinants whose overlaps with each other have vanishing singular values."""
    up, down = np.concatenate([one.up, one.down], axis=1), one.down.shape[1]
    return [
        one._replace(up=np.delete(up, chosen, axis=1), down=up[:, list(chosen)])
        for chosen in itertools.combinations(range(up.shape[1]), down)
    ]


@pytest.mark.parametrize("kind", ["random", "orthogonal"])
def test_matrix_elements_are_those_of_full_ci(kind: str) -> None:
    molecule = Molecule(
        symbols=("H",) * 4, positions=tuple((0.0, 0.3 * i, 1.7 * i) for i in range(4)), spin=2
    )
    mole = build_mole(molecule, "6-31g")
    rng = np.random.default_rng(0)
    inverse = np.linalg.inv(half_power(mole.intor("int1e_ovlp")))
    found = [random_determinant(mole, rng) for _ in range(3)]
    if kind == "orthogonal":
        basis = inverse @ np.linalg.qr(rng.normal(size=(mole.nao, 4)))[0]
        found = spin_flips(found[0]._replace(up=basis[:, :3], down=basis[:, 3:]))
    hamiltonian, overlaps, lowered = families.matrix_elements(mole, found)

    core = inverse @ scf.hf.get_hcore(mole) @ inverse
    repulsion = ao2mo.restore(1, ao2mo.full(mole, inverse), mole.nao)
    absorbed = fci.direct_spin1.absorb_h1e(core, repulsion, mole.nao, mole.nelec, 0.5)
    vectors = [vector(mole, one) for one in found]
    applied = [
        fci.direct_spin1.contract_2e(absorbed, v, mole.nao, mole.nelec) + mole.energy_nuc() * v
        for v in vectors
    ]
    squared = [fci.spin_op.contract_ss(v, mole.nao, mole.nelec) - 2.0 * v for v in vectors]
    for matrix, kets in ((hamiltonian, applied), (overlaps, vectors), (lowered, squared)):
        exact = np.array([[np.sum(bra * ket) for ket in kets] for bra in vectors])
        # Vanishing singular values count as 1e-6, and elements are of order 1.
        np.testing.assert_allclose(matrix, exact, atol=1e-5 if kind == "orthogonal" else 1e-11)


def test_a_determinant_twice_changes_no_energy() -> None:
    mole = build_mole(diatomic("He", "He", 5.0, charge=1, spin=1), "6-31g")
    rng = np.random.default_rng(0)
    found = [random_determinant(mole, rng) for _ in range(3)]
    coefficients, energy = families.combine(mole, [*found, found[1]])
    alone, expected = families.combine(mole, found)
    # Rounding of energies of 5 hartree over the smallest eigenvalue of the overlaps, 0.1 or so.
    assert energy == pytest.approx(expected, abs=1e-10)
    both = coefficients[:3] + np.array([0.0, coefficients[3], 0.0])
    # Coefficients are rounded to 1e-4 of the largest.
    np.testing.assert_allclose(both / both[0], alone / alone[0], atol=1e-2)


@pytest.mark.parametrize("cartesian", [False, True])
def test_images_of_orbitals_have_the_values_of_the_orbitals(cartesian: bool) -> None:
    # All shells of a tetrahedron, up to f, in any orientation.
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) @ turn
    molecule = Molecule(symbols=("He",) * 4, positions=tuple(map(tuple, 1.5 * corners)))
    mole = build_mole(molecule, "cc-pvqz", cartesian)
    points = np.random.default_rng(2).normal(size=(20, 3))
    group = operations(mole.atom_coords(), mole.atom_charges().astype(float))
    name = "GTOval_cart" if cartesian else "GTOval_sph"
    for operation in group[1::5]:
        image = families.ao_image(mole, operation)
        values = mole.eval_gto(name, points) @ image
        before = mole.eval_gto(name, points @ operation.matrix)  # matrix^-1 r
        # A representation found by least squares, of functions of order 1.
        np.testing.assert_allclose(values, before, atol=1e-10)


@pytest.mark.parametrize("length", [5.0, 8.0])
def test_a_charge_on_one_helium_comes_with_its_image(length: float) -> None:
    molecule = diatomic("He", "He", length, charge=1, spin=1)
    dataset = solve(molecule, ReferenceConfig(basis="cc-pvdz"))
    assert dataset.sizes["determinant"] == 2
    np.testing.assert_array_equal(np.abs(dataset["coefficient"]), 1.0)
    # The sum is lower than one of them by their interaction, which falls with the bond.
    assert -0.01 < dataset.attrs["e_family"] - dataset.attrs["e_hf"] < 0.0
    walkers = start_walkers(np.random.default_rng(0), dataset, molecule, 4000)
    # Three electrons on two atoms, one more on either with the same probability.
    right = np.sum(walkers[..., 2] > 0.0, axis=1)
    assert abs(np.mean(right) - 1.5) < 5.0 * np.std(right) / np.sqrt(len(right))


def test_nitrogen_and_hydrogen_apart_are_a_pure_triplet() -> None:
    dataset = solve(diatomic("N", "H", 8.0, spin=2), ReferenceConfig(basis="sto-3g"))
    assert dataset.attrs["s2"] == pytest.approx(3.0, abs=0.01)
    # |3/2, 3/2>|1/2, -1/2> and |3/2, 1/2>|1/2, 1/2> make S = M = 1: 3 to -1 for each flip.
    sizes = np.abs(dataset["coefficient"].values)
    np.testing.assert_allclose(sizes, [1.0, 1 / 3, 1 / 3, 1 / 3], atol=1e-3)
    lone = [
        solve(one, ReferenceConfig(basis="sto-3g")).attrs["e_hf"]
        for one in (atom("N", spin=3), atom("H", spin=1))
    ]
    # In this basis the orbitals of an atom have no choice.
    assert dataset.attrs["e_family"] == pytest.approx(sum(lone), abs=1e-5)
    for spin, n in (("up", 5), ("down", 3)):
        mo, overlap = dataset[f"mo_{spin}"].values, dataset["overlap"].values
        assert mo.shape[0] == 4
        for c in mo:
            np.testing.assert_allclose(c.T @ overlap @ c, np.eye(n), atol=1e-9)


def test_two_oxygen_atoms_are_a_triplet_of_triplets() -> None:
    dataset = solve(diatomic("O", "O", 8.0, spin=2), ReferenceConfig(basis="sto-3g"))
    lone = solve(atom("O", spin=2), ReferenceConfig(basis="sto-3g")).attrs["e_hf"]
    # One determinant has half a singlet atom.
    assert dataset.attrs["e_hf"] - 2 * lone > 0.03
    assert dataset.attrs["e_family"] - 2 * lone < 0.5 * (dataset.attrs["e_hf"] - 2 * lone)


@pytest.mark.parametrize(
    "molecule",
    [
        diatomic("He", "He", 2.0, charge=1, spin=1),
        diatomic("H", "H", 2.0, charge=1, spin=1),
        diatomic("O", "O", 2.0, spin=2),
        diatomic("N", "H", 1.96, spin=2),
        atom("N", spin=3),
        atom("Li", spin=1),
        diatomic("H", "H", 6.0),
        diatomic("N", "N", 8.0),
    ],
    ids=["He2+", "H2+", "O2", "NH", "N", "Li", "H2", "N2"],
)
def test_references_that_need_no_family_stay_as_they_were(molecule: Molecule) -> None:
    dataset = solve(molecule, ReferenceConfig(basis="sto-3g"))
    assert "coefficient" not in dataset
    assert "e_family" not in dataset.attrs
    broken = molecule.spin == 0
    assert dataset.sizes["determinant"] == 1 + broken

"""Determinants that together represent a state where one of them breaks a symmetry.

A Hartree-Fock solution of a stretched bond has two ways to go wrong. It may put a charge on one of
several equal atoms, as in He2+. And its determinant may be a mixture of total spins: of two O atoms
in a triplet, or of N and H, one atom has to have its spin antiparallel to an axis in part, which no
single determinant can express. In both cases a few determinants made of the same orbitals do:
the images of the solution under the operations that permute equal nuclei, and the other ways to
distribute the spins over the singly occupied orbitals.

The coefficients of the determinants, with their signs, are those of the lowest state of the wanted
spin in the space that they span (non-orthogonal configuration interaction; A. J. W. Thom and
M. Head-Gordon, J. Chem. Phys. 131, 124113 (2009)).
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pyscf import gto, scf

from ferminet_core.chemistry.orbitals import angular_matrix, half_power, monomials
from ferminet_core.chemistry.symmetry import MOST_DETERMINANTS, Operation, operations

# An up and a down orbital that overlap by less hold one electron each. A bond's come apart that far
# at about twice its length.
PAIRED = math.sqrt(0.5)
# Determinants that overlap by more say the same.
SAME = 0.95
# Determinants with less of the largest coefficient are left out.
LEAST_SHARE = 0.02
# Singular values of an overlap of orbitals count as no smaller. Matrix elements are then off by
# this at most, relatively, and rounding contributes 1e-16 over this.
_LEAST_OVERLAP = 1e-6
# Eigenvalues of the overlap of determinants below this come from linear dependence.
_DEPENDENT = 1e-5
# In the search for the coefficients <S^2> above S(S + 1) costs this, hartree: more than the
# difference of any two states that share their open-shell orbitals.
_SPIN_COST = 1.0


class Determinant(NamedTuple):
    """Occupied orbitals (ao, n) of each spin, orthonormal, and their energies (n,), hartree."""

    up: np.ndarray
    down: np.ndarray
    up_energies: np.ndarray
    down_energies: np.ndarray

    def flipped(self) -> "Determinant":
        """The determinant with up and down exchanged."""
        return Determinant(self.down, self.up, self.down_energies, self.up_energies)


class Family(NamedTuple):
    """Determinants whose sum is the state.

    coefficients: (D,); energy: of the sum, hartree
    parities: operations (3, 3) that are their own inverse and made determinants of this family,
    with the factor 1 or -1 that they multiply the sum with
    """

    determinants: list[Determinant]
    coefficients: np.ndarray
    energy: float
    parities: list[tuple[np.ndarray, int]]


def family(mole: gto.Mole, first: Determinant, spin_broken: bool) -> Family | None:
    """The determinants that represent the state of a Hartree-Fock solution.

    There are at most `MOST_DETERMINANTS`.

    Args:
        mole: The molecule.
        first: The solution.
        spin_broken: Whether the solution comes with its spin-flipped image in any case.

    Returns:
        The family; None where the solution (with that image) needs no further determinants.
    """
    overlap = mole.intor_symmetric("int1e_ovlp")
    known = [first, first.flipped()] if spin_broken else [first]
    # All ways to distribute spins make up a state of pure spin, part of them does not. So images
    # come after these.
    found = list(known) if spin_broken else spin_patterns(first, overlap)
    images = _images(mole)
    used = set()
    for one in list(found):
        for number, (_, image) in enumerate(images):
            turned = _turned(one, image)
            largest = max(abs(determinant_overlap(turned, other, overlap)) for other in found)
            if largest < SAME and len(found) < MOST_DETERMINANTS:
                found.append(turned)
                used.add(number)
    if len(found) == len(known):
        return None
    coefficients, energy = combine(mole, found)
    kept = [k for k, c in enumerate(coefficients) if k == 0 or abs(c) > LEAST_SHARE]
    if len(kept) < len(found):
        found = [found[k] for k in kept]
        coefficients, energy = combine(mole, found)
    if len(found) == 1:
        return None
    parities = _parities(found, coefficients, overlap, [images[i] for i in sorted(used)])
    return Family(found, coefficients, energy, parities)


def determinant_overlap(one: Determinant, other: Determinant, overlap: np.ndarray) -> float:
    """<one|other>, with the overlap matrix of the AOs."""
    up, down = one.up.T @ overlap @ other.up, one.down.T @ overlap @ other.down
    return float(np.linalg.det(up) * np.linalg.det(down))


# --- spins ----------------------------------------------------------------------------------------


def spin_patterns(first: Determinant, overlap: np.ndarray) -> list[Determinant]:
    """All ways to give the singly occupied orbitals of a determinant their spins; it comes first.

    Corresponding orbitals (A. T. Amos and G. G. Hall, Proc. R. Soc. A 263, 483 (1961)) of the two
    spins tell pairs from singly occupied orbitals. The determinant is alone where all singly
    occupied orbitals have the same spin, or where there are more than `MOST_DETERMINANTS` ways.
    """
    if not first.down.shape[1]:
        return [first]
    left, values, right = np.linalg.svd(first.up.T @ overlap @ first.down)
    paired = int(np.sum(values > PAIRED))
    n_up, n_down = first.up.shape[1] - paired, first.down.shape[1] - paired
    if n_down == 0 or math.comb(n_up + n_down, n_down) > MOST_DETERMINANTS:
        return [first]
    turns = (
        _on_atoms(first.up, left, paired, overlap),
        _on_atoms(first.down, right.T, paired, overlap),
    )
    up, down = first.up @ turns[0], first.down @ turns[1]
    # Mean values of the Fock matrix, which is diagonal in the orbitals that were turned.
    energies = [
        turn.T**2 @ old
        for turn, old in zip(turns, (first.up_energies, first.down_energies), strict=True)
    ]
    orbitals = np.concatenate([up[:, paired:], down[:, paired:]], axis=1)
    own = np.concatenate([energies[0][paired:], energies[1][paired:]])
    places = range(n_up + n_down)
    found = [first]
    for chosen in itertools.combinations(places, n_down):
        rest = [place for place in places if place not in chosen]
        if rest == list(range(n_up)):
            continue  # the determinant itself
        found.append(
            Determinant(
                _orthonormal(np.concatenate([up[:, :paired], orbitals[:, rest]], axis=1), overlap),
                _orthonormal(
                    np.concatenate([down[:, :paired], orbitals[:, list(chosen)]], axis=1), overlap
                ),
                np.concatenate([energies[0][:paired], own[rest]]),
                np.concatenate([energies[1][:paired], own[list(chosen)]]),
            )
        )
    return found


def _on_atoms(
    orbitals: np.ndarray, turn: np.ndarray, paired: int, overlap: np.ndarray
) -> np.ndarray:
    """A turn (n, n) to corresponding orbitals whose last ones, without a partner, sit on atoms.

    The operator that weighs Loewdin's AOs by their number tells atoms and directions apart.
    """
    block = half_power(overlap) @ orbitals @ turn[:, paired:]
    weighed = block.T @ (np.arange(1.0, len(block) + 1.0)[:, None] * block)
    return np.concatenate([turn[:, :paired], turn[:, paired:] @ np.linalg.eigh(weighed)[1]], axis=1)


def _orthonormal(orbitals: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """The orthonormal orbitals nearest to some (ao, n), which span the same space."""
    values, vectors = np.linalg.eigh(orbitals.T @ overlap @ orbitals)
    return orbitals @ (vectors / np.sqrt(values)) @ vectors.T


# --- places ---------------------------------------------------------------------------------------


def _turned(one: Determinant, image: np.ndarray) -> Determinant:
    """The image of a determinant under an operation with the matrix (ao, ao)."""
    return one._replace(up=image @ one.up, down=image @ one.down)


def _parities(
    determinants: Sequence[Determinant],
    coefficients: np.ndarray,
    overlap: np.ndarray,
    images: Sequence[tuple[np.ndarray, np.ndarray]],
) -> list[tuple[np.ndarray, int]]:
    """The operations that only multiply the sum of determinants by 1 or -1, and that factor."""

    def element(image: np.ndarray) -> float:
        rows = [
            [determinant_overlap(bra, _turned(ket, image), overlap) for ket in determinants]
            for bra in determinants
        ]
        return float(coefficients @ np.array(rows) @ coefficients)

    norm = element(np.eye(len(overlap)))
    found = []
    for matrix, image in images:
        value = element(image) / norm
        if np.allclose(matrix @ matrix, np.eye(3), atol=1e-6) and abs(value) > SAME:
            found.append((matrix, 1 if value > 0.0 else -1))
    return found


def _images(mole: gto.Mole) -> list[tuple[np.ndarray, np.ndarray]]:
    """Operations (3, 3) and (ao, ao) that permute the nuclei, one for each permutation."""
    # Places in the periodic table: with pseudopotentials, different nuclei may have one charge.
    numbers = [gto.charge(mole.atom_pure_symbol(i)) for i in range(mole.natm)]
    group = operations(mole.atom_coords(), np.asarray(numbers, float))
    # Operations of one permutation differ by turns about nuclei, which move no charge.
    different = {tuple(o.permutation.tolist()): o for o in reversed(group) if o.moves}
    return [(operation.matrix, ao_image(mole, operation)) for operation in different.values()]


def ao_image(mole: gto.Mole, operation: Operation) -> np.ndarray:
    """Matrix (ao, ao) that takes coefficients of an orbital to those of its image.

    Args:
        mole: The molecule; equal nuclei have equal shells in the same order.
        operation: Maps its nuclei onto each other.
    """
    matrix = np.zeros((mole.nao, mole.nao))
    shells = [range(first, last) for first, last in mole.aoslice_by_atom()[:, :2]]
    start = mole.ao_loc_nr()
    for atom, target in enumerate(operation.permutation):
        for source, image in zip(shells[atom], shells[target], strict=True):
            turned = _turned_harmonics(mole.bas_angular(source), bool(mole.cart), operation.matrix)
            block = np.kron(np.eye(mole.bas_nctr(source)), turned)
            matrix[start[image] : start[image + 1], start[source] : start[source + 1]] = block
    return matrix


def _turned_harmonics(momentum: int, cartesian: bool, matrix: np.ndarray) -> np.ndarray:
    """Representation (component, component) of an operation (3, 3) on the functions of a shell.

    The image of a function f is f(matrix^-1 r). Values at some points determine it.
    """
    points = np.random.default_rng(0).normal(size=(4 * len(monomials(momentum)), 3))
    powers = np.asarray(monomials(momentum))

    def values(at: np.ndarray) -> np.ndarray:
        products = np.prod(at[:, None, :] ** powers, axis=-1)
        return products @ angular_matrix(momentum, cartesian)

    return np.linalg.lstsq(values(points), values(points @ matrix), rcond=None)[0]


# --- the sum --------------------------------------------------------------------------------------


def combine(mole: gto.Mole, determinants: Sequence[Determinant]) -> tuple[np.ndarray, float]:
    """Coefficients (D,) of the lowest state of the wanted spin, and its energy (hartree).

    The largest coefficient is 1. They are rounded, so that symmetry shows and rounding does not.
    """
    hamiltonian, overlaps, lowered = matrix_elements(mole, determinants)
    # A determinant may be a sum of others.
    values, vectors = np.linalg.eigh(overlaps)
    basis = (vectors / np.sqrt(np.maximum(values, _DEPENDENT)))[:, values > _DEPENDENT]
    wanted = basis.T @ (hamiltonian + _SPIN_COST * lowered) @ basis
    lowest = basis @ np.linalg.eigh(wanted)[1][:, 0]
    energy = lowest @ hamiltonian @ lowest / (lowest @ overlaps @ lowest)
    largest = int(np.argmax(np.abs(lowest) > 0.999 * np.abs(lowest).max()))
    return np.round(lowest / lowest[largest], 4), float(energy)


def matrix_elements(
    mole: gto.Mole, determinants: Sequence[Determinant]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """H (hartree), overlap and S_- S_+ between determinants, each (D, D).

    S_- S_+ = S^2 - M(M + 1). The elements follow from transition density matrices (P.-O. Loewdin,
    Phys. Rev. 97, 1474 (1955)); vanishing singular values of the overlaps of orbitals are replaced
    by small ones, which leaves the products that they cancel from.
    """
    ao_overlap, core = mole.intor_symmetric("int1e_ovlp"), scf.hf.get_hcore(mole)
    count = len(determinants)
    hamiltonian, overlaps, lowered = (np.zeros((count, count)) for _ in range(3))
    for i, bra in enumerate(determinants):
        for j, ket in enumerate(determinants[: i + 1]):
            size_up, up = _transition(bra.up, ket.up, ao_overlap)
            size_down, down = _transition(bra.down, ket.down, ao_overlap)
            size = size_up * size_down
            energy = np.sum(core * (up + down)) + _repulsion(mole, up, down) + mole.energy_nuc()
            spill = bra.down.shape[1] - np.trace(up @ ao_overlap @ down @ ao_overlap)
            for matrix, value in ((hamiltonian, energy), (overlaps, 1.0), (lowered, spill)):
                matrix[i, j] = matrix[j, i] = size * value
    return hamiltonian, overlaps, lowered


def _transition(bra: np.ndarray, ket: np.ndarray, overlap: np.ndarray) -> tuple[float, np.ndarray]:
    """Overlap of the orbitals' determinants, and the transition density matrix (ao, ao) over it."""
    if not bra.shape[1]:
        return 1.0, np.zeros_like(overlap)
    left, values, right = np.linalg.svd(bra.T @ overlap @ ket)
    values = np.maximum(values, _LEAST_OVERLAP)
    sign = np.linalg.det(left) * np.linalg.det(right)
    return float(sign * np.prod(values)), (ket @ right.T / values) @ (bra @ left).T


def _repulsion(mole: gto.Mole, up: np.ndarray, down: np.ndarray) -> float:
    """The repulsion of electrons with density matrices (ao, ao), which need not be symmetric."""
    (j_up, j_down), (k_up, k_down) = scf.hf.get_jk(mole, np.stack([up, down]), hermi=0)
    total = np.sum((up + down).T * (j_up + j_down))
    return float(0.5 * (total - np.sum(up.T * k_up) - np.sum(down.T * k_down)))

"""Start configurations drawn from the Hartree-Fock reference.

Walkers that start in the wrong spin pattern of a stretched bond leave it slowly, by moves of one or
two electrons. So the pattern is drawn from the reference itself. The squared determinant, written
over orthogonal atomic orbitals, is a probability for the set of orbitals that hold the electrons (a
determinantal point process), and is sampled exactly. RHF gives covalent and ionic patterns in its
own proportion. UHF gives covalent patterns only, with both spin patterns from its two determinants.
The position of an electron about its nucleus matters less. It comes from the density of the chosen
orbital, and the Markov chain equilibrates it.
"""

import math

import numpy as np
import xarray as xr

from ferminet_core.chemistry.orbitals import (
    Shells,
    angular_matrix,
    coefficients,
    half_power,
    monomials,
)
from ferminet_core.errors import ArtefactError
from ferminet_core.inputs.molecule import Molecule

_GRID = 4000  # radial points; an accuracy of a percent is enough for the start


def sample_sites(rng: np.random.Generator, orbitals: np.ndarray, size: int) -> np.ndarray:
    """Exact samples of the orthogonal sites that the electrons of a determinant occupy.

    P(a_1 ... a_n) = det(orbitals[a_1 ... a_n])^2, drawn one electron after the other from the
    conditional marginals (Hough, Krishnapur, Peres and Virag 2006, doi:10.1214/154957806000000078).

    Args:
        rng: Source of random numbers.
        orbitals: (site, n), orthonormal columns.
        size: Number of samples.

    Returns:
        (size, n), the n distinct sites of each sample.
    """
    n_sites, n = orbitals.shape
    kernel = orbitals @ orbitals.T
    marginal = np.tile(np.diagonal(kernel), (size, 1))
    factors = np.zeros((size, n, n_sites))  # rows of the Cholesky factor, pivoted as sampled
    sites = np.zeros((size, n), dtype=np.int64)
    every = np.arange(size)
    for k in range(n):
        cumulative = np.cumsum(np.maximum(marginal, 0.0), axis=1)
        threshold = rng.random(size) * cumulative[:, -1]
        site = np.sum(cumulative <= threshold[:, None], axis=1)
        site = np.minimum(site, n_sites - 1)  # rounding of the last threshold
        earlier = factors[every, :k, site]
        row = kernel[site] - np.einsum("wk,wka->wa", earlier, factors[:, :k])
        factors[:, k] = row / np.sqrt(marginal[every, site])[:, None]
        marginal -= factors[:, k] ** 2
        marginal[every, site] = 0.0
        sites[:, k] = site
    return sites


def orthogonal_orbitals(reference: xr.Dataset, spin: str) -> np.ndarray:
    """Occupied orbitals over the Loewdin-orthogonalised AOs, S^(1/2) C: (D, ao, n).

    Args:
        reference: Dataset of `hartree_fock.solve`.
        spin: "up" or "down".
    """
    half = half_power(reference["overlap"].to_numpy())
    orbitals = reference[f"mo_{spin}"].transpose("determinant", "ao", f"orbital_{spin}")
    return np.einsum("ab,dbo->dao", half, orbitals.to_numpy())


def _radii(rng: np.random.Generator, shells: Shells, shell: int, size: int) -> np.ndarray:
    """Distances (bohr) from the radial density r^(2 l + 2) R(r)^2 of a shell."""
    own = shells.primitive_shell == shell
    exponent, coefficient = shells.exponent[own], shells.coefficient[own]
    grid = np.geomspace(1e-3 / math.sqrt(exponent.max()), 8.0 / math.sqrt(exponent.min()), _GRID)
    radial = np.exp(-exponent * grid[:, None] ** 2) @ coefficient
    density = (radial * grid ** (int(shells.momentum[shell]) + 1)) ** 2
    steps = 0.5 * (density[1:] + density[:-1]) * np.diff(grid)
    cumulative = np.concatenate([[0.0], np.cumsum(steps)])
    return np.interp(rng.random(size) * cumulative[-1], cumulative, grid)


def _directions(
    rng: np.random.Generator, momentum: int, component: np.ndarray, cartesian: bool
) -> np.ndarray:
    """Unit vectors from the squared angular parts of components, by rejection: (size, 3)."""
    powers = np.asarray(monomials(momentum))
    matrix = angular_matrix(momentum, cartesian)
    if cartesian and momentum >= 2:  # the maximum of (x^i y^j z^k)^2 on the sphere
        bound = np.prod(powers.astype(float) ** powers, axis=1) / float(momentum) ** momentum
    else:  # Unsoeld: the squares of a shell's harmonics add up to this
        bound = np.full(matrix.shape[1], (2 * momentum + 1) / (4.0 * math.pi))
    result = np.zeros((len(component), 3))
    left = np.arange(len(component))
    while left.size:
        trial = rng.normal(size=(left.size, 3))
        trial /= np.linalg.norm(trial, axis=1, keepdims=True)
        values = np.prod(trial[:, None, :] ** powers, axis=-1) @ matrix
        wanted = component[left]
        accepted = values[np.arange(left.size), wanted] ** 2 > bound[wanted] * rng.random(left.size)
        result[left[accepted]] = trial[accepted]
        left = left[~accepted]
    return result


def _place(
    rng: np.random.Generator, shells: Shells, nuclei: np.ndarray, sites: np.ndarray
) -> np.ndarray:
    """Positions from the densities of the AOs `sites` (...): (..., 3), bohr."""
    sizes = np.asarray(
        [shells.components(shell) for shell in range(len(shells.centre))], dtype=np.int64
    )
    shell_of = np.repeat(np.arange(len(sizes)), sizes)
    component_of = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    flat = sites.ravel()
    positions = np.zeros((flat.size, 3))
    for shell in np.unique(shell_of[flat]):
        here = np.flatnonzero(shell_of[flat] == shell)
        radius = _radii(rng, shells, int(shell), here.size)
        momentum = int(shells.momentum[shell])
        direction = _directions(rng, momentum, component_of[flat[here]], shells.cartesian)
        positions[here] = nuclei[shells.centre[shell]] + radius[:, None] * direction
    return positions.reshape(*sites.shape, 3)


def start_walkers(
    rng: np.random.Generator, reference: xr.Dataset, molecule: Molecule, n_walkers: int
) -> np.ndarray:
    """Walkers with electrons on atoms as in the reference's determinants.

    Args:
        rng: Source of random numbers.
        reference: Dataset of `hartree_fock.solve`. Each walker takes one of its determinants at
            random, with the probability of its squared coefficient.
        molecule: Gives the positions of the nuclei.
        n_walkers: Number of walkers W.

    Returns:
        (W, n_up + n_down, 3), bohr, float64, spin-up electrons first.

    Raises:
        ArtefactError: The reference has other numbers of electrons or nuclei.
    """
    found = (reference.sizes["orbital_up"], reference.sizes["orbital_down"])
    if found != (molecule.n_up, molecule.n_down) or reference.sizes["nucleus"] != len(
        molecule.symbols
    ):
        raise ArtefactError(
            f"reference: made for {found[0]} + {found[1]} electrons and "
            f"{reference.sizes['nucleus']} nuclei, the molecule has {molecule.n_up} + "
            f"{molecule.n_down} and {len(molecule.symbols)}; run the reference stage again"
        )
    weights = coefficients(reference) ** 2
    if np.all(weights == weights[0]):
        determinant = rng.integers(weights.size, size=n_walkers)
    else:
        determinant = rng.choice(weights.size, size=n_walkers, p=weights / weights.sum())
    sites = np.zeros((n_walkers, sum(found)), dtype=np.int64)
    for spin, columns in (("up", slice(0, found[0])), ("down", slice(found[0], None))):
        for index, orbitals in enumerate(orthogonal_orbitals(reference, spin)):
            chosen = np.flatnonzero(determinant == index)
            sites[chosen, columns] = sample_sites(rng, orbitals, chosen.size)
    nuclei = np.asarray(molecule.positions, dtype=float)
    return _place(rng, Shells.from_dataset(reference), nuclei, sites)

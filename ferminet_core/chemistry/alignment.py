"""Orbitals of neighbouring geometries that continue each other.

A determinant does not change when its occupied orbitals are rotated among each other, apart from
its sign. So the order, the signs and the directions of degenerate orbitals, which jump from
geometry to geometry, can be chosen freely: here as near as possible to those of a neighbour, by
orthogonal Procrustes (P. H. Schoenemann 1966, doi:10.1007/BF02289451) of the coefficients over the
Loewdin-orthogonalised AOs, S^(1/2) C. These AOs move with the atoms, so no overlap between the two
geometries is needed.
"""

from collections.abc import Collection, Mapping

import numpy as np
import scipy.linalg
import scipy.optimize
import xarray as xr

from ferminet_core.chemistry.orbitals import coefficients
from ferminet_core.chemistry.start_walkers import orthogonal_orbitals
from ferminet_core.errors import ArtefactError
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.warm_starts import generations, spanning_tree

SPINS = ("up", "down")


def align(reference: xr.Dataset, neighbour: xr.Dataset) -> xr.Dataset:
    """A reference whose occupied orbitals continue those of a neighbouring geometry.

    Each determinant continues the determinant of the neighbour that it overlaps most with. Where
    both have as many, no two continue the same one, and they get the neighbour's order.

    Args:
        reference: Dataset of `hartree_fock.solve`.
        neighbour: Another one, of the same nuclei in the same basis.

    Returns:
        The reference with other `mo_up`, `mo_down` and `coefficient` (determinant,). The sum of
        its determinants with these coefficients is the same. `mo_up_energy` and `mo_down_energy`
        become the mean values of the Fock matrix in the new orbitals.

    Raises:
        ArtefactError: The references have other numbers of AOs or electrons.
    """
    own, other = (
        {spin: orthogonal_orbitals(dataset, spin) for spin in SPINS}
        for dataset in (reference, neighbour)
    )
    for spin in SPINS:
        if own[spin].shape[1:] != other[spin].shape[1:]:
            raise ArtefactError(
                f"references to align: found {own[spin].shape[1:]} and {other[spin].shape[1:]} "
                f"AOs and {spin} electrons; allowed: the same nuclei, charge, spin and basis"
            )
    order, partner = _matches(own, other)
    aligned = reference.isel(determinant=order)
    weights = coefficients(reference)[order]
    for spin in SPINS:
        name, orbital = f"mo_{spin}", f"orbital_{spin}"
        turns = np.stack(
            [_rotation(own[spin][k], other[spin][j]) for k, j in zip(order, partner, strict=True)]
        )
        weights = weights * np.sign(np.linalg.det(turns))
        mo = aligned[name].transpose("determinant", "ao", orbital)
        aligned = aligned.assign({name: (mo.dims, mo.to_numpy() @ turns, mo.attrs)})
        if f"{name}_energy" in aligned:
            old = aligned[f"{name}_energy"].transpose("determinant", orbital)
            new = np.einsum("dkl,dk->dl", turns**2, old.to_numpy())
            aligned = aligned.assign({f"{name}_energy": (old.dims, new, old.attrs)})
    return aligned.assign(coefficient=("determinant", weights))


def align_scan(
    references: Mapping[str, xr.Dataset],
    molecules: Mapping[str, Molecule],
    anchors: Collection[str],
) -> dict[str, xr.Dataset]:
    """The references of a scan, each aligned with its neighbour's, outwards from the anchors.

    Args:
        references: Datasets of `hartree_fock.solve` by name.
        molecules: The molecule of each.
        anchors: Names of the references that stay as they are; of several, each has its own tree.

    Raises:
        ArtefactError: The references do not belong to the same nuclei, electrons and basis.
    """
    parents = spanning_tree(molecules, anchors)
    depths = generations(parents) or {}
    aligned = {anchor: references[anchor] for anchor in anchors}
    for name in sorted(parents, key=lambda name: depths[name]):
        aligned[name] = align(references[name], aligned[parents[name]])
    return {name: aligned[name] for name in references}


def _rotation(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The orthogonal matrix (n, n) that takes orbitals (ao, n) nearest to others (ao, n)."""
    if not own.shape[1]:
        return np.eye(0)
    turn: np.ndarray = scipy.linalg.orthogonal_procrustes(own, other)[0]
    return turn


def _matches(
    own: dict[str, np.ndarray], other: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """New order of the determinants, and which one of the neighbour each continues."""
    overlaps = np.ones((own["up"].shape[0], other["up"].shape[0]))
    for spin in SPINS:
        blocks = np.einsum("dao,eap->deop", own[spin], other[spin])
        overlaps = overlaps * np.abs(np.linalg.det(blocks))
    if overlaps.shape[0] != overlaps.shape[1]:
        return np.arange(len(overlaps)), np.argmax(overlaps, axis=1)
    rows, columns = scipy.optimize.linear_sum_assignment(overlaps, maximize=True)
    order = np.argsort(columns)
    return rows[order], columns[order]

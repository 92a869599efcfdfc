"""The operations of space that map the nuclei of a molecule onto equal nuclei (NumPy only)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Nuclei count as mapped onto each other within this, bohr: above the rounding of positions that are
# given with six digits, and far below any distortion that a scan resolves.
TOLERANCE = 1e-4
# Determinants, at most, that represent a state where one of them breaks a symmetry
# (`determinant_families`). More would take too large a part of a network that has 8 or 16.
MOST_DETERMINANTS = 4


class Operation(NamedTuple):
    """An operation about the centre of nuclear charge.

    matrix: (3, 3), orthogonal; permutation: (M,), nucleus m goes to the place of permutation[m]
    """

    matrix: np.ndarray
    permutation: np.ndarray

    @property
    def moves(self) -> bool:
        """Whether any nucleus changes its place."""
        return bool(np.any(self.permutation != np.arange(len(self.permutation))))


def centre(positions: np.ndarray, charges: np.ndarray) -> np.ndarray:
    """Centre of nuclear charge (3,), bohr, of nuclei (M, 3) with charges (M,)."""
    point: np.ndarray = charges @ positions / charges.sum()
    return point


def operations(positions: np.ndarray, charges: np.ndarray) -> list[Operation]:
    """The point group of some nuclei; the identity comes first.

    The groups of atoms and linear molecules are not finite. For these it is a subgroup that leaves
    no vector invariant that the whole group changes: the inversion of an atom, and for a linear
    molecule half a turn about its axis, with the inversion if there is one.

    Args:
        positions: (M, 3), bohr.
        charges: (M,).
    """
    placed = positions - centre(positions, charges)
    found: list[Operation] = []
    for matrix in _candidates(placed, charges):
        permutation = _permutation(placed, charges, matrix)
        known = any(np.allclose(matrix, other.matrix, atol=1e-6) for other in found)
        if permutation is not None and not known:
            found.append(Operation(matrix, permutation))
    return found


def forbidden_part(found: list[Operation]) -> np.ndarray:
    """Projector (3, 3) on the part of a vector that the operations make vanish."""
    invariant = np.mean([operation.matrix for operation in found], axis=0)
    projector: np.ndarray = np.eye(3) - invariant
    return projector


def _candidates(placed: np.ndarray, charges: np.ndarray) -> Iterator[np.ndarray]:
    """Orthogonal matrices (3, 3) with all operations of the group among them."""
    yield np.eye(3)
    _, extents, directions = np.linalg.svd(placed)
    if extents[0] < TOLERANCE:
        yield -np.eye(3)
    elif len(extents) < 2 or extents[1] < TOLERANCE:
        turn = 2.0 * np.outer(directions[0], directions[0]) - np.eye(3)
        yield from (turn, -np.eye(3), -turn)
    else:
        yield from _frames(placed, charges)


def _frames(placed: np.ndarray, charges: np.ndarray) -> Iterator[np.ndarray]:
    """The maps of two nuclei that span a plane with the centre onto all pairs like them."""
    radius = np.linalg.norm(placed, axis=1)
    first = int(np.argmax(radius))
    across = np.linalg.norm(np.cross(placed[first], placed), axis=1)
    second = int(np.argmax(across))

    def like(which: int) -> np.ndarray:
        same = (charges == charges[which]) & (np.abs(radius - radius[which]) < TOLERANCE)
        return np.flatnonzero(same)

    def frame(a: np.ndarray, b: np.ndarray, sign: float) -> np.ndarray:
        along = a / np.linalg.norm(a)
        across = b - (b @ along) * along
        across = across / np.linalg.norm(across)
        return np.stack([along, across, sign * np.cross(along, across)])

    start = frame(placed[first], placed[second], 1.0)
    angle = placed[first] @ placed[second]
    for i in like(first):
        for j in like(second):
            if i != j and abs(placed[i] @ placed[j] - angle) < TOLERANCE * 2.0 * radius[first]:
                for sign in (1.0, -1.0):
                    yield frame(placed[i], placed[j], sign).T @ start


def _permutation(placed: np.ndarray, charges: np.ndarray, matrix: np.ndarray) -> np.ndarray | None:
    """Where a matrix takes each nucleus, or None if one arrives at no equal nucleus."""
    distance = np.linalg.norm((placed @ matrix.T)[:, None] - placed, axis=-1)
    hit = (distance < TOLERANCE * 10.0) & (charges[:, None] == charges)
    return np.argmax(hit, axis=1) if np.all(hit.sum(axis=1) == 1) else None

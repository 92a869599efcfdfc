"""Point groups against their known orders, and what they forbid."""

import numpy as np
import pytest

from ferminet_core.chemistry.symmetry import forbidden_part, operations

TRIANGLE = [[np.cos(a), np.sin(a), 0.0] for a in 2.0 * np.pi / 3.0 * np.arange(3)]
TETRAHEDRON = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
ANY = np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))[0]


@pytest.mark.parametrize(
    ("positions", "charges", "order", "permutations", "forbidden"),
    [
        ([[0, 0, 0]], [2], 2, 1, 3),
        ([[0, 0, -1], [0, 0, 1]], [7, 1], 2, 1, 2),
        ([[0, 0, -1], [0, 0, 1]], [2, 2], 4, 2, 3),
        ([[0, 0, z] for z in (0.0, 1.8, 3.6, 5.4)], [1] * 4, 4, 2, 3),
        ([[0, 1.4, 1.1], [0, 0, 0], [0, -1.4, 1.1]], [1, 8, 1], 4, 2, 2),  # C2v
        ([[0, 1.4, 1.1], [0, 0, 0], [0, -1.4, 1.3]], [1, 8, 1], 2, 1, 1),  # Cs
        ([*TRIANGLE, [0, 0, 0.5]], [1, 1, 1, 7], 6, 6, 2),  # C3v
        (TRIANGLE, [1, 1, 1], 12, 6, 3),  # D3h
        ([*TETRAHEDRON, [0, 0, 0]], [1, 1, 1, 1, 6], 24, 24, 3),  # Td
        ([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], [1] * 6, 48, 48, 3),
        ([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], [1, 6, 7, 8], 1, 1, 0),
    ],
    ids=["atom", "NH", "He2", "H4", "water", "bent", "NH3", "H3", "CH4", "H6", "chiral"],
)
def test_groups_have_their_order(
    positions: list, charges: list, order: int, permutations: int, forbidden: int
) -> None:
    places, z = np.array(positions, float) @ ANY.T + [3.0, -2.0, 1.0], np.array(charges, float)
    group = operations(places, z)
    assert np.array_equal(group[0].matrix, np.eye(3))
    assert len(group) == order
    assert len({tuple(o.permutation) for o in group}) == permutations
    middle = z @ places / z.sum()
    for operation in group:
        # Rounding of coordinates of order 1; the tolerance of the search is 1e-4.
        mapped = (places - middle) @ operation.matrix.T + middle
        np.testing.assert_allclose(mapped, places[operation.permutation], atol=1e-12)
        np.testing.assert_allclose(operation.matrix @ operation.matrix.T, np.eye(3), atol=1e-12)
    assert np.trace(forbidden_part(group)) == pytest.approx(forbidden, abs=1e-12)


def test_a_distorted_molecule_has_lost_its_symmetry() -> None:
    assert len(operations(np.array([*TRIANGLE]) * [1.0, 1.0, 1.0], np.ones(3))) == 12
    assert len(operations(np.array([*TRIANGLE]) * [1.01, 1.0, 1.0], np.ones(3))) == 4

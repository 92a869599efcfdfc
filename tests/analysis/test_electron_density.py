"""Densities of walkers against closed forms of the hydrogen atom; axes against geometry."""

import numpy as np
import pytest

from ferminet_core.analysis.electron_density import (
    line_density,
    line_edges,
    plane_density,
    principal_frame,
    project,
    radial_edges,
)


def hydrogen_1s(n: int, seed: int = 0) -> np.ndarray:
    """(n, 1, 3) electrons of the density exp(-2 r) / pi, bohr."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal((n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return (rng.gamma(3.0, 0.5, n)[:, None] * direction)[:, None, :]


def chi_squared(density: np.ndarray, exact: np.ndarray, edges: np.ndarray, n: int) -> float:
    """Per bin, of independent counts; bins of more than 20 counts."""
    expected = exact * np.diff(edges) * n
    found = density * np.diff(edges) * n
    kept = expected > 20
    return float(np.mean((found[kept] - expected[kept]) ** 2 / expected[kept]))


def test_profile_and_radial_density_of_hydrogen() -> None:
    n = 200_000
    electrons = hydrogen_1s(n)
    z = electrons[..., 2]
    edges = line_edges(z, np.zeros(1))
    assert (edges.size - 1, edges[0] < -2, edges[-1] > 2) == (116, True, True)  # 2 n^(1/3)
    # Integrals over the bins of (1 + 2|z|) exp(-2|z|) / 2, and below of 4 r^2 exp(-2r).
    below = np.sign(edges) * (1 - (1 + np.abs(edges)) * np.exp(-2 * np.abs(edges))) / 2
    exact = np.diff(below) / np.diff(edges)
    # Mean of some 100 squares of unit normals: 1 with a standard deviation of 0.14.
    assert abs(chi_squared(line_density(z, edges).density, exact, edges, n) - 1) < 0.6
    r = np.linalg.norm(electrons, axis=-1)
    edges = radial_edges(r)
    assert edges[0] == 0
    below = 1 - (1 + 2 * edges + 2 * edges**2) * np.exp(-2 * edges)
    exact = np.diff(below) / np.diff(edges)
    assert abs(chi_squared(line_density(r, edges).density, exact, edges, n) - 1) < 0.6


def test_plane_holds_all_electrons_and_has_the_line_as_its_margin() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(4000, 3, 2)) * [2.0, 0.7]
    nuclei = np.array([[-1.0, 0.0], [1.0, 0.0]])
    plane = plane_density(points, nuclei)
    first, second = plane.edges
    width = first[1] - first[0]
    assert np.diff(second) == pytest.approx(width)  # squares
    inside = (points[..., 1] <= second[-1]) & (points[..., 1] >= second[0])
    margin = line_density(np.where(inside, points[..., 0], np.inf), first).density
    np.testing.assert_allclose(plane.density.sum(axis=1) * width, margin, atol=1e-12)
    # Three electrons. By the choice of its limits no more than four of a thousand lie outside along
    # either axis, whatever the points: 0.8 %.
    assert plane.density.sum() * width**2 == pytest.approx(3, rel=0.01)
    # The long side has 4 n^(1/4) squares.
    assert first.size - 1 == pytest.approx(4 * 12000**0.25, abs=1)


@pytest.mark.parametrize("axis", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (1.0, 1.0, 1.0), (-1.0, 2, 0)])
def test_axis_of_a_diatomic_is_its_bond(axis: tuple[float, ...]) -> None:
    bond = np.array(axis) / np.linalg.norm(axis)
    nuclei = np.array([1.0, 2.0, 3.0]) + np.outer([-0.7, 0.7], bond)
    frame = principal_frame(nuclei)
    assert abs(frame.axes[0] @ bond) == pytest.approx(1.0)
    np.testing.assert_allclose(frame.axes @ frame.axes.T, np.eye(3), atol=1e-12)
    places = project(nuclei, frame)
    assert sorted(places[:, 0]) == pytest.approx([-0.7, 0.7])
    np.testing.assert_allclose(places[:, 1:], 0, atol=1e-12)


def test_plane_of_a_planar_molecule_holds_its_nuclei() -> None:
    hydrogens = [[0, x, z] for x in (1.75, -1.75) for z in (2.33, -2.33)]
    ethene = np.array([[0, 0, 1.26], [0, 0, -1.26], *hydrogens])
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    places = project(ethene @ turn, principal_frame(ethene @ turn))
    np.testing.assert_allclose(places[:, 2], 0, atol=1e-12)
    assert sorted(np.abs(places[:, 0])) == pytest.approx([1.26, 1.26, 2.33, 2.33, 2.33, 2.33])


def test_an_atom_has_cartesian_axes() -> None:
    frame = principal_frame(np.array([[1.0, -2.0, 0.5]]))
    np.testing.assert_array_equal(frame.axes, np.eye(3)[[2, 0, 1]])
    np.testing.assert_array_equal(frame.origin, [1.0, -2.0, 0.5])

"""The electron density from stored walkers, projected on a molecule's axes (NumPy only)."""

from typing import NamedTuple

import numpy as np

# Share of the electrons at either end of a coordinate that the picture may leave out.
_OUTSIDE = 0.002
_MARGIN = 1.0  # bohr; the picture extends at least so far beyond the outermost nuclei
_MOST_BINS = 120


class Frame(NamedTuple):
    """A molecule's own axes.

    origin: (3,), centre of the nuclei, bohr; axes: (3, 3), unit vectors in rows: along the largest
    extent of the nuclei, across it, and normal to the plane of both
    """

    origin: np.ndarray
    axes: np.ndarray


class LineDensity(NamedTuple):
    """edges: (bins + 1,), bohr; density: (bins,), electrons per bohr."""

    edges: np.ndarray
    density: np.ndarray


class PlaneDensity(NamedTuple):
    """A density over the plane of two axes.

    Attributes:
        edges: along the first and the second axis, bohr.
        density: (first, second), electrons per bohr squared.
    """

    edges: tuple[np.ndarray, np.ndarray]
    density: np.ndarray


def principal_frame(nuclei: np.ndarray) -> Frame:
    """Principal axes of the nuclei as points of equal weight.

    The first two axes span the plane that lies nearest to all nuclei. Directions that the nuclei
    leave open (all of an atom's, and those across a line) are the Cartesian axes nearest to them, z
    before x before y. The largest component of each axis is positive.

    Args:
        nuclei: (nuclei, 3), bohr.
    """
    origin = nuclei.mean(axis=0)
    _, extents, directions = np.linalg.svd(nuclei - origin, full_matrices=False)
    known = directions[extents > 1e-6 * max(1.0, float(extents.max(initial=0.0)))]
    axes: list[np.ndarray] = []
    for candidate in [*known, *np.eye(3)[[2, 0, 1]]]:
        # Gram-Schmidt; a candidate within 30 degrees of the span of the others is left out.
        rest = candidate - sum(((candidate @ axis) * axis for axis in axes), np.zeros(3))
        length = float(np.linalg.norm(rest))
        if len(axes) < 3 and length > 0.5:
            rest = rest / length
            axes.append(rest * np.sign(rest[np.argmax(np.abs(rest))]))
    return Frame(origin, np.array(axes))


def project(points: np.ndarray, frame: Frame) -> np.ndarray:
    """Coordinates (..., 3) of points (..., 3) along the axes of a frame, bohr."""
    coordinates: np.ndarray = (points - frame.origin) @ frame.axes.T
    return coordinates


def line_edges(coordinate: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Edges of bins for nearly all values of a coordinate (any shape) and all nuclei (nuclei,).

    The number of bins is twice the cube root of the number of points (Rice's rule), at most 120.
    """
    low, high = _limits(coordinate, nuclei)
    n_bins = int(np.clip(2.0 * coordinate.size ** (1 / 3), 16, _MOST_BINS))
    return np.linspace(low, high, n_bins + 1)


def radial_edges(distance: np.ndarray) -> np.ndarray:
    """Edges of bins from 0 that hold nearly all distances (any shape); see `line_edges`."""
    edges = line_edges(distance, np.zeros(1))
    return np.linspace(0.0, float(edges[-1]), edges.size)


def line_density(coordinate: np.ndarray, edges: np.ndarray) -> LineDensity:
    """Electrons per bohr along a coordinate.

    Args:
        coordinate: (samples, electrons), bohr; its integral over all space is `electrons`.
        edges: of the bins, bohr.
    """
    counts, _ = np.histogram(coordinate, edges)
    return LineDensity(edges, counts / (len(coordinate) * np.diff(edges)))


def plane_density(coordinates: np.ndarray, nuclei: np.ndarray) -> PlaneDensity:
    """Electrons per bohr squared in a plane, summed over the direction across it.

    The bins are squares. Along the longer side there are 4 n^(1/4) of them for n points, at most
    120: in two dimensions the width of a bin must fall more slowly with n than in one.

    Args:
        coordinates: (samples, electrons, 2), bohr.
        nuclei: (nuclei, 2), bohr.
    """
    points = coordinates.reshape(-1, 2)
    limits = [_limits(points[:, i], nuclei[:, i]) for i in range(2)]
    longest = max(high - low for low, high in limits)
    n_bins = int(np.clip(4.0 * len(points) ** 0.25, 16, _MOST_BINS))
    width = longest / n_bins
    first, second = (_square_edges(low, high, width) for low, high in limits)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], (first, second))
    return PlaneDensity((first, second), counts / (len(coordinates) * width**2))


def _limits(coordinate: np.ndarray, nuclei: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(coordinate, (_OUTSIDE, 1.0 - _OUTSIDE))
    return (
        float(min(low, nuclei.min() - _MARGIN)),
        float(max(high, nuclei.max() + _MARGIN)),
    )


def _square_edges(low: float, high: float, width: float) -> np.ndarray:
    """Edges that are a width apart, centred on an interval that they cover."""
    n_bins = int(np.ceil((high - low) / width - 1e-9))
    first = 0.5 * (low + high - n_bins * width)
    edges: np.ndarray = first + width * np.arange(n_bins + 1)
    return edges

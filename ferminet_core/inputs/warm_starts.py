"""Which run takes its wavefunction from which, in a scan with warm starts.

Anchors are computed in full. Every other geometry starts from its nearest neighbour: the runs of a
curve form the minimum spanning tree (Prim 1957, doi:10.1002/j.1538-7305.1957.tb01515.x) that grows
from the anchors, so that each step along it is as short as can be.
"""

import math
from collections.abc import Mapping, Sequence

from ferminet_core.inputs.molecule import Molecule


def distance(a: Molecule, b: Molecule) -> float:
    """Root of the summed squared displacements of the nuclei about their common centre, bohr.

    The centre does not count: the wavefunction depends on distances from the nuclei alone.
    """
    centre_a, centre_b = _centre(a), _centre(b)
    return math.sqrt(
        math.fsum(
            ((p - c) - (q - d)) ** 2
            for first, second in zip(a.positions, b.positions, strict=True)
            for p, c, q, d in zip(first, centre_a, second, centre_b, strict=True)
        )
    )


def _centre(molecule: Molecule) -> tuple[float, ...]:
    n = len(molecule.positions)
    return tuple(math.fsum(axis) / n for axis in zip(*molecule.positions, strict=True))


def central(molecules: Mapping[str, Molecule]) -> str:
    """The one from which the farthest other is nearest; the first of several."""
    return min(
        molecules,
        key=lambda name: max(distance(molecules[name], other) for other in molecules.values()),
    )


def spanning_tree(molecules: Mapping[str, Molecule], anchors: Sequence[str]) -> dict[str, str]:
    """The parent of every molecule that is no anchor, by name, from the anchors outwards.

    Args:
        molecules: by name, of the same nuclei in the same order.
        anchors: at least one of the names.
    """
    nearest = {
        name: min(anchors, key=lambda anchor: distance(molecules[anchor], molecules[name]))
        for name in molecules
        if name not in anchors
    }
    parents: dict[str, str] = {}
    while nearest:
        name = min(nearest, key=lambda n: distance(molecules[n], molecules[nearest[n]]))
        parents[name] = nearest.pop(name)
        for other, parent in nearest.items():
            to_new = distance(molecules[other], molecules[name])
            if to_new < distance(molecules[other], molecules[parent]):
                nearest[other] = name
    return parents


def is_forest(parents: Mapping[str, str]) -> bool:
    """Whether no run comes, through its parents, from itself; an empty parent is none."""
    for start in parents:
        name, seen = start, {start}
        while name := parents.get(name, ""):
            if name in seen:
                return False
            seen.add(name)
    return True


def generation(parents: Mapping[str, str], name: str) -> int:
    """How many runs lie between this one and an anchor, itself counted; 0 for anchors."""
    count = 0
    while name in parents:
        name, count = parents[name], count + 1
    return count

"""Which run starts from the wavefunction of which, in a scan with warm starts.

Anchors are computed in full. Every other geometry starts from its nearest neighbour. The runs of a
curve form the minimum spanning tree (Prim 1957, doi:10.1002/j.1538-7305.1957.tb01515.x) that grows
from the anchors, so each step along it is as short as possible.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import did_you_mean
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.system_keys import Start, SystemFile, WarmStart, variant_suffix
from ferminet_core.inputs.yaml_file import YamlFile

if TYPE_CHECKING:
    import numpy as np

# Snakemake follows a chain of jobs by recursion on the C stack, which ends at four times as many.
MAX_GENERATIONS = 2000
# Distances (bohr) are compared to this number of decimals, so that rounding decides no tie.
_DIGITS = 9
_ROUNDING = 1e-12


def with_neighbours(runs: Sequence[RunSpec], system: SystemFile, file: YamlFile) -> list[RunSpec]:
    """The runs of a scan, where those that start from another run name it.

    Args:
        runs: All runs of the scan.
        system: The checked content of the system file.
        file: The file, for error lines.

    Raises:
        InputError: An anchor is not a geometry of the scan, or a run is too far from its anchor.
    """
    known = {run.geometry for run in runs}
    starts = {"": _start(system.warm_start, known, file, ("warm_start",))}
    for i, variant in enumerate(system.variants):
        own = variant.warm_start
        starts[variant_suffix(variant)] = (
            starts[""] if own is None else _start(own, known, file, ("variants", i, "warm_start"))
        )
    planned = {run.run_id: run for run in runs}
    for name, start in starts.items():
        if start is None:
            continue
        for family in _families_of_one_network(run for run in runs if run.variant == name):
            molecules = {run.run_id: run.molecule for run in family}
            anchors = [run.run_id for run in family if run.geometry in start.anchors]
            parents = spanning_tree(molecules, anchors or [central(molecules)])
            longest = max((generations(parents) or {}).values(), default=0)
            if longest > MAX_GENERATIONS:
                raise InputError(
                    f"{file.where(('warm_start',))}: found {longest} warm starts in a row; "
                    f"allowed: {MAX_GENERATIONS}; name more geometries in `anchors`"
                )
            for run_id, neighbour in parents.items():
                planned[run_id] = _warm(planned[run_id], neighbour, start.share)
    return list(planned.values())


def _start(
    start: Start, known: set[str], file: YamlFile, place: tuple[str | int, ...]
) -> WarmStart | None:
    """How a variant's runs start, with checked anchors; None for independent runs."""
    if start == "independent":
        return None
    warm = start if isinstance(start, WarmStart) else WarmStart()
    for i, anchor in enumerate(warm.anchors):
        if anchor not in known:
            raise InputError(
                f"{file.where((*place, 'anchors', i))}: unknown geometry {anchor!r}"
                f"{did_you_mean(anchor, known)}"
            )
    return warm


def _families_of_one_network(runs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    """Groups of runs that can pass parameters and walkers on to each other."""
    families: dict[Any, list[RunSpec]] = {}
    for run in runs:
        molecule, config = run.molecule, run.config
        key = (molecule.symbols, molecule.electrons, config.network, config.mcmc.walkers)
        families.setdefault(key, []).append(run)
    return list(families.values())


def _warm(run: RunSpec, neighbour: str, share: float) -> RunSpec:
    """A run that starts from a neighbour: fewer iterations, the learning rate in proportion."""
    optimise = run.config.optimise
    shorter = optimise.model_copy(
        update={
            "iterations": max(1, round(share * optimise.iterations)),
            "delay": None if optimise.delay is None else share * optimise.delay,
        }
    )
    config = run.config.model_copy(update={"optimise": shorter})
    request = {**run.request, "share": share}
    return run.model_copy(update={"config": config, "neighbour": neighbour, "request": request})


def _places(molecules: Sequence[Molecule]) -> "np.ndarray":
    """The geometries as points (molecule, dimension) whose distances are those of the geometries.

    The distance between two geometries is the root of the summed squared displacements of the
    nuclei about their common centre, bohr. The centre does not matter: the wavefunction depends
    only on distances from the nuclei. A curve of one parameter has one dimension in most cases,
    whatever the number of nuclei.
    """
    import numpy as np

    positions = np.array([molecule.positions for molecule in molecules])
    centred = positions - positions.mean(axis=1, keepdims=True)
    points = centred.reshape(len(molecules), -1)
    points = points - points.mean(axis=0)
    _, sizes, axes = np.linalg.svd(points, full_matrices=False)
    return points @ axes[sizes > _ROUNDING * max(sizes[0], 1.0)].T


def _distances(points: "np.ndarray", place: int) -> "np.ndarray":
    """Distances (molecule,) from one of the points, bohr; equal ones are equal in all digits."""
    import numpy as np

    return np.round(np.sqrt(np.sum((points - points[place]) ** 2, axis=1)), _DIGITS)


def central(molecules: Mapping[str, Molecule]) -> str:
    """The molecule whose farthest other molecule is nearest; the first of several."""
    points = _places(list(molecules.values()))
    farthest = [_distances(points, place).max() for place in range(len(points))]
    return list(molecules)[farthest.index(min(farthest))]


def spanning_tree(molecules: Mapping[str, Molecule], anchors: Collection[str]) -> dict[str, str]:
    """The parent of every molecule that is not an anchor, by name, from the anchors outwards.

    The work grows as the square of the number of molecules, in array operations: a second for ten
    thousand of them.

    Args:
        molecules: Molecules by name, with the same nuclei in the same order.
        anchors: At least one of the names. Of equally near ones the first counts.
    """
    import numpy as np

    names = list(molecules)
    points = _places(list(molecules.values()))
    nearest = np.full(len(names), np.inf)
    parents = np.zeros(len(names), int)
    left = np.ones(len(names), bool)

    def add(place: int) -> None:
        """Let a molecule of the tree be the parent of those that it is nearest to."""
        left[place] = False
        to_new = _distances(points, place)
        nearer = left & (to_new < nearest)
        nearest[nearer], parents[nearer] = to_new[nearer], place

    places = {name: place for place, name in enumerate(names)}
    for anchor in anchors:
        add(places[anchor])
    found = {}
    for _ in range(len(names) - len(set(anchors))):
        place = int(np.argmin(np.where(left, nearest, np.inf)))
        found[names[place]] = names[parents[place]]
        add(place)
    return found


def generations(parents: Mapping[str, str]) -> dict[str, int] | None:
    """Number of warm starts between each run and its anchor; 0 for anchors.

    Args:
        parents: The run that each run starts from. An empty name, or none, means an anchor.

    Returns:
        Generations of all names in `parents`; None if a run descends from itself.
    """
    found: dict[str, int] = {}
    for start in parents:
        line: dict[str, None] = {}  # from the run to its first ancestor with a known generation
        name = start
        while name and name not in found:
            if name in line:
                return None
            line[name] = None
            name = parents.get(name, "")
        known = found[name] if name else -1
        found.update(zip(reversed(line), range(known + 1, known + 1 + len(line)), strict=True))
    return found

"""Which run starts from the wavefunction of which, in a scan with warm starts.

Anchors are computed in full. Every other geometry starts from its nearest neighbour. The runs of a
curve form the minimum spanning tree (Prim 1957, doi:10.1002/j.1538-7305.1957.tb01515.x) that grows
from the anchors, so each step along it is as short as possible.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import did_you_mean
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.system_file import Start, SystemFile, WarmStart, variant_suffix
from ferminet_core.inputs.yaml_file import YamlFile


def with_neighbours(runs: Sequence[RunSpec], system: SystemFile, file: YamlFile) -> list[RunSpec]:
    """The runs of a scan, where those that start from another run name it.

    Args:
        runs: All runs of the scan.
        system: The checked content of the system file.
        file: The file, for error lines.

    Raises:
        InputError: An anchor is not a geometry of the scan.
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
            "delay": share * optimise.delay,
        }
    )
    config = run.config.model_copy(update={"optimise": shorter})
    request = {**run.request, "share": share}
    return run.model_copy(update={"config": config, "neighbour": neighbour, "request": request})


def distance(a: Molecule, b: Molecule) -> float:
    """Root of the summed squared displacements of the nuclei about their common centre, bohr.

    The centre does not matter: the wavefunction depends only on distances from the nuclei.
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
    """The molecule whose farthest other molecule is nearest; the first of several."""
    return min(
        molecules,
        key=lambda name: max(distance(molecules[name], other) for other in molecules.values()),
    )


def spanning_tree(molecules: Mapping[str, Molecule], anchors: Sequence[str]) -> dict[str, str]:
    """The parent of every molecule that is not an anchor, by name, from the anchors outwards.

    Args:
        molecules: Molecules by name, with the same nuclei in the same order.
        anchors: At least one of the names.
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
    """Whether no run descends from itself; an empty parent means none."""
    for start in parents:
        name, seen = start, {start}
        while name := parents.get(name, ""):
            if name in seen:
                return False
            seen.add(name)
    return True


def generation(parents: Mapping[str, str], name: str) -> int:
    """Number of warm starts between an anchor and this run; 0 for anchors."""
    count = 0
    while name in parents:
        name, count = parents[name], count + 1
    return count

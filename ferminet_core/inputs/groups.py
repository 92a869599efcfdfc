"""Which runs share a wavefunction, in a scan with `sharing`.

Runs whose geometries have the same nuclei, charge, spin and settings are of one kind. The trained
ones are the members of a group. The others of that kind start from the group as well.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import did_you_mean
from ferminet_core.inputs.origin import request_part
from ferminet_core.inputs.parameter_values import entry_name
from ferminet_core.inputs.run_spec import GroupSpec, Member, RunSpec
from ferminet_core.inputs.run_table import SHARED_OPTIMISER
from ferminet_core.inputs.system_keys import Sharing, SystemFile, sharing_of
from ferminet_core.inputs.warm_starts import central
from ferminet_core.inputs.yaml_file import YamlFile

GROUP_NAME = "shared"
# The command of a group's first stage names a file of each member. A shell takes 128 kB.
MAX_MEMBERS = 500


def with_groups(
    runs: Sequence[RunSpec], system: SystemFile, file: YamlFile
) -> tuple[list[RunSpec], list[GroupSpec]]:
    """The runs of a scan, where those that start from a group name it, and the groups.

    A run of a kind with fewer than two trained geometries runs alone.

    Args:
        runs: All runs of the scan.
        system: The checked content of the system file.
        file: The file, for error lines.

    Raises:
        InputError: A geometry to train is not one of the scan, is given twice or alone, a group is
            too large, or its runs have an optimiser that cannot share.
    """
    known = {run.geometry for run in runs}
    planned = {run.run_id: run for run in runs}
    groups: dict[str, GroupSpec] = {}
    for variant, (sharing, place) in sharing_of(system).items():
        if sharing is None:
            continue
        trained = _trained(sharing, known, file, place)
        for kind in _kinds(run for run in runs if run.variant == variant):
            # In an order that does not follow the file's, which may change.
            members = sorted((r for r in kind if r.geometry in trained), key=_place)
            name = ""
            if len(members) > 1:
                where = file.where(place)
                _check_members(members, where)
                name = free_name(_label(kind), groups)
                groups[name] = _group(name, members)
            for run in kind:
                planned[run.run_id] = _started(run, name, sharing.finish)
    return list(planned.values()), list(groups.values())


def free_name(name: str, taken: Iterable[str]) -> str:
    """The name, with a number if it is taken."""
    numbered = name
    count = 1
    while numbered in taken:
        count += 1
        numbered = f"{name}_{count}"
    return numbered


def group_request(run: RunSpec) -> dict[str, Any]:
    """What the user asked for of a group that a run belongs to, but for the geometries."""
    part = request_part(run.request, False)
    return {key: part[key] for key in ("preset", "overrides")}


def _trained(
    sharing: Sharing, known: set[str], file: YamlFile, place: tuple[str | int, ...]
) -> set[str]:
    """The geometries that may be trained together."""
    if isinstance(sharing.geometries, str):
        return known
    names = sharing.geometries
    for i, name in enumerate(names):
        problem = ""
        if name not in known:
            problem = f"unknown geometry {name!r}{did_you_mean(name, known)}"
        elif name in names[:i]:
            problem = f"{name!r} is given twice; keep one"
        if problem:
            raise InputError(f"{file.where((*place, 'geometries', i))}: {problem}")
    if len(names) < 2:
        raise InputError(
            f"{file.where((*place, 'geometries'))}: found {names}; allowed: all, or two and more "
            "geometries to train together"
        )
    return set(names)


def _kinds(runs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    """The runs that one wavefunction can describe with the same settings, together."""
    kinds: dict[Any, list[RunSpec]] = {}
    for run in runs:
        molecule = run.molecule
        settings = run.config.model_dump_json(exclude={"conventional"})
        key = (molecule.symbols, molecule.charge, molecule.spin, settings)
        kinds.setdefault(key, []).append(run)
    return list(kinds.values())


def _place(run: RunSpec) -> tuple[list[tuple[str, float]], str]:
    return sorted(run.parameters.items()), run.run_id


def _check_members(members: Sequence[RunSpec], where: str) -> None:
    """Check that the members of a group are not too many, and that their optimiser can share."""
    if len(members) > MAX_MEMBERS:
        raise InputError(
            f"{where}: found {len(members)} geometries of one kind; allowed: at most {MAX_MEMBERS} "
            "(each has walkers of its own); name those to train in `geometries`"
        )
    found = members[0].config.optimise.optimiser
    if found != SHARED_OPTIMISER:
        reason = "; KFAC's running averages of the curvature hold for one geometry"
        raise InputError(
            f"{where}: run {members[0].run_id}: found optimise.optimiser {found!r}; sharing needs "
            f"{SHARED_OPTIMISER!r}{reason if found == 'kfac' else ''}"
        )


def _label(kind: Sequence[RunSpec]) -> str:
    """The name of a group of these runs, unless it is taken.

    It has the variant and, if all geometries come from one entry with parameters, the entry.
    """
    variant = kind[0].variant
    name = f"{GROUP_NAME}+{variant}" if variant else GROUP_NAME
    entries = {entry_name(run.geometry, run.parameters) if run.parameters else "" for run in kind}
    (entry,) = entries if len(entries) == 1 else ("",)
    return f"{name}_{entry}" if entry else name


def _group(name: str, members: Sequence[RunSpec]) -> GroupSpec:
    """The group of these runs, which have the same settings."""
    first = members[0]
    molecules = {run.run_id: run.molecule for run in members}
    return GroupSpec(
        scan=first.scan,
        run_id=name,
        geometry=name,
        variant=first.variant,
        molecule=molecules[central(molecules)],
        config=first.config,
        request=group_request(first),
        members=tuple(
            Member(run_id=run.run_id, parameters=run.parameters, molecule=run.molecule)
            for run in members
        ),
    )


def _started(run: RunSpec, group: str, finish: int) -> RunSpec:
    """A run that starts from a group, or one of its kind that runs alone."""
    request = {**run.request, "sharing": {"finish": finish}}
    if not group:
        return run.model_copy(update={"request": request})
    optimise = run.config.optimise.model_copy(update={"iterations": finish})
    config = run.config.model_copy(update={"optimise": optimise})
    return run.model_copy(update={"config": config, "group": group, "request": request})

"""What a result was made from, compared with what the scan asks for now.

Runs and their files have names, and a name stays when a system file changes `units` or a setting.
So a result counts only if the spec inside it asks for the same molecule and the same settings.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ferminet_core.inputs.config import resume_rules
from ferminet_core.inputs.messages import show
from ferminet_core.inputs.molecule import Molecule, Pseudopotential
from ferminet_core.inputs.pseudopotentials import canonical
from ferminet_core.inputs.run_spec import GroupSpec, RunSpec, canonical_json, flat_settings
from ferminet_core.inputs.setting_fields import Resume
from ferminet_core.inputs.stage_table import declared
from ferminet_core.units import ANGSTROM_IN_BOHR

# Positions (bohr) that differ by less are the same request. A constant's next CODATA value, or
# another order of additions, is not a reason to compute a geometry again.
SAME_POSITION = 1e-8
# Settings that a warm start scales by its share.
_SHARED = ("optimise.iterations", "optimise.delay")
_MOST_LISTED = 3
_HOW = {True: "with sharing", False: "without sharing"}


def same_molecule(a: Molecule, b: Molecule) -> bool:
    """Whether two molecules are the same request.

    They have the same nuclei in the same places, the same spin and the same pseudopotentials, under
    any spelling of their names.
    """
    kinds = [(m.symbols, m.charge, m.spin, potentials_of(m)) for m in (a, b)]
    return kinds[0] == kinds[1] and all(
        math.dist(p, q) < SAME_POSITION for p, q in zip(a.positions, b.positions, strict=True)
    )


def potentials_of(molecule: Molecule) -> tuple[Pseudopotential, ...]:
    """A molecule's pseudopotentials, in one spelling of their names; none with all electrons."""
    return tuple(
        potential.model_copy(update={"name": canonical(potential.name)})
        for potential in molecule.pseudopotentials
    )


def request_part(request: Mapping[str, Any], conventional: bool) -> dict[str, Any]:
    """The part of a run's request that its conventional energies depend on, or all other stages.

    Args:
        request: `RunSpec.request`.
        conventional: Which of the two.
    """
    overrides = {
        key: value
        for key, value in request.get("overrides", {}).items()
        if key.startswith("conventional.") is conventional
    }
    part = {**request, "overrides": overrides}
    if conventional:
        part.pop("share", None)
        part.pop("sharing", None)
    return part


def differences(made: RunSpec, wanted: RunSpec, stage: str) -> list[str]:
    """How the origin of a stage's result differs from what is asked for; empty if it does not.

    Requests are compared, as for spec files. A new default of the program is no difference. Neither
    is a setting that a resume may change: the result is then one of fewer or more iterations, which
    it says itself, or the same one. Neither is another start, in full or from a neighbour, because
    a new point of a curve may change the plan for the others. Whether the file asks for sharing is
    one.

    Args:
        made: The spec in the result.
        wanted: The run or the group as the scan has it.
        stage: Name of the stage.

    Returns:
        A phrase for each difference, those of the molecule first.
    """
    found = nuclei_differences(made, wanted)
    old_part, new_part = (_plain_part(spec, stage) for spec in (made, wanted))
    if old_part == new_part:
        return found
    before, now = ("sharing" in part for part in (old_part, new_part))
    if before != now and _follows_pretraining(stage):
        found.append(f"computed {_HOW[before]}, the file says {_HOW[now]}")
    old, new = (flat_settings(spec.config, stage) for spec in (made, wanted))
    found += [
        f"{key} {show(old[key])}, the file says {show(new[key])}"
        for key in _changed_keys(made, wanted, stage)
        if key in new and _fixed(key, new[key]) and old[key] != new[key]
    ]
    return found


def _fixed(key: str, wanted: Any) -> bool:
    """Whether a stage's result with another value than the wanted one is another calculation."""
    rule = resume_rules()[key]
    return rule is Resume.NO or (rule is Resume.KEPT and wanted is not None)


def _follows_pretraining(stage: str) -> bool:
    """Whether a stage of a run depends on what the run starts from."""
    entry = declared(stage)
    return bool(entry.group) or any(map(_follows_pretraining, entry.parents))


def nuclei_differences(made: RunSpec, wanted: RunSpec, common: bool = False) -> list[str]:
    """How the geometries of a result differ from those that are asked for; empty if they do not.

    Args:
        made: The spec in the result, of a run or a group.
        wanted: The run or the group that is asked for.
        common: Compare only the members that both groups have.
    """
    if not (isinstance(made, GroupSpec) or isinstance(wanted, GroupSpec)):
        return molecule_differences(made.molecule, wanted.molecule)
    old, new = _members(made), _members(wanted)
    found = []
    for run_id in new:
        if run_id in old:
            differences = molecule_differences(old[run_id], new[run_id])
            found += [f"{run_id}: {difference}" for difference in differences]
    if not common:
        found += [f"computed without {run_id}" for run_id in new if run_id not in old]
        found += [f"computed with {run_id} as well" for run_id in old if run_id not in new]
    return found


def _members(spec: RunSpec) -> dict[str, Molecule]:
    """The molecules of a group by the runs they belong to; of a run its own."""
    if isinstance(spec, GroupSpec):
        return {member.run_id: member.molecule for member in spec.members}
    return {spec.run_id: spec.molecule}


def molecule_differences(made: Molecule, wanted: Molecule) -> list[str]:
    """How the molecule of a result differs from the one that is asked for; empty if it does not."""
    if same_molecule(made, wanted):
        return []
    if made.symbols != wanted.symbols:
        return [f"computed for {_atoms(made)}, the file says {_atoms(wanted)}"]
    found = [
        f"computed with {name} {old}, the file says {new}"
        for name in ("charge", "spin")
        if (old := getattr(made, name)) != (new := getattr(wanted, name))
    ]
    before, now = potentials_of(made), potentials_of(wanted)
    if before != now:
        old, new = potential_label(before), potential_label(now)
        same = " (with other numbers)" if old == new else ""
        found.append(f"computed with {old}, the file says {new}{same}")
    state = ("charge", "spin", "pseudopotentials")
    in_same_state = wanted.model_copy(update={name: getattr(made, name) for name in state})
    return found if same_molecule(made, in_same_state) else [*found, _of_positions(made, wanted)]


def describe(differences: Sequence[str]) -> str:
    """Differences in one line."""
    more = len(differences) - _MOST_LISTED
    listed = [*differences[:_MOST_LISTED], *([f"and {more} more"] if more > 0 else [])]
    return "; ".join(listed)


def _plain_part(spec: RunSpec, stage: str) -> dict[str, Any]:
    """The part of a request that concerns a stage, without the molecule.

    A stored request passed through JSON, where tuples became lists. So does this one.
    """
    entry = declared(stage)
    part = request_part(spec.request, not (entry.chain or entry.of_group))
    part.pop("molecule", None)
    plain: dict[str, Any] = json.loads(canonical_json(part))
    return plain


def _changed_keys(made: RunSpec, wanted: RunSpec, stage: str) -> list[str]:
    """The settings of a stage that the two requests may differ in, in their order."""
    old, new = _plain_part(made, stage), _plain_part(wanted, stage)
    keys = list(flat_settings(wanted.config, stage))
    if old.get("preset") != new.get("preset"):
        changed = set(keys)
    else:
        before, after = old["overrides"], new["overrides"]
        changed = {
            key
            for key in {**before, **after}
            if (key in before, before.get(key)) != (key in after, after.get(key))
        }
        if old.get("share") != new.get("share"):
            changed.update(_SHARED)
    if bool(made.neighbour) != bool(wanted.neighbour):
        changed.difference_update(_SHARED)
    return [key for key in keys if key in changed]


def potential_label(
    potentials: Sequence[Pseudopotential], all_electrons: str = "all electrons"
) -> str:
    """What stands for the cores, such as "ccecp (N, O)"; or the text for all electrons."""
    symbols: dict[str, list[str]] = {}
    for potential in potentials:
        symbols.setdefault(potential.name, []).append(potential.symbol)
    named = [f"{name} ({', '.join(of)})" for name, of in symbols.items()]
    return ", ".join(named) or all_electrons


def _atoms(molecule: Molecule) -> str:
    """The nuclei in their order, with a count for each stretch of equal ones: "Li H", "H*10"."""
    stretches = [(s, len(list(of))) for s, of in itertools.groupby(molecule.symbols)]
    return " ".join(symbol if n == 1 else f"{symbol}*{n}" for symbol, n in stretches)


def _of_positions(made: Molecule, wanted: Molecule) -> str:
    """The distance between two nuclei that differs most, and a change of units."""

    def distances(molecule: Molecule) -> list[float]:
        return [math.dist(p, q) for p, q in itertools.combinations(molecule.positions, 2)]

    places = range(1, len(made.symbols) + 1)
    pairs = zip(distances(made), distances(wanted), itertools.combinations(places, 2), strict=True)
    old, new, (i, j) = max(pairs, key=lambda pair: abs(pair[0] - pair[1]), default=(0, 0, (0, 0)))
    if abs(old - new) < SAME_POSITION:
        return "computed for nuclei that the file turns or moves"
    between = f"{made.symbols[i - 1]}{i}-{made.symbols[j - 1]}{j}"
    text = f"computed with {between} = {old:.6g} bohr, the file says {new:.6g} bohr"
    for factor, units in (
        (ANGSTROM_IN_BOHR, "bohr, now angstrom"),
        (1.0 / ANGSTROM_IN_BOHR, "angstrom, now bohr"),
    ):
        scaled = [tuple(factor * x for x in p) for p in made.positions]
        if all(math.dist(p, q) < 1e-6 for p, q in zip(scaled, wanted.positions, strict=True)):
            text += f" (units: {units})"
    return text

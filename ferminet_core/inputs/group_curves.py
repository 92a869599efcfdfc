"""The groups of a scan whose wavefunction is a curve over one parameter."""

from pathlib import Path
from typing import NamedTuple

from ferminet_core.errors import InputError
from ferminet_core.inputs.group_files import group_spec, group_specs
from ferminet_core.inputs.messages import did_you_mean
from ferminet_core.inputs.run_spec import GroupSpec, load_spec


class Source(NamedTuple):
    """A group to measure: the folder of its scan, its spec and its varying parameter."""

    scan: Path
    spec: GroupSpec
    parameter: str

    @property
    def values(self) -> list[float]:
        """The trained values of the parameter, in order."""
        return sorted(member.parameters[self.parameter] for member in self.spec.members)


def open_group(scan: Path, name: str | None = None) -> Source:
    """The finished group of a scan whose curve can be measured.

    Args:
        scan: Folder of the scan.
        name: Name of the group; None if the scan has only one.

    Raises:
        InputError: There is none, several or no such group, or it has not been optimised or varies
            in several parameters.
    """
    if not (scan / "spec").is_dir():
        raise InputError(f"{scan}: not the folder of a scan (try results/h2)")
    names = [path.stem for path in group_specs(scan)]
    if not names:
        raise InputError(
            f"{scan}: its geometries do not share a wavefunction; allowed: a scan with "
            "`sharing: scan` in the system file"
        )
    if name is None and len(names) > 1:
        raise InputError(f"{scan}: has several groups, {', '.join(names)}; choose with --group")
    chosen = names[0] if name is None else name
    if chosen not in names:
        raise InputError(f"--group: found {chosen!r}{did_you_mean(chosen, names)}")
    spec = load_spec(group_spec(scan, chosen))
    if not isinstance(spec, GroupSpec):
        raise InputError(f"{group_spec(scan, chosen)}: is the spec of a run, not that of a group")
    return Source(scan, spec, _varying(spec))


def _varying(spec: GroupSpec) -> str:
    """The parameter that varies between the members of a group.

    Raises:
        InputError: None does, or several do.
    """
    known = [member.parameters for member in spec.members]
    names = sorted({name for parameters in known for name in parameters})
    varying = [n for n in names if len({parameters.get(n) for parameters in known}) > 1]
    if len(varying) != 1 or any(varying[0] not in parameters for parameters in known):
        found = ", ".join(varying) or "none"
        raise InputError(
            f"group {spec.run_id}: its geometries vary in {found}; a curve needs exactly one "
            "parameter"
        )
    return varying[0]

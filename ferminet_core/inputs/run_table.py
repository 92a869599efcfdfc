"""The runs of a scan: geometries times variants, each with its settings.

Settings: defaults < preset < sharing < file < variant < geometry < case < command line. A case
comes last in the file because it concerns single values of the parameters, and a geometry may have
many.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ferminet_core.errors import InputError
from ferminet_core.inputs.geometries import Point
from ferminet_core.inputs.overrides import resolve
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.system_keys import SystemFile, sharing_of, variant_suffix

# The optimiser that several geometries can share.
SHARED_OPTIMISER = "spring"
OPTIMISER_KEY = "optimise.optimiser"
# What a shared wavefunction has unless the file says otherwise. With the bound of single runs,
# 1e-3, the errors of H2's curve were six times as large.
SHARED_DEFAULTS = {
    OPTIMISER_KEY: SHARED_OPTIMISER,
    "optimise.learning_rate": 0.05,
    "optimise.norm_constraint": 0.01,
}


def run_table(
    path: Path,
    system: SystemFile,
    geometries: Mapping[str, Sequence[Point]],
    scan: str,
    preset: str,
    command_line: Mapping[str, Any],
) -> list[RunSpec]:
    """One spec for each geometry in each variant, variants fastest.

    Args:
        path: The system file, for error lines.
        system: Its checked content.
        geometries: The geometries of the scan, by what a variant adds to the names of its runs.
        scan: Name of the scan.
        preset: Preset that the settings start from.
        command_line: Settings above all others, by dotted key.

    Raises:
        InputError: Settings do not fit together, or two runs have one name.
    """
    variants = {variant_suffix(v): v.overrides for v in system.variants} or {"": {}}
    shared = {name for name, (sharing, _) in sharing_of(system).items() if sharing}
    runs: dict[str, RunSpec] = {}
    for points in zip(*(geometries[variant] for variant in variants), strict=True):
        for point, (variant, settings) in zip(points, variants.items(), strict=True):
            run_id = f"{point.name}+{variant}" if variant else point.name
            if run_id in runs:
                raise InputError(f"{path}: two runs are named {run_id!r}; rename a geometry")
            given = {**system.overrides, **settings, **point.overrides, **command_line}
            # A run that shares with no other one may have another optimiser.
            own = given.get(OPTIMISER_KEY, SHARED_OPTIMISER) != SHARED_OPTIMISER
            explicit = given if own or variant not in shared else {**SHARED_DEFAULTS, **given}
            where = f"{path}: run {run_id}: "
            config = resolve(preset, explicit, where.__add__)
            if config.reference.method == "rhf" and point.molecule.spin != 0:
                raise InputError(
                    f"{where}reference.method: found 'rhf' with spin {point.molecule.spin}; "
                    "allowed: rohf, uhf, auto (rhf needs spin 0)"
                )
            runs[run_id] = RunSpec(
                scan=scan,
                run_id=run_id,
                geometry=point.name,
                variant=variant,
                parameters=point.parameters,
                molecule=point.molecule,
                config=config,
                request={
                    "molecule": point.molecule.model_dump(mode="json"),
                    "preset": preset,
                    "overrides": dict(sorted(explicit.items())),
                },
            )
    return list(runs.values())

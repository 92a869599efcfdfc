"""What the parts of a system file must agree on; each check raises an InputError."""

import re
from collections.abc import Iterable

from ferminet_core.errors import InputError
from ferminet_core.inputs.expressions import RESERVED
from ferminet_core.inputs.messages import did_you_mean, show
from ferminet_core.inputs.system_file import IDENTIFIER, SystemFile
from ferminet_core.inputs.yaml_file import YamlFile

# Columns of the scan table, which no parameter may have as its name.
# fmt: off
COLUMNS = frozenset({
    "run_id", "geometry", "variant", "state", "energy_Eh", "error_Eh", "variance_Eh2", "tau",
    "rhat", "s2", "s2_error", "n_nonfinite", "n_outliers", "pmove", "hf_Eh", "hf_method", "n_opt",
    "n_samples", "wall_s", "node_h", "verdict", "neighbour",
})
# fmt: on


def check_parameter_names(system: SystemFile, file: YamlFile) -> None:
    """Names of parameters are identifiers, no columns of the table, and differ but for case."""
    places: list[tuple[tuple[str | int, ...], Iterable[str]]] = [
        (("parameters",), system.parameters),
        *((("geometries", i, "parameters"), g.parameters) for i, g in enumerate(system.geometries)),
    ]
    seen: dict[str, str] = {}
    for location, names in places:
        for name in names:
            where = file.where((*location, name))
            if not re.match(IDENTIFIER, name):
                raise InputError(
                    f"{where}: found {show(name)}; allowed: names of the form {IDENTIFIER}"
                )
            if name in RESERVED or name in COLUMNS:
                what = "a word of expressions" if name in RESERVED else "a column of the scan table"
                raise InputError(f"{where}: {name!r} is {what}; choose another name, such as 'R'")
            other = seen.setdefault(name.lower(), name)
            if other != name:
                raise InputError(
                    f"{where}: differs from {other!r} only in case; run names are lower case"
                )


def check_literature(system: SystemFile, file: YamlFile) -> None:
    """Each literature entry has a name of its own and matches parameters that there are."""
    names: set[str] = set()
    known = {"geometry", *system.parameters}
    known |= {p for geometry in system.geometries for p in geometry.parameters}
    for i, entry in enumerate(system.literature):
        if entry.name in names:
            where = file.where(("literature", i, "name"))
            raise InputError(f"{where}: literature {entry.name!r} is there twice; rename one")
        names.add(entry.name)
        for column, target in entry.match.items():
            if target not in known:
                where = file.where(("literature", i, "match", column))
                raise InputError(
                    f"{where}: unknown parameter {target!r}{did_you_mean(target, known)}"
                )


def check_quantities(system: SystemFile, file: YamlFile, geometries: set[str]) -> None:
    """Quantities and correlation energies are made of geometries and literature that there are."""
    names: set[str] = set()
    for i, quantity in enumerate(system.quantities):
        if quantity.name in names:
            where = file.where(("quantities", i, "name"))
            raise InputError(f"{where}: quantity {quantity.name!r} is there twice; rename one")
        names.add(quantity.name)
        for geometry in quantity.of:
            if geometry not in geometries:
                raise InputError(
                    f"{file.where(('quantities', i, 'of', geometry))}: unknown geometry "
                    f"{geometry!r}{did_you_mean(geometry, geometries)}"
                )
    if system.correlation is not None:
        known = {entry.name for entry in system.literature}
        for key, name in system.correlation.model_dump().items():
            if name not in known:
                raise InputError(
                    f"{file.where(('correlation', key))}: unknown literature "
                    f"{name!r}{did_you_mean(name, known)}"
                )

"""The values of a parameter: from ranges and grids, and as text in the names of runs."""

import math
from collections import Counter
from collections.abc import Mapping

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import did_you_mean, show
from ferminet_core.inputs.system_keys import Grid, NamedGrid, SystemFile, ValueRange, Values
from ferminet_core.inputs.yaml_file import YamlFile

# Digits that name a value. Two values that agree in them are the same value.
_DIGITS = 10


def values_of(
    given: Values | Grid, system: SystemFile, file: YamlFile, location: tuple[str | int, ...]
) -> list[float]:
    """The values of a parameter, rounded to the digits that name them.

    Args:
        given: As in the system file.
        system: The checked content of the file.
        file: The file, for error lines.
        location: Of the values in the file.

    Raises:
        InputError: An unknown or empty grid, or a value that is given twice.
    """
    if isinstance(given, NamedGrid):
        if given.grid not in system.grids:
            hint = did_you_mean(given.grid, system.grids, "grids")
            raise InputError(f"{file.where(location)}: unknown grid {show(given.grid)}{hint}")
        return values_of(system.grids[given.grid], system, file, ("grids", given.grid))
    if isinstance(given, ValueRange):
        step = (given.stop - given.start) / (given.num - 1)
        if not math.isfinite(step):
            raise InputError(f"{file.where(location)}: start and stop are too far apart")
        numbers = [given.start + i * step for i in range(given.num - 1)] + [given.stop]
    else:
        numbers = given if isinstance(given, list) else [given]
    if not numbers:
        raise InputError(f"{file.where(location)}: empty grid; give at least one value")
    values = [float(value_text(number)) for number in numbers]
    doubled = [value for value, count in Counter(values).items() if count > 1]
    if doubled:
        raise InputError(
            f"{file.where(location)}: {value_text(doubled[0])} is given twice (to {_DIGITS} "
            "digits); keep one"
        )
    return values


def values_text(parameters: Mapping[str, float]) -> str:
    """The part of a geometry's name that its parameters give; empty without any."""
    return "_".join(f"{name}_{value_text(value)}" for name, value in parameters.items())


def entry_name(geometry: str, parameters: Mapping[str, float]) -> str:
    """The entry of `geometries` that a geometry comes from, which its own name begins with.

    Empty for the geometries of the top level's atoms with parameters.
    """
    return geometry.removesuffix(values_text(parameters).lower()).removesuffix("_")


def value_text(value: float) -> str:
    """A value in a run's name: 1.4, 90, -0.5, 1e-05."""
    return f"{value + 0.0:.{_DIGITS}g}".replace("e+", "e")

"""Overrides of settings: presets, dotted keys, and the settings that follow from them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ferminet_core.errors import InputError
from ferminet_core.inputs.config import (
    NETWORK_DEFAULTS,
    OPTIMISER_DEFAULTS,
    SECTIONS,
    Config,
    NetworkConfig,
    OptimiseConfig,
    bound_reasons,
    setting_keys,
)
from ferminet_core.inputs.messages import Location, did_you_mean, dotted, error_lines, show
from ferminet_core.inputs.molecule import ELEMENTS
from ferminet_core.inputs.yaml_file import parse_value

# The beginning of an error line (file and key) for the dotted key of a setting.
Where = Callable[[str], str]

PRESETS_FILE = Path(__file__).with_name("presets.yaml")
# Whose settings are the defaults. A system file names its preset, but its scan's name has no preset
# added if it is this one.
DEFAULT_PRESET = "paper"
# The section of settings that has the name of a key of system files.
POTENTIAL = "pseudopotential"
_POTENTIAL_HINT = (
    "give the potential at the top of the system file or in a variant, as "
    "`pseudopotential: ccecp`; in overrides allowed: quadrature"
)


def flatten(overrides: Mapping[Any, Any], where: Where) -> dict[str, Any]:
    """Overrides by dotted key, from nested mappings, dotted keys, or both.

    Args:
        overrides: Overrides such as `{"network": {"layers": 2}, "mcmc.walkers": 64}`.
        where: Returns the beginning of an error line (file and key) for a dotted key.

    Raises:
        InputError: A setting is unknown or given twice, has a wrong type or is out of bounds.
    """
    if not overrides:
        return {}
    flat: dict[str, Any] = {}
    for key, value in _leaves(overrides, "", where):
        if key not in setting_keys():
            raise InputError(f"{where(key)}: unknown setting{_setting_hint(key)}")
        if key in flat:
            raise InputError(f"{where(key)}: given twice; keep one")
        flat[key] = value
    # Each value by itself. Whether settings fit together is checked once all are known.
    lines = [line for location, line in _problems(flat, where) if dotted(location) not in SECTIONS]
    if lines:
        raise InputError("\n".join(lines))
    return flat


def command_line(overrides: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    """Overrides of the command line by dotted key, from a mapping or `KEY=VALUE` texts.

    Raises:
        InputError: A text of another form, or as `flatten`.
    """
    if not isinstance(overrides, Mapping):
        parsed: dict[str, Any] = {}
        for text in overrides:
            key, equals, value = text.partition("=")
            key = key.strip()
            if not equals or not value.strip():
                raise InputError(
                    f"--set: found {show(text)}; allowed: KEY=VALUE, as in mcmc.walkers=64"
                )
            where = f"--set {dotted([key])}"
            if key in parsed:
                raise InputError(f"{where}: given twice; keep one")
            parsed[key] = parse_value(value, where)
        overrides = parsed
    return flatten(overrides, lambda key: f"--set {dotted([key])}")


def _leaves(mapping: Mapping[Any, Any], section: str, where: Where) -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        key = f"{section}.{name}" if section else str(name)
        if key not in SECTIONS:
            yield key, value
        elif isinstance(value, Mapping):
            yield from _leaves(value, key, where)
        elif key == POTENTIAL:
            raise InputError(f"{where(key)}: found {show(value)}; {_POTENTIAL_HINT}")
        else:
            raise InputError(
                f"{where(key)}: found {show(value)}; "
                f"allowed: a mapping{did_you_mean('', _section_keys(key), 'its settings')}"
            )


def _section_keys(section: str) -> list[str]:
    return [k.split(".")[1] for k in setting_keys() if k.startswith(f"{section}.")]


def _setting_hint(key: str) -> str:
    """A suggestion for a key that is not a setting."""
    section, _, name = key.partition(".")
    last = key.rpartition(".")[2]
    if section == POTENTIAL and name in ELEMENTS:
        return f"; {_POTENTIAL_HINT}"
    if name and section in SECTIONS:
        own = _section_keys(section)
        # A part of a name of this section comes before the name in another section.
        if whole := [key for key in own if name in key.split("_")]:
            return f"; did you mean {f'{section}.{whole[0]}'!r}?"
    # The right name in the wrong section, or without a section.
    elsewhere = [k for k in setting_keys() if k.endswith(f".{last}")]
    if elsewhere:
        return f"; did you mean {elsewhere[0]!r}?"
    if name and section in SECTIONS:
        return did_you_mean(name, _section_keys(section))
    return did_you_mean(section, Config.model_fields)


def _problems(flat: Mapping[str, Any], where: Where) -> list[tuple[Location, str]]:
    """The problems that pydantic finds in these settings: locations and lines."""
    try:
        Config.model_validate(_nested(flat))
    except ValidationError as error:
        return _lines(error, where)
    return []


def _lines(error: ValidationError, where: Where) -> list[tuple[Location, str]]:
    return error_lines(
        error,
        lambda location: (),
        lambda location: where(dotted(location)),
        lambda location: bound_reasons().get(dotted(location), ""),
    )


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, name = key.partition(".")
        if name:
            nested.setdefault(section, {})[name] = value
        else:
            nested[section] = value
    return nested


@cache
def presets() -> dict[str, dict[str, Any]]:
    """The overrides of each preset, by dotted key."""
    data = yaml.safe_load(PRESETS_FILE.read_text(encoding="utf-8"))
    return {
        name: flatten(overrides or {}, f"{PRESETS_FILE.name}: {name}.{{}}".format)
        for name, overrides in data.items()
    }


def check_preset(preset: str, where: Callable[[], str]) -> None:
    """Check that a preset exists.

    Raises:
        InputError: Unknown preset; the line begins with what `where` returns.
    """
    if preset not in presets():
        raise InputError(
            f"{where()}: unknown preset {show(preset)}{did_you_mean(preset, presets())}"
        )


def check_given(preset: str | None, where: Callable[[], str]) -> str:
    """A preset that was given. None stands for `paper` nowhere: that would start a run of days.

    Raises:
        InputError: There is none; the line begins with what `where` returns.
    """
    if preset is None:
        raise InputError(
            f"{where()}: is missing; allowed: {', '.join(presets())}; try `preset: small`, which "
            "is for a few electrons on a few cores (paper and pfau2020 run for days on GPUs)"
        )
    return preset


def resolve(preset: str, overrides: Mapping[str, Any], where: Where) -> Config:
    """The settings: defaults < preset < overrides (by dotted key, see `flatten`).

    Some defaults are those of the network and the optimiser that these levels choose
    (`NETWORK_DEFAULTS`, `OPTIMISER_DEFAULTS`). For a setting of the optimiser, the value of a
    preset applies to the preset's own optimiser only. An override always applies.

    Raises:
        InputError: unknown preset, or settings that do not fit together.
    """
    check_preset(preset, lambda: where("preset"))
    chosen = presets()[preset]
    kind = {**chosen, **overrides}.get("network.kind", NetworkConfig().kind)
    of_network = NETWORK_DEFAULTS.get(kind, {})
    key = "optimise.optimiser"
    default = of_network.get(key, OptimiseConfig().optimiser)
    optimiser = {**chosen, **overrides}.get(key, default)
    if optimiser != chosen.get(key, OptimiseConfig().optimiser):
        own = {f"optimise.{name}" for values in OPTIMISER_DEFAULTS.values() for name in values}
        chosen = {name: value for name, value in chosen.items() if name not in own}
    defaults = OPTIMISER_DEFAULTS.get(optimiser, {})
    of_optimiser = {f"optimise.{name}": value for name, value in defaults.items()}
    flat = {**of_network, **of_optimiser, **chosen, **overrides}
    try:
        config = Config.model_validate(_nested(flat))
    except ValidationError as error:
        raise InputError("\n".join(line for _, line in _lines(error, where))) from None
    if optimiser == "kfac" != default:
        raise InputError(
            f"{where(key)}: found 'kfac'; the layers of network.kind {kind} are not registered for "
            f"it; try {default}"
        )
    return config

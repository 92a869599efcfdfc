"""One run, complete: what its stages read, and the hashes of it.

The Snakefile reads these on every start, so neither JAX nor PySCF is imported here.
"""

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ferminet_core.errors import InputError
from ferminet_core.inputs.config import Config, Resume, resume_rules, setting_keys
from ferminet_core.inputs.messages import dotted, error_lines
from ferminet_core.inputs.molecule import Molecule

SCHEMA_VERSION = 2

# The stage before each, whose settings count as well, and the sections that the stage adds to them.
_SECTIONS: Mapping[str, tuple[str | None, tuple[str, ...]]] = {
    "reference": (None, ("reference",)),
    "conventional": (None, ("conventional",)),
    "pretrain": ("reference", ("seed", "network", "mcmc", "pretrain", "runtime")),
    "optimise": ("pretrain", ("optimise",)),
    "inference": ("optimise", ("inference",)),
}


class RunSpec(BaseModel):
    """One run, complete: what its stages read, and all that they read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = Field(SCHEMA_VERSION, le=SCHEMA_VERSION)
    scan: str
    run_id: str
    geometry: str
    variant: str = ""
    parameters: dict[str, float] = {}
    molecule: Molecule
    config: Config
    # The run whose optimised wavefunction this one starts from; empty: it is pretrained.
    neighbour: str = ""
    # What was asked for: molecule, preset and explicit overrides, and with a neighbour the share of
    # the iterations. The spec file is rewritten when this changes, and not when a default or a
    # preset's value does.
    request: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _older(cls, data: Any) -> Any:
        return of_this_version(data) if isinstance(data, dict) else data

    def stage_seed(self, stage: str) -> int:
        """Seed (32 bits) of a stage of this run."""
        text = json.dumps([self.config.seed, self.run_id, stage])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def stage_hash(self, stage: str) -> str:
        """SHA-256 (hex) over the molecule and all settings that the results of a stage and its
        parents depend on."""
        settings = flat_settings(self.config, stage)
        rules = resume_rules()
        content = {
            "molecule": self.molecule.model_dump(mode="json"),
            "config": {k: v for k, v in settings.items() if rules[k] is not Resume.FREE},
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def of_this_version(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec as it is stored now; version 1 had conventional energies among the reference's."""
    if spec.get("schema_version") != 1:
        return spec
    spec = {**copy.deepcopy(spec), "schema_version": SCHEMA_VERSION}
    for owner, section, key in (
        ("config", "reference", "correlated"),
        ("request", "overrides", "reference.correlated"),
    ):
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            spec[owner][section].pop(key)
    return spec


def _sections(stage: str | None) -> Iterator[str]:
    """The sections of the settings that a stage and those before it use."""
    while stage is not None:
        stage, sections = _SECTIONS[stage]
        yield from sections


def flat_settings(
    config: Config | Mapping[str, Any], stage: str, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings that a stage and its parents use, {dotted key: plain value}.

    Args:
        config: settings, or what was stored of them.
        stage: name of the stage.
        defaults: values of settings that an older version did not store.
    """
    stored = config.model_dump(mode="json") if isinstance(config, Config) else config
    used, found = set(_sections(stage)), {}
    for key in setting_keys():
        section, _, name = key.partition(".")
        if section not in used:
            continue
        owner = stored.get(section, {}) if name else stored
        found[key] = (
            owner[name or section]
            if defaults is None
            else owner.get(name or section, defaults[key])
        )
    return found


def load_spec(path: Path | str) -> RunSpec:
    """Read a run's spec file; settings that it lacks (an older version's) get their defaults.

    Raises:
        InputError: missing, damaged, or written by a newer version.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from None
    try:
        return RunSpec.model_validate_json(text)
    except ValidationError as error:
        lines = error_lines(
            error,
            lambda location: (),
            lambda location: ": ".join(filter(None, (str(path), dotted(location)))),
        )
        raise InputError("\n".join(line for _, line in lines)) from None


def canonical_json(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))

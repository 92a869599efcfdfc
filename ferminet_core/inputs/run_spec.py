"""The spec of a run: all that its stages read, and the hashes of it.

The Snakefile reads specs on every start, so this module imports neither JAX nor PySCF.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ferminet_core.errors import InputError
from ferminet_core.inputs.config import Config, Resume, renamed, resume_rules, setting_keys
from ferminet_core.inputs.messages import dotted, error_lines
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.stage_table import declared
from ferminet_core.inputs.text_files import read_text

SCHEMA_VERSION: Literal[2] = 2


def request_of_today(request: dict[str, Any]) -> dict[str, Any]:
    """A stored `RunSpec.request` with today's names of settings."""
    overrides = request.get("overrides")
    if not isinstance(overrides, dict):  # of a damaged file, which others find
        return request
    return {**request, "overrides": renamed(overrides)}


class RunSpec(BaseModel):
    """One run: the input of its stages, complete."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[2] = SCHEMA_VERSION
    scan: str
    run_id: str
    geometry: str
    variant: str = ""
    parameters: dict[str, float] = {}
    molecule: Molecule
    config: Config
    # The run whose optimised wavefunction this one starts from. Empty: this one is pretrained.
    neighbour: str = ""
    # What the user asked for: molecule, preset and explicit overrides, and with a neighbour the
    # share of the iterations. The spec file is rewritten when this changes, but not when a default
    # or a preset's value changes.
    request: dict[str, Any] = {}

    @field_validator("request")
    @classmethod
    def _with_names_of_today(cls, request: dict[str, Any]) -> dict[str, Any]:
        return request_of_today(request)

    def stage_seed(self, stage: str) -> int:
        """The 32-bit seed of a stage of this run."""
        text = json.dumps([self.config.seed, self.run_id, stage])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def stage_hash(self, stage: str) -> str:
        """SHA-256 (hex) of all that decides the results of a stage and its parents.

        It covers the molecule and the settings that decide these results.
        """
        settings = flat_settings(self.config, stage)
        rules = resume_rules()
        content = {
            "molecule": self.molecule.model_dump(mode="json"),
            "config": {k: v for k, v in settings.items() if rules[k] is not Resume.FREE},
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _sections(stage: str) -> Iterator[str]:
    """The sections of the settings that a stage and its parents use."""
    entry = declared(stage)
    yield from entry.sections
    for parent in entry.parents:
        yield from _sections(parent)


def flat_settings(config: Config, stage: str) -> dict[str, Any]:
    """The settings that a stage and its parents use, {dotted key: plain value}."""
    stored, used, found = config.model_dump(mode="json"), set(_sections(stage)), {}
    for key in setting_keys():
        section, _, name = key.partition(".")
        if section in used:
            found[key] = stored[section][name] if name else stored[section]
    return found


def load_spec(path: Path | str) -> RunSpec:
    """Read a run's spec file. Settings that it does not name have their defaults.

    Raises:
        InputError: The file is missing or damaged, or has another schema version.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parse_spec(text, str(path))


def parse_spec(text: str, where: str) -> RunSpec:
    """The spec that a JSON text holds.

    Args:
        text: Content of a spec file, or of the attribute `spec` of an artefact or a checkpoint.
        where: Beginning of the error lines, such as the file.

    Raises:
        InputError: The text is damaged, or has another schema version.
    """
    try:
        check_version(json.loads(text), where)
    except ValueError as error:
        raise InputError(f"{where}: not a spec in JSON ({error})") from None
    try:
        return RunSpec.model_validate_json(text)
    except ValidationError as error:
        lines = error_lines(
            error,
            lambda location: (),
            lambda location: ": ".join(filter(None, (where, dotted(location)))),
        )
        raise InputError("\n".join(line for _, line in lines)) from None


def check_version(content: object, where: str) -> None:
    """Check that the content of a spec file has this program's schema version.

    Raises:
        InputError: It has another version.
    """
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found not in (None, SCHEMA_VERSION):
        raise InputError(
            f"{where}: schema_version: found {found}; supported: {SCHEMA_VERSION}; write results "
            "to another folder, or use the version of the program that wrote this file"
        )


def canonical_json(content: object) -> str:
    """JSON without spaces and with sorted keys: equal content gives equal text."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))

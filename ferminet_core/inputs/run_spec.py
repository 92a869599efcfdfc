"""The spec of a run or a group: all that its stages read, and the hashes of it.

The Snakefile reads specs on every start, so this module imports neither JAX nor PySCF.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ferminet_core.errors import InputError
from ferminet_core.inputs.config import Config, renamed, resume_rules, setting_keys
from ferminet_core.inputs.messages import dotted, error_lines
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.setting_fields import Resume
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
    # The group of geometries whose common wavefunction this run starts from. Empty: there is none.
    group: str = ""
    # What the user asked for: molecule, preset and explicit overrides, with a neighbour the share
    # of the iterations, and with sharing the number of iterations of its own. The spec file is
    # rewritten when this changes, but not when a default or a preset's value changes.
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
            **self._nuclei(),
            "config": {k: v for k, v in settings.items() if rules[k] is not Resume.FREE},
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what is computed: of a run its molecule, of a group all of its."""
        return self.molecule.fingerprint

    def _nuclei(self) -> dict[str, Any]:
        return {"molecule": self.molecule.model_dump(mode="json")}


class Member(BaseModel):
    """A geometry of a group, by the run that it belongs to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    parameters: dict[str, float]
    molecule: Molecule


class GroupSpec(RunSpec):
    """A group: geometries that one wavefunction is trained for, complete.

    `run_id` and `geometry` are the name of the group. `molecule` is that of its most central
    member. `config` has the settings of the members, with the iterations of the whole group.
    """

    members: tuple[Member, ...]

    def runs(self) -> list[RunSpec]:
        """The members as runs with the group's settings."""
        return [
            RunSpec(
                scan=self.scan,
                run_id=member.run_id,
                geometry=member.run_id,
                parameters=member.parameters,
                molecule=member.molecule,
                config=self.config,
            )
            for member in self.members
        ]

    @property
    def fingerprint(self) -> str:
        """See `RunSpec.fingerprint`."""
        return hashlib.sha256(canonical_json(self._nuclei()).encode()).hexdigest()

    def _nuclei(self) -> dict[str, Any]:
        members = [member.model_dump(mode="json") for member in self.members]
        return {"members": [{k: m[k] for k in ("run_id", "molecule")} for m in members]}


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
    """Read the spec file of a run or a group. Settings that it does not name have their defaults.

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
    """The spec that a JSON text holds: that of a group if it has members.

    Args:
        text: Content of a spec file, or of the attribute `spec` of an artefact or a checkpoint.
        where: Beginning of the error lines, such as the file.

    Raises:
        InputError: The text is damaged, or has another schema version.
    """
    try:
        content = json.loads(text)
        check_version(content, where)
    except ValueError as error:
        raise InputError(f"{where}: not a spec in JSON ({error})") from None
    of_group = isinstance(content, dict) and "members" in content
    try:
        return (GroupSpec if of_group else RunSpec).model_validate_json(text)
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

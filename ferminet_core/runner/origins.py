"""Whether the artefacts in a run's folder are results of the run as the scan has it.

Only the attributes of artefacts are read.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ferminet_core.errors import ArtefactError, InputError
from ferminet_core.inputs.origin import describe, differences
from ferminet_core.inputs.run_spec import RunSpec, parse_spec
from ferminet_core.inputs.stage_table import STAGES, declared
from ferminet_core.storage import artefacts


def misfit(run: RunSpec, stage: str, attributes: Mapping[str, Any]) -> str:
    """How an artefact differs from what a run asks for; empty if it does not.

    Args:
        run: The run.
        stage: The stage that made the artefact.
        attributes: Attributes of the artefact. What they do not say is not compared.
    """
    if "spec" not in attributes:
        return ""
    try:
        made = parse_spec(str(attributes["spec"]), f"{stage}: its spec")
    except InputError as error:
        return str(error).splitlines()[0]
    return describe(differences(made, run, stage))


def misfits(run: RunSpec, folder: Path) -> dict[str, str]:
    """The stages of a run whose artefacts do not belong to it, and why, in the order of the stages.

    An artefact belongs to the run if it was made for the run's molecule and settings, from the
    results of the parent stages that are there now, and if these belong to the run. A missing or
    damaged file is passed over. A warm start's neighbour may have been extended since.

    Args:
        run: The run as the scan has it.
        folder: Of the run.
    """
    stored: dict[str, dict[str, Any]] = {}
    for entry in STAGES:
        path = folder / f"{entry.name}.zarr.zip"
        if path.exists():
            with contextlib.suppress(ArtefactError):
                stored[entry.name] = artefacts.attributes(path)
    found: dict[str, str] = {}
    for stage, attributes in stored.items():
        parents = declared(stage).parents
        reasons = (
            misfit(run, stage, attributes),
            _superseded(stage, attributes, stored),
            *(found.get(parent, "") for parent in parents),
        )
        if reason := next(filter(None, reasons), ""):
            found[stage] = reason
    return found


def _superseded(
    stage: str, attributes: Mapping[str, Any], stored: Mapping[str, Mapping[str, Any]]
) -> str:
    """Which parent has another result than the one that an artefact was made from."""
    made_from = json.loads(str(attributes.get("parents", "{}")))
    for parent in declared(stage).parents:
        present = stored.get(parent, {}).get("digest")
        if present is not None and made_from.get(parent, present) != present:
            return f"{stage} was computed from an earlier result of {parent}"
    return ""

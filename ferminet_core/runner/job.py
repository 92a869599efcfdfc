"""One stage of a run or a group with the paths of its files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ferminet_core.inputs.run_spec import RunSpec


@dataclass(frozen=True)
class Job:
    """One stage of a run or a group with its files.

    Attributes:
        stage: Name of the stage.
        spec: The run or the group.
        out: The artefact to write.
        work: Folder for status, events and checkpoints of the stage.
        parents: Artefacts that the stage reads, by name of the parent: `reference`, `neighbour`,
            `group`, and for a member of a group `reference:RUN_ID`.
        force: Whether to try a failed calculation again although nothing changed.
        attempt: Number of this attempt of the workflow engine. A stage that a user stopped is not
            started a second time.
        wait: Whether to wait for another process that works on the same stage, or to give way.
    """

    stage: str
    spec: RunSpec
    out: Path
    work: Path
    parents: Mapping[str, Path] = field(default_factory=dict)
    force: bool = False
    attempt: int = 1
    wait: bool = True

    @property
    def provenance_path(self) -> Path:
        """Provenance of the stage, next to its artefact."""
        return self.out.with_name(f"{self.stage}.provenance.json")

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.work / "ckpt"

    @property
    def aside(self) -> Path:
        """Folder that keeps damaged and superseded files."""
        return self.work / "aside"

    @property
    def result_path(self) -> Path:
        """The artefact before it is published."""
        return self.work / "result.zarr.zip"

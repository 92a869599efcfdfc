"""One stage of one run, and where its files lie."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ferminet_core.inputs.run_spec import RunSpec


@dataclass(frozen=True)
class Job:
    """One stage of one run with the files it is handed.

    force: try again what ended broken, unchanged; attempt: number of this try of the workflow
    engine, which gives a stage that a user stopped no further one; wait: for another process that
    works on the same stage, instead of stepping aside
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
        return self.out.with_name(f"{self.stage}.provenance.json")

    @property
    def checkpoints(self) -> Path:
        return self.work / "ckpt"

    @property
    def aside(self) -> Path:
        """Where damaged and superseded files are kept."""
        return self.work / "aside"

    @property
    def result_path(self) -> Path:
        return self.work / "result.zarr.zip"

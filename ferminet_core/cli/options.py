"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

SystemFile = Annotated[Path, typer.Argument(help="System file, such as systems/h2.yaml.")]
Preset = Annotated[
    str | None,
    typer.Option(help="Preset instead of the file's own: smoke, small, gpu, paper or pfau2020."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting. May be repeated."),
]
OutFile = Annotated[Path, typer.Option(help="Artefact to write (.zarr.zip).")]
WorkFolder = Annotated[
    Path, typer.Option(help="Folder for status, events and checkpoints of the stage.")
]
NeighbourFile = Annotated[
    Path | None,
    typer.Option(help="Optimisation artefact of the run that the spec names as neighbour."),
]
GroupFile = Annotated[
    Path | None,
    typer.Option(help="Artefact of the stage joint_optimise of the group that the spec names."),
]
Cores = Annotated[
    int | None, typer.Option(min=1, help="CPU cores to use. Default: all. GPUs are found.")
]
RankCount = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        min=1,
        help="Processes (MPI ranks) that work on this stage together. Default: as many as the "
        "launcher started, and 1 at a terminal.",
    ),
]
GpuCount = Annotated[
    int,
    typer.Option(
        "--gpus",
        min=0,
        help="GPUs to take of those on this node that other runs do not use. 0: all. For one "
        "process only.",
    ),
]
WallTime = Annotated[
    str | None,
    typer.Option(
        help="Stop with a checkpoint before this time is over (minutes, HH:MM:SS or D-HH:MM:SS). "
        "Default: asked of Slurm, Flux or Torque."
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Try a failed calculation again although nothing changed.")
]
Attempt = Annotated[
    int,
    typer.Option(
        min=1,
        help="Number of this attempt of the workflow engine. A stage that a user stopped is not "
        "started a second time.",
    ),
]
Wait = Annotated[
    bool, typer.Option(help="Wait for another process that works on this stage, or give way to it.")
]
ResultsFolder = Annotated[
    Path, typer.Argument(help="Folder of all results, of one scan, of one run or of one group.")
]

"""Command line. Each command takes files and options, and works without Snakemake.

The commands import heavy modules (JAX, PySCF, pandas) only when they run, so `--help` and `check`
answer at once. The commands of the stages come from `stage_commands`.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ferminet_core.cli import curve_command, stage_commands, tables
from ferminet_core.cli.options import Overrides, Preset, ResultsFolder, SystemFile
from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import did_you_mean
from ferminet_core.inputs.scan import Scan, check_bases, load_scan
from ferminet_core.inputs.spec_files import load_run
from ferminet_core.inputs.stage_table import STAGES

if TYPE_CHECKING:
    from ferminet_core.planning.machines import Machine
    from ferminet_core.runner.status import StageState

app = typer.Typer(
    name="ferminet_core",
    help="Ground-state energies of molecules along a scan of geometries, with FermiNet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def check(
    system: Annotated[Path | None, typer.Argument(help="System file to check.")] = None,
    preset: Preset = None,
    overrides: Overrides = None,
    resolved: Annotated[bool, typer.Option(help="Print every setting of every run.")] = False,
    schema: Annotated[
        bool, typer.Option(help="Print the JSON schema of system files, for editors.")
    ] = False,
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="Of an optimisation: refuse walkers that they cannot share."),
    ] = None,
) -> None:
    """Check a system file and print its table of runs. Nothing is computed."""
    if schema:
        tables.print_schema()
        return
    if system is None:
        raise typer.BadParameter("give a system file, or --schema", param_hint="SYSTEM")
    scan = load_scan(system, preset=preset, overrides=overrides or ())
    check_bases(scan.runs, str(scan.path))
    if devices is not None:
        from ferminet_core.planning.machines import Layout
        from ferminet_core.planning.plan import check_layout

        check_layout([*scan.groups, *scan.runs], Layout(1, devices), f"--devices: found {devices}")
    if resolved:
        tables.print_resolved(scan)
    else:
        tables.print_runs(scan)
    if scan.literature:
        from ferminet_core.analysis.literature import read_published

        for line in read_published(scan)[1]:
            typer.echo(f"warning: {line}", err=True)


@app.command()
def plan(
    system: SystemFile,
    preset: Preset = None,
    overrides: Overrides = None,
    device: Annotated[
        str,
        typer.Option(
            help="h100, h200 or a100 (estimates from data sheets), cpu (rates of this machine) or "
            "measure (a few iterations on this machine)."
        ),
    ] = "cpu",
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="Nodes of each optimisation. Default: as many as it can use."),
    ] = None,
    devices_per_node: Annotated[
        int, typer.Option(min=1, help="GPUs or cores of a node that an optimisation uses.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Estimate time, node-hours, memory and disk space of a scan. Nothing is computed."""
    from ferminet_core.cli import plan_tables
    from ferminet_core.planning.plan import scan_plan

    scan = load_scan(system, preset=preset, overrides=overrides or ())
    machine = _machine(device, scan)
    found = scan_plan(scan.runs, machine, devices_per_node, nodes, scan.groups)
    if as_json:
        plan_tables.print_plan_json(scan, found)
    else:
        plan_tables.print_plan(scan, found)


stage_commands.add_to(app)
app.command()(curve_command.curve)


@app.command()
def summary(
    system: Annotated[
        Path, typer.Argument(help="System file, or the scan.json in the folder of a scan.")
    ],
    results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of results. Default: results, and with a scan.json the folder that holds "
            "the scan's."
        ),
    ] = None,
    preset: Preset = None,
    overrides: Overrides = None,
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute",
            help="Derive all numbers from the raw series again, and compare them with the stored "
            "ones.",
        ),
    ] = False,
) -> None:
    """Write table, curve, fits and report of a scan's finished runs, compared with literature."""
    scan = load_scan(system, preset=preset, overrides=overrides or ())
    if results is None:
        frozen = system.suffix == ".json"
        results = Path(os.path.normpath(system.parent / "..")) if frozen else Path("results")
    if not (results / scan.name).is_dir():
        there = [path.parent.name for path in results.glob("*/spec")]
        raise InputError(
            f"{results / scan.name}: no such folder of results"
            f"{did_you_mean(scan.name, there, 'there are')}; see --preset and --results"
        )
    from ferminet_core.report import scan_files

    for line in scan_files.write_summary(scan, results, recompute):
        typer.echo(line)


@app.command()
def digest(file: Annotated[Path, typer.Argument(help="An artefact (.zarr.zip).")]) -> None:
    """Verify an artefact, and print the digest of its arrays and deterministic attributes."""
    from ferminet_core.storage import artefacts

    typer.echo(artefacts.digest(file))


@app.command()
def status(
    path: ResultsFolder = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Refresh the table until all runs are done, or until Ctrl-C."),
    ] = False,
    every: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="Seconds between two updates, with --watch."),
    ] = 5.0,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATE[,STATE...]",
            help="Show only runs in these states: running, broken, failed, stale, resumable, "
            "waiting, done.",
        ),
    ] = None,
) -> None:
    """Show progress, energy, time left, last checkpoint and verdict of the stages of all runs."""
    from ferminet_core.runner.status import run_states, with_verdicts

    wanted = _states(state)

    def read() -> "dict[Path, list[StageState]]":
        return with_verdicts({folder: run_states(folder) for folder in _folders_in(path)})

    if watch and state is not None:
        raise InputError("--state: found with --watch; allowed: one of them")
    if as_json and watch:
        raise InputError("--watch: found with --json; allowed: one of them")
    if watch:
        from ferminet_core.cli.watch import follow

        follow(read, every, tables.console())
    elif as_json:
        tables.print_states_json(read(), wanted)
    else:
        tables.print_states(read(), wanted)


def _states(text: str | None) -> tuple[str, ...]:
    """The states in a list with commas; all without a list.

    Raises:
        InputError: One is unknown.
    """
    from ferminet_core.runner.status import STATES

    named = STATES if text is None else tuple(text.split(","))
    for name in named:
        if name not in STATES:
            raise InputError(f"--state: found {name!r}{did_you_mean(name, STATES)}")
    return named


@app.command()
def cite(
    path: Annotated[
        Path,
        typer.Argument(help="System file, or folder of all results, of one scan or of one run."),
    ] = Path("results"),
) -> None:
    """Print the publications to cite for the methods that a scan uses, as BibTeX."""
    from ferminet_core.report.bibliography import bibliography

    if path.suffix in (".yaml", ".yml"):
        from ferminet_core.analysis.literature import read_published

        scan = load_scan(path)
        runs = scan.runs
        sources = [source for found in read_published(scan)[0] for source in found.sources]
    else:
        from ferminet_core.report.scan_files import literature_sources

        folders = _runs_in(path)
        runs = [load_run(folder.parents[1], folder.name) for folder in folders]
        sources = literature_sources({f.parents[1] for f in folders})
    typer.echo(bibliography(runs, sources, str(path)), nl=False)


def _folders_in(path: Path) -> list[Path]:
    """The folders of the groups and the runs at a path, or an `InputError` as `_runs_in`."""
    from ferminet_core.runner.status import group_folders, is_group

    groups = group_folders(path)
    return groups if groups and is_group(path) else [*groups, *_runs_in(path)]


def _runs_in(path: Path) -> list[Path]:
    """The folders of the runs at a path.

    Raises:
        InputError: There are none.
    """
    from ferminet_core.runner.status import run_folders

    runs = run_folders(path)
    if not runs:
        raise InputError(f"{path}: not the folder of a scan, a run or all results (try results/h2)")
    return runs


@app.command()
def stop(path: ResultsFolder) -> None:
    """Ask running stages to write a checkpoint and stop, without a retry."""
    from ferminet_core.runner.maintenance import request_stop

    for line in request_stop(path):
        typer.echo(line)


@app.command()
def reset(
    path: Annotated[
        Path,
        typer.Argument(
            help="Folder of a scan, results/SCAN, of a run in its runs/ or a group in its groups/."
        ),
    ],
    stage: Annotated[
        str, typer.Argument(help=f"{', '.join(entry.name for entry in STAGES)} or all.")
    ],
) -> None:
    """Delete a stage of a run, a group or all of a scan: results, checkpoints and records."""
    from ferminet_core.runner.maintenance import reset as delete

    for deleted in delete(path, stage):
        typer.echo(f"deleted: {deleted}")


@app.command()
def archive(
    scan: Annotated[Path, typer.Argument(help="Folder of a finished scan, results/SCAN.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: SCAN.tar next to the folder.")
    ] = None,
) -> None:
    """Pack a finished scan into one tar file without checkpoints, and verify it."""
    from ferminet_core.runner.maintenance import archive as pack

    target = out or scan.with_name(f"{scan.resolve().name}.tar")
    typer.echo(f"written and verified: {pack(scan, target, typer.echo)}")


def _machine(device: str, scan: Scan) -> "Machine":
    """The device that a plan is for. `cpu` and `measure` time this machine.

    Raises:
        InputError: The device is unknown.
    """
    from ferminet_core.planning.machines import GPUS

    if device in GPUS:
        return GPUS[device]
    if device not in ("cpu", "measure"):
        allowed = (*GPUS, "cpu", "measure")
        raise InputError(f"--device: found {device!r}{did_you_mean(device, allowed)}")
    from ferminet_core.parallel.jax_setup import configure_jax, prepare_process

    prepare_process(devices=1)
    run, group = scan.runs[0], next(iter(scan.groups), None)
    configure_jax(run.config.runtime.precision)
    from ferminet_core.planning import calibration

    return calibration.cpu_machine() if device == "cpu" else calibration.stages_machine(run, group)

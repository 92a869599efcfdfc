"""Command line: one command per stage; each takes files and options and works without Snakemake.

Heavy modules (JAX, PySCF) are imported inside the commands: `--help` and `check` answer at once,
and the process's share of the machine is settled before JAX reads it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ferminet_core.cli import tables
from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import did_you_mean
from ferminet_core.inputs.run_spec import RunSpec, load_spec
from ferminet_core.inputs.scan import check_bases, load_scan
from ferminet_core.inputs.spec_files import load_run
from ferminet_core.parallel import distributed

if TYPE_CHECKING:
    from xarray import Dataset

    from ferminet_core.planning.machines import Machine
    from ferminet_core.runner.job import Job
    from ferminet_core.runner.run_stage import Parents
    from ferminet_core.runner.status import StageState
    from ferminet_core.runner.stopping import Stop
    from ferminet_core.stages.base import Stage

app = typer.Typer(
    name="ferminet_core",
    help="FermiNet bond dissociation scans, one stage at a time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SystemFile = Annotated[Path, typer.Argument(help="System file, e.g. systems/h2.yaml.")]
SpecFile = Annotated[Path, typer.Argument(help="Resolved spec of one run (JSON).")]
Preset = Annotated[
    str | None, typer.Option(help="Preset instead of the system file's: smoke, small or paper.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated."),
]
OutFile = Annotated[Path, typer.Option(help="Artefact to write (.zarr.zip).")]
WorkFolder = Annotated[Path, typer.Option(help="Folder for status and other records of the work.")]
Devices = Annotated[
    int | None, typer.Option(min=1, help="CPU cores to use; all by default. GPUs are found.")
]
ReferenceFile = Annotated[Path, typer.Option(help="The run's reference artefact.")]
PretrainFile = Annotated[Path, typer.Option(help="The run's pretraining artefact.")]
NeighbourFile = Annotated[
    Path | None,
    typer.Option(help="Optimisation artefact of the run that the spec names as neighbour."),
]
OptimiseFile = Annotated[Path, typer.Option(help="The run's optimisation artefact.")]
WallTime = Annotated[
    str | None,
    typer.Option(
        help="End with a checkpoint before so much time is over (minutes, HH:MM:SS or D-HH:MM:SS); "
        "read from Slurm by default."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Try again, unchanged, what ended broken.")]
Attempt = Annotated[
    int, typer.Option(min=1, help="Number of this try; a stage that was stopped gets no second.")
]
RankCount = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        min=1,
        help="Processes (MPI ranks) that work on this stage together; as many as the launcher "
        "started by default.",
    ),
]
GpuCount = Annotated[
    int,
    typer.Option(
        "--gpus",
        min=0,
        help="GPUs to take of those that other runs on this node have left; 0: all. "
        "For one process.",
    ),
]
Wait = Annotated[
    bool, typer.Option(help="Wait for another process that works on this stage, or step aside.")
]


@app.command()
def check(
    system: Annotated[Path | None, typer.Argument(help="System file to validate.")] = None,
    preset: Preset = None,
    overrides: Overrides = None,
    resolved: Annotated[bool, typer.Option(help="Print every setting of every run.")] = False,
    schema: Annotated[
        bool, typer.Option(help="Print the JSON schema of system files, for editors.")
    ] = False,
) -> None:
    """Validate a system file and print its run table; nothing is computed."""
    if schema:
        tables.print_schema()
        return
    if system is None:
        raise typer.BadParameter("give a system file, or --schema", param_hint="SYSTEM")
    scan = load_scan(system, preset=preset, overrides=overrides or ())
    check_bases(scan.runs, str(scan.path))
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
            help="h100 or a100 (estimates from data sheets), cpu (rates of this machine), or "
            "measure (a few iterations on this machine)."
        ),
    ] = "cpu",
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="Nodes of each optimisation; as many as it can use by default."),
    ] = None,
    devices_per_node: Annotated[
        int, typer.Option(min=1, help="GPUs or cores of a node that an optimisation uses.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Estimate time, node-hours, memory and disk space of a scan; nothing is computed."""
    from ferminet_core.cli import plan_tables
    from ferminet_core.planning.plan import scan_plan

    scan = load_scan(system, preset=preset, overrides=overrides or ())
    machine = _machine(device, scan.runs[0])
    found = scan_plan(scan.runs, machine, devices_per_node, nodes)
    if as_json:
        plan_tables.print_plan_json(scan, found)
    else:
        plan_tables.print_plan(scan, found)


@app.command()
def reference(
    spec: SpecFile,
    out: OutFile,
    work: WorkFolder,
    wall_time: WallTime = None,
    force: Force = False,
    attempt: Attempt = 1,
    wait: Wait = True,
) -> None:
    """Solve Hartree-Fock for one run."""
    from ferminet_core.runner.job import Job

    def compute(run: RunSpec) -> "Dataset":
        from ferminet_core.chemistry.reference import run as solve

        return solve(run)

    job = Job("reference", load_spec(spec), out, work, {}, force, attempt, wait)
    _run_once(job, compute, wall_time)


@app.command()
def conventional(
    spec: Annotated[
        Path, typer.Argument(help="Spec of one run's conventional energies, spec/conventional/*.")
    ],
    out: OutFile,
    work: WorkFolder,
    devices: Devices = None,
    wall_time: WallTime = None,
    force: Force = False,
    attempt: Attempt = 1,
    wait: Wait = True,
) -> None:
    """Compute coupled cluster, NEVPT2, full CI and whatever else one run asks for."""
    from ferminet_core.runner.job import Job

    def compute(run: RunSpec) -> "Dataset":
        from ferminet_core.chemistry.conventional import run as solve
        from ferminet_core.parallel.jax_setup import available_cores

        return solve(run, devices or available_cores())

    job = Job("conventional", load_spec(spec), out, work, {}, force, attempt, wait)
    _run_once(job, compute, wall_time)


@app.command()
def pretrain(
    spec: SpecFile,
    reference: ReferenceFile,
    out: OutFile,
    work: WorkFolder,
    neighbour: NeighbourFile = None,
    devices: Devices = None,
    ranks: RankCount = None,
    gpus: GpuCount = 0,
    wall_time: WallTime = None,
    force: Force = False,
    attempt: Attempt = 1,
    wait: Wait = True,
) -> None:
    """Fit the network's orbitals to the Hartree-Fock orbitals of one run, or take the network of
    its neighbour."""
    from ferminet_core.runner.job import Job

    run = load_spec(spec)
    if bool(run.neighbour) != bool(neighbour):
        wanted = f"the optimisation of {run.neighbour!r}" if run.neighbour else "none"
        raise InputError(f"--neighbour: found {neighbour}; the spec {spec} needs {wanted}")

    def make(run: RunSpec, parents: "Parents") -> "Stage":
        if neighbour:
            from ferminet_core.stages.warm_start import WarmStart

            return WarmStart(run, parents["reference"], parents["neighbour"])
        from ferminet_core.stages.pretrain import Pretrain

        return Pretrain(run, parents["reference"])

    parents = {"reference": reference, **({"neighbour": neighbour} if neighbour else {})}
    with _stop(wall_time, ranks) as stop:
        job = Job("pretrain", run, out, work, parents, force, attempt, wait)
        _run_loop(job, devices, gpus, make, stop)


@app.command()
def optimise(
    spec: SpecFile,
    pretrain: PretrainFile,
    out: OutFile,
    work: WorkFolder,
    devices: Devices = None,
    ranks: RankCount = None,
    gpus: GpuCount = 0,
    wall_time: WallTime = None,
    force: Force = False,
    attempt: Attempt = 1,
    wait: Wait = True,
) -> None:
    """Minimise the energy of one run's wavefunction."""
    from ferminet_core.runner.job import Job

    def make(run: RunSpec, parents: "Parents") -> "Stage":
        from ferminet_core.stages.optimise import Optimise

        return Optimise(run, parents["pretrain"])

    parents = {"pretrain": pretrain}
    with _stop(wall_time, ranks) as stop:
        job = Job("optimise", load_spec(spec), out, work, parents, force, attempt, wait)
        _run_loop(job, devices, gpus, make, stop)


@app.command()
def inference(
    spec: SpecFile,
    optimise: OptimiseFile,
    reference: ReferenceFile,
    out: OutFile,
    work: WorkFolder,
    devices: Devices = None,
    ranks: RankCount = None,
    gpus: GpuCount = 0,
    wall_time: WallTime = None,
    force: Force = False,
    attempt: Attempt = 1,
    wait: Wait = True,
) -> None:
    """Measure the energy of one run's optimised wavefunction, with its error."""
    from ferminet_core.runner.job import Job

    def make(run: RunSpec, parents: "Parents") -> "Stage":
        from ferminet_core.stages.inference import Inference

        return Inference(run, parents["optimise"], parents["reference"])

    parents = {"optimise": optimise, "reference": reference}
    with _stop(wall_time, ranks) as stop:
        job = Job("inference", load_spec(spec), out, work, parents, force, attempt, wait)
        _run_loop(job, devices, gpus, make, stop)


@app.command()
def summary(
    system: SystemFile,
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    preset: Preset = None,
    overrides: Overrides = None,
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute",
            help="Derive all figures from the raw series; compare with those stored.",
        ),
    ] = False,
) -> None:
    """Write table, curve and fits of what is done of a scan; literature is read here only."""
    scan = load_scan(system, preset=preset, overrides=overrides or ())
    from ferminet_core.report import scan_files

    for line in scan_files.write_summary(scan, results, recompute):
        typer.echo(line)


@app.command()
def digest(file: Annotated[Path, typer.Argument(help="An artefact (.zarr.zip).")]) -> None:
    """Verify an artefact, and print the digest over its arrays and deterministic attributes."""
    from ferminet_core.storage import artefacts

    typer.echo(artefacts.digest(file))


ResultsFolder = Annotated[
    Path, typer.Argument(help="All results, one scan's folder, or one run's.")
]


@app.command()
def status(
    path: ResultsFolder = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on showing it until all is done, or Ctrl-C.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Between two looks, with --watch.")
    ] = 5.0,
) -> None:
    """Show every run and stage: state, step, energy, rate, time left, checkpoint, verdict."""
    from ferminet_core.runner.status import run_states, with_verdicts

    def read() -> "dict[Path, list[StageState]]":
        return with_verdicts({run: run_states(run) for run in _runs_in(path)})

    if as_json and watch:
        raise InputError("--watch: found with --json; allowed: one of them")
    if watch:
        from ferminet_core.cli.watch import follow

        follow(read, every, tables.console())
    elif as_json:
        tables.print_states_json(read())
    else:
        tables.print_states(read())


@app.command()
def cite(
    path: Annotated[
        Path, typer.Argument(help="System file, or all results, one scan's folder, or one run's.")
    ] = Path("results"),
) -> None:
    """Print what to cite for the methods that a scan uses, as BibTeX."""
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


def _runs_in(path: Path) -> list[Path]:
    """The folders of the runs at a path.

    Raises:
        InputError: there are none.
    """
    from ferminet_core.runner.status import run_folders

    runs = run_folders(path)
    if not runs:
        raise InputError(f"{path}: no scan, run or folder of scans (try results/h2)")
    return runs


@app.command()
def stop(path: ResultsFolder) -> None:
    """Ask running stages to write a checkpoint and end, without being retried."""
    from ferminet_core.runner.maintenance import request_stop

    for line in request_stop(path):
        typer.echo(line)


@app.command()
def reset(
    path: Annotated[
        Path, typer.Argument(help="A scan's folder, results/<scan>, or a run's in its runs/.")
    ],
    stage: Annotated[
        str, typer.Argument(help="reference, pretrain, optimise, inference, conventional or all.")
    ],
) -> None:
    """Forget a stage of one run or of a whole scan: its results, checkpoints and records."""
    from ferminet_core.runner.maintenance import reset as forget

    for deleted in forget(path, stage):
        typer.echo(f"deleted: {deleted}")


@app.command()
def archive(
    scan: Annotated[Path, typer.Argument(help="Folder of a finished scan, results/<scan>.")],
    out: Annotated[Path | None, typer.Option(help="File to write; <scan>.tar beside it.")] = None,
) -> None:
    """Pack a finished scan into one tar file, without checkpoints, and verify it."""
    from ferminet_core.runner.maintenance import archive as pack

    target = out or scan.with_name(f"{scan.resolve().name}.tar")
    typer.echo(f"written and verified: {pack(scan, target, typer.echo)}")


def _machine(device: str, run: RunSpec) -> "Machine":
    """The device that a plan is made for; this machine is measured.

    Raises:
        InputError: an unknown one.
    """
    from ferminet_core.planning.machines import GPUS

    if device in GPUS:
        return GPUS[device]
    if device not in ("cpu", "measure"):
        allowed = (*GPUS, "cpu", "measure")
        raise InputError(f"--device: found {device!r}{did_you_mean(device, allowed)}")
    from ferminet_core.parallel.jax_setup import configure_jax, prepare_process

    prepare_process(devices=1)
    configure_jax(run.config.runtime.precision)
    from ferminet_core.planning import calibration

    return calibration.cpu_machine() if device == "cpu" else calibration.stages_machine(run)


def _stop(wall_time: str | None, ranks: int | None) -> "Stop":
    """Finds the other ranks; hears signals from now on; on rank 0 knows the wall-time limit."""
    from ferminet_core.runner.stopping import Stop, parse_wall_time, slurm_seconds_left

    limit = None if wall_time is None else parse_wall_time(wall_time)
    if not distributed.start(ranks).is_root:
        return Stop()  # the ranks stop together; one question to the batch system is enough
    return Stop(slurm_seconds_left() if limit is None else limit)


def _run_once(job: "Job", compute: "Callable[[RunSpec], Dataset]", wall_time: str | None) -> None:
    """Run a stage that is one call of PySCF."""
    with _stop(wall_time, 1) as stop:
        from ferminet_core.parallel.jax_setup import prepare_process

        prepare_process(devices=1)
        from ferminet_core.runner import run_stage

        run_stage.run_once(job, compute, stop)


def _run_loop(
    job: "Job",
    devices: int | None,
    gpus: int,
    make: "Callable[[RunSpec, Parents], Stage]",
    stop: "Stop",
) -> None:
    """Settle the process's share of the machine and JAX's settings, then run the stage."""
    from ferminet_core.parallel.jax_setup import (
        available_cores,
        configure_jax,
        prepare_process,
        usable_devices,
    )

    config = job.spec.config
    wanted = devices or available_cores()
    ranks = distributed.ranks()
    prepare_process(usable_devices(wanted, max(1, config.mcmc.walkers // 2 // ranks.size)))
    if gpus:
        _claim_gpus(gpus, ranks.size, stop)
    ranks.connect_jax()
    log = configure_jax(config.runtime.precision)
    from ferminet_core.runner import run_stage

    run_stage.run_loop(job, make, log, stop)
    ranks.close()


def _claim_gpus(count: int, ranks: int, stop: "Stop") -> None:
    """Take so many GPUs of this node for this process.

    Raises:
        InputError: several ranks, which part the GPUs among themselves.
    """
    if ranks > 1:
        raise InputError(f"--gpus: found {count} with {ranks} ranks; allowed: for one process only")
    from ferminet_core.parallel.gpus import claim
    from ferminet_core.runner.progress import say

    claim(count, stop.due, say)

"""Command line: one command per stage; each takes files and options and works without Snakemake.

Heavy modules (JAX, PySCF) are imported inside the commands: `--help` and `check` answer at once,
and the process's share of the machine is settled before JAX reads it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ferminet_core import listing
from ferminet_core.scan import RunSpec, check_bases, load_scan, load_spec

if TYPE_CHECKING:
    from ferminet_core.driver import Parents
    from ferminet_core.stage import Stage

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
OptimiseFile = Annotated[Path, typer.Option(help="The run's optimisation artefact.")]


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
        listing.print_schema()
        return
    if system is None:
        raise typer.BadParameter("give a system file, or --schema", param_hint="SYSTEM")
    scan = load_scan(system, preset=preset, overrides=overrides or ())
    check_bases(scan.runs, str(scan.path))
    if resolved:
        listing.print_resolved(scan)
    else:
        listing.print_runs(scan)


@app.command()
def reference(spec: SpecFile, out: OutFile, work: WorkFolder) -> None:
    """Solve Hartree-Fock for one run."""
    from ferminet_core.jax_setup import prepare_process

    prepare_process(devices=1)
    from ferminet_core import driver
    from ferminet_core import reference as stage

    driver.run_once(driver.Job("reference", load_spec(spec), out, work), stage.run)


@app.command()
def pretrain(
    spec: SpecFile,
    reference: ReferenceFile,
    out: OutFile,
    work: WorkFolder,
    devices: Devices = None,
) -> None:
    """Fit the network's orbitals to the Hartree-Fock orbitals of one run."""

    def make(run: RunSpec, parents: "Parents") -> "Stage":
        from ferminet_core.pretrain import Pretrain

        return Pretrain(run, parents["reference"])

    _run_loop("pretrain", spec, {"reference": reference}, out, work, devices, make)


@app.command()
def optimise(
    spec: SpecFile,
    pretrain: PretrainFile,
    out: OutFile,
    work: WorkFolder,
    devices: Devices = None,
) -> None:
    """Minimise the energy of one run's wavefunction."""

    def make(run: RunSpec, parents: "Parents") -> "Stage":
        from ferminet_core.optimise import Optimise

        return Optimise(run, parents["pretrain"])

    _run_loop("optimise", spec, {"pretrain": pretrain}, out, work, devices, make)


@app.command()
def inference(
    spec: SpecFile,
    optimise: OptimiseFile,
    reference: ReferenceFile,
    out: OutFile,
    work: WorkFolder,
    devices: Devices = None,
) -> None:
    """Measure the energy of one run's optimised wavefunction, with its error."""

    def make(run: RunSpec, parents: "Parents") -> "Stage":
        from ferminet_core.inference import Inference

        return Inference(run, parents["optimise"], parents["reference"])

    parents = {"optimise": optimise, "reference": reference}
    _run_loop("inference", spec, parents, out, work, devices, make)


@app.command()
def summary(
    system: SystemFile,
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    preset: Preset = None,
    overrides: Overrides = None,
) -> None:
    """Write table, curve and fits of what is done of a scan; literature is read here only."""
    scan = load_scan(system, preset=preset, overrides=overrides or ())
    from ferminet_core import report

    for line in report.write_summary(scan, results):
        typer.echo(line)


@app.command()
def digest(file: Annotated[Path, typer.Argument(help="An artefact (.zarr.zip).")]) -> None:
    """Verify an artefact, and print the digest over its arrays and deterministic attributes."""
    from ferminet_core import store

    typer.echo(store.digest(file))


def _run_loop(
    stage: str,
    spec_file: Path,
    parents: Mapping[str, Path],
    out: Path,
    work: Path,
    devices: int | None,
    make: "Callable[[RunSpec, Parents], Stage]",
) -> None:
    """Settle the process's share of the machine and JAX's settings, then run the stage."""
    from ferminet_core.jax_setup import (
        available_cores,
        configure_jax,
        prepare_process,
        usable_devices,
    )

    spec = load_spec(spec_file)
    wanted = devices or available_cores()
    prepare_process(usable_devices(wanted, spec.config.mcmc.walkers // 2))
    log = configure_jax(spec.config.runtime.precision)
    from ferminet_core import driver

    driver.run_loop(driver.Job(stage, spec, out, work, parents), make, log)

"""The command that measures the wavefunction of a whole scan between and at its geometries."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ferminet_core.cli.options import Cores, GpuCount, WallTime
from ferminet_core.inputs.group_curves import Source, open_group
from ferminet_core.parallel import distributed

if TYPE_CHECKING:
    from ferminet_core.analysis.joint_curve import JointCurve
    from ferminet_core.runner.curve import Request
    from ferminet_core.runner.stopping import Stop


def curve(
    scan: Annotated[Path, typer.Argument(help="Folder of a scan with a shared wavefunction.")],
    group: Annotated[
        str | None, typer.Option(help="Name of the group. Needed if the scan has several.")
    ] = None,
    points: Annotated[
        int | None,
        typer.Option(help="Energies at so many values of the parameter, evenly over its range."),
    ] = None,
    at: Annotated[
        list[float] | None,
        typer.Option(metavar="VALUE", help="Energy at this value. May be repeated."),
    ] = None,
    slopes: Annotated[
        bool, typer.Option("--slopes", help="Slopes of the energy at all trained geometries.")
    ] = False,
    differences: Annotated[
        bool,
        typer.Option("--differences", help="Energy differences of neighbouring geometries."),
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(help="Records of each measurement. Default: those of the inference."),
    ] = None,
    devices: Cores = None,
    gpus: GpuCount = 0,
    wall_time: WallTime = None,
) -> None:
    """Measure the shared wavefunction of a scan at any geometry in its range, without training.

    Without options it measures 25 energies. Results are kept; a second call measures what is
    missing. The command summary shows them. With slopes or differences it fits the bond length and
    the frequency of a diatomic a second time, to the energies of the runs together with these.
    """
    from ferminet_core.runner.stopping import Stop, parse_wall_time, seconds_left

    limit = seconds_left() if wall_time is None else parse_wall_time(wall_time)
    if not (at or slopes or differences or points is not None):
        points = 25
    with Stop(limit) as stop:
        distributed.start(1)
        source = open_group(scan, group)
        _prepare(source, devices)
        from ferminet_core.runner import curve as runner

        request = runner.Request(points, tuple(at or ()), slopes, differences, samples)
        runner.check(source, request)
        _claim(source, gpus, stop)
        found = _measured(source, request, stop)
    for line in runner.describe(found):
        typer.echo(line)
    typer.echo(f"written: {runner.path_of(source)}; the command summary draws it")


def _prepare(source: Source, devices: int | None) -> None:
    """Choose the process's devices, which JAX reads when it is imported."""
    from ferminet_core.parallel.jax_setup import available_cores, prepare_process, usable_devices

    wanted = devices or available_cores()
    prepare_process(usable_devices(wanted, max(1, source.spec.config.mcmc.walkers // 2)))


def _claim(source: Source, gpus: int, stop: "Stop") -> None:
    """Wait for the GPUs, if any are wanted, and set JAX up."""
    from ferminet_core.parallel.jax_setup import check_platform, configure_jax
    from ferminet_core.runner.progress import say

    if gpus:
        from ferminet_core.parallel.gpus import claim

        claim(gpus, stop.due, say)
    configure_jax(source.spec.config.runtime.precision)
    if idle := check_platform(gpus):
        say(idle.lstrip("; "))


def _measured(source: Source, request: "Request", stop: "Stop") -> "JointCurve":
    """Measure what is missing, and show the progress."""
    from ferminet_core.runner import curve as runner
    from ferminet_core.runner.progress import Reading, StageProgress

    with StageProgress(runner.NAME, source.spec.run_id, 0) as progress:

        def report(done: int, total: int, reading: Reading) -> None:
            stop.block_done()
            progress.update(done, total, reading)

        return runner.measure(source, request, report, stop.due)

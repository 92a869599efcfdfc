"""Charts of a group of geometries that share a wavefunction: its pretraining and optimisation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from ferminet_core.analysis.group_summary import GroupOutcome
from ferminet_core.errors import ArtefactError
from ferminet_core.inputs.group_files import GROUPS
from ferminet_core.inputs.scan_columns import MILLI
from ferminet_core.report.chart_data import RUN_COLOURS
from ferminet_core.report.charts import (
    MAX_POINTS,
    Chart,
    Figure,
    axis,
    binned,
    label,
    running_mean,
)
from ferminet_core.report.run_charts import bins_note, over_steps, series_traces, stepped
from ferminet_core.storage import artefacts

_VERMILION, _BLUE = RUN_COLOURS[:2]
_FAINT = 0.35  # opacity of a geometry's line
_POINTS = 20_000  # of all geometries' lines together
_RUNNING_SHARE = 20  # the running mean is over one of so many parts of a series
_READ = {
    "joint_pretrain": ("orbital_misfit",),
    "joint_optimise": ("energy_Eh", "variance_Eh2", "update_norm"),
}


def group_charts(group: GroupOutcome, scan: Path, name: str) -> list[Chart]:
    """The charts of a group from its finished stages; a damaged file is passed over.

    Args:
        group: its outcome.
        scan: folder of the scan.
        name: prefix of the charts' names.
    """
    charts: list[Chart] = []
    for stage, variables in _READ.items():
        path = scan / GROUPS / group.name / f"{stage}.zarr.zip"
        if not path.exists():
            continue
        try:
            found = artefacts.load_present(path, variables)
        except ArtefactError:
            continue
        if found.sizes.get("step", 0):
            make = _optimisation if stage == "joint_optimise" else _pretraining
            charts += make(group, found, name)
    return charts


def _pretraining(group: GroupOutcome, found: xr.Dataset, name: str) -> list[Chart]:
    misfit = found["orbital_misfit"].to_numpy()
    title = f"Misfit of the orbitals, group {group.name}"
    met = "met" if found.attrs.get("converged") else "not met"
    data, worst, last = _lines(group.members, misfit)
    text = (
        f"{len(misfit)} iterations of pretraining; the criterion was {met}. The largest misfit at "
        f"the end is {last:.3g}, of {worst}."
    )
    view = over_steps(data, axis("relative misfit", type="log"))
    return [Chart(f"{name}-misfit", title, text, [view], note="One line for each geometry.")]


def _optimisation(group: GroupOutcome, found: xr.Dataset, name: str) -> list[Chart]:
    data, worst, last = _lines(group.members, found["variance_Eh2"].to_numpy())
    variance = Chart(
        name=f"{name}-variance",
        title=f"Variance of the local energy, group {group.name}",
        text=f"The largest at the end is {last:.3g} hartree², of {worst}.",
        views=[over_steps(data, axis("variance (hartree²)", type="log"))],
        note="One line for each geometry.",
    )
    norm = found["update_norm"].to_numpy()
    traces, bins = series_traces("norm of the update", norm, _BLUE)
    update = Chart(
        name=f"{name}-update",
        title=f"Norm of the update, group {group.name}",
        text=f"{norm[-1]:.3g} at the end, of all shared parameters.",
        views=[over_steps(traces, axis("", type="log"))],
        note=bins_note(bins, "iterations"),
    )
    return [_mean_energy(group, found["energy_Eh"].to_numpy(), name), variance, update]


def _mean_energy(group: GroupOutcome, energy: np.ndarray, name: str) -> Chart:
    """The mean over the geometries that took part to the end, above its last value."""
    kept = [g for g, member in enumerate(group.members) if member not in group.left_out]
    n_steps = len(energy)
    window = max(1, n_steps // _RUNNING_SHARE)
    # Of each geometry first: in an update some of them may rest.
    smooth = np.mean([running_mean(energy[:, g], window) for g in kept], axis=0)
    bins = binned(smooth)
    above = MILLI * (smooth[bins.end - 1] - smooth[-1])
    trace = stepped("mean energy", bins, np.where(above > 0, above, np.nan), _VERMILION, 4)
    halfway = MILLI * (smooth[n_steps // 2] - smooth[-1])
    return Chart(
        name=f"{name}-energy",
        title=f"Mean energy above its last value, group {group.name}",
        text=(
            f"Mean over {len(kept)} geometries, {n_steps} iterations. Halfway it lay "
            f"{abs(halfway):.3g} mEh {'above' if halfway > 0 else 'below'} the last value."
        ),
        views=[over_steps([trace], axis("mEh", type="log"))],
        note=f"A running mean over {window} iterations; the last value is that of the last ones.",
    )


def _lines(members: Sequence[str], values: np.ndarray) -> tuple[list[Figure], str, float]:
    """A faint line for each geometry, and a strong one for the worst at the end.

    Args:
        members: their names.
        values: (step, geometry), the larger the worse.

    Returns:
        The traces, the name of the worst geometry, and its value over the last tenth.
    """
    end = values[-max(1, len(values) // 10) :]
    known = np.isfinite(end)
    late = np.where(known, end, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    worst = int(np.argmax(late))
    most = max(20, min(MAX_POINTS, _POINTS // len(members)))
    data = []
    for place in [*(g for g in range(len(members)) if g != worst), worst]:
        bins = binned(values[:, place], most)
        colour = _VERMILION if place == worst else _BLUE
        trace = stepped(str(label(members[place])), bins, bins.mean, colour, 4)
        faint = {} if place == worst else {"opacity": _FAINT, "showlegend": False}
        data.append(trace | faint)
    return data, members[worst], float(late[worst])

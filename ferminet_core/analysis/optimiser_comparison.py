"""A comparison of optimisers: the error of the energy over iterations and over seconds.

Pure functions of the optimisations' energies. Figure 8 of Pfau et al., Phys. Rev. Research 2,
033429 (2020) compares KFAC with Adam in this way.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ferminet_core.analysis.literature import PublishedEnergies

# Errors (hartree) to be reached; the last is chemical accuracy, 1 kcal/mol.
TARGETS = (0.1, 0.03, 0.01, 0.003, 0.0016)
_PER_DECADE = 20  # points of a curve
_SHORTEST = 10  # iterations in a point, so that none of them dominates it


class Trace(NamedTuple):
    """One optimisation. energy_Eh: (step,), means over walkers; seconds: of one iteration."""

    geometry: str
    variant: str
    energy_Eh: np.ndarray
    seconds: float


class Curve(NamedTuple):
    """step: (point,), the middle of the iterations of each point; error_Eh: (point,)."""

    step: np.ndarray
    error_Eh: np.ndarray


def curve(energies: np.ndarray, reference: float) -> Curve:
    """Median error of the iterations between points that are evenly spaced in the logarithm.

    One walker near a node can dominate the mean of an iteration, but not the median of several.

    Args:
        energies: (step,), hartree.
        reference: the exact energy, or the best known, hartree.
    """
    n = len(energies)
    count = max(2, round(_PER_DECADE * np.log10(max(n, 10) / _SHORTEST)))
    ends = np.unique(np.geomspace(_SHORTEST, max(n, _SHORTEST), count).round().astype(int))
    ends = ends[ends <= n]
    starts = np.concatenate([[0], ends[:-1]])
    points = [float(np.nanmedian(energies[a:b])) for a, b in zip(starts, ends, strict=True)]
    return Curve(0.5 * (starts + 1 + ends), np.array(points) - reference)


def steps_to(found: Curve, error: float) -> int | None:
    """The iteration from which on the error stays below `error`; None if there is none."""
    above = np.flatnonzero(~(found.error_Eh < error))
    first = 0 if above.size == 0 else int(above[-1]) + 1
    return round(found.step[first]) if first < len(found.step) else None


def best_known(done: pd.DataFrame, published: Sequence[PublishedEnergies]) -> dict[str, float]:
    """The energy by geometry that errors are relative to, hartree.

    It is a published energy, and an exact one is preferred. A geometry without a published energy
    takes the lowest energy of its own inferences.

    Args:
        done: finished rows of the scan table.
        published: tables of published energies, whose columns are in `done`.
    """
    ordered = sorted(published, key=lambda entry: entry.kind != "exact")
    found = {}
    for geometry, runs in done.groupby("geometry", sort=False):
        known = [
            float(runs[entry.column].iloc[0])
            for entry in ordered
            if runs[entry.column].notna().all()
        ]
        found[str(geometry)] = (known or [float(runs["energy_Eh"].min())])[0]
    return found


def advantages(traces: Sequence[Trace], references: Mapping[str, float]) -> pd.DataFrame:
    """Iterations and seconds to each of `TARGETS`, for geometries with several variants.

    Args:
        traces: the optimisations of all runs.
        references: energy by geometry, hartree.

    Returns:
        geometry, error_Eh, variant, steps, seconds; NA where a variant does not reach the error.
    """
    rows = []
    for geometry, reference in references.items():
        own = [trace for trace in traces if trace.geometry == geometry]
        if len(own) < 2:
            continue
        for error in TARGETS:
            for trace in own:
                steps = steps_to(curve(trace.energy_Eh, reference), error)
                seconds = None if steps is None else steps * trace.seconds
                rows.append((geometry, error, trace.variant, steps, seconds))
    table = pd.DataFrame(rows, columns=["geometry", "error_Eh", "variant", "steps", "seconds"])
    return table.astype({"steps": "Int64", "seconds": "Float64"})

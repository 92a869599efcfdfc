"""What the raw series of an inference say: energy, spin and dipole with errors, and what is
suspicious (NumPy only).

The inference writes these figures beside the series they follow from; `recompute` derives them
again from what is stored.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ferminet_core.analysis.statistics import (
    Reblocking,
    frozen_walkers,
    reblock,
    summarise_energy,
)
from ferminet_core.inputs.observable_table import OBSERVABLES
from ferminet_core.inputs.run_spec import RunSpec

FROZEN_WINDOW = 50  # records without one accepted move that make a walker a frozen one
DRIFT_SIGMAS = 4.0  # 6e-5 by chance
SPIN_TOLERANCE = 0.05  # of <S^2>; a singlet with 2.5 % of triplet weight
SERIES = ("energy_local", "equilibration_Eh", "pmove", *(o.name for o in OBSERVABLES))
# Largest relative difference that rounding makes. Sums over doubles differ by 1e-12 from processor
# to processor; the acceptance is stored, and averaged, in single precision.
ROUNDING = 1e-9
_SINGLE_PRECISION = {"pmove": 1e-6}


class Conditions(NamedTuple):
    """What the figures depend on beside the series.

    seed: of the bootstrap; spin: 2S asked for; equilibrated: whether the equilibration ended by its
    criterion; pretrain_converged, n_rollbacks: of the stages before
    """

    seed: int
    spin: int
    equilibrated: bool
    pretrain_converged: bool
    n_rollbacks: int


def drift(energies: np.ndarray) -> float:
    """Difference of the two halves of a series (record, walker), in standard errors.

    From the walkers' own differences, which are independent of each other.
    """
    half = len(energies) // 2
    difference = energies[half : 2 * half].mean(axis=0) - energies[:half].mean(axis=0)
    difference = difference[np.isfinite(difference)]
    if difference.size < 2:
        return float("nan")
    error = difference.std(ddof=1) / np.sqrt(difference.size)
    return float(difference.mean() / error) if error > 0 else 0.0


def figures(series: Mapping[str, np.ndarray], conditions: Conditions) -> dict[str, Any]:
    """All that the attributes of an inference say about its series, by the attributes' names.

    Args:
        series: `SERIES`: energy_local (sample, walker) and equilibration_Eh (equilibration,),
            hartree; pmove (sample,); each observable (call,) or (call, component).
        conditions: what else they depend on.

    Returns:
        Plain numbers; `flags` is a JSON list of all that is suspicious, `flags_sampling` of those
        that speak against the walkers' sampling of |psi|^2.
    """
    # In the order of a file: other orders of additions round otherwise.
    series = {name: np.ascontiguousarray(series[name]) for name in SERIES}
    energy = summarise_energy(series["energy_local"], conditions.seed)
    averages = _observables(series)
    n_equilibration = len(series["equilibration_Eh"])
    frozen = frozen_walkers(series["energy_local"], FROZEN_WINDOW)
    sampling = list(energy.sampling_flags)
    if not conditions.equilibrated:
        sampling.append(f"not in equilibrium after {n_equilibration} records")
    if frozen:
        sampling.append(f"{frozen} walkers did not move over {FROZEN_WINDOW} records")
    sigmas = drift(series["energy_local"])
    if abs(sigmas) > DRIFT_SIGMAS:
        sampling.append(f"the energy drifts: its halves differ by {sigmas:.1f} standard errors")
    others = [*energy.error_flags, *_state_flags(averages["s2"], conditions)]
    return {
        "energy_Eh": energy.mean,
        "error_Eh": energy.error,
        "error_error_Eh": energy.error_error,
        "error_bootstrap_Eh": energy.error_bootstrap,
        "variance_Eh2": energy.variance,
        "tau": energy.tau,
        "rhat": energy.rhat,
        **{name: average.mean for name, average in averages.items()},
        **{f"{name}_error": average.error for name, average in averages.items()},
        "n_nonfinite": energy.n_nonfinite,
        "n_outliers": energy.n_outliers,
        "pmove": float(series["pmove"].mean()),
        "n_samples": series["energy_local"].shape[0],
        "n_walkers": series["energy_local"].shape[1],
        "n_equilibration": n_equilibration,
        "n_frozen": frozen,
        "flags": json.dumps(sampling + others),
        "flags_sampling": json.dumps(sampling),
    }


def _observables(series: Mapping[str, np.ndarray]) -> dict[str, Reblocking]:
    """The average of every component of every observable, by the name of its figure."""
    found = {}
    for observable in OBSERVABLES:
        values = series[observable.name].reshape(-1, len(observable.figures))
        for name, component in zip(observable.figures, values.T, strict=True):
            found[name] = reblock(component[np.isfinite(component)])
    return found


def _state_flags(s2: Reblocking, conditions: Conditions) -> list[str]:
    """Plain sentences on a wavefunction that may not be the one asked for."""
    flags = []
    if not conditions.pretrain_converged:
        flags.append("pretraining ended before its criterion was met")
    total_spin = conditions.spin / 2
    excess = s2.mean - total_spin * (total_spin + 1)
    if abs(excess) > max(SPIN_TOLERANCE, 5 * s2.error):
        flags.append(f"<S^2> is {s2.mean:.3f}, {excess:+.3f} from that of the spin asked for")
    if conditions.n_rollbacks:
        flags.append(
            f"the optimisation went back {conditions.n_rollbacks} times over numerical accidents"
        )
    return flags


def recompute(
    inference: xr.Dataset, optimise: xr.Dataset, reference: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of a finished run from its stored series alone.

    Taken as stored are facts that no series holds: seed and spin (in the spec), whether the
    equilibration ended by its criterion, whether pretraining did, and the number of rollbacks.

    Args:
        inference: its `SERIES` and attributes.
        optimise: its energy_Eh (step,) and attributes.
        reference: attributes of the reference, whose energy is no average of a series.

    Returns:
        By the names of the inference's attributes.
    """
    spec = RunSpec.model_validate_json(str(inference.attrs["spec"]))
    conditions = Conditions(
        seed=spec.stage_seed("bootstrap"),
        spin=spec.molecule.spin,
        equilibrated=_equilibrated(inference.attrs),
        pretrain_converged=bool(optimise.attrs.get("pretrain_converged", 1)),
        n_rollbacks=int(optimise.attrs["n_rollbacks"]),
    )
    return {
        **figures({name: inference[name].to_numpy() for name in SERIES}, conditions),
        "n_opt": optimise["energy_Eh"].size,
        "hf_Eh": float(reference["e_hf"]),
        "hf_method": str(reference["method"]),
    }


def _equilibrated(attrs: Mapping[str, Any]) -> bool:
    """Artefacts of older versions tell it by their flags alone."""
    if "equilibrated" in attrs:
        return bool(attrs["equilibrated"])
    return "not in equilibrium after" not in str(attrs.get("flags", ""))


def differences(stored: Mapping[str, Any], derived: Mapping[str, Any]) -> list[str]:
    """What is stored of a run's figures and does not follow from its series, a line for each.

    A figure that an older version did not store contradicts nothing, and which flags speak against
    the sampling is for each version to say.
    """
    return [
        f"{name} is stored as {stored[name]!r}, its series give {value!r}"
        for name, value in derived.items()
        if name in stored and name != "flags_sampling" and not _agree(name, stored[name], value)
    ]


def _agree(name: str, stored: object, derived: object) -> bool:
    if isinstance(stored, (int, float)) and isinstance(derived, (int, float)):
        both_missing = math.isnan(stored) and math.isnan(derived)
        rounding = _SINGLE_PRECISION.get(name, ROUNDING)
        return both_missing or math.isclose(stored, derived, rel_tol=rounding)
    if name == "flags":  # older versions had them in another order
        return sorted(json.loads(str(stored))) == sorted(json.loads(str(derived)))
    return stored == derived

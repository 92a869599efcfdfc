"""What the series of an inference give: energy and observables with errors, and flags (NumPy only).

The inference writes these figures next to the series that they follow from; `recompute` derives
them again from what is stored.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ferminet_core.analysis.statistics import (
    MAX_NONFINITE,
    Reblocking,
    frozen_walkers,
    reblock,
    summarise_energy,
)
from ferminet_core.inputs.observable_table import OBSERVABLES
from ferminet_core.inputs.run_spec import RunSpec

FROZEN_WINDOW = 50  # records without one accepted move that make a walker a frozen one
# Shares of the records, from the first on, that are compared with the last half. A drift over a
# tenth of the records is clearest in the first tenth.
DRIFT_SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
DRIFT_SIGMAS = 3.5  # exceeded by chance in one of any of the shares in 1e-3 of all cases
SPIN_TOLERANCE = 0.05  # of <S^2>; a singlet with 2.5 % of triplet weight
SERIES = ("energy_local", "equilibration_Eh", "pmove", *(o.name for o in OBSERVABLES))
# Largest relative difference that rounding makes. Sums of doubles differ by 1e-12 from processor
# to processor; the acceptance is stored, and averaged, in single precision.
ROUNDING = 1e-9
_SINGLE_PRECISION = {"pmove": 1e-6}
# Of an observable without any finite value.
_NO_VALUE = Reblocking(np.nan, np.nan, np.nan, 1, 0, False, ())


class Conditions(NamedTuple):
    """What the figures depend on apart from the series.

    seed: of the bootstrap; spin: the 2S that was asked for; equilibrated: whether the equilibration
    met its criterion; pretrain_converged, n_rollbacks: of the stages before
    """

    seed: int
    spin: int
    equilibrated: bool
    pretrain_converged: bool
    n_rollbacks: int


class Drift(NamedTuple):
    """The clearest difference of the first records from the last half.

    share: of the records, the first ones; sigmas: their excess in standard errors
    """

    share: float
    sigmas: float


def drift(energies: np.ndarray) -> Drift:
    """The clearest of the differences between the first records and the last half.

    The errors come from the differences of single walkers, which are independent of each other, so
    that no correlation in time enters.

    A drift of the form exp(-t / T) that shifts the mean by three of its errors is found in nearly
    every case for T up to a tenth of the record, by four in three of four cases and by six in
    nearly every case for T of a quarter, and by six in half of the cases for T of half of the
    record. Slower drifts stay unseen: the record alone cannot tell them from another mean.

    Args:
        energies: (record, walker), hartree.
    """
    records = len(energies)
    if records < 2:
        return Drift(DRIFT_SHARES[0], float("nan"))
    last = energies[records - records // 2 :].mean(axis=0)
    found = [
        Drift(share, _sigmas(energies[: max(1, int(share * records))].mean(axis=0) - last))
        for share in DRIFT_SHARES
    ]
    known = [each for each in found if np.isfinite(each.sigmas)]
    return max(known, key=lambda each: abs(each.sigmas), default=found[0])


def _sigmas(difference: np.ndarray) -> float:
    """The mean of the walkers' differences in its standard errors; NaN for fewer than two."""
    difference = difference[np.isfinite(difference)]
    if difference.size < 2:
        return float("nan")
    error = difference.std(ddof=1) / np.sqrt(difference.size)
    return float(difference.mean() / error) if error > 0 else 0.0


def figures(series: Mapping[str, np.ndarray], conditions: Conditions) -> dict[str, Any]:
    """Everything that the attributes of an inference say about its series.

    Args:
        series: `SERIES`: energy_local (sample, walker) and equilibration_Eh (equilibration,),
            hartree; pmove (sample,); of each observable (call,) or (call, component), NaN where it
            has no value. Only that of the total spin is required: an observable without a series
            gets no figures.
        conditions: what else the figures depend on.

    Returns:
        Plain numbers by the names of the attributes; `flags` is a JSON list of all flags,
        `flags_sampling` of those that say that the walkers do not sample |psi|^2.
    """
    # In the order of a file: sums in another order round differently.
    series = {name: np.ascontiguousarray(series[name]) for name in SERIES if name in series}
    local = series["energy_local"]
    energy = summarise_energy(local, conditions.seed)
    n_equilibration = len(series["equilibration_Eh"])
    frozen = frozen_walkers(local, FROZEN_WINDOW)
    sampling = list(energy.sampling_flags)
    if not conditions.equilibrated:
        sampling.append(f"not in equilibrium after {n_equilibration} records")
    if frozen:
        sampling.append(f"{frozen} walkers did not move over {FROZEN_WINDOW} records")
    found = drift(local)
    if abs(found.sigmas) > DRIFT_SIGMAS:
        sampling.append(
            f"the energy drifts: the first 1/{1 / found.share:.0f} of the records lies "
            f"{abs(found.sigmas):.1f} standard errors {'above' if found.sigmas > 0 else 'below'} "
            "the last half"
        )
    averages = _averages(series)
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
        "n_samples": local.shape[0],
        "n_walkers": local.shape[1],
        "n_equilibration": n_equilibration,
        "n_frozen": frozen,
        "flags": json.dumps(sampling + others),
        "flags_sampling": json.dumps(sampling),
    }


def _averages(series: Mapping[str, np.ndarray]) -> dict[str, Reblocking]:
    """The average of each component of each observable, by the name of its figure."""
    found = {}
    for observable in OBSERVABLES:
        if observable.name not in series:
            continue
        values = series[observable.name].reshape(-1, len(observable.figures))
        for name, component in zip(observable.figures, values.T, strict=True):
            finite = component[np.isfinite(component)]
            found[name] = reblock(finite) if finite.size else _NO_VALUE
    return found


def flags_of(attributes: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The flags of a stored inference that say that walkers do not sample |psi|^2, and the others.

    Earlier versions flagged single local energies that are not finite; these flags are left out.
    """
    every = [str(flag) for flag in json.loads(attributes["flags"])]
    of_sampling = set(json.loads(attributes["flags_sampling"]))
    recorded = attributes.get("n_samples", 0) * attributes.get("n_walkers", 0)
    lost = attributes.get("n_nonfinite", 0)
    if 0 < lost <= MAX_NONFINITE * recorded:
        single = f"{lost} local energies are not finite"
        every = [flag for flag in every if flag != single]
    sampling = [flag for flag in every if flag in of_sampling]
    return sampling, [flag for flag in every if flag not in of_sampling]


def series_of(attributes: Mapping[str, Any]) -> list[str]:
    """The names of the series that an inference with these attributes holds.

    They are `SERIES` without those of observables that have no figures. The version of the program
    that made the inference did not measure these.
    """
    unmeasured = {o.name for o in OBSERVABLES if attributes.keys().isdisjoint(o.columns)}
    return [name for name in SERIES if name not in unmeasured]


def _state_flags(s2: Reblocking, conditions: Conditions) -> list[str]:
    """Sentences on a wavefunction that may not be the state that was asked for."""
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
    """The figures of a finished run, from its stored series alone.

    Facts that no series holds are taken as stored: seed and spin (in the spec), whether the
    equilibration and pretraining met their criteria, and the number of rollbacks.

    Args:
        inference: its attributes and `series_of` these.
        optimise: its energy_Eh (step,) and attributes.
        reference: attributes of the reference, whose energy is not an average of a series.

    Returns:
        The figures by the names of the inference's attributes.

    Raises:
        KeyError, ValueError: a series or an attribute is missing or damaged.
    """
    spec = RunSpec.model_validate_json(str(inference.attrs["spec"]))
    conditions = Conditions(
        seed=spec.stage_seed("bootstrap"),
        spin=spec.molecule.spin,
        equilibrated=bool(inference.attrs["equilibrated"]),
        pretrain_converged=bool(optimise.attrs["pretrain_converged"]),
        n_rollbacks=int(optimise.attrs["n_rollbacks"]),
    )
    series = {name: inference[name].to_numpy() for name in series_of(inference.attrs)}
    return {
        **figures(series, conditions),
        "n_opt": optimise.sizes.get("step", 0),
        "hf_Eh": float(reference["e_hf"]),
        "hf_method": str(reference["method"]),
    }


def differences(stored: Mapping[str, Any], derived: Mapping[str, Any]) -> list[str]:
    """A line for each stored figure of a run that does not follow from its series."""
    flagged = {"flags", "flags_sampling"} <= stored.keys() & derived.keys()
    same_flags = flagged and flags_of(stored) == flags_of(derived)
    return [
        f"{name} is stored as {stored.get(name)!r}, its series give {value!r}"
        for name, value in derived.items()
        if not (name.startswith("flags") and same_flags)
        and not _agree(name, stored.get(name), value)
    ]


def _agree(name: str, stored: object, derived: object) -> bool:
    if isinstance(stored, (int, float)) and isinstance(derived, (int, float)):
        both_missing = math.isnan(stored) and math.isnan(derived)
        rounding = _SINGLE_PRECISION.get(name, ROUNDING)
        return both_missing or math.isclose(stored, derived, rel_tol=rounding)
    return stored == derived

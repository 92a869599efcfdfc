"""Differences of energies from the same walkers: correlated sampling (NumPy only).

Walkers r sample |psi_0|^2 at one geometry. At another one they are r' (`vmc.space_warp`), with the
weights

    w = |psi(r')|^2 J(r) / |psi_0(r)|^2,    J = |det dr'/dr|,

so that E = sum w E_L(r') / sum w. The noise of two such energies from the same walkers is nearly
the same, and cancels in their difference (Filippi and Umrigar, Phys. Rev. B 61, R16291 (2000),
doi:10.1103/PhysRevB.61.R16291).
"""

from typing import NamedTuple

import numpy as np

# Smallest effective share of the samples. Below it few walkers carry the average, and the error
# that they give is too small.
MIN_EFFECTIVE = 0.5


class LowOverlapError(Exception):
    """Two geometries are too far apart for the same walkers; the message says how far."""


class Difference(NamedTuple):
    """E(end) - E(start), hartree.

    effective: the smaller of (sum w)^2 / (n sum w^2) at start and end, between 0 and 1
    """

    value: float
    error: float
    effective: float


def effective(log_weights: np.ndarray) -> float:
    """The effective share of samples with these weights, (sum w)^2 / (n sum w^2).

    Args:
        log_weights: any shape; values that are not finite have no weight.
    """
    weights = _weights(np.asarray(log_weights, float).ravel())
    return float(weights.sum() ** 2 / max(weights.size * np.sum(weights**2), 1e-300))


def difference(log_weights: np.ndarray, energies: np.ndarray) -> Difference:
    """The difference of the energies at two geometries, from the same walkers.

    Walkers are independent of each other, and their series are not. The error is therefore that of
    the means over each walker's whole series of

        d = w_1 (E_L1 - E_1) / <w_1> - w_0 (E_L0 - E_0) / <w_0>,

    the change of the difference of both ratios with one sample (delta method).

    Args:
        log_weights: (record, walker, 2), log w at start and end.
        energies: (record, walker, 2), local energies there, hartree.

    Raises:
        LowOverlapError: the effective share of the samples is below `MIN_EFFECTIVE`.
    """
    logs, energies = np.asarray(log_weights, float), np.asarray(energies, float)
    # A sample counts at both ends or at none.
    finite = (np.isfinite(energies) & np.isfinite(logs)).all(axis=-1, keepdims=True)
    logs = np.where(finite, logs, -np.inf)
    share = min(effective(logs[..., side]) for side in (0, 1))
    if share < MIN_EFFECTIVE:
        raise LowOverlapError(
            f"the walkers overlap too little: {share:.0%} of the samples are effective, needed are "
            f"{MIN_EFFECTIVE:.0%}"
        )
    pulls, means = [], []
    for side in (0, 1):
        weights = _weights(logs[..., side])
        weights = weights / weights.mean()
        local = np.where(finite[..., 0], energies[..., side], 0.0)
        # Relative to a typical value: total energies are large compared with their differences.
        offset = float(np.median(local[finite[..., 0]]))
        local = np.where(finite[..., 0], local - offset, 0.0)
        mean = float(np.mean(weights * local))
        means.append((offset, mean))
        pulls.append(weights * (local - mean))
    walkers = (pulls[1] - pulls[0]).mean(axis=0)
    error = float(walkers.std(ddof=1) / np.sqrt(walkers.size)) if walkers.size > 1 else np.nan
    (offset, start), (other, end) = means
    return Difference((other - offset) + (end - start), error, share)


def _weights(logs: np.ndarray) -> np.ndarray:
    """Weights with the largest 1; 0 where the logarithm is not finite."""
    finite = np.isfinite(logs)
    largest = logs[finite].max() if finite.any() else 0.0
    return np.where(finite, np.exp(np.where(finite, logs - largest, 0.0)), 0.0)

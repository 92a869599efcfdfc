"""Invented series of energies and of other records of the stages."""

import numpy as np
from scipy import signal

from ferminet_core.inputs.observable_table import OBSERVABLES


def ar1(phi: float, n_samples: int, n_series: int, seed: int) -> np.ndarray:
    """Stationary series x_t = phi x_(t-1) + noise of unit variance; (n_series, n_samples).

    rho(t) = phi^t, so that tau = 1 + 2 sum rho = (1 + phi) / (1 - phi).
    """
    noise = np.random.default_rng(seed).standard_normal((n_series, n_samples))
    noise[:, 0] /= np.sqrt(1.0 - phi**2)  # starts in equilibrium
    return signal.lfilter([1.0], [1.0, -phi], noise, axis=1)


def healthy(n_samples: int = 1000, n_walkers: int = 64, seed: int = 6) -> np.ndarray:
    """Local energies around -1 with a spread of 0.1 hartree; (sample, walker)."""
    return -1.0 + 0.1 * ar1(0.5, n_samples, n_walkers, seed).T


LIMIT = -1.0  # hartree, the energy of a converged optimisation


def optimisation(energy: np.ndarray, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """The series of a healthy optimisation with these energies."""
    n_steps = len(energy)
    falling = 0.01 * (1.0 + 20.0 * np.exp(-np.arange(n_steps) / (0.1 * n_steps)))
    scatter = np.exp(0.2 * np.random.default_rng(5).standard_normal(n_steps))
    series = {
        "energy_Eh": energy,
        "variance_Eh2": falling * scatter,
        "pmove": np.full(n_steps, 0.52),
        "n_nonfinite": np.zeros(n_steps),
        "n_frozen": np.zeros(n_steps),
    }
    return series | changes


def raw_series(energies: np.ndarray) -> dict[str, np.ndarray]:
    """The series that an inference with these local energies (sample, walker) would store."""
    rng = np.random.default_rng(8)
    n_calls = len(energies) // 10
    return {
        "energy_local": energies,
        "equilibration_Eh": np.full(100, LIMIT),
        "pmove": rng.uniform(0.5, 0.55, len(energies)).astype(np.float32),
        **{
            o.name: 1e-3 * rng.standard_normal((n_calls, len(o.axis)) if o.axis else n_calls)
            for o in OBSERVABLES
        },
    }

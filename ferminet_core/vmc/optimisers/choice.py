"""The optimiser that the settings ask for."""

import importlib
from collections.abc import Mapping

from ferminet_core.inputs.config import OptimiseConfig
from ferminet_core.vmc.optimisers.protocol import Optimiser
from ferminet_core.wavefunction.networks import Spins

# By module and class: kfac-jax takes as long to import as JAX, and most processes need it not.
OPTIMISERS: Mapping[str, tuple[str, str]] = {
    "kfac": ("ferminet_core.vmc.optimisers.kfac", "Kfac"),
    "adam": ("ferminet_core.vmc.optimisers.adam", "Adam"),
    "spring": ("ferminet_core.vmc.optimisers.spring", "Spring"),
}


def make_optimiser(config: OptimiseConfig, spins: Spins, chunk: int) -> Optimiser:
    """The optimiser of a run.

    Args:
        config: its settings
        spins: (n_up, n_down)
        chunk: walkers per pass
    """
    module, name = OPTIMISERS[config.optimiser]
    optimiser: Optimiser = getattr(importlib.import_module(module), name)(config, spins, chunk)
    return optimiser

"""The optimiser that the settings ask for."""

from collections.abc import Callable, Mapping

from ferminet_core.inputs.config import OptimiseConfig
from ferminet_core.vmc.optimisers.adam import Adam
from ferminet_core.vmc.optimisers.kfac import Kfac
from ferminet_core.vmc.optimisers.protocol import Optimiser
from ferminet_core.vmc.optimisers.spring import Spring
from ferminet_core.wavefunction.networks import Spins

OPTIMISERS: Mapping[str, Callable[[OptimiseConfig, Spins, int], Optimiser]] = {
    "kfac": Kfac,
    "adam": Adam,
    "spring": Spring,
}


def make_optimiser(config: OptimiseConfig, spins: Spins, chunk: int) -> Optimiser:
    """The optimiser of a run.

    Args:
        config: its settings
        spins: (n_up, n_down)
        chunk: walkers per pass
    """
    return OPTIMISERS[config.optimiser](config, spins, chunk)

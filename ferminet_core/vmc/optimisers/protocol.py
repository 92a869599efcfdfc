"""The protocol of an optimiser.

An optimiser holds its settings. Its numbers, such as averages over past iterations, are a tree of
arrays that the optimisation carries and stores with its own state.
"""

from typing import Any, NamedTuple, Protocol

import jax

from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction.networks import Params


class Sample(NamedTuple):
    """Measured walkers of one device.

    electrons: (walker, electron, 3), bohr, from `energy.without_broken`
    nuclei: positions and charges
    deviation: (walker,), hartree, clipped local energies minus their mean over all devices
    """

    electrons: jax.Array
    nuclei: Nuclei
    deviation: jax.Array


class Update(NamedTuple):
    """One update of the parameters.

    Attributes:
        step: to subtract from the parameters.
        state: the optimiser's next state.
        gradient: E[dE grad log|psi|], half the gradient of <E>, hartree.
    """

    step: Params
    state: Any
    gradient: Params


class Optimiser(Protocol):
    """Turns measured walkers into a step of the parameters."""

    def init(self, params: Params, electrons: jax.Array, nuclei: Nuclei) -> Any:
        """The state before the first update.

        Args:
            params: from `networks.init`
            electrons: (walker, electron, 3), bohr, as many walkers as one device holds
            nuclei: positions and charges
        """
        ...

    def update(self, state: Any, params: Params, sample: Sample, rate: jax.Array) -> Update:
        """One update; call inside `shard_map` over the walkers.

        Args:
            state: from `init` or the update before
            params: of the wavefunction that `sample` is drawn from
            sample: this device's walkers
            rate: the learning rate, a scalar
        """
        ...

    def curvature_blocks(self, params: Params) -> dict[str, str]:
        """The curvature block of every parameter, {path: class name}; empty without blocks."""
        ...

"""The protocol of an optimiser.

An optimiser holds its settings. Its numbers, such as averages over past iterations, are a tree of
arrays that the optimisation carries and stores with its own state.
"""

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ferminet_core.inputs.config import OptimiseConfig
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
        damping: of the curvature, as large as the factorisation needed; NaN without a curvature.
        momentum_dropped: whether the step had to do without the last one.
    """

    step: Params
    state: Any
    gradient: Params
    damping: jax.Array | float = math.nan
    momentum_dropped: jax.Array | bool = False


def bounded(
    config: OptimiseConfig, rate: jax.Array, direction: jax.Array, norm: jax.Array
) -> jax.Array:
    """The direction times the rate, where its length does not exceed the bound.

    The bound falls with the rate: sqrt(norm_constraint) at the rate of the settings. A bound that
    stayed would be the length of every step that it binds, whatever the rate.

    Args:
        config: learning rate at the start, and norm constraint
        rate: the learning rate now, a scalar
        direction: (parameter,)
        norm: of the direction, a scalar
    """
    shortest = jnp.finfo(direction.dtype).tiny
    longest = jnp.sqrt(config.norm_constraint) / jnp.maximum(norm, shortest)
    fall = rate / config.learning_rate
    return fall * jnp.minimum(config.learning_rate, longest) * direction


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

"""Adam (Kingma and Ba, arXiv:1412.6980): steps scaled by averages of the gradient's squares."""

from typing import Any

import jax
import optax

from ferminet_core.inputs.config import OptimiseConfig
from ferminet_core.vmc.energy import energy_gradient
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.vmc.optimisers.protocol import Sample, Update
from ferminet_core.wavefunction.networks import Params, Spins


class Adam:
    """See `protocol.Optimiser`; the averages are those of optax, with its default memory."""

    def __init__(self, config: OptimiseConfig, spins: Spins, chunk: int) -> None:
        del config, chunk
        self._spins = spins
        self._scale = optax.scale_by_adam()

    def init(self, params: Params, electrons: jax.Array, nuclei: Nuclei) -> Any:
        """Averages of zero."""
        del electrons, nuclei
        return self._scale.init(params)

    def update(self, state: Any, params: Params, sample: Sample, rate: jax.Array) -> Update:
        """The learning rate times the scaled average of the gradient."""
        gradient = energy_gradient(
            params, sample.electrons, sample.nuclei, self._spins, sample.deviation
        )
        direction, state = self._scale.update(gradient, state)
        step = jax.tree.map(lambda s: rate * s, direction)
        return Update(step, state, gradient)

    def curvature_blocks(self, params: Params) -> dict[str, str]:
        """None."""
        del params
        return {}

"""The forward Laplacian of any network, by folx (N. Gao, J. Koehler, A. Foster).

folx carries value, Jacobian and Laplacian through the operations of the orbitals, as
`forward_laplacian` does for FermiNet. Determinants and cusps are those of `derivatives`, which are
correct even where a determinant vanishes.
"""

import folx
import jax
import jax.numpy as jnp

from ferminet_core.wavefunction.ansatz import Spins, assemble
from ferminet_core.wavefunction.derivatives import LogPsi, from_rows, with_jastrow
from ferminet_core.wavefunction.layers import PLAIN, Params
from ferminet_core.wavefunction.protocol import Orbitals


def log_psi_derivatives(
    orbitals: Orbitals, params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins
) -> LogPsi:
    """See `protocol.Derivatives`."""

    def rows(walker: jax.Array) -> jax.Array:
        def value(x: jax.Array) -> jax.Array:
            return assemble(orbitals(params, x, nuclei, spins, PLAIN))

        found = folx.forward_laplacian(value)(walker)
        jacobian = found.jacobian.dense_array  # ((q, a), determinant, electron, orbital)
        moved = jacobian.reshape(-1, 3, *found.x.shape).swapaxes(0, 1).reshape(jacobian.shape)
        stacked = jnp.concatenate([found.x[None], found.laplacian[None], moved])
        return jnp.moveaxis(stacked, 0, 1)

    psi = from_rows(jax.vmap(rows)(electrons), params["determinants"]["w"])
    return with_jastrow(params, psi, electrons, spins)

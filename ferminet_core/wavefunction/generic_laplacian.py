"""The forward Laplacian of any network, by folx (N. Gao, J. Koehler, A. Foster).

folx carries value, Jacobian and Laplacian through the operations of the orbitals, as
`forward_laplacian` does for FermiNet. Determinants and cusps are those of `derivatives`, which are
correct even where a determinant vanishes.
"""

import folx
import jax
import jax.numpy as jnp

from ferminet_core.parallel import platform
from ferminet_core.wavefunction.ansatz import Spins, assemble
from ferminet_core.wavefunction.derivatives import (
    LogPsi,
    Matrices,
    of_matrices,
    of_rows,
    with_jastrow,
)
from ferminet_core.wavefunction.layers import PLAIN, Params
from ferminet_core.wavefunction.protocol import Orbitals


def log_psi_derivatives(
    orbitals: Orbitals, params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins
) -> LogPsi:
    """See `protocol.Derivatives`."""
    n = sum(spins)

    def matrices(walker: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def value(x: jax.Array) -> jax.Array:
            return assemble(orbitals(params, x, nuclei, spins, PLAIN))

        found = folx.forward_laplacian(value)(walker)
        jacobian = found.jacobian.dense_array.reshape(n, 3, *found.x.shape)
        return found.x, jacobian, found.laplacian  # (q, a, determinant, electron, orbital)

    value, jacobian, laplacian = jax.vmap(matrices)(electrons)
    weights = params["determinants"]["w"]
    if platform.on_cpu():
        moved = jacobian.transpose(0, 3, 5, 4, 2, 1).reshape(*value.shape[:2], n, -1)
        psi = of_matrices(Matrices(value, moved, laplacian), weights)
    else:
        moved = jacobian.transpose(0, 3, 2, 1, 4, 5).reshape(*value.shape[:2], -1, n, n)
        rows = [value[:, :, None], laplacian[:, :, None], moved]
        psi = of_rows(jnp.concatenate(rows, axis=2), weights)
    return with_jastrow(params, psi, electrons, spins)

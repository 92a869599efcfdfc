"""The total spin <S^2>."""

import jax
import jax.numpy as jnp

from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction.networks import SignedLog, Spins


def evaluate(psi: SignedLog, electrons: jax.Array, nuclei: Nuclei, spins: Spins) -> jax.Array:
    """Local estimator of <S^2>, (walker,).

    S^2 psi / psi = S_z (S_z + 1) + n_down - sum_{i up, j down} psi(r_i <-> r_j) / psi
    (Pauncz, Spin Eigenfunctions, 1979, ch. 2: Dirac's exchange identity), with n_up >= n_down.

    Args:
        psi: electrons (walker, electron, 3) -> sign and log|psi|
        electrons: (walker, electron, 3), bohr, spin up first
        nuclei: not used
        spins: (n_up, n_down)
    """
    del nuclei
    n_up, n_down = spins
    s_z = 0.5 * (n_up - n_down)
    start = jnp.full(electrons.shape[0], s_z * (s_z + 1) + n_down, electrons.dtype)
    if n_down == 0:
        return start
    sign, log = psi(electrons)

    def exchanged(pair: jax.Array, total: jax.Array) -> jax.Array:
        i, j = pair // n_down, n_up + pair % n_down
        order = jnp.arange(n_up + n_down).at[i].set(j).at[j].set(i)
        new_sign, new_log = psi(electrons[:, order])
        return total - sign * new_sign * jnp.exp(new_log - log)

    return jax.lax.fori_loop(0, n_up * n_down, exchanged, start)

"""The total spin <S^2>."""

import jax
import jax.numpy as jnp

from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction.networks import SignedLog, Spins


def exchange(electrons: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """Walkers (walker, electron, 3) with the places of two electrons exchanged.

    Args:
        electrons: (walker, electron, 3), bohr
        first: index of one of the electrons, a scalar or (walker,)
        second: index of the other, likewise; the same index changes nothing
    """
    index = jnp.arange(electrons.shape[1])
    one, other = (jnp.broadcast_to(i, electrons.shape[:1])[:, None] for i in (first, second))
    order = jnp.where(index == one, other, jnp.where(index == other, one, index))
    return jnp.take_along_axis(electrons, order[..., None], axis=1)


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
    before = psi(electrons)

    def subtract(pair: jax.Array, total: jax.Array) -> jax.Array:
        up, down = pair // n_down, n_up + pair % n_down
        sign, log = psi(exchange(electrons, up, down))
        return total - before[0] * sign * jnp.exp(log - before[1])

    return jax.lax.fori_loop(0, n_up * n_down, subtract, start)

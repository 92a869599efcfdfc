"""The first moment of the spin density."""

import jax
import jax.numpy as jnp

from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction.networks import SignedLog, Spins


def evaluate(psi: SignedLog, electrons: jax.Array, nuclei: Nuclei, spins: Spins) -> jax.Array:
    """Spin moment (walker, 3), bohr: up electrons minus down electrons, about the origin.

    Args:
        psi: not used
        electrons: (walker, electron, 3), bohr
        nuclei: not used
        spins: numbers of up and down electrons
    """
    del psi, nuclei
    up, down = electrons[..., : spins[0], :], electrons[..., spins[0] :, :]
    return jnp.sum(up, axis=-2) - jnp.sum(down, axis=-2)

"""The electric dipole moment."""

import jax
import jax.numpy as jnp

from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction.networks import SignedLog, Spins


def evaluate(psi: SignedLog, electrons: jax.Array, nuclei: Nuclei, spins: Spins) -> jax.Array:
    """Dipole moment (walker, 3), e bohr: nuclei minus electrons, about the origin.

    Args:
        psi: not used
        electrons: (walker, electron, 3), bohr
        nuclei: positions (bohr) and charges
        spins: not used
    """
    del psi, spins
    return nuclei.charges @ nuclei.positions - jnp.sum(electrons, axis=-2)

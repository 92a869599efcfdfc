"""A penalty that chooses the singlet among the spin patterns of a stretched bond.

Both spin patterns of a stretched bond have the same energy, whatever their relative size and sign.
The energy alone therefore lets a singlet drift into a mixture. H commutes with the exchange of all
up and all down electrons: the penalty moves no eigenstate, it only chooses one.
"""

import jax
import jax.numpy as jnp

from ferminet_core.wavefunction.networks import SignedLog, Spins


def spin_flip(psi: SignedLog, electrons: jax.Array, spins: Spins) -> jax.Array:
    """psi with all up and all down electrons exchanged, over psi: (walker,).

    An eigenfunction of S^2 with S_z = 0 has the constant (-1)^S: 1 for singlets, -1 for triplets.

    Args:
        psi: electrons (walker, electron, 3) -> sign and log|psi|
        electrons: (walker, electron, 3), bohr, spin up first
        spins: (n_up, n_down) with n_up = n_down
    """
    sign, log = psi(electrons)
    flipped_sign, flipped_log = psi(jnp.roll(electrons, spins[1], axis=1))
    return sign * flipped_sign * jnp.exp(flipped_log - log)


def added_energy(
    psi: SignedLog, electrons: jax.Array, spins: Spins, strength: jax.Array
) -> jax.Array:
    """Hartree to add to each local energy, (walker,): strength (1 - spin flip).

    Args:
        psi: as for `spin_flip`
        electrons: as for `spin_flip`
        spins: as for `spin_flip`
        strength: hartree, a scalar; 0 adds nothing, even where the spin flip is not finite
    """
    flip = spin_flip(psi, electrons, spins)
    return jnp.where(strength > 0, strength * (1.0 - flip), 0.0)

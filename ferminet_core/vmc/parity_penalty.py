"""A penalty that keeps a charge from settling on one of equal atoms.

At a long bond the energy does not tell whether a charge is shared by equal atoms, and the side that
the network describes better wins all of it: of He2+ at 8 bohr, whose two sides started alike, one
had the whole charge after 800 updates. H commutes with the operation g that permutes the atoms. A
state without spatial degeneracy is an eigenfunction of an operation that is its own inverse, with
the parity 1 or -1. The penalty moves no eigenstate, it only chooses those of the parity asked for.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction.networks import SignedLog

# As much as the spin penalty by default, and more than the noise of the energies of both sides.
STRENGTH = 0.1  # hartree


class Parity(NamedTuple):
    """matrix: (3, 3), an operation about the centre of nuclear charge; value: 1 or -1."""

    matrix: tuple[tuple[float, ...], ...]
    value: int


def image_ratio(psi: SignedLog, electrons: jax.Array, nuclei: Nuclei, parity: Parity) -> jax.Array:
    """psi at the images of the electrons, over psi: (walker,).

    Args:
        psi: electrons (walker, electron, 3) -> sign and log|psi|
        electrons: (walker, electron, 3), bohr
        nuclei: positions and charges
        parity: the operation
    """
    centre = nuclei.charges @ nuclei.positions / jnp.sum(nuclei.charges)
    matrix = jnp.asarray(parity.matrix, electrons.dtype)
    sign, log = psi(electrons)
    image_sign, image_log = psi((electrons - centre) @ matrix.T + centre)
    return sign * image_sign * jnp.exp(image_log - log)


def added_energy(
    psi: SignedLog, electrons: jax.Array, nuclei: Nuclei, parities: tuple[Parity, ...]
) -> jax.Array:
    """Hartree to add to each local energy, (walker,): STRENGTH (1 - parity image ratio), summed.

    Args:
        psi: as for `image_ratio`
        electrons: as for `image_ratio`
        nuclei: as for `image_ratio`
        parities: of the state asked for; not empty
    """
    wrong = [1.0 - p.value * image_ratio(psi, electrons, nuclei, p) for p in parities]
    return STRENGTH * jnp.sum(jnp.stack(wrong), axis=0)

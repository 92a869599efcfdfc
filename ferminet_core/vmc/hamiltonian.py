"""The local energy E_L = (H psi) / psi in the Born-Oppenheimer approximation.

H = -1/2 sum_i lap_i - sum_im Z_m/|r_i - R_m| + sum_{i<j} 1/|r_i - r_j| + sum_{m<n} Z_m Z_n/|R_m -
R_n|, in hartree and bohr (Pfau et al. 2020, eqs. 1 and 9). Nuclei with a pseudopotential have the
charge Z less the core, and the terms of module `pseudopotentials` besides.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ferminet_core.vmc.passes import even_passes
from ferminet_core.vmc.pseudopotentials import Potentials, local_part, semilocal_energy
from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.features import distance
from ferminet_core.wavefunction.networks import Params, Spins


class Nuclei(NamedTuple):
    """The geometry, an argument of every compiled function.

    positions: (nucleus, 3), bohr; charges: (nucleus,), atomic units, without cores that have a
    pseudopotential; potentials: the pseudopotentials, None if there are none
    """

    positions: jax.Array
    charges: jax.Array
    potentials: Potentials | None = None


def potential_energy(electrons: jax.Array, nuclei: Nuclei) -> jax.Array:
    """Potential energy (...), hartree, of electrons (..., electron, 3) and nuclei.

    It is the Coulomb energy, with the local parts of pseudopotentials.
    """
    r_ae = jnp.linalg.norm(electrons[..., :, None, :] - nuclei.positions, axis=-1)
    attraction = -jnp.sum(nuclei.charges / r_ae, axis=(-2, -1))
    # NumPy's indices are constants of the program.
    upper = np.triu_indices(electrons.shape[-2], k=1)
    r_ee = jnp.linalg.norm(electrons[..., upper[0], :] - electrons[..., upper[1], :], axis=-1)
    first, second = np.triu_indices(nuclei.charges.shape[0], k=1)
    r_aa = distance(nuclei.positions[first] - nuclei.positions[second])
    nuclear = jnp.sum(nuclei.charges[first] * nuclei.charges[second] / r_aa)
    coulomb = attraction + jnp.sum(1.0 / r_ee, axis=-1) + nuclear
    if nuclei.potentials is None:
        return coulomb
    return coulomb + local_part(nuclei.potentials, r_ae)


def local_energy(
    params: Params, electrons: jax.Array, nuclei: Nuclei, spins: Spins, chunk: int | None = None
) -> jax.Array:
    """Local energies (walker,), hartree; not a number where psi is 0.

    Args:
        params: from `networks.init`
        electrons: (walker, electron, 3), bohr
        nuclei: positions, charges and pseudopotentials
        spins: (n_up, n_down)
        chunk: walkers per pass of the forward Laplacian, at most; all at once if None. In small
            passes the Jacobians, (3n, n, width) per walker, fit the cache or the device's memory.
    """

    def not_local(walkers: jax.Array) -> jax.Array:
        psi = networks.log_psi_derivatives(params, walkers, nuclei.positions, spins)
        found = jnp.where(jnp.isfinite(psi.log), -0.5 * psi.laplacian_ratio, jnp.nan)
        if nuclei.potentials is None:
            return found
        ratios = networks.ratios(params, walkers, nuclei.positions, spins)
        return found + semilocal_energy(nuclei.potentials, walkers, nuclei.positions, ratios)

    n = electrons.shape[0]
    # Walkers of the first pass fill the last one up.
    chunks = jnp.resize(electrons, (*even_passes(n, chunk or n), *electrons.shape[1:]))
    energies = jax.lax.map(not_local, chunks).reshape(-1)[:n]
    return energies + potential_energy(electrons, nuclei)

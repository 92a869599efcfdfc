"""The energy and its gradient from the local energies of walkers spread over devices.

grad <E> = 2 E[(E_L - <E_L>) grad log|psi|] (Pfau et al. 2020, eq. 10). E_L is clipped to a few mean
absolute deviations about its mean or median over all devices. The gradient is centred at the mean
of the clipped energies, so that a clipped walker does not shift it.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from ferminet_core.parallel import collectives
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.networks import Params, Spins


class EnergyInfo(NamedTuple):
    """Statistics over all walkers of all devices (scalars, hartree).

    energy: mean; error: standard error of the mean if walkers were independent; variance: of E_L
    n_nonfinite: local energies that are not finite and left out; n_outliers: those clipped
    """

    energy: jax.Array
    error: jax.Array
    variance: jax.Array
    n_nonfinite: jax.Array
    n_outliers: jax.Array


def clip_energies(
    energies: jax.Array, multiple: float, centre: Literal["mean", "median"]
) -> tuple[jax.Array, EnergyInfo]:
    """Clip local energies; call inside `shard_map` over the walkers.

    Each device gathers the energies of all devices. This takes one message, and the sums do not
    depend on how the walkers are spread.

    Args:
        energies: (walker on this device,), hartree
        multiple: half-width of the window in mean absolute deviations; 0 for no clipping
        centre: the centre of the window

    Returns:
        Deviations of the clipped energies from their own mean (0 for non-finite ones), so that
        grad <E> = 2 mean(deviation * grad log|psi|), and the statistics of the unclipped energies.
    """
    everyone = collectives.gather(energies)
    finite = jnp.isfinite(everyone)
    count = jnp.maximum(jnp.sum(finite), 1)

    def average(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(finite, x, 0)) / count

    mean = average(everyone)
    variance = average((everyone - mean) ** 2)
    clipped = everyone
    if multiple > 0:
        middle = mean
        if centre == "median":
            middle = jnp.nanmedian(jnp.where(finite, everyone, jnp.nan))
        window = multiple * average(jnp.abs(everyone - middle))
        clipped = jnp.clip(everyone, middle - window, middle + window)
    deviation = jnp.where(finite, clipped - average(clipped), 0.0)
    info = EnergyInfo(
        energy=mean,
        error=jnp.sqrt(variance / count),
        variance=variance,
        n_nonfinite=jnp.sum(~finite),
        n_outliers=jnp.sum(finite & (clipped != everyone)),
    )
    return collectives.own(deviation), info


def without_broken(electrons: jax.Array, energies: jax.Array) -> jax.Array:
    """The walkers with those whose local energy is not finite put elsewhere; inside `shard_map`.

    Where psi is 0 or not a number, the gradient of log|psi| is not a number either, and no weight
    of 0 keeps it out of a sum. Such walkers take the place of the first good walker of all devices.
    Their deviation, by `clip_energies`, is 0, so that they add nothing to the energy's gradient.

    Args:
        electrons: (walker on this device, electron, 3), bohr
        energies: (walker on this device,), hartree

    Returns:
        electrons, for the gradient and the curvature.
    """
    finite = jnp.isfinite(energies)
    first = electrons[jnp.argmax(finite)].ravel()
    # The place and whether it is good, in one message.
    row = jnp.append(first, jnp.any(finite).astype(first.dtype))
    rows = collectives.gather(row[None])
    place = rows[jnp.argmax(rows[:, -1]), :-1].reshape(electrons.shape[1:])
    return jnp.where(finite[:, None, None], electrons, place)


def energy_gradient(
    params: Params, electrons: jax.Array, nuclei: Nuclei, spins: Spins, deviation: jax.Array
) -> Params:
    """E[dE grad log|psi|], half the gradient of <E>; call inside `shard_map`.

    Args:
        params: from `networks.init`
        electrons: (walker on this device, electron, 3), bohr, from `without_broken`: psi must not
            be 0 or not a number, even where the deviation is 0
        nuclei: positions and charges
        spins: (n_up, n_down)
        deviation: (walker on this device,), hartree, from `clip_energies`
    """

    def weighted(p: Params) -> jax.Array:
        _, log = networks.apply(p, electrons, nuclei.positions, spins)
        return jnp.mean(deviation * log)

    return collectives.mean(jax.grad(weighted)(params))

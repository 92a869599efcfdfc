"""The energy and its gradient from the local energies of walkers spread over devices.

grad <E> = 2 E[(E_L - <E_L>) grad log|psi|] (Pfau et al. 2020, eq. 10), with E_L clipped to a few
mean absolute deviations about its mean or median over all devices, and the gradient centred at the
mean of the clipped energies so that a clipped walker does not shift it.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from ferminet_core.parallel import collectives


class EnergyInfo(NamedTuple):
    """Statistics over all walkers of all devices (scalars, hartree).

    energy: mean; error: standard error of the mean if walkers were independent; variance: of E_L
    n_nonfinite: local energies that are no number, left out; n_outliers: clipped ones
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

    Each device gathers the energies of all: one message, and sums that do not depend on how the
    walkers are spread.

    Args:
        energies: (walker on this device,), hartree
        multiple: half-width of the window in mean absolute deviations; 0 for no clipping
        centre: about which the window lies

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

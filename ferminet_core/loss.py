"""The energy and its gradient from the local energies of walkers spread over devices.

grad <E> = 2 E[(E_L - <E_L>) grad log|psi|] (Pfau et al. 2020, eq. 10), with E_L clipped to a few
mean absolute deviations about its mean or median over all devices, and the gradient centred at the
mean of the clipped energies so that a clipped walker does not shift it.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

AXIS = "walkers"  # the mesh axis over which walkers are spread


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


def _mean(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean over the walkers of all devices with weight 0 or 1."""
    total = jax.lax.psum(jnp.sum(jnp.where(weight, x, 0)), AXIS)
    return total / jnp.maximum(jax.lax.psum(jnp.sum(weight), AXIS), 1)


def clip_energies(
    energies: jax.Array, multiple: float, centre: Literal["mean", "median"]
) -> tuple[jax.Array, EnergyInfo]:
    """Clip local energies; call inside `shard_map` over the axis `AXIS`.

    Args:
        energies: (walker on this device,), hartree
        multiple: half-width of the window in mean absolute deviations; 0 for no clipping
        centre: about which the window lies

    Returns:
        Deviations of the clipped energies from their own mean (0 for non-finite ones), so that
        grad <E> = 2 mean(deviation * grad log|psi|), and the statistics of the unclipped energies.
    """
    finite = jnp.isfinite(energies)
    mean = _mean(energies, finite)
    variance = _mean((energies - mean) ** 2, finite)
    if centre == "median":
        everyone = jax.lax.all_gather(jnp.where(finite, energies, jnp.nan), AXIS, tiled=True)
        middle = jnp.nanmedian(everyone)
    else:
        middle = mean
    clipped = energies
    if multiple > 0:
        window = multiple * _mean(jnp.abs(energies - middle), finite)
        clipped = jnp.clip(energies, middle - window, middle + window)
    deviation = jnp.where(finite, clipped - _mean(clipped, finite), 0.0)
    count = jax.lax.psum(jnp.sum(finite), AXIS)
    info = EnergyInfo(
        energy=mean,
        error=jnp.sqrt(variance / jnp.maximum(count, 1)),
        variance=variance,
        n_nonfinite=jax.lax.psum(jnp.sum(~finite), AXIS),
        n_outliers=jax.lax.psum(jnp.sum(finite & (clipped != energies)), AXIS),
    )
    return deviation, info

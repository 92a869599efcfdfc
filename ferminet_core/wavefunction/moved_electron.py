"""psi after one electron of a walker has moved, over psi before."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

SignedLog = tuple[jax.Array, jax.Array]
# walker (...), electron (...), places (..., point, 3), bohr -> sign and log|psi| (..., point) of
# the walker with its electron at each of the places.
Moved = Callable[[jax.Array, jax.Array, jax.Array], SignedLog]
# The same -> psi there over psi of the walker, (..., point).
Ratios = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def with_moved(own: jax.Array, electron: jax.Array, places: jax.Array) -> jax.Array:
    """Electrons (..., point, electron, 3) with one of (..., electron, 3) at each of the places."""
    here = (jnp.arange(own.shape[-2]) == electron[..., None])[..., None, :, None]
    return jnp.where(here, places[..., :, None, :], own[..., None, :, :])


def evaluated(psi: Callable[[jax.Array], SignedLog], electrons: jax.Array) -> Moved:
    """Any wavefunction, evaluated in full.

    Args:
        psi: electrons (..., electron, 3) -> sign and log|psi|
        electrons: (walker, electron, 3), bohr
    """
    return lambda walker, electron, places: psi(with_moved(electrons[walker], electron, places))


def over(before: SignedLog, moved: Moved) -> Ratios:
    """psi after the move over psi before it, (walker,)."""
    sign, log = before

    def ratios(walker: jax.Array, electron: jax.Array, places: jax.Array) -> jax.Array:
        moved_sign, moved_log = moved(walker, electron, places)
        change = moved_log - log[walker][..., None]
        return moved_sign * sign[walker][..., None] * jnp.exp(change)

    return ratios


def full_ratios(psi: Callable[[jax.Array], SignedLog], electrons: jax.Array) -> Ratios:
    """Ratios of any wavefunction; see `evaluated`."""
    return over(psi(electrons), evaluated(psi, electrons))

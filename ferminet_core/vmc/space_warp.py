"""Walkers that follow the nuclei: the space-warp transformation and its Jacobian.

An electron moves with the nuclei near it (Umrigar 1989, doi:10.1002/qua.560360827):

    r' = r + sum_a w_a(r) (R'_a - R_a),    w_a = |r - R_a|^-4 / sum_b |r - R_b|^-4.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

_POWER = 4
Array = TypeVar("Array", np.ndarray, jax.Array)


def space_warp(electrons: Array, before: Array, after: Array) -> Array:
    """Electrons that follow the nuclei; NumPy arrays give a NumPy array, JAX arrays a JAX array.

    Args:
        electrons: (..., 3), bohr.
        before: (nucleus, 3), old positions of the nuclei, bohr.
        after: (nucleus, 3), new positions of the nuclei, bohr.

    Returns:
        (..., 3), bohr.
    """
    xp = jnp if isinstance(electrons, jax.Array) else np
    distances = xp.linalg.norm(electrons[..., None, :] - before, axis=-1)
    # Relative to the nearest nucleus, whose distance may be zero.
    nearest = xp.min(distances, axis=-1, keepdims=True)
    ratio = xp.where(distances > 0, nearest / xp.where(distances > 0, distances, 1), 1)
    weights = ratio**_POWER
    weights = weights / xp.sum(weights, axis=-1, keepdims=True)
    warped: Array = electrons + weights @ (after - before)
    return warped


def log_jacobian(electrons: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
    """log|det dr'/dr| (...) of `space_warp` for electrons (..., electron, 3), bohr.

    Each electron moves on its own, so that the determinant is the product of those of 3 x 3.
    """
    derivative = jax.jacfwd(lambda r: space_warp(r, before, after))
    a, b, c = jnp.moveaxis(jax.vmap(derivative)(electrons.reshape(-1, 3)), 1, 0)
    determinants = jnp.sum(a * jnp.cross(b, c), axis=-1)
    return jnp.sum(jnp.log(jnp.abs(determinants)).reshape(electrons.shape[:-1]), axis=-1)

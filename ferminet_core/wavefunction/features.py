"""Inputs of the network: electron-nucleus and electron-electron vectors and distances.

Pfau et al., Phys. Rev. Research 2, 033429 (2020), section II.B: the one-electron stream starts from
(r_i - R_m, |r_i - R_m|), the two-electron stream from (r_i - r_j, |r_i - r_j|). Both may be scaled
so that they grow as log r only (`log_scaled`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def distance(vectors: jax.Array) -> jax.Array:
    """Euclidean length over the last axis; value and derivatives are 0 for the null vector.

    |r| has no gradient at the origin. Zero is the mean over directions, and it keeps log|psi|
    finite where an electron sits on a nucleus, where two electrons coincide, and for the pair (i,
    i).
    """
    squared = jnp.sum(vectors**2, axis=-1)
    null = squared == 0
    return jnp.where(null, 0.0, jnp.sqrt(jnp.where(null, 1.0, squared)))


class Features(NamedTuple):
    """Vectors (bohr) and distances (bohr) between particles; leading axes are walkers.

    ae: (..., electron, nucleus, 3), r_i - R_m
    r_ae: (..., electron, nucleus)
    ee: (..., electron, electron, 3), r_i - r_j
    r_ee: (..., electron, electron), zero on the diagonal
    """

    ae: jax.Array
    r_ae: jax.Array
    ee: jax.Array
    r_ee: jax.Array


def features(electrons: jax.Array, nuclei: jax.Array) -> Features:
    """All vectors and distances between particles, bohr.

    Args:
        electrons: (..., electron, 3), bohr
        nuclei: (nucleus, 3), bohr
    """
    ae = electrons[..., :, None, :] - nuclei
    ee = electrons[..., :, None, :] - electrons[..., None, :, :]
    return Features(ae, distance(ae), ee, distance(ee))


def log_scale(r: jax.Array) -> jax.Array:
    """log(1 + r) / r, 1 at r = 0."""
    null = r == 0
    safe = jnp.where(null, 1.0, r)
    return jnp.where(null, 1.0, jnp.log1p(safe) / safe)


def log_scaled(f: Features) -> Features:
    """Vectors r and their lengths r times log(1 + r) / r (von Glehn et al., arXiv:2211.13672).

    Near a particle nothing changes in first order, r - r^2/2, so that cusps stay. Far away inputs
    grow as log r, and do not drive tanh units into saturation at long bonds.
    """
    return Features(
        f.ae * log_scale(f.r_ae)[..., None],
        jnp.log1p(f.r_ae),
        f.ee * log_scale(f.r_ee)[..., None],
        jnp.log1p(f.r_ee),
    )


def one_electron_input(f: Features) -> jax.Array:
    """(..., electron, 4 * nucleus): for each nucleus the vector and the distance."""
    joined = jnp.concatenate([f.ae, f.r_ae[..., None]], axis=-1)
    return joined.reshape(*joined.shape[:-2], -1)


def two_electron_input(f: Features) -> jax.Array:
    """(..., electron, electron, 4): the vector and the distance of each ordered pair."""
    return jnp.concatenate([f.ee, f.r_ee[..., None]], axis=-1)

"""Envelopes: the exponential decay of every orbital about each nucleus.

    f_kj(r) = sum_m pi_mkj exp(-|Sigma_mkj (r - R_m)|)

Pfau et al. 2020, eq. (6): Sigma is a 3x3 matrix (`anisotropic`), a diagonal one (`diagonal`) or a
number (`isotropic`, Spencer et al., arXiv:2011.07125). k counts determinants, j orbitals.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from ferminet_core.wavefunction.features import distance

# bohr^-1. The last electron of a molecule with the ionisation energy I decays as exp(-sqrt(2 I) r).
# 0.2 is that of 0.54 eV: less than I of any neutral atom (caesium: 0.53) and of the stable negative
# ions of hydrogen (0.24) and the alkali metals to sodium (0.20). The network's own factor
# tends to a constant far away, so a smaller exponent would let walkers leave the molecule.
LEAST_DECAY = 0.2

Kind = Literal["isotropic", "diagonal", "anisotropic"]
Params = dict[str, jax.Array]


class Decay(NamedTuple):
    """The exponent rho = |Sigma (r - R)| and its derivatives with respect to the electron.

    value: (..., nucleus, determinant, orbital)
    gradient: of x, y and z, each like value, bohr^-1
    square: |grad rho|^2, like value, bohr^-2
    laplacian: like value, bohr^-2
    """

    value: jax.Array
    gradient: list[jax.Array]
    square: jax.Array
    laplacian: jax.Array


def init(kind: Kind, n_nuclei: int, determinants: int, orbitals: int, dtype: jnp.dtype) -> Params:
    """Weights pi and widths Sigma that start at one (identity matrices)."""
    shape = (n_nuclei, determinants, orbitals)
    sigma = {
        "isotropic": lambda: jnp.ones(shape, dtype),
        "diagonal": lambda: jnp.ones((*shape, 3), dtype),
        "anisotropic": lambda: jnp.broadcast_to(jnp.eye(3, dtype=dtype), (*shape, 3, 3)),
    }[kind]()
    return {"pi": jnp.ones(shape, dtype), "sigma": sigma}


def bounded(params: Params) -> Params:
    """The parameters with no decay below `LEAST_DECAY`: |Sigma x| >= LEAST_DECAY |x|.

    Numbers keep their sign, and matrices their axes. Larger ones come back as they are.
    """
    sigma = params["sigma"]
    if kind_of(params) == "anisotropic":
        u, size, axes = jnp.linalg.svd(sigma)
        raised = (u * jnp.maximum(size, LEAST_DECAY)[..., None, :]) @ axes
        small = jnp.any(size < LEAST_DECAY, axis=-1)[..., None, None]
    else:
        raised = jnp.where(sigma < 0, -LEAST_DECAY, LEAST_DECAY).astype(sigma.dtype)
        small = jnp.abs(sigma) < LEAST_DECAY
    return {**params, "sigma": jnp.where(small, raised, sigma)}


def kind_of(params: Params) -> Kind:
    """The envelope's kind, from the rank of Sigma."""
    kinds: dict[int, Kind] = {3: "isotropic", 4: "diagonal", 5: "anisotropic"}
    return kinds[params["sigma"].ndim]


def apply(
    params: Params,
    ae: jax.Array,
    r_ae: jax.Array,
    scale: Callable[[jax.Array, jax.Array], jax.Array] = jnp.multiply,
) -> jax.Array:
    """Envelope values (..., electron, determinant, orbital).

    Args:
        params: {"pi", "sigma"}
        ae: (..., electron, nucleus, 3), bohr
        r_ae: (..., electron, nucleus), bohr
        scale: product of an input and a parameter (see `layers.Layers`)
    """
    sigma = params["sigma"]
    kind = kind_of(params)
    if kind == "isotropic":
        rho = jnp.abs(scale(r_ae[..., None, None], sigma))
    elif kind == "diagonal":
        rho = distance(scale(ae[..., None, None, :], sigma))
    else:
        rho = distance(jnp.sum(scale(ae[..., None, None, None, :], sigma), axis=-1))
    return jnp.sum(scale(jnp.exp(-rho), params["pi"]), axis=-3)


def _over_nuclei(x: jax.Array) -> jax.Array:
    """Sum over the nuclei of terms (..., nucleus, determinant, orbital) that are in memory.

    The sum is written out. XLA vectorises this form on CPUs, and not the sum over an axis.
    """
    return functools.reduce(jnp.add, (x[..., m, :, :] for m in range(x.shape[-3])))


def decay(params: Params, ae: jax.Array, r_ae: jax.Array) -> Decay:
    """The exponents and their derivatives.

    They are the closed forms of rho = |Sigma x| with A = Sigma^T Sigma:

    grad rho = A x / rho,  lap rho = (tr A - |grad rho|^2) / rho,  both 0 at x = 0.
    """
    sigma = params["sigma"]
    kind = kind_of(params)
    if kind == "isotropic":
        s = jnp.abs(sigma)
        r = r_ae[..., None, None]
        inverse = jnp.where(r == 0, 0.0, 1.0 / jnp.where(r == 0, 1.0, r))
        gradient = [ae[..., a, None, None] * inverse * s for a in range(3)]
        return Decay(s * r, gradient, jnp.where(r == 0, 0.0, s**2), 2.0 * s * inverse)
    if kind == "diagonal":
        metric_x = sigma**2 * ae[..., None, None, :]
        rho = distance(sigma * ae[..., None, None, :])
        trace = jnp.sum(sigma**2, axis=-1)
    else:
        image = jnp.einsum("mkjab,...mb->...mkja", sigma, ae)
        metric_x = jnp.einsum("mkjab,...mkja->...mkjb", sigma, image)
        rho = distance(image)
        trace = jnp.sum(sigma**2, axis=(-2, -1))
    inverse = jnp.where(rho == 0, 0.0, 1.0 / jnp.where(rho == 0, 1.0, rho))
    gradient = [metric_x[..., a] * inverse for a in range(3)]
    square = gradient[0] ** 2 + gradient[1] ** 2 + gradient[2] ** 2
    return Decay(rho, gradient, square, (trace - square) * inverse)


def derivatives(
    params: Params, ae: jax.Array, r_ae: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Value, gradient and Laplacian of every envelope with respect to its own electron.

    Returns:
        value (..., electron, determinant, orbital), gradient (..., 3, electron, determinant,
        orbital) and laplacian, shaped like the value.
    """
    rho, gradient, square, laplacian = decay(params, ae, r_ae)
    term = params["pi"] * jnp.exp(-rho)
    first = jnp.stack([-_over_nuclei(term * g) for g in gradient], axis=-4)
    return _over_nuclei(term), first, _over_nuclei(term * (square - laplacian))

"""Slow, obvious versions of what the package computes, in float64, to test it against."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferminet_core.inputs.config import NetworkConfig
from ferminet_core.wavefunction import ansatz, networks
from ferminet_core.wavefunction.features import features
from ferminet_core.wavefunction.networks import Params, Spins


def small_network(**changes: Any) -> NetworkConfig:
    """A network that a Hessian can afford."""
    settings: dict[str, Any] = {
        "layers": 2,
        "one_electron_width": 8,
        "two_electron_width": 4,
        "determinants": 3,
    }
    return NetworkConfig(**{**settings, **changes})


@jax.jit
def leibniz(matrix: jax.Array) -> jax.Array:
    """Determinant by the sum over permutations: a polynomial, with derivatives everywhere."""
    n = matrix.shape[-1]
    orders = np.array(list(itertools.permutations(range(n))))
    pairs = itertools.combinations(range(n), 2)
    inversions = np.sum([orders[:, i] > orders[:, j] for i, j in pairs], axis=0)
    terms = jnp.asarray((-1.0) ** inversions, matrix.dtype)
    for row, columns in zip(matrix, orders.T, strict=True):
        terms = terms * row[columns]
    return jnp.sum(terms)


def psi(params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins) -> jax.Array:
    """The wavefunction itself (not its logarithm) of one walker (electron, 3)."""
    matrices = ansatz.assemble(networks.orbitals(params, electrons, nuclei, spins))
    value = jnp.sum(params["determinants"]["w"] * jax.vmap(leibniz)(matrices))
    if "jastrow" in params:
        r_ee = features(electrons, nuclei).r_ee
        value *= jnp.exp(ansatz.jastrow(params["jastrow"], r_ee, spins))
    return value


def psi_derivatives(
    params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """psi, (grad psi)/psi (electron, 3) and (lap psi)/psi, by automatic differentiation.

    The gradient is by reverse mode, the Laplacian by forward mode over reverse mode.
    """

    def function(x: jax.Array) -> jax.Array:
        return psi(params, x.reshape(-1, 3), nuclei, spins)

    x = electrons.reshape(-1)
    value = function(x)
    gradient = jax.grad(function)(x).reshape(-1, 3) / value
    return value, gradient, jnp.trace(jax.hessian(function)(x)) / value


def duplicate_orbitals(params: Params, determinants: int, copies: int) -> Params:
    """Make determinant 0 exactly singular.

    Its first `copies` + 1 orbitals of each spin become equal.
    """
    orbitals, envelope = [], []
    for linear, decay in zip(params["orbitals"], params["envelope"], strict=True):
        changed = {}
        for name, value in linear.items():
            table = value.reshape(*value.shape[:-1], determinants, -1)
            for copy in range(1, min(copies, table.shape[-1] - 1) + 1):
                table = table.at[..., 0, copy].set(table[..., 0, 0])
            changed[name] = table.reshape(value.shape)
        orbitals.append(changed)
        same = {}
        for name, value in decay.items():
            for copy in range(1, min(copies, value.shape[2] - 1) + 1):
                value = value.at[:, 0, copy].set(value[:, 0, 0])
            same[name] = value
        envelope.append(same)
    return {**params, "orbitals": orbitals, "envelope": envelope}


def shaken(params: Params, key: jax.Array, size: float = 0.3) -> Params:
    """Parameters away from their special starting values (unit envelopes, unit weights)."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [
        x + size * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)

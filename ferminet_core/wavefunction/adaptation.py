"""One wavefunction for several geometries: parameters that depend on the nuclei.

The parameters of the wavefunction at the nuclei R are those that all geometries share, plus a few
that are linear in coordinates z(R):

    p(R) = p + sum_j z_j(R) h_j.

The coefficients h are called heads, and start at zero. With A = sum_j z_j h_j, layer by layer,

    W -> W (1 + A_scale),    b -> (b + A_b) (1 + A_scale)     layers "one", by output
    b -> b + A_b                                              two-electron layers and orbitals
    pi -> pi + A_pi,  sigma -> sigma exp(l tanh(A_sigma / l)) envelopes, l = log 3
    w -> w exp(A_w)                                           determinants

Layers "one" are FermiNet's one-electron layers and Psiformer's perceptrons. Other networks may have
none. The result is an ordinary parameter tree (`networks.init`), so all that takes one serves the
shared wavefunction too. Without heads the geometry enters by the network's inputs alone. An
envelope's exponent changes by a factor of 3 at most, however far the nuclei are from those of the
training.

z are the leading principal components of functions of the distances between nuclei that tend to a
constant as bonds break. They are smooth along a curve, need no frame, and rely on the order of the
nuclei, which all geometries of a group have in common.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.networks import Params

# exp(-R / l), bohr: from the length of a bond to that of one that breaks.
LENGTHS = (1.0, 2.0, 4.0, 8.0)
# Components kept: at most so many, of those whose spread over the group exceeds this share of the
# largest one. Smaller ones would amplify the rounding of positions.
MOST_COMPONENTS = 4
LEAST_SPREAD = 1e-3
LEAST_FEATURE = 1e-9  # far above the rounding of a feature
# log of the factor by which a head can change an exponent.
_LOG_FACTOR = math.log(3.0)


class Coordinates(NamedTuple):
    """z as a function of the nuclei.

    centre: (feature,), their mean over the geometries that the coordinates were made for
    axes: (feature, component), scaled: the mean of |z|^2 over these geometries is 1
    """

    centre: np.ndarray
    axes: np.ndarray

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """z, (..., component), at nuclei (..., nucleus, 3), bohr."""
        return (pair_features(positions) - self.centre) @ self.axes


def pair_features(positions: np.ndarray) -> np.ndarray:
    """exp(-R / l) and 1 / (1 + R) of every pair of nuclei, (..., feature).

    Args:
        positions: (..., nucleus, 3), bohr
    """
    positions = np.asarray(positions, float)
    first, second = np.triu_indices(positions.shape[-2], 1)
    distance = np.linalg.norm(positions[..., first, :] - positions[..., second, :], axis=-1)
    found = [np.exp(-distance / length) for length in LENGTHS]
    return np.concatenate([*found, 1.0 / (1.0 + distance)], axis=-1)


def coordinates(positions: np.ndarray) -> Coordinates:
    """The coordinates of a group of geometries, from their principal components.

    Args:
        positions: (geometry, nucleus, 3), bohr; with equal geometries there is no component
    """
    features = pair_features(positions)
    centre = features.mean(axis=0)
    _, spread, axes = np.linalg.svd(features - centre, full_matrices=False)
    kept = spread[: min(MOST_COMPONENTS, len(positions) - 1)]
    kept = kept[kept > max(LEAST_SPREAD * np.max(spread, initial=0.0), LEAST_FEATURE)]
    if not kept.size:
        return Coordinates(centre, np.zeros((features.shape[1], 0)))
    scale = math.sqrt(len(positions) / len(kept))
    # An eigenvector's sign is free: here its largest entry is positive.
    rows = axes[: len(kept)]
    signs = np.sign(rows[np.arange(len(kept)), np.argmax(np.abs(rows), axis=1)])
    return Coordinates(centre, (rows * (signs * scale / kept)[:, None]).T)


def heads(params: Params, components: int) -> Params:
    """Heads of zeros for shared parameters, each (component, ...); {} without components.

    Args:
        params: from `networks.init`
        components: of z
    """
    if not components:
        return {}

    def zeros(x: jax.Array) -> jax.Array:
        return jnp.zeros((components, *x.shape), x.dtype)

    layers = []
    for layer in params.get("layers", []):
        one, two = layer["one"], layer.get("two", {})
        found = {"scale": jnp.zeros((components, one["w"].shape[1]), one["w"].dtype)}
        found |= {"one": zeros(one["b"])} if "b" in one else {}
        layers.append(found | ({"two": zeros(two["b"])} if "b" in two else {}))
    return {
        "layers": layers,
        "orbitals": [{"b": zeros(o["b"])} if "b" in o else {} for o in params["orbitals"]],
        "envelope": jax.tree.map(zeros, params["envelope"]),
        "determinants": jax.tree.map(zeros, params["determinants"]),
    }


def start(params: Params, components: int) -> Params:
    """The tree that a joint stage trains: {"shared", "heads"}, with heads of zero."""
    return {"shared": params, "heads": heads(params, components)}


def adapt(theta: Params, z: jax.Array) -> Params:
    """The parameters at one geometry, as `networks.init` gives them.

    Args:
        theta: from `start`
        z: (component,), of the geometry
    """
    params, linear = theta["shared"], theta["heads"]
    if not linear:
        return params
    a = jax.tree.map(lambda h: jnp.tensordot(z, h, axes=1), linear)
    orbitals = [
        {**o, "b": o["b"] + d["b"]} if "b" in o else o
        for o, d in zip(params["orbitals"], a["orbitals"], strict=True)
    ]
    envelope = [_envelope(*pair) for pair in zip(params["envelope"], a["envelope"], strict=True)]
    weights = params["determinants"]["w"] * jnp.exp(a["determinants"]["w"])
    adapted = {**params, "orbitals": orbitals, "envelope": envelope, "determinants": {"w": weights}}
    if "layers" in params:
        pairs = zip(params["layers"], a["layers"], strict=True)
        adapted["layers"] = [_layer(*pair) for pair in pairs]
    return networks.bounded(adapted)


def _layer(params: Params, a: Params) -> Params:
    """One layer's parameters, changed by its part of A."""
    factor = 1.0 + a["scale"]
    one = {"w": params["one"]["w"] * factor}
    if "b" in params["one"]:
        one["b"] = (params["one"]["b"] + a["one"]) * factor
    adapted = {**params, "one": one}
    if "two" in a:
        adapted["two"] = {**params["two"], "b": params["two"]["b"] + a["two"]}
    return adapted


def _envelope(params: Params, a: Params) -> Params:
    """One spin's envelopes, changed by their part of A."""
    growth = jnp.exp(_LOG_FACTOR * jnp.tanh(a["sigma"] / _LOG_FACTOR))
    return {"pi": params["pi"] + a["pi"], "sigma": params["sigma"] * growth}


def bounded(theta: Params) -> Params:
    """`networks.bounded` for the shared parameters."""
    return {**theta, "shared": networks.bounded(theta["shared"])}

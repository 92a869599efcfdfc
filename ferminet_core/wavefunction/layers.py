"""Dense layers, and the functions that apply parameters in the forms that KFAC can read."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ferminet_core.parallel import platform

Params = dict[str, Any]


def init_dense(key: jax.Array, n_in: int, n_out: int, bias: bool, dtype: jnp.dtype) -> Params:
    """Normal weights of variance 1/n_in, and small biases.

    With this variance tanh units stay in their linear range.
    """
    w_key, b_key = jax.random.split(key)
    params = {
        "w": jax.random.normal(w_key, (n_in, n_out), dtype) / jnp.sqrt(jnp.asarray(n_in, dtype))
    }
    if bias:
        params["b"] = jax.random.normal(b_key, (n_out,), dtype) * 0.1
    return params


class Layers(NamedTuple):
    """The functions that apply the parameters.

    KFAC exchanges these for forms that it can read (module `kfac`).

    Attributes:
        dense: (params, x) -> x W + b over the last axis.
        scale: (x, s) -> x s, s broadcast over leading axes.
        one_electron: (params, h, means, pair_means) -> a one-electron layer before its tanh.
        per_spin: `dense` of each spin's layer on that spin's electrons.
    """

    dense: Callable[[Params, jax.Array], jax.Array]
    scale: Callable[[jax.Array, jax.Array], jax.Array]
    one_electron: Callable[[Params, jax.Array, list[jax.Array], list[jax.Array]], jax.Array]
    per_spin: Callable[[Any, list[jax.Array]], Sequence[jax.Array]]


def dense(params: Params, x: jax.Array) -> jax.Array:
    """x W + b over the last axis."""
    y = x @ params["w"]
    return y + params["b"] if "b" in params else y


def split_weights(w: jax.Array, n_one: int, n_two: int, n_spins: int) -> list[jax.Array]:
    """Rows of a one-electron layer's weights by input.

    The inputs are [h_i, mean h per spin, mean h_ij per spin].
    """
    sizes = [n_one] * (1 + n_spins) + [n_two] * n_spins
    edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return [w[a:b] for a, b in itertools.pairwise(edges)]


def factored_layer(
    params: Params, h: jax.Array, means: list[jax.Array], pair_means: list[jax.Array]
) -> jax.Array:
    """One-electron layer before its tanh.

    The weights of the spin means are applied once, not for each electron.

    Args:
        params: {"w", "b"?}
        h: (..., electron, width)
        means: per spin (..., width)
        pair_means: per spin (..., electron, two-electron width)
    """
    blocks = split_weights(params["w"], h.shape[-1], pair_means[0].shape[-1], len(means))
    n_spins = len(means)
    shared = jnp.concatenate(means, axis=-1) @ jnp.concatenate(blocks[1 : 1 + n_spins])
    if "b" in params:
        shared = shared + params["b"]
    own = jnp.concatenate([h, *pair_means], axis=-1) @ jnp.concatenate(
        [blocks[0], *blocks[1 + n_spins :]]
    )
    return own + shared[..., None, :]


def joined_layer(
    params: Params, h: jax.Array, means: list[jax.Array], pair_means: list[jax.Array]
) -> jax.Array:
    """`factored_layer` as one product with all inputs of each electron."""
    shared = [jnp.broadcast_to(m[..., None, :], h.shape) for m in means]
    return dense(params, jnp.concatenate([h, *shared, *pair_means], axis=-1))


def one_electron_layer(
    params: Params, h: jax.Array, means: list[jax.Array], pair_means: list[jax.Array]
) -> jax.Array:
    """`factored_layer` in the form that suits the devices."""
    form = factored_layer if platform.on_cpu() else joined_layer
    return form(params, h, means, pair_means)


def per_spin_layers(params: list[Params] | Params, inputs: list[jax.Array]) -> Sequence[jax.Array]:
    """`dense` of each spin's layer on that spin's electrons, (..., electron, width).

    Args:
        params: of each spin, or those of both in one tree, from `ansatz.joined_spins`
        inputs: of each spin
    """
    if isinstance(params, list):
        return [dense(p, x) for p, x in zip(params, inputs, strict=True)]
    *batch, n, width = inputs[0].shape
    rows = jnp.stack([x.reshape(-1, width) for x in inputs])
    y = (rows @ params["w"]).reshape(len(inputs), *batch, n, -1)
    return [y[s] + params["b"][s] if "b" in params else y[s] for s in range(len(inputs))]


PLAIN = Layers(dense, jnp.multiply, one_electron_layer, per_spin_layers)


def residual(x: jax.Array, y: jax.Array) -> jax.Array:
    """y + x where the widths match, else y."""
    return x + y if x.shape[-1] == y.shape[-1] else y

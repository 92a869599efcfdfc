"""Psiformer (I. von Glehn, J. S. Spencer, D. Pfau, arXiv:2211.13672, section 3).

Every electron is a token. Its input holds the scaled vectors to the nuclei and its spin. In each
layer electrons attend to each other, and a perceptron follows:

    f_i = h_i + W_o [sum_j softmax_j(q_i . k_j / sqrt(d)) v_j, for each attention head]
    h_i' = f_i + tanh(W f_i + b)

with q, k, v linear maps of h without bias, d numbers of each in a head. There is neither a
two-electron stream nor a layer norm: distances between electrons enter by the cusp factor, and by
what attention makes of the electrons' places. `ansatz` makes orbitals and psi of the last h_i.
"""

import math

import jax
import jax.numpy as jnp

from ferminet_core.inputs.config import NetworkConfig
from ferminet_core.wavefunction import ansatz
from ferminet_core.wavefunction.ansatz import Spins
from ferminet_core.wavefunction.features import Features, features, log_scaled, one_electron_input
from ferminet_core.wavefunction.layers import PLAIN, Layers, Params, init_dense
from ferminet_core.wavefunction.protocol import Network


def init(
    key: jax.Array,
    config: NetworkConfig,
    spins: Spins,
    n_nuclei: int,
    dtype: jnp.dtype = jnp.float32,
) -> Params:
    """Random parameters of a network for `spins` = (n_up, n_down) electrons and `n_nuclei` nuclei.

    Returns:
        {"embedding": {"w"}, "layers": [{"query", "key", "value", "out", "one"}], "heads"} besides
        those of `ansatz.init`; dense weights are (inputs, outputs). "heads" holds no numbers: its
        length is the number of attention heads.
    """
    width = config.one_electron_width
    key, first = jax.random.split(key)
    embedding = init_dense(first, 4 * n_nuclei + 1, width, False, dtype)
    layers = []
    for _ in range(config.layers):
        key, *keys = jax.random.split(key, 6)
        maps = ("query", "key", "value", "out")
        layer = {
            name: init_dense(k, width, width, False, dtype)
            for name, k in zip(maps, keys, strict=False)
        }
        layers.append(layer | {"one": init_dense(keys[-1], width, width, config.bias, dtype)})
    heads: list[Params] = [{} for _ in range(config.attention_heads)]
    rest = ansatz.init(key, config, spins, n_nuclei, width, dtype)
    return {"embedding": embedding, "layers": layers, "heads": heads, **rest}


def tokens(f: Features, spins: Spins) -> jax.Array:
    """The input of each electron, (..., electron, 4 * nucleus + 1): spin up 1, spin down -1."""
    x = one_electron_input(f)
    spin = jnp.where(jnp.arange(sum(spins)) < spins[0], 1.0, -1.0).astype(x.dtype)
    return jnp.concatenate([x, jnp.broadcast_to(spin[:, None], (*x.shape[:-1], 1))], axis=-1)


def attention(params: Params, h: jax.Array, heads: int, layers: Layers) -> jax.Array:
    """What each electron takes from all electrons, (..., electron, width).

    Args:
        params: {"query", "key", "value", "out"}
        h: (..., electron, width)
        heads: number of attention heads
        layers: functions that apply the parameters
    """

    def split(name: str) -> jax.Array:
        y = layers.dense(params[name], h)
        return y.reshape(*y.shape[:-1], heads, -1)  # (..., electron, head, number)

    query, key, value = split("query"), split("key"), split("value")
    scores = jnp.einsum("...ihd,...jhd->...hij", query, key) / math.sqrt(query.shape[-1])
    # Written out: folx knows these operations, but not the derivative rule of `jax.nn.softmax`.
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    found = jnp.einsum("...hij,...jhd->...ihd", weights, value)
    return layers.dense(params["out"], found.reshape(h.shape))


def stream(params: Params, f: Features, spins: Spins, layers: Layers = PLAIN) -> jax.Array:
    """The last layer's stream (..., electron, width)."""
    scaled = log_scaled(f) if "log_inputs" in params else f
    h = layers.dense(params["embedding"], tokens(scaled, spins))
    for layer in params["layers"]:
        h = h + attention(layer, h, len(params["heads"]), layers)
        h = h + jnp.tanh(layers.dense(layer["one"], h))
    return h


def orbitals(
    params: Params,
    electrons: jax.Array,
    nuclei: jax.Array,
    spins: Spins,
    layers: Layers = PLAIN,
) -> list[jax.Array]:
    """See `protocol.Orbitals`."""
    f = features(electrons, nuclei)
    return ansatz.orbitals(params, stream(params, f, spins, layers), f, spins, layers)


NETWORK = Network(init=init, orbitals=orbitals)

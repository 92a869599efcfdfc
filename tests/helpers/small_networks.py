"""Every network of the settings, and one with nothing but what a network must have."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from ferminet_core.inputs.config import NETWORK_DEFAULTS, NetworkConfig
from ferminet_core.wavefunction import ansatz, networks
from ferminet_core.wavefunction.features import features, one_electron_input
from ferminet_core.wavefunction.layers import Layers, init_dense
from ferminet_core.wavefunction.networks import Params, Spins
from ferminet_core.wavefunction.protocol import Network
from helpers.oracles import shaken, small_network

WIDTH = 6


def _init(
    key: jax.Array, config: NetworkConfig, spins: Spins, n_nuclei: int, dtype: jnp.dtype
) -> Params:
    first, second = jax.random.split(key)
    own = init_dense(first, 4 * n_nuclei, WIDTH, True, dtype)
    return {"mixing": own, **ansatz.init(second, config, spins, n_nuclei, WIDTH, dtype)}


def _orbitals(
    params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins, layers: Layers
) -> list[jax.Array]:
    """Each electron sees itself and the sum of all; `layers` do not see "mixing"."""
    f = features(electrons, nuclei)
    h = jnp.tanh(one_electron_input(f) @ params["mixing"]["w"] + params["mixing"]["b"])
    h = h + jnp.sin(jnp.sum(h, axis=-2, keepdims=True))
    return ansatz.orbitals(params, h, f, spins, layers)


SIMPLEST = "simplest"
KINDS = [*networks.NETWORKS, SIMPLEST]


@contextmanager
def simplest_network() -> Iterator[None]:
    """A network of one file: without a forward Laplacian or registrations of its own."""
    more = {**networks.NETWORKS, SIMPLEST: Network(_init, _orbitals)}
    with mock.patch.object(networks, "NETWORKS", more):
        yield


def small(kind: str, **changes: Any) -> NetworkConfig:
    """The settings of a small network, with the defaults of its kind.

    Those of `SIMPLEST`, which no system file can name, are not validated.
    """
    own = {key.removeprefix("network."): v for key, v in NETWORK_DEFAULTS.get(kind, {}).items()}
    config = small_network(attention_heads=2, **{**own, **changes})
    return config.model_copy(update={"kind": kind})


def random_params(
    config: NetworkConfig, spins: Spins, nuclei: int = 2, dtype: Any = jnp.float64
) -> Params:
    """Parameters away from their special starting values."""
    start = networks.init(jax.random.key(3), config, spins, nuclei, dtype)
    return shaken(start, jax.random.key(4))

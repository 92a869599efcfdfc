"""FermiNet after one electron of a walker has moved.

The two-electron stream of a pair depends on this pair alone. So of n^2 pairs the 2 n of the moved
electron change, and the others are taken from the walker before the move. The one-electron streams
of all electrons see the moved one, and are evaluated in full.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ferminet_core.wavefunction import ansatz, layers
from ferminet_core.wavefunction.ansatz import Spins, spin_slices
from ferminet_core.wavefunction.features import (
    Features,
    distance,
    features,
    log_scaled,
    one_electron_input,
    two_electron_input,
)
from ferminet_core.wavefunction.layers import PLAIN, Params
from ferminet_core.wavefunction.moved_electron import Moved, with_moved


class _Pairs(NamedTuple):
    """What the layers have of the pairs of unmoved walkers, as inputs of each layer.

    streams: per layer (walker, electron, electron, width), h_ij
    means: per layer and spin (walker, electron, width), over j
    """

    streams: list[jax.Array]
    means: list[list[jax.Array]]


def _unmoved_pairs(params: Params, f: Features, spins: Spins) -> _Pairs:
    pair = two_electron_input(log_scaled(f) if "log_inputs" in params else f)
    streams = [pair]
    for layer in params["layers"][:-1]:
        dense = layers.dense(layer["two"], pair)
        pair = layers.residual(pair, jnp.tanh(dense))
        streams.append(pair)
    slices = spin_slices(spins)
    means = [[jnp.mean(pair[..., s, :], axis=-2) for s in slices] for pair in streams]
    return _Pairs(streams, means)


def moved_psi(params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins) -> Moved:
    """See `protocol.MovedPsi`."""
    pairs = _unmoved_pairs(params, features(electrons, nuclei), spins)

    def moved_psi(
        walker: jax.Array, electron: jax.Array, places: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        own = electrons[walker]
        moved = with_moved(own, electron, places)
        # Vectors from the electron to the others and back, zero for its pair with itself.
        others = jnp.arange(own.shape[-2]) != electron[..., None]
        away = jnp.where(
            others[..., None, :, None], places[..., :, None, :] - own[..., None, :, :], 0.0
        )
        to_and_from = jnp.stack([away, -away], axis=-3)
        ae = moved[..., :, None, :] - nuclei
        f = Features(ae, distance(ae), to_and_from, distance(to_and_from))
        h = _streams(params, f, spins, pairs, walker, electron)
        blocks = ansatz.orbitals(params, h, f, spins, PLAIN)
        return ansatz.sign_and_log(params, blocks, moved, nuclei, spins, PLAIN)

    return moved_psi


def _streams(
    params: Params,
    f: Features,
    spins: Spins,
    pairs: _Pairs,
    walker: jax.Array,
    electron: jax.Array,
) -> jax.Array:
    """The last one-electron stream (..., point, electron, width) after a move.

    Args:
        params: from `ferminet.init`
        f: ae and r_ae of all electrons; ee and r_ee (..., point, 2, electron, ...) of the pairs
            (moved, j) and (j, moved)
        spins: (n_up, n_down)
        pairs: of the unmoved walkers
        walker: (...)
        electron: (...), which moved
    """
    slices = spin_slices(spins)
    scaled = log_scaled(f) if "log_inputs" in params else f
    h, pair = one_electron_input(scaled), two_electron_input(scaled)
    is_moved = (jnp.arange(sum(spins)) == electron[..., None])[..., None, :, None]
    for layer, stream, kept in zip(params["layers"], pairs.streams, pairs.means, strict=True):
        means = [jnp.mean(h[..., s, :], axis=-2) for s in slices]
        change = pair[..., 1, :, :] - stream[walker, :, electron][..., None, :, :]
        pair_means = []
        for s, mean in zip(slices, kept, strict=True):
            # The mean over j of h_ij has one new term, that of the moved electron if it is in s.
            inside = (electron >= s.start) & (electron < s.stop)
            share = jnp.where(inside, 1.0 / (s.stop - s.start), 0.0).astype(h.dtype)
            other = mean[walker][..., None, :, :] + share[..., None, None, None] * change
            moved = jnp.mean(pair[..., 0, s, :], axis=-2)[..., None, :]
            pair_means.append(jnp.where(is_moved, moved, other))
        out = layers.one_electron_layer(layer["one"], h, means, pair_means)
        h = layers.residual(h, jnp.tanh(out))
        if "two" in layer:
            pair = layers.residual(pair, jnp.tanh(layers.dense(layer["two"], pair)))
    return h

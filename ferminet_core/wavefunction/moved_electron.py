"""psi after one electron of a walker has moved, over psi before.

The two-electron stream of a pair depends on this pair alone. So of n^2 pairs the 2 n of the moved
electron change, and the others are taken from the walker before the move. The one-electron streams
of all electrons see the moved one, and are evaluated in full.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.determinants import log_sum_determinants
from ferminet_core.wavefunction.features import (
    Features,
    distance,
    features,
    log_scaled,
    one_electron_input,
    two_electron_input,
)
from ferminet_core.wavefunction.networks import Params, SignedLog, Spins

# walker (...), electron (...), places (..., point, 3), bohr -> ratios of psi (..., point): psi of
# the walker with its electron at each of the places, over psi of the walker.
Ratios = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _with_moved(own: jax.Array, electron: jax.Array, places: jax.Array) -> jax.Array:
    """Electrons (..., point, electron, 3) with one of (..., electron, 3) at each of the places."""
    here = (jnp.arange(own.shape[-2]) == electron[..., None])[..., None, :, None]
    return jnp.where(here, places[..., :, None, :], own[..., None, :, :])


def full_ratios(psi: SignedLog, electrons: jax.Array) -> Ratios:
    """Ratios of any wavefunction, evaluated in full.

    Args:
        psi: electrons (..., electron, 3) -> sign and log|psi|
        electrons: (walker, electron, 3), bohr
    """
    sign, log = psi(electrons)

    def ratios(walker: jax.Array, electron: jax.Array, places: jax.Array) -> jax.Array:
        moved_sign, moved_log = psi(_with_moved(electrons[walker], electron, places))
        change = moved_log - log[walker][..., None]
        return moved_sign * sign[walker][..., None] * jnp.exp(change)

    return ratios


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
        dense = networks.dense(layer["two"], pair)
        pair = networks.residual(pair, jnp.tanh(dense))
        streams.append(pair)
    slices = networks.spin_slices(spins)
    means = [[jnp.mean(pair[..., s, :], axis=-2) for s in slices] for pair in streams]
    return _Pairs(streams, means)


def network_ratios(params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins) -> Ratios:
    """Ratios of the network.

    Args:
        params: from `networks.init`
        electrons: (walker, electron, 3), bohr
        nuclei: (nucleus, 3), bohr
        spins: (n_up, n_down)
    """
    pairs = _unmoved_pairs(params, features(electrons, nuclei), spins)
    sign, log = networks.apply(params, electrons, nuclei, spins)

    def ratios(walker: jax.Array, electron: jax.Array, places: jax.Array) -> jax.Array:
        own = electrons[walker]
        moved = _with_moved(own, electron, places)
        # Vectors from the electron to the others and back, zero for its pair with itself.
        others = jnp.arange(own.shape[-2]) != electron[..., None]
        away = jnp.where(
            others[..., None, :, None], places[..., :, None, :] - own[..., None, :, :], 0.0
        )
        to_and_from = jnp.stack([away, -away], axis=-3)
        ae = moved[..., :, None, :] - nuclei
        f = Features(ae, distance(ae), to_and_from, distance(to_and_from))
        h = _streams(params, f, spins, pairs, walker, electron)
        orbitals = networks.orbital_values(params, h, f.ae, f.r_ae, spins)
        weights = params["determinants"]["w"]
        moved_sign, moved_log = log_sum_determinants(networks.assemble(orbitals), weights)
        if "jastrow" in params:
            r_ee = features(moved, nuclei).r_ee
            moved_log = moved_log + networks.jastrow(params["jastrow"], r_ee, spins)
        change = moved_log - log[walker][..., None]
        return moved_sign * sign[walker][..., None] * jnp.exp(change)

    return ratios


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
        params: from `networks.init`
        f: ae and r_ae of all electrons; ee and r_ee (..., point, 2, electron, ...) of the pairs
            (moved, j) and (j, moved)
        spins: (n_up, n_down)
        pairs: of the unmoved walkers
        walker: (...)
        electron: (...), which moved
    """
    slices = networks.spin_slices(spins)
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
        out = networks.one_electron_layer(layer["one"], h, means, pair_means)
        h = networks.residual(h, jnp.tanh(out))
        if "two" in layer:
            pair = networks.residual(pair, jnp.tanh(networks.dense(layer["two"], pair)))
    return h

"""FermiNet (Pfau et al., Phys. Rev. Research 2, 033429, 2020, section II).

The one-electron stream h_i and the two-electron stream h_ij pass through dense layers; the
one-electron layers also see the means of both streams over the electrons of each spin (eqs. 3 to
5). `ansatz` makes orbitals and psi of the last h_i.
"""

import jax
import jax.numpy as jnp

from ferminet_core.inputs.config import NetworkConfig
from ferminet_core.parallel import platform
from ferminet_core.wavefunction import ansatz, ferminet_moves, forward_laplacian, stacked_laplacian
from ferminet_core.wavefunction.ansatz import Spins, spin_slices
from ferminet_core.wavefunction.derivatives import LogPsi
from ferminet_core.wavefunction.features import (
    Features,
    features,
    log_scaled,
    one_electron_input,
    two_electron_input,
)
from ferminet_core.wavefunction.layers import PLAIN, Layers, Params, init_dense, residual
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
        {"layers": [{"one", "two"}]} besides those of `ansatz.init`; dense weights are (inputs,
        outputs). The last layer has no two-electron part, since nothing would read it.
    """
    n_spins = sum(n > 0 for n in spins)
    one, two = 4 * n_nuclei, 4
    layers = []
    for index in range(config.layers):
        key, one_key, two_key = jax.random.split(key, 3)
        n_in = one * (1 + n_spins) + two * n_spins
        layer = {"one": init_dense(one_key, n_in, config.one_electron_width, config.bias, dtype)}
        one = config.one_electron_width
        if index < config.layers - 1:
            layer["two"] = init_dense(two_key, two, config.two_electron_width, config.bias, dtype)
            two = config.two_electron_width
        layers.append(layer)
    return {"layers": layers, **ansatz.init(key, config, spins, n_nuclei, one, dtype)}


def streams(
    params: Params,
    f: Features,
    spins: Spins,
    layers: Layers = PLAIN,
) -> jax.Array:
    """The last layer's one-electron stream (..., electron, width)."""
    slices = spin_slices(spins)
    if "log_inputs" in params:
        f = log_scaled(f)
    h, pair = one_electron_input(f), two_electron_input(f)
    for layer in params["layers"]:
        means = [jnp.mean(h[..., s, :], axis=-2) for s in slices]
        pair_means = [jnp.mean(pair[..., s, :], axis=-2) for s in slices]
        h = residual(h, jnp.tanh(layers.one_electron(layer["one"], h, means, pair_means)))
        if "two" in layer:
            pair = residual(pair, jnp.tanh(layers.dense(layer["two"], pair)))
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
    return ansatz.orbitals(params, streams(params, f, spins, layers), f, spins, layers)


def log_psi_derivatives(
    params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins
) -> LogPsi:
    """See `protocol.Derivatives`: in the form that suits the devices."""
    form = forward_laplacian if platform.on_cpu() else stacked_laplacian
    return form.log_psi_derivatives(params, electrons, nuclei, spins)


NETWORK = Network(
    init=init,
    orbitals=orbitals,
    log_psi_derivatives=log_psi_derivatives,
    moved_psi=ferminet_moves.moved_psi,
)

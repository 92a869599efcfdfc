"""The networks by name, and their wavefunctions.

`network.kind` chooses the network of new parameters. Those of every network but FermiNet say whose
they are by a key without numbers, the network's name. So all functions of parameters need nothing
but these, and parameters of earlier versions are FermiNet's.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from ferminet_core.inputs.config import NetworkConfig
from ferminet_core.wavefunction import ansatz, envelopes, ferminet, moved_electron, psiformer
from ferminet_core.wavefunction.ansatz import Spins
from ferminet_core.wavefunction.derivatives import LogPsi
from ferminet_core.wavefunction.layers import PLAIN, Layers, Params
from ferminet_core.wavefunction.moved_electron import Ratios
from ferminet_core.wavefunction.protocol import Network

__all__ = [
    "NETWORKS",
    "Layers",
    "LogPsi",
    "Params",
    "SignedLog",
    "Spins",
    "apply",
    "bounded",
    "init",
    "log_psi",
    "log_psi_derivatives",
    "of",
    "orbitals",
    "ratios",
    "signed_log",
]

# electrons (..., electron, 3), bohr -> sign (...) and log|psi| (...)
SignedLog = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

UNMARKED = "ferminet"
NETWORKS: Mapping[str, Network] = {
    UNMARKED: ferminet.NETWORK,
    "psiformer": psiformer.NETWORK,
}


def of(params: Params) -> Network:
    """The network that the parameters belong to."""
    kinds = [kind for kind in NETWORKS if kind in params]
    return NETWORKS[kinds[0] if kinds else UNMARKED]


def init(
    key: jax.Array,
    config: NetworkConfig,
    spins: Spins,
    n_nuclei: int,
    dtype: jnp.dtype = jnp.float32,
) -> Params:
    """Random parameters of a network for `spins` = (n_up, n_down) electrons and `n_nuclei` nuclei.

    Returns:
        Those of `ansatz.init`, of the network's own, and its name as a key.
    """
    params = NETWORKS[config.kind].init(key, config, spins, n_nuclei, dtype)
    return params if config.kind == UNMARKED else {**params, config.kind: {}}


def bounded(params: Params) -> Params:
    """The parameters with every envelope's decay at least `envelopes.LEAST_DECAY`."""
    return {**params, "envelope": [envelopes.bounded(e) for e in params["envelope"]]}


def orbitals(
    params: Params,
    electrons: jax.Array,
    nuclei: jax.Array,
    spins: Spins,
    layers: Layers = PLAIN,
) -> list[jax.Array]:
    """Orbitals of each spin present: see `protocol.Orbitals`."""
    return of(params).orbitals(params, electrons, nuclei, spins, layers)


def apply(
    params: Params,
    electrons: jax.Array,
    nuclei: jax.Array,
    spins: Spins,
    layers: Layers = PLAIN,
) -> tuple[jax.Array, jax.Array]:
    """Sign and log|psi|.

    Args:
        params: from `init`
        electrons: (..., electron, 3), bohr, spin up first
        nuclei: (nucleus, 3), bohr
        spins: (n_up, n_down)
        layers: functions that apply the parameters

    Returns:
        sign (...) and log|psi| (...).
    """
    blocks = orbitals(params, electrons, nuclei, spins, layers)
    return ansatz.sign_and_log(params, blocks, electrons, nuclei, spins, layers)


def signed_log(params: Params, nuclei: jax.Array, spins: Spins) -> SignedLog:
    """`apply` with parameters, nuclei (nucleus, 3) and spins closed over."""
    params = ansatz.joined_spins(params, spins)
    return lambda electrons: apply(params, electrons, nuclei, spins)


def log_psi(params: Params, nuclei: jax.Array, spins: Spins) -> Callable[[jax.Array], jax.Array]:
    """log|psi| (...) as a function of electrons (..., electron, 3) alone."""
    params = ansatz.joined_spins(params, spins)
    return lambda electrons: apply(params, electrons, nuclei, spins)[1]


def ratios(params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins) -> Ratios:
    """psi after one electron of a walker has moved, over psi before.

    Args:
        params: from `init`
        electrons: (walker, electron, 3), bohr
        nuclei: (nucleus, 3), bohr
        spins: (n_up, n_down)
    """
    psi = signed_log(params, nuclei, spins)
    network = of(params)
    if network.moved_psi is None:
        return moved_electron.full_ratios(psi, electrons)
    return moved_electron.over(psi(electrons), network.moved_psi(params, electrons, nuclei, spins))


def log_psi_derivatives(
    params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins
) -> LogPsi:
    """log|psi|, its gradient and (lap psi)/psi of walkers: see `protocol.Derivatives`."""
    network = of(params)
    if network.log_psi_derivatives is not None:
        return network.log_psi_derivatives(params, electrons, nuclei, spins)
    # folx is loaded by those who need it.
    from ferminet_core.wavefunction import generic_laplacian

    return generic_laplacian.log_psi_derivatives(network.orbitals, params, electrons, nuclei, spins)

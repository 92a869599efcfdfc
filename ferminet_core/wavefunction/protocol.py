"""The protocol of a network.

A network is a module of functions, and one record that names them. It has to give its parameters
and its orbitals. Determinants, cusps, log|psi|, its gradient and Laplacian follow from these
(`networks`).
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

from ferminet_core.inputs.config import NetworkConfig
from ferminet_core.wavefunction.ansatz import Spins
from ferminet_core.wavefunction.derivatives import LogPsi
from ferminet_core.wavefunction.layers import Layers, Params
from ferminet_core.wavefunction.moved_electron import Moved


class Init(Protocol):
    """Makes random parameters."""

    def __call__(
        self,
        key: jax.Array,
        config: NetworkConfig,
        spins: Spins,
        n_nuclei: int,
        dtype: jnp.dtype,
    ) -> Params:
        """The parameters of `ansatz.init`, and those of the network's own.

        Own parameters are below keys that `ansatz.init` does not use. If there is a list "layers"
        of dicts, each with a dense map "one" before a nonlinearity, the heads of a group's
        wavefunction act on these maps (`adaptation`).

        Args:
            key: of the random numbers
            config: settings of the network
            spins: (n_up, n_down); n_down may be 0
            n_nuclei: number of nuclei
            dtype: of all arrays
        """
        ...


class Orbitals(Protocol):
    """Evaluates the orbitals."""

    def __call__(
        self,
        params: Params,
        electrons: jax.Array,
        nuclei: jax.Array,
        spins: Spins,
        layers: Layers,
    ) -> list[jax.Array]:
        """Orbitals of each spin present: (..., determinant, electron of that spin, orbital).

        An exchange of two electrons of one spin exchanges their rows and changes nothing else.

        Args:
            params: from `Init`
            electrons: (..., electron, 3), bohr, spin up first; any leading axes
            nuclei: (nucleus, 3), bohr
            spins: (n_up, n_down)
            layers: functions that apply the parameters. A network that applies each of its own by
                one of these, once, can be optimised by KFAC.
        """
        ...


class Derivatives(Protocol):
    """Evaluates log|psi| with gradient and Laplacian."""

    def __call__(
        self, params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins
    ) -> LogPsi:
        """log|psi|, its gradient and (lap psi)/psi of walkers.

        Args:
            params: from `Init`
            electrons: (walker, electron, 3), bohr
            nuclei: (nucleus, 3), bohr
            spins: (n_up, n_down)
        """
        ...


class MovedPsi(Protocol):
    """Evaluates psi after one electron has moved, which pseudopotentials need."""

    def __call__(
        self, params: Params, electrons: jax.Array, nuclei: jax.Array, spins: Spins
    ) -> Moved:
        """Sign and log|psi| of walkers of which one electron has moved.

        Args:
            params: from `Init`
            electrons: (walker, electron, 3), bohr
            nuclei: (nucleus, 3), bohr
            spins: (n_up, n_down)
        """
        ...


@dataclass(frozen=True)
class Network:
    """A network.

    log_psi_derivatives: its own forward Laplacian; that of folx (`generic_laplacian`) if None
    moved_psi: with what it can take from the walker before the move; evaluated in full if None
    """

    init: Init
    orbitals: Orbitals
    log_psi_derivatives: Derivatives | None = None
    moved_psi: MovedPsi | None = None

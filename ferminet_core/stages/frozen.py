"""The wavefunction that an optimisation found, as an object outside of any loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from ferminet_core.errors import InputError
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.parallel import jax_setup
from ferminet_core.stages import datasets
from ferminet_core.vmc import hamiltonian, mcmc
from ferminet_core.wavefunction import networks


@contextmanager
def precision_of(config: Config) -> Iterator[None]:
    """JAX with the precision of a run, for the length of a call."""
    double = config.runtime.precision == "float64"
    with jax.enable_x64(double), jax.default_matmul_precision(jax_setup.PRODUCTS):
        yield


class Wavefunction:
    """psi of one run with fixed parameters.

    Electrons are arrays (..., electron, 3) in bohr, spin up first. Results are NumPy arrays in the
    precision of the run (`runtime.precision`).

    walkers: (walker, electron, 3), bohr, where the optimisation left them; they sample |psi|^2
    """

    def __init__(self, spec: RunSpec, optimised: xr.Dataset) -> None:
        """Take the parameters from the result of an optimisation.

        Args:
            spec: The run that was optimised.
            optimised: Result of its stage "optimise".

        Raises:
            InputError: It holds another network than the spec's.
        """
        self.spec, spins = spec, spec.molecule.electrons
        self._dtype = np.dtype(spec.config.runtime.precision)
        self.walkers: np.ndarray = optimised["walkers"].to_numpy().astype(self._dtype)
        self._width = float(optimised.attrs["mcmc_width"])
        with precision_of(spec.config):
            self._params = datasets.params(optimised, spec, self._dtype)
            self._nuclei = datasets.nuclei(spec.molecule, spec.config, self._dtype)
        chunk = datasets.chunk_size(spec.config, spins)
        self._psi = jax.jit(lambda p, x, nuclei: networks.apply(p, x, nuclei.positions, spins))
        self._local_energy = jax.jit(
            lambda p, x, nuclei: hamiltonian.local_energy(p, x, nuclei, spins, chunk)
        )

        def moved(params: Any, x: Any, nuclei: Any, key: Any, moves: int) -> Any:
            log_psi = networks.log_psi(params, nuclei.positions, spins)
            kernel = mcmc.make_kernel(log_psi, nuclei, spins, moves)
            width = jnp.asarray(self._width, self._dtype)
            return kernel(key, mcmc.walkers(x), width)[0].electrons

        self._moved = jax.jit(moved, static_argnums=4)

    def sign_log_psi(self, electrons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sign of psi and log|psi|, (...) each, for electrons (..., electron, 3), bohr.

        Raises:
            InputError: The electrons have another shape.
        """
        with precision_of(self.spec.config):
            sign, log = self._psi(self._params, self._checked(electrons), self._nuclei)
            return np.asarray(sign), np.asarray(log)

    def log_psi(self, electrons: np.ndarray) -> np.ndarray:
        """log|psi| (...); see `sign_log_psi`."""
        return self.sign_log_psi(electrons)[1]

    def local_energy(self, electrons: np.ndarray) -> np.ndarray:
        """(H psi) / psi, (...), hartree, for electrons (..., electron, 3), bohr.

        Raises:
            InputError: The electrons have another shape.
        """
        x = self._checked(electrons)
        with precision_of(self.spec.config):
            energies = self._local_energy(self._params, x.reshape(-1, *x.shape[-2:]), self._nuclei)
            return np.asarray(energies).reshape(x.shape[:-2])

    def sample(
        self, moves: int = 100, seed: int = 0, start: np.ndarray | None = None
    ) -> np.ndarray:
        """Walkers after Metropolis moves in |psi|^2, with the width that the optimisation reached.

        Args:
            moves: Moves of every walker.
            seed: Of the random numbers.
            start: (walker, electron, 3), bohr; `walkers` if None.

        Returns:
            (walker, electron, 3), bohr.

        Raises:
            InputError: `start` has another shape.
        """
        x = self._checked(self.walkers if start is None else start)
        if x.ndim != 3:
            raise InputError(f"start: found shape {x.shape}, allowed: (walker, electron, 3)")
        with precision_of(self.spec.config):
            key = jax.random.key(seed)
            return np.asarray(self._moved(self._params, x, self._nuclei, key, moves))

    def _checked(self, electrons: np.ndarray) -> np.ndarray:
        x = np.asarray(electrons, self._dtype)
        n = self.spec.molecule.n_electrons
        if x.shape[-2:] != (n, 3):
            raise InputError(f"electrons: found shape {x.shape}, allowed: (..., {n}, 3)")
        return x

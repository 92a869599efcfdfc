"""The parity penalty of functions with known parity."""

import jax
import jax.numpy as jnp
import numpy as np

from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.vmc.parity_penalty import STRENGTH, Parity, added_energy
from ferminet_core.wavefunction.networks import SignedLog

# The centre of the charges is at z = 1.5.
NUCLEI = Nuclei(jnp.asarray([[0.0, 0, -1.0], [0, 0, 4.0]]), jnp.asarray([2.0, 2.0]))
INVERSION = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
ELECTRONS = jax.random.normal(jax.random.key(0), (4000, 1, 3)) + jnp.asarray([0.0, 0.0, 1.5])


def state(left: float, right: float) -> SignedLog:
    """An electron in Gaussians about both nuclei: sign and log of left a + right b."""

    def psi(electrons: jax.Array) -> tuple[jax.Array, jax.Array]:
        squares = jnp.sum((electrons - NUCLEI.positions) ** 2, axis=-1)
        value = jnp.exp(-0.5 * squares) @ jnp.asarray([left, right])
        return jnp.sign(value), jnp.log(jnp.abs(value))

    return psi


def added(left: float, right: float, value: int) -> np.ndarray:
    return np.asarray(
        added_energy(state(left, right), ELECTRONS, NUCLEI, (Parity(INVERSION, value),))
    )


def test_states_of_a_parity_are_charged_for_the_other_one_alone() -> None:
    # Rounding of a ratio of functions of a few units.
    np.testing.assert_allclose(added(1.0, 1.0, 1), 0.0, atol=1e-12)
    np.testing.assert_allclose(added(1.0, 1.0, -1), 2.0 * STRENGTH, atol=1e-12)
    np.testing.assert_allclose(added(1.0, -1.0, -1), 0.0, atol=1e-12)


def test_a_charge_on_one_atom_costs_one_strength() -> None:
    # <P> is the overlap of both sides, exp(-25 / 4) = 2e-3. Walkers are drawn from exp(-r^2); where
    # they lie near the middle the ratio is large, and as rare.
    walkers = jax.random.normal(jax.random.key(1), (4000, 1, 3)) / jnp.sqrt(2.0)
    on_left = walkers + NUCLEI.positions[0]
    for value in (1, -1):
        cost = added_energy(state(1.0, 0.0), on_left, NUCLEI, (Parity(INVERSION, value),))
        assert abs(float(jnp.mean(cost)) - STRENGTH) < 0.01 * STRENGTH

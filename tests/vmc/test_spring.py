"""SPRING's step against the solution of its least-squares problem in the space of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from ferminet_core.inputs.config import NetworkConfig, OptimiseConfig
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.parallel.mesh import REPLICATED, SPLIT, per_device
from ferminet_core.vmc.energy import energy_gradient
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.vmc.optimisers import spring
from ferminet_core.wavefunction import networks

SPINS = (2, 1)
WALKERS = 12
NETWORK = NetworkConfig(layers=1, one_electron_width=5, two_electron_width=3, determinants=2)
NUCLEI = Nuclei(jnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), jnp.array([2.0, 1.0]))


@pytest.fixture(scope="module")
def problem() -> tuple[networks.Params, jax.Array, jax.Array, jax.Array]:
    """Parameters, walkers, deviations of energies with mean zero, and an earlier step."""
    keys = jax.random.split(jax.random.key(3), 4)
    init = jax.jit(lambda key: networks.init(key, NETWORK, SPINS, 2, jnp.float64))
    params = init(keys[0])
    electrons = jax.random.normal(keys[1], (WALKERS, 3, 3))
    deviation = jax.random.normal(keys[2], (WALKERS,))
    before = 0.1 * jax.random.normal(keys[3], ravel_pytree(params)[0].shape)
    return params, electrons, deviation - jnp.mean(deviation), before


def step_on(devices: int, config: OptimiseConfig, problem: tuple, rate: float) -> tuple:
    """Flat step, phi and gradient, with the walkers on so many devices."""
    params, electrons, deviation, before = problem
    mesh = Mesh(jax.devices()[:devices], (AXIS,))

    def update(before: jax.Array, electrons: jax.Array, deviation: jax.Array) -> tuple:
        rows = spring.log_derivatives(params, electrons, NUCLEI, SPINS, 4)
        found = spring.natural_step(config, before, params, rows, deviation, jnp.asarray(rate))
        return tuple(ravel_pytree(x)[0] for x in found)

    call = per_device(update, mesh, (REPLICATED, SPLIT, SPLIT), REPLICATED)
    return tuple(np.asarray(x) for x in call(before, electrons, deviation))


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_step_solves_the_least_squares_problem(
    problem: tuple, devices: int, momentum: float
) -> None:
    params, electrons, deviation, before = problem
    config = OptimiseConfig(optimiser="spring", momentum=momentum, norm_constraint=1e6)
    step, phi, gradient = step_on(devices, config, problem, 0.3)

    def log(flat: jax.Array) -> jax.Array:
        tree = ravel_pytree(params)[1](flat)
        return networks.apply(tree, electrons, NUCLEI.positions, SPINS)[1]

    o = np.asarray(jax.jit(jax.jacrev(log))(ravel_pytree(params)[0]))
    o = (o - o.mean(axis=0)) / np.sqrt(WALKERS)
    e = np.asarray(deviation) / np.sqrt(WALKERS)
    matrix = o.T @ o + config.damping * np.eye(o.shape[1])
    expected = np.linalg.solve(matrix, o.T @ e + config.damping * momentum * np.asarray(before))
    # Condition number 1e5 of the matrices, in double precision.
    np.testing.assert_allclose(phi, expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(step, 0.3 * expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(gradient, o.T @ e, rtol=1e-10, atol=1e-12)


def test_the_gradient_is_that_of_the_other_optimisers(problem: tuple) -> None:
    params, electrons, deviation, _ = problem
    mesh = Mesh(jax.devices()[:2], (AXIS,))

    def gradient(electrons: jax.Array, deviation: jax.Array) -> jax.Array:
        tree = energy_gradient(params, electrons, NUCLEI, SPINS, deviation)
        return ravel_pytree(tree)[0]

    expected = per_device(gradient, mesh, (SPLIT, SPLIT), REPLICATED)(electrons, deviation)
    found = step_on(2, OptimiseConfig(optimiser="spring"), problem, 0.1)[2]
    # The same sums in another order, in double precision.
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_a_long_step_is_shortened(problem: tuple) -> None:
    step, phi, _ = step_on(1, OptimiseConfig(norm_constraint=1e-4), problem, 0.5)
    assert np.linalg.norm(phi) > 1.0
    assert np.linalg.norm(step) == pytest.approx(1e-2, rel=1e-12)
    # Rounding of float64.
    np.testing.assert_allclose(step / np.linalg.norm(step), phi / np.linalg.norm(phi), rtol=1e-12)


def test_a_walker_without_a_gradient_is_left_out(problem: tuple) -> None:
    params, electrons, _, _ = problem
    lost = electrons.at[3, 1, 0].set(jnp.nan)
    rows = jax.jit(lambda x: spring.log_derivatives(params, x, NUCLEI, SPINS, 4))(lost)
    assert np.isfinite(rows).all()
    assert not np.asarray(rows[3]).any()
    assert np.asarray(rows[4]).any()

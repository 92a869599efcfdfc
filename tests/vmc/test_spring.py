"""SPRING's step against the solution of its least-squares problem in the space of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

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


def log_psi(params: networks.Params, walker: jax.Array) -> jax.Array:
    """log|psi| of one walker."""
    return networks.apply(params, walker, NUCLEI.positions, SPINS)[1]


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


def step_on(
    devices: int,
    config: OptimiseConfig,
    problem: tuple,
    rate: float,
    norms: np.ndarray | None = None,
) -> tuple:
    """Flat step, phi and gradient, with the walkers on so many devices, after these norms."""
    params, electrons, deviation, before = problem
    mesh = Mesh(jax.devices()[:devices], (AXIS,))

    def update(before: jax.Array, electrons: jax.Array, deviation: jax.Array) -> tuple:
        rows = spring.log_derivatives(log_psi, params, electrons, 4)[None]
        known = jnp.zeros(spring.NORMS) if norms is None else jnp.asarray(norms)
        state = spring.State(before, known)
        one = jnp.ones((1,))
        found = spring.natural_step(
            config, state, params, rows, deviation[None], one, jnp.asarray(rate)
        )
        return ravel_pytree(found.step)[0], found.state.phi, ravel_pytree(found.gradient)[0]

    call = per_device(update, mesh, (REPLICATED, SPLIT, SPLIT), REPLICATED)
    return tuple(np.asarray(x) for x in call(before, electrons, deviation))


def matrix_and_energies(problem: tuple) -> tuple[np.ndarray, np.ndarray]:
    """O and e of the module's docstring, by automatic differentiation of all walkers at once."""
    params, electrons, deviation, _ = problem

    def log(flat: jax.Array) -> jax.Array:
        tree = ravel_pytree(params)[1](flat)
        return networks.apply(tree, electrons, NUCLEI.positions, SPINS)[1]

    o = np.asarray(jax.jit(jax.jacrev(log))(ravel_pytree(params)[0]))
    return (o - o.mean(axis=0)) / np.sqrt(WALKERS), np.asarray(deviation) / np.sqrt(WALKERS)


def least_squares(problem: tuple, config: OptimiseConfig) -> np.ndarray:
    """phi as the minimiser in the space of parameters."""
    o, e = matrix_and_energies(problem)
    matrix = o.T @ o + config.damping * np.eye(o.shape[1])
    before = config.momentum * np.asarray(problem[3])
    return np.linalg.solve(matrix, o.T @ e + config.damping * before)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_step_solves_the_least_squares_problem(
    problem: tuple, devices: int, momentum: float
) -> None:
    config = OptimiseConfig(optimiser="spring", momentum=momentum, norm_constraint=1e6)
    step, phi, gradient = step_on(devices, config, problem, 0.3)
    expected = least_squares(problem, config)
    o, e = matrix_and_energies(problem)
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


@pytest.mark.parametrize("fall", [1.0, 0.1])
def test_a_long_step_is_shortened_to_a_bound_that_falls_with_the_rate(
    problem: tuple, fall: float
) -> None:
    config = OptimiseConfig(learning_rate=0.5, norm_constraint=1e-4)
    step, phi, _ = step_on(1, config, problem, 0.5 * fall)
    assert np.linalg.norm(phi) > 1.0
    assert np.linalg.norm(step) == pytest.approx(1e-2 * fall, rel=1e-12)
    # Rounding of float64.
    np.testing.assert_allclose(step / np.linalg.norm(step), phi / np.linalg.norm(phi), rtol=1e-12)


def test_a_walker_without_a_gradient_is_left_out(problem: tuple) -> None:
    params, electrons, _, _ = problem
    lost = electrons.at[3, 1, 0].set(jnp.nan)
    rows = jax.jit(lambda x: spring.log_derivatives(log_psi, params, x, 4))(lost)
    assert np.isfinite(rows).all()
    assert not np.asarray(rows[3]).any()
    assert np.asarray(rows[4]).any()


def test_a_sudden_step_goes_without_its_momentum(problem: tuple) -> None:
    config = OptimiseConfig(optimiser="spring", momentum=0.9, norm_constraint=1e6)
    carried = least_squares(problem, config)
    fresh = least_squares(problem, config.model_copy(update={"momentum": 0.0}))
    usual = np.linalg.norm(carried) / spring.SUDDEN
    for factor, expected in ((1.01, carried), (0.99, fresh)):
        _, phi, _ = step_on(1, config, problem, 0.3, np.full(spring.NORMS, usual * factor))
        # As above.
        np.testing.assert_allclose(phi, expected, rtol=1e-8, atol=1e-10)
    # Fewer norms than the median needs.
    few = np.full(spring.NORMS, 1e-3 * usual)
    few[-1] = 0.0
    np.testing.assert_allclose(step_on(1, config, problem, 0.3, few)[1], carried, rtol=1e-8)


@pytest.mark.parametrize(("largest", "error"), [(1e4, 1e-3), (1e5, 0.1)])
def test_single_precision_solves_beside_large_eigenvalues(largest: float, error: float) -> None:
    """A factor alone is wrong by 10 and 65 per cent here.

    The rounding of products with O, 6e-8 sqrt(largest / damping) of the step, is far below; what
    remains is what the conjugate gradients have not yet removed.
    """
    rng = np.random.default_rng(0)
    walkers, parameters, damping = 64, 1000, 1e-3
    left, _ = np.linalg.qr(rng.normal(size=(walkers, walkers)))
    right, _ = np.linalg.qr(rng.normal(size=(parameters, walkers)))
    o = (left * np.sqrt(np.geomspace(1e-4, largest, walkers))) @ right.T
    o = np.asarray(o - o.mean(axis=0), np.float32)
    e = rng.normal(size=walkers)
    e = np.asarray((e - e.mean()) / np.sqrt(walkers), np.float32)
    mesh = Mesh(jax.devices()[:1], (AXIS,))

    def solve(o: jax.Array, e: jax.Array) -> jax.Array:
        return o.T @ spring._solve(spring.Rows(o, 1), e[:, None], damping)[0][:, 0]

    with jax.default_matmul_precision("highest"):
        found = np.asarray(per_device(solve, mesh, (REPLICATED, REPLICATED), REPLICATED)(o, e))
    assert found.dtype == np.float32
    double = o.astype(float)
    expected = double.T @ np.linalg.solve(double @ double.T + damping * np.eye(walkers), e)
    assert np.linalg.norm(found - expected) < error * np.linalg.norm(expected)


# --- several geometries ---------------------------------------------------------------------------

WEIGHTS = np.array([0.5, 0.2, 0.3])
MANY = 8  # walkers of each


@pytest.fixture(scope="module")
def several(problem: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Rows (geometry, walker, parameter) and deviations (geometry, walker) of three bonds."""
    params = problem[0]
    electrons = jax.random.normal(jax.random.key(7), (3, MANY, 3, 3))

    def rows(bond: jax.Array, electrons: jax.Array) -> jax.Array:
        positions = NUCLEI.positions * bond

        def log(params: networks.Params, walker: jax.Array) -> jax.Array:
            return networks.apply(params, walker, positions, SPINS)[1]

        return spring.log_derivatives(log, params, electrons, MANY)

    found = jax.jit(jax.vmap(rows))(jnp.asarray([0.8, 1.0, 1.4]), electrons)
    deviation = np.random.default_rng(1).normal(size=(3, MANY))
    return np.asarray(found), deviation - deviation.mean(axis=1, keepdims=True)


def joint_step(
    devices: int,
    config: OptimiseConfig,
    problem: tuple,
    several: tuple,
    order: tuple[int, ...] = (0, 1, 2),
    weights: np.ndarray = WEIGHTS,
) -> tuple[np.ndarray, np.ndarray]:
    """phi and the gradient, with the geometries in this order."""
    mesh = Mesh(jax.devices()[:devices], (AXIS,))
    params, before = problem[0], problem[3]
    chosen = list(order)

    def update(rows: jax.Array, deviation: jax.Array) -> tuple:
        state = spring.State(before, jnp.zeros(spring.NORMS))
        w = jnp.asarray(weights[chosen])
        rate = jnp.asarray(0.1)
        found = spring.natural_step(config, state, params, rows, deviation, w, rate)
        return found.state.phi, ravel_pytree(found.gradient)[0]

    split = PartitionSpec(None, AXIS)
    call = per_device(update, mesh, (split, split), REPLICATED)
    phi, gradient = call(several[0][chosen], several[1][chosen])
    return np.asarray(phi), np.asarray(gradient)


def dense_system(several: tuple, weights: np.ndarray = WEIGHTS) -> tuple[np.ndarray, np.ndarray]:
    """O and e of all geometries."""
    rows, deviation = several
    root = np.sqrt(weights / MANY)
    o = (rows - rows.mean(axis=1, keepdims=True)) * root[:, None, None]
    return o.reshape(-1, rows.shape[-1]), (deviation * root[:, None]).ravel()


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_joint_step_solves_the_least_squares_problem(
    problem: tuple, several: tuple, devices: int, momentum: float
) -> None:
    """The solution in the space of parameters knows nothing of B: any multiple of it does."""
    config = OptimiseConfig(optimiser="spring", momentum=momentum, norm_constraint=1e6)
    phi, gradient = joint_step(devices, config, problem, several)
    o, e = dense_system(several)
    before = momentum * np.asarray(problem[3])
    # O has rows of several hundred, whose squares would spoil the digits of normal equations.
    root = np.sqrt(config.damping)
    stacked = np.concatenate([o, root * np.eye(o.shape[1])])
    expected = np.linalg.lstsq(stacked, np.concatenate([e, root * before]), rcond=None)[0]
    # As for one geometry.
    np.testing.assert_allclose(phi, expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(gradient, o.T @ e, rtol=1e-10, atol=1e-12)


def test_the_joint_gradient_is_the_weighted_mean_of_the_single_ones(
    problem: tuple, several: tuple
) -> None:
    config = OptimiseConfig(optimiser="spring")
    _, gradient = joint_step(1, config, problem, several)
    single = [
        joint_step(1, config, problem, several, (g,), np.ones(3))[1] for g in range(len(WEIGHTS))
    ]
    # Sums of some ten terms in double precision.
    np.testing.assert_allclose(gradient, WEIGHTS @ np.asarray(single), rtol=1e-11, atol=1e-13)


def test_the_order_of_the_geometries_does_not_matter(problem: tuple, several: tuple) -> None:
    config = OptimiseConfig(optimiser="spring", momentum=0.9)
    phi, _ = joint_step(1, config, problem, several)
    # As for the least-squares problem.
    for order in ((2, 0, 1), (1, 0, 2)):
        other, _ = joint_step(1, config, problem, several, order)
        np.testing.assert_allclose(other, phi, rtol=1e-8, atol=1e-10)


def test_a_geometry_without_weight_does_not_count(problem: tuple, several: tuple) -> None:
    config = OptimiseConfig(optimiser="spring", momentum=0.9)
    weights = np.array([0.5, 0.0, 0.5])
    rows, deviation = several[0].copy(), several[1].copy()
    rows[1], deviation[1] = 0.0, 0.0
    with_it, _ = joint_step(2, config, problem, (rows, deviation), weights=weights)
    without, _ = joint_step(1, config, problem, several, (0, 2), weights)
    # As for the least-squares problem.
    np.testing.assert_allclose(with_it, without, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rows", [5, 64, 130, 300])
def test_half_of_the_products_make_the_whole_matrix(rows: int) -> None:
    a = np.random.default_rng(0).normal(size=(rows, 7))
    # Sums of seven terms of order one in double precision.
    np.testing.assert_allclose(spring.symmetric_product(jnp.asarray(a)), a @ a.T, atol=1e-13)

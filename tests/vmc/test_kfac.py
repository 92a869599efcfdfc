"""KFAC's metric against the exact Fisher matrix, and the block of every parameter."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import kfac_jax
import numpy as np
import pytest
from helpers.oracles import small_network
from jax.sharding import Mesh

from ferminet_core.inputs.config import OptimiseConfig
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.parallel.mesh import REPLICATED, SPLIT, per_device
from ferminet_core.vmc.optimisers import kfac, kfac_solves
from ferminet_core.vmc.optimisers.kfac_solves import Layer
from ferminet_core.wavefunction import layers, networks

# Damping so small that the step is the inverse metric times the gradient; a norm constraint that
# does not bind.
CONFIG = OptimiseConfig(damping=1e-12, norm_constraint=1e6)


def natural_step(
    log_psi: kfac.LogPsi,
    params: networks.Params,
    inputs: jax.Array,
    gradient: networks.Params,
    devices: int,
    config: OptimiseConfig = CONFIG,
) -> networks.Params:
    """One step of rate 1 on a fresh preconditioner."""
    pre = kfac.preconditioner(config, log_psi)
    mesh = Mesh(jax.devices()[:devices], (AXIS,))
    unused = jnp.zeros((1, 3))
    state = kfac.empty_statistics(pre, params, unused, inputs[: len(inputs) // devices])

    def step(x: jax.Array) -> networks.Params:
        measured, _ = kfac.sweep(pre, state, params, (unused, x), jnp.zeros(len(x)))
        return kfac.natural_step(pre, measured, gradient, jnp.asarray(1.0), 1.0)[0]

    return per_device(step, mesh, (SPLIT,), REPLICATED)(inputs)


@pytest.mark.parametrize("axes", [(2,), (2, 2)], ids=["electrons", "pairs"])
@pytest.mark.parametrize("devices", [1, 2])
def test_metric_of_a_linear_function_is_the_exact_fisher(
    devices: int, axes: tuple[int, ...]
) -> None:
    # log psi = sum_t x_t . w + z . s, with t the electrons: grad log psi = (sum_t x_t, z), and the
    # metric is 2 E[g g^T]. Over a full factorial design of signs the electrons are exactly
    # uncorrelated, which is when a repeated Kronecker factor is exact; z enters by a diagonal.
    count = 3 * int(np.prod(axes))
    signs = jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=count))).reshape(-1, *axes, 3)
    mix = jnp.asarray([[1.0, 0.4, 0.0], [0.0, 2.0, 0.3], [0.0, 0.0, 0.5]])
    inputs = signs @ mix
    # Shuffled, so that both devices see the same statistics only after averaging.
    inputs = inputs[np.random.default_rng(0).permutation(len(inputs))]
    first, second = (0,) * len(axes), (1,) * len(axes)
    params: networks.Params = {"dense": {"w": jnp.zeros((3, 1))}, "scale": jnp.ones((3,))}

    def log_psi(p: networks.Params, batch: kfac.Batch) -> jax.Array:
        x = batch[1]
        linear = kfac.REGISTERED.dense(p["dense"], x)
        scaled = kfac.REGISTERED.scale(x[:, *first] - x[:, *second], p["scale"])
        log = jnp.sum(linear.reshape(len(x), -1), axis=1) + jnp.sum(scaled, axis=1)
        return kfac.register_log_psi(log)

    gradient: networks.Params = {
        "dense": {"w": jnp.asarray([[0.3], [-0.2], [0.5]])},
        "scale": jnp.ones((3,)),
    }
    found = natural_step(log_psi, params, inputs, gradient, devices)
    total = inputs.reshape(len(inputs), -1, 3).sum(axis=1)
    exact = 2 * total.T @ total / len(inputs)
    expected = jnp.linalg.solve(exact, gradient["dense"]["w"])
    diagonal = 2 * jnp.mean((inputs[:, *first] - inputs[:, *second]) ** 2, axis=0)
    # Rounding of float64 and of the factored damping, sqrt(1e-12) relative.
    np.testing.assert_allclose(found["dense"]["w"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["scale"], 1 / diagonal, rtol=1e-5)


@pytest.mark.parametrize("outputs", [2, 7])
def test_solving_with_a_factor_is_multiplying_by_its_inverse(outputs: int) -> None:
    # With an inverse period above one kfac-jax inverts the factors and keeps the inverses; the
    # first step uses the same statistics as a step that solves.
    inputs = jax.random.normal(jax.random.key(0), (16, 2, 3))
    keys = jax.random.split(jax.random.key(1), 4)
    params: networks.Params = {
        "w": jax.random.normal(keys[0], (3, outputs)),
        "b": jax.random.normal(keys[1], (outputs,)),
    }
    gradient: networks.Params = {
        "w": jax.random.normal(keys[2], (3, outputs)),
        "b": jax.random.normal(keys[3], (outputs,)),
    }

    def log_psi(p: networks.Params, batch: kfac.Batch) -> jax.Array:
        hidden = jnp.tanh(kfac.REGISTERED.dense(p, batch[1]))
        return kfac.register_log_psi(jnp.sum(hidden**3, axis=(1, 2)))

    solved, inverted = (
        natural_step(
            log_psi,
            params,
            inputs,
            gradient,
            1,
            OptimiseConfig(damping=1e-3, norm_constraint=1e6, inverse_period=period),
        )
        for period in (1, 2)
    )
    # Rounding of float64 times the condition numbers of the two damped factors, 2 and 35 at most,
    # and as much again for entries that are small compared with the others.
    np.testing.assert_allclose(solved["w"], inverted["w"], rtol=1e-12)
    np.testing.assert_allclose(solved["b"], inverted["b"], rtol=1e-12)


def test_the_cap_on_the_norm_falls_with_the_learning_rate() -> None:
    config = OptimiseConfig(damping=1e-12, norm_constraint=1e-4)
    params = {"scale": jnp.ones((3,))}
    inputs = jax.random.normal(jax.random.key(0), (16, 1, 3))

    def log_psi(p: networks.Params, batch: kfac.Batch) -> jax.Array:
        return kfac.register_log_psi(jnp.sum(kfac.REGISTERED.scale(batch[1][:, 0], p["scale"]), 1))

    pre = kfac.preconditioner(config, log_psi)
    mesh = Mesh(jax.devices()[:1], (AXIS,))
    unused = jnp.zeros((1, 3))
    state = kfac.empty_statistics(pre, params, unused, inputs)
    gradient = {"scale": jnp.asarray([1.0, 2.0, 3.0])}

    def step(x: jax.Array, rate: jax.Array) -> networks.Params:
        measured, _ = kfac.sweep(pre, state, params, (unused, x), jnp.zeros(len(x)))
        return kfac.natural_step(pre, measured, gradient, rate, start)[0]

    metric = 2 * jnp.mean(inputs[:, 0] ** 2, axis=0)
    for start in (1e3, 1e-6):
        compiled = per_device(step, mesh, (SPLIT, REPLICATED), REPLICATED)
        for fall in (1.0, 0.1):
            moved = compiled(inputs, jnp.asarray(start * fall))["scale"]
            norm = float(jnp.sum(metric * moved**2))
            # The norm is v F v; without the cap it is rate^2 g F^-1 g.
            uncapped = float(start**2 * jnp.sum(gradient["scale"] ** 2 / metric))
            assert norm == pytest.approx(fall**2 * min(1e-4, uncapped), rel=1e-6)


def _concatenated(
    params: networks.Params,
    h: jax.Array,
    means: list[jax.Array],
    pair_means: list[jax.Array],
) -> jax.Array:
    """A layer of the one-electron stream on its whole input (Pfau et al. 2020, eq. 4)."""
    spread = [jnp.broadcast_to(g[..., None, :], h.shape) for g in means]
    return _stock(params, jnp.concatenate([h, *spread, *pair_means], axis=-1))


def _stock(params: networks.Params, x: jax.Array) -> jax.Array:
    y = layers.dense(params, x)
    weights = params["w"], params.get("b")
    return kfac_jax.register_dense(y, x, *weights, variant="repeated_dense")


def _each(params: list[networks.Params], inputs: list[jax.Array]) -> list[jax.Array]:
    return [_stock(p, x) for p, x in zip(params, inputs, strict=True)]


@pytest.mark.parametrize(
    ("kind", "spins", "bias"),
    [*((kind, (2, 1), True) for kind in networks.NETWORKS), ("ferminet", (3, 0), False)],
)
def test_one_pass_gives_kfac_jaxs_factors_and_the_gradient(
    kind: str, spins: networks.Spins, bias: bool
) -> None:
    config = small_network(kind=kind, bias=bias)
    nuclei = jnp.asarray([[0.0, 0, 0], [0, 0, 1.4]])
    params = networks.init(jax.random.key(0), config, spins, 2, jnp.float64)
    walkers = jax.random.normal(jax.random.key(1), (5, sum(spins), 3))
    stock = networks.Layers(_stock, kfac.REGISTERED.scale, _concatenated, _each)
    batch, weights = (nuclei, walkers), jnp.asarray([0.3, -0.1, 0.2, 0.0, -0.4])

    def prepared(layers: networks.Layers) -> tuple[Any, Any]:
        def log_psi(p: networks.Params, batch: kfac.Batch) -> jax.Array:
            return kfac.register_log_psi(networks.apply(p, batch[1], batch[0], spins, layers)[1])

        pre = kfac.preconditioner(CONFIG, log_psi)
        return pre, kfac.empty_statistics(pre, params, nuclei, walkers)

    def measured(x: jax.Array) -> tuple[Any, Any]:
        pre, state = prepared(kfac.REGISTERED)
        return kfac.sweep(pre, state, params, (nuclei, x), weights)

    mesh = Mesh(jax.devices()[:1], (AXIS,))
    state, gradient = per_device(measured, mesh, (SPLIT,), REPLICATED)(walkers)
    pre, empty = prepared(stock)

    @jax.jit  # faster than operation by operation
    def measured_by_kfac_jax(batch: kfac.Batch) -> Any:
        key = jax.random.key(0)
        return pre.maybe_update_estimator_curvature(empty, (params, batch), key, sync=False)

    expected = measured_by_kfac_jax(batch)
    for found, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        if found.dtype != bool:  # whether kfac-jax has yet to average over devices
            # Rounding of float64 in sums in another order.
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)

    @jax.jit
    @jax.grad
    def weighted(p: networks.Params) -> jax.Array:
        return jnp.mean(weights * networks.apply(p, walkers, nuclei, spins)[1])

    for found, wanted in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(weighted(params)), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("devices", [1, 2, 5])
def test_stacked_solves_are_those_of_each_layer(devices: int) -> None:
    # Three layers of like sizes, one larger, a layer with one output, and one with no input.
    shapes = [(5, 3), (4, 7), (8, 8), (70, 9), (6, 1), (3, 2)]
    damping, stack = 1e-3, []
    for i, (n, m) in enumerate(shapes):
        keys = jax.random.split(jax.random.key(i), 3)
        x, d = (jax.random.normal(k, (12, size)) for k, size in zip(keys, (n, m), strict=False))
        stack.append(
            Layer(x.T @ x, d.T @ d, jnp.asarray(1.0 + i), jax.random.normal(keys[2], (n, m)))
        )
    stack[-1] = stack[-1]._replace(inputs=jnp.zeros((3, 3)))
    mesh = Mesh(jax.devices()[:devices], (AXIS,))

    def step(numbers: list[Layer]) -> list[jax.Array]:
        return kfac_solves.solved(numbers, damping)

    found = per_device(step, mesh, (REPLICATED,), REPLICATED)(stack)
    for layer, x in zip(stack, found, strict=True):
        a, b = kfac_jax.utils.pi_adjusted_kronecker_factors(
            layer.inputs, layer.outputs, damping=damping * layer.places
        )
        expected = layer.places * jnp.linalg.inv(a) @ layer.gradient @ jnp.linalg.inv(b)
        # Rounding of float64 and what is added for it, 4 eps times 70 rows, times the largest
        # condition number of a damped factor, 1e3. Entries cancel: relative to the largest.
        largest = float(jnp.max(jnp.abs(expected)))
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e-10 * largest)


@pytest.mark.parametrize("rows", [1, 20])
def test_matrices_of_low_rank_have_factors_in_single_precision(rows: int) -> None:
    # Without damping: 200 parameters and few walkers, all with a large common part.
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (rows, 200), jnp.float32) + 10 * jax.random.normal(keys[1], ())
    layer = Layer(
        x.T @ x,
        jnp.eye(3, dtype=jnp.float32),
        jnp.asarray(1.0, jnp.float32),
        jax.random.normal(keys[2], (200, 3), jnp.float32),
    )
    mesh = Mesh(jax.devices()[:1], (AXIS,))
    [found] = per_device(lambda x: kfac_solves.solved(x, 0.0), mesh, (REPLICATED,), REPLICATED)(
        [layer]
    )
    assert jnp.all(jnp.isfinite(found))


BLOCKS = {
    "one": "OneElectron",
    "two": "Dense",
    "orbitals": "Dense",
    "envelope": "Scale",
    "determinants": "Scale",
    "jastrow": "Scale",
}


@pytest.mark.parametrize("envelope", ["isotropic", "diagonal", "anisotropic"])
@pytest.mark.parametrize("form", ["dense", "block"])
@pytest.mark.parametrize("options", [True, False])
def test_every_parameter_has_its_block(envelope: str, form: str, options: bool) -> None:
    config = small_network(
        envelope=envelope,
        determinant_form=form,
        jastrow=options,
        orbital_bias=options,
        bias=options,
    )
    spins, nuclei = (2, 1), jnp.asarray([[0.0, 0, 0], [0, 0, 1.4]])
    params = networks.init(jax.random.key(0), config, spins, 2, jnp.float64)
    walkers = jax.random.normal(jax.random.key(1), (4, 3, 3))
    pre = kfac.preconditioner(
        OptimiseConfig(), lambda p, batch: kfac.curvature_function(p, batch, spins)
    )
    kfac.empty_statistics(pre, params, nuclei, walkers)
    for path, block in kfac.blocks(pre, params).items():
        head, *rest = path.split(".")
        assert block == BLOCKS[rest[1] if head == "layers" else head], path

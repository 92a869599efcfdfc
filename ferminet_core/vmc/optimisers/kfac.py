"""KFAC, the approximate natural gradient (Martens and Grosse 2015; Pfau et al. 2020, section II.D).

kfac-jax's `OptaxPreconditioner` runs inside the project's own `shard_map`. Besides this module,
only `parallel.patches` imports kfac-jax. The curvature function is the network with every layer
registered explicitly:

* dense layers, applied once per electron or pair: Kronecker-factored (`SolvedDense`), those of the
  one-electron stream by the parts of their input (`OneElectron`);
* envelope weights and widths, determinant weights and cusp lengths: products of an input and a
  parameter, so `scale_and_shift`, the diagonal of the Fisher matrix from the gradients of single
  walkers. (kfac-jax's `generic` blocks would square the gradient of a whole batch instead.)

Convention: the metric is 2 E[g g^T] with g = grad log|psi| (kfac-jax's normal distribution of
variance 1/2). It acts on the gradient E[dE g], half of grad <E>. Both are half of what the Fisher
metric of |psi|^2 and the energy would give, so the natural gradient is the same. Published damping
and norm constraints refer to this convention.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import kfac_jax
from jax.lax.linalg import triangular_solve
from kfac_jax._src.layers_and_loss_tags import layer_tag

from ferminet_core.inputs.config import OptimiseConfig
from ferminet_core.parallel import collectives, patches
from ferminet_core.vmc.energy import energy_gradient
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.vmc.optimisers import cholesky
from ferminet_core.vmc.optimisers.protocol import Sample, Update
from ferminet_core.wavefunction import layers, networks
from ferminet_core.wavefunction.networks import Layers, Params, Spins

DENSE, ONE_ELECTRON = "dense", "one_electron"  # kinds of layers

Batch = tuple[jax.Array, jax.Array]  # nuclei (nucleus, 3), electrons (walker, electron, 3)
LogPsi = Callable[[Params, Batch], jax.Array]


def _batch_size(batch: Batch) -> int:
    return batch[1].shape[0]


def _dense(params: Params, x: jax.Array) -> jax.Array:
    return _register(DENSE, params, layers.dense(params, x), [x])


def _scale(x: jax.Array, s: jax.Array) -> jax.Array:
    return kfac_jax.register_scale_and_shift(x * s, x, scale=s)


def _one_electron(
    params: Params, h: jax.Array, means: list[jax.Array], pair_means: list[jax.Array]
) -> jax.Array:
    y = layers.factored_layer(params, h, means, pair_means)
    return _register(ONE_ELECTRON, params, y, [h, *means, *pair_means])


def _register(variant: str, params: Params, y: jax.Array, inputs: list[jax.Array]) -> jax.Array:
    """Declare y (walker, ..., outputs) the outputs of a layer with the parameters {"w", "b"?}."""
    weights = [params[name] for name in ("w", "b") if name in params]
    count = 1 + len(inputs)
    meta = kfac_jax.LayerMetaData(
        variant=variant,
        outputs_index=(0,),
        inputs_index=tuple(range(1, count)),
        params_index=tuple(range(count, count + len(weights))),
    )
    return layer_tag.bind(y, *inputs, *weights, meta=meta)


REGISTERED = Layers(_dense, _scale, _one_electron)


def register_log_psi(log: jax.Array) -> jax.Array:
    """Declare log|psi| (walker,) the quantity whose gradients make the metric."""
    kfac_jax.register_normal_predictive_distribution(log[:, None])
    return log


def curvature_function(params: Params, batch: Batch, spins: Spins) -> jax.Array:
    """log|psi| (walker,) with all layers and the predictive distribution registered."""
    nuclei, electrons = batch
    _, log = networks.apply(params, electrons, nuclei, spins, REGISTERED)
    return register_log_psi(log)


class SolvedDense(kfac_jax.RepeatedDenseKroneckerFactored):
    """The two factors of a dense layer, used in linear solves.

    They are averages over walkers of sums over the places where the layer is applied: of x x^T and
    of d d^T. Here x is the layer's input (and 1 for the bias), and d is the gradient of log|psi|
    with respect to its output.

    It solves with its damped factors where kfac-jax inverts them. The step A^-1 G B^-1 of a
    gradient G (inputs, outputs) takes n^3/3 + 2 n^2 m operations by a Cholesky factor of A (n, n)
    and m right-hand sides; by the inverse 2 n^3 more. Inverses that several updates share
    (`optimise.inverse_period` above one) are kfac-jax's.
    """

    def input_products(self, inputs: Sequence[jax.Array], places: int) -> jax.Array:
        """Sum of x x^T over walkers and places, bias last."""
        del places
        [x] = inputs
        x = self._with_bias([x], x.shape[:-1]).reshape(-1, self.array_shape[0])
        return x.T @ x

    def _with_bias(self, parts: list[jax.Array], places: tuple[int, ...]) -> jax.Array:
        ones = [jnp.ones((*places, 1), parts[0].dtype)] if self.number_of_parameters == 2 else []
        return jnp.concatenate([*parts, *ones], axis=-1)

    def update_curvature_matrix_estimate(
        self,
        state: Any,
        estimation_data: Any,
        ema_old: Any,
        ema_new: Any,
        identity_weight: Any,
        batch_size: Any,
    ) -> Any:
        """The state with the averages over these walkers mixed in."""
        del identity_weight
        [delta] = estimation_data.tangents.outputs
        places = math.prod(delta.shape[1:-1])
        inputs = self.input_products(estimation_data.primals.inputs, places)
        delta = delta.reshape(-1, delta.shape[-1])
        state = state.copy()
        state.factors[0].update(inputs / batch_size, ema_old, ema_new)
        state.factors[1].update(delta.T @ delta / batch_size, ema_old, ema_new)
        state.average_repeats.update(jnp.asarray(places, delta.dtype), ema_old, ema_new)
        return state

    def _multiply_matpower_unscaled(
        self,
        state: Any,
        vector: Sequence[jax.Array],
        identity_weight: Any,
        power: Any,
        exact_power: bool,
        use_cached: bool,
    ) -> tuple[jax.Array, ...]:
        if power != -1 or exact_power or use_cached:
            return super()._multiply_matpower_unscaled(
                state, vector, identity_weight, power, exact_power, use_cached
            )
        inputs, outputs = kfac_jax.utils.pi_adjusted_kronecker_factors(
            *(factor.value for factor in state.factors), damping=identity_weight
        )
        gradient = self.parameters_shaped_list_to_array(vector)
        step = times_inverse(times_inverse(gradient.T, inputs).T, outputs)
        return self.array_to_parameters_shaped_list(step)


class OneElectron(SolvedDense):
    """A layer of the one-electron stream.

    Its input x_i = [h_i, means over the spins, means of pairs with i] (Pfau et al. 2020, eq. 4) is
    never put together: with the means s of a walker, which all its n electrons share, and the rest
    o_i, the sums of x x^T consist of

        sum_i o_i o_i^T,   (sum_i o_i) s^T,   n s s^T.
    """

    def input_products(self, inputs: Sequence[jax.Array], places: int) -> jax.Array:
        """Sum of x x^T over walkers and electrons.

        The rows are those of `layers.split_weights`, with the bias last.
        """
        h, *rest = inputs
        n_spins = len(rest) // 2
        shared = jnp.concatenate(rest[:n_spins], axis=-1)
        own = self._with_bias([h, *rest[n_spins:]], h.shape[:-1])
        cross = jnp.sum(own, axis=1).T @ shared
        flat = own.reshape(-1, own.shape[-1])
        oo, ss = flat.T @ flat, places * (shared.T @ shared)
        n = h.shape[-1]
        rows = [
            [oo[:n, :n], cross[:n], oo[:n, n:]],
            [cross[:n].T, ss, cross[n:].T],
            [oo[n:, :n], cross[n:], oo[n:, n:]],
        ]
        return jnp.block(rows)


def times_inverse(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x M^-1 for a positive definite M (n, n) and x (m, n).

    From the right: LAPACK takes the rows of x for columns, and nothing is transposed. M already
    contains KFAC's damping; what `cholesky.factor` adds is less than its rounding.
    """
    rounding = jnp.finfo(matrix.dtype).eps * jnp.trace(matrix) / matrix.shape[0]
    factor, _ = cholesky.factor(matrix, rounding)
    half = triangular_solve(factor, x, left_side=False, lower=True, transpose_a=True)
    return triangular_solve(factor, half, left_side=False, lower=True)


def preconditioner(config: OptimiseConfig, log_psi: LogPsi) -> kfac_jax.OptaxPreconditioner:
    """The preconditioner for a function with registered layers, such as `curvature_function`."""
    patches.order_layer_inputs()
    return kfac_jax.OptaxPreconditioner(
        value_func=log_psi,
        damping=config.damping,
        norm_constraint=config.norm_constraint,
        estimation_mode="fisher_exact",
        curvature_ema=config.ema_decay,
        inverse_update_period=config.inverse_period,
        layer_tag_to_block_ctor={DENSE: SolvedDense, ONE_ELECTRON: OneElectron},
        register_only_generic=True,  # no guessing from the graph: layers are registered by hand
        pmap_axis_name=collectives.AXIS,
        batch_size_extractor=_batch_size,
    )


def empty_statistics(
    pre: kfac_jax.OptaxPreconditioner, params: Params, nuclei: jax.Array, electrons: jax.Array
) -> kfac_jax.OptaxPreconditionState:
    """Zero statistics for `params` and the walkers of one device, once all blocks are verified."""
    batch = (nuclei, electrons)
    state = pre.init((params, batch), jax.random.PRNGKey(0))
    blocks(pre, params)
    return state


def blocks(pre: kfac_jax.OptaxPreconditioner, params: Params) -> dict[str, str]:
    """The curvature block of every parameter, {path: class name}.

    Raises:
        RuntimeError: a parameter with no block of `curvature_function` or with several: a mistake
            in the registrations, or a network that has none.
    """
    paths = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    found: dict[str, list[str]] = {path: [] for path in paths}
    for indices, block in pre.estimator.indices_to_block_map.items():
        # kfac-jax gives this block to parameters that nothing registered. It squares the gradient
        # of the whole batch.
        if not isinstance(block, kfac_jax.NaiveDiagonal):
            for index in indices:
                found[paths[index]].append(type(block).__name__)
    wrong = {path: names for path, names in found.items() if len(names) != 1}
    if wrong:
        raise RuntimeError(f"parameters without exactly one curvature block: {wrong}")
    return {path: names[0] for path, names in found.items()}


def update_curvature(
    pre: kfac_jax.OptaxPreconditioner,
    state: kfac_jax.OptaxPreconditionState,
    params: Params,
    batch: Batch,
) -> kfac_jax.OptaxPreconditionState:
    """Add the walkers of all devices to the curvature factors; call inside `shard_map`.

    The factors are averaged in every iteration. kfac-jax would average them only before an
    inversion, and with an inverse period above one each device would take its own steps in between.
    One message carries all factors, where kfac-jax sends one for each.
    """
    key = jax.random.PRNGKey(0)  # unused by the exact Fisher estimate
    state = pre.maybe_update_estimator_curvature(state, (params, batch), key, sync=False)
    leaves, structure = jax.tree.flatten(state, is_leaf=_is_average)
    averages = [leaf for leaf in leaves if _is_average(leaf)]
    values = iter(collectives.mean([average.value for average in averages]))
    # A factor's weight is the same on all devices: it counts the iterations so far.
    leaves = [
        type(leaf)(weight=leaf.weight, value=next(values)) if _is_average(leaf) else leaf
        for leaf in leaves
    ]
    return jax.tree.unflatten(structure, leaves)


def _is_average(x: Any) -> bool:
    return isinstance(x, kfac_jax.utils.WeightedMovingAverage)


def natural_step(
    pre: kfac_jax.OptaxPreconditioner,
    state: kfac_jax.OptaxPreconditionState,
    params: Params,
    gradient: Params,
    batch: Batch,
    rate: jax.Array,
    start: float,
) -> tuple[Params, Any]:
    """The step to subtract from the parameters, and the new state; call inside `shard_map`.

    The norm constraint caps the Fisher norm of the step that is taken at the start. This cap, like
    that of `protocol.bounded`, falls with the learning rate.

    Args:
        pre: from `preconditioner`
        state: after the last call
        params: of the wavefunction
        gradient: E[dE grad log|psi|]
        batch: nuclei and walkers of this device
        rate: the learning rate now
        start: the learning rate of the settings
    """
    state = update_curvature(pre, state, params, batch)
    state = pre.maybe_update_inverse_cache(state)
    step = pre.apply(jax.tree.map(lambda g: start * g, gradient), state)
    step = jax.tree.map(lambda s: rate / start * s, step)
    return step, pre.increment_count(state)


class Kfac:
    """See `protocol.Optimiser`; the state is that of kfac-jax's preconditioner."""

    def __init__(self, config: OptimiseConfig, spins: Spins, chunk: int) -> None:
        del chunk
        self._spins, self._config = spins, config
        log_psi = functools.partial(curvature_function, spins=spins)
        self.preconditioner = preconditioner(config, log_psi)

    def init(self, params: Params, electrons: jax.Array, nuclei: Nuclei) -> Any:
        """Zero statistics."""
        return empty_statistics(self.preconditioner, params, nuclei.positions, electrons)

    def update(self, state: Any, params: Params, sample: Sample, rate: jax.Array) -> Update:
        """`natural_step` of the energy's gradient."""
        electrons, nuclei, deviation = sample
        gradient = energy_gradient(params, electrons, nuclei, self._spins, deviation)
        batch = (nuclei.positions, electrons)
        start, damping = self._config.learning_rate, self._config.damping
        step, state = natural_step(self.preconditioner, state, params, gradient, batch, rate, start)
        return Update(step, state, gradient, damping)

    def curvature_blocks(self, params: Params) -> dict[str, str]:
        """See `blocks`; call after `init`."""
        return blocks(self.preconditioner, params)

"""KFAC, the approximate natural gradient (Martens and Grosse 2015; Pfau et al. 2020, section II.D).

kfac-jax's `OptaxPreconditioner` runs inside the project's own `shard_map`. Besides this module,
only `parallel.patches` imports kfac-jax. The curvature function is the network with every layer
registered explicitly:

* dense layers, applied once per electron or pair: Kronecker-factored (`Dense`), those of the
  one-electron stream by the parts of their input (`OneElectron`);
* envelope weights and widths, determinant weights and cusp lengths: products of an input and a
  parameter (`Scale`), the diagonal of the Fisher matrix from the gradients of single walkers.
  (kfac-jax's `generic` blocks would square the gradient of a whole batch instead.)

One pass over the walkers gives the curvature and the gradient of the energy (`sweep`): both are
sums over walkers of products of the layers' inputs and of the derivatives of log|psi| with respect
to their outputs.

Convention: the metric is 2 E[g g^T] with g = grad log|psi| (kfac-jax's normal distribution of
variance 1/2). It acts on the gradient E[dE g], half of grad <E>. Both are half of what the Fisher
metric of |psi|^2 and the energy would give, so the natural gradient is the same. Published damping
and norm constraints refer to this convention.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import kfac_jax
from kfac_jax._src.layers_and_loss_tags import layer_tag

from ferminet_core.inputs.config import OptimiseConfig
from ferminet_core.parallel import collectives, patches
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.vmc.optimisers import kfac_solves
from ferminet_core.vmc.optimisers.kfac_blocks import Dense, OneElectron, Scale
from ferminet_core.vmc.optimisers.protocol import Sample, Update
from ferminet_core.wavefunction import layers, networks
from ferminet_core.wavefunction.networks import Layers, Params, Spins

# Kinds of layers; the last is kfac-jax's own name.
DENSE, ONE_ELECTRON, SCALE = "dense", "one_electron", "scale_and_shift"

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
    y = layers.one_electron_layer(params, h, means, pair_means)
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


def _per_spin(params: list[Params], inputs: list[jax.Array]) -> list[jax.Array]:
    return [_dense(p, x) for p, x in zip(params, inputs, strict=True)]


REGISTERED = Layers(_dense, _scale, _one_electron, _per_spin)


def register_log_psi(log: jax.Array) -> jax.Array:
    """Declare log|psi| (walker,) the quantity whose gradients make the metric."""
    kfac_jax.register_normal_predictive_distribution(log[:, None])
    return log


def curvature_function(params: Params, batch: Batch, spins: Spins) -> jax.Array:
    """log|psi| (walker,) with all layers and the predictive distribution registered."""
    nuclei, electrons = batch
    _, log = networks.apply(params, electrons, nuclei, spins, REGISTERED)
    return register_log_psi(log)


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
        layer_tag_to_block_ctor={DENSE: Dense, ONE_ELECTRON: OneElectron, SCALE: Scale},
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


def sweep(
    pre: kfac_jax.OptaxPreconditioner,
    state: kfac_jax.OptaxPreconditionState,
    params: Params,
    batch: Batch,
    deviation: jax.Array,
) -> tuple[kfac_jax.OptaxPreconditionState, Params]:
    """Curvature and gradient from the walkers of all devices; call inside `shard_map`.

    One message carries all factors and the gradient. The factors are averaged in every iteration.
    kfac-jax would average them only before an inversion, and with an inverse period above one each
    device would take its own steps in between.

    Args:
        pre: from `preconditioner`
        state: after the last call
        params: of the wavefunction
        batch: nuclei and walkers of this device
        deviation: (walker on this device,), hartree, from `energy.clip_energies`

    Returns:
        The state with these walkers' factors mixed in, and E[dE grad log|psi|].
    """
    estimator: Any = pre.estimator  # kfac-jax's types do not know the blocks of `kfac_blocks`
    (loss,), pull_back = estimator._compute_losses_vjp((params, batch))
    root = loss.multiply_fisher_factor_replicated_one_hot((0,))  # sqrt(2) for each walker
    layers = list(zip(estimator.blocks, pull_back((root,)), strict=True))
    weights = deviation / (math.sqrt(2.0) * deviation.shape[0])
    factors, gradient = collectives.mean(
        (
            [block.statistics(data) for block, data in layers],
            [block.gradient(data, weights) for block, data in layers],
        )
    )
    leaves, structure = jax.tree.flatten(state, is_leaf=_is_average)
    values, memory = iter(jax.tree.leaves(factors)), float(pre._curvature_ema)
    leaves = [
        _averaged(leaf, next(values), memory) if _is_average(leaf) else leaf for leaf in leaves
    ]
    after = jax.tree.unflatten(structure, leaves)
    return after, estimator.blocks_vectors_to_params_vector(gradient)


def _averaged(average: Any, value: jax.Array, memory: float) -> Any:
    """kfac-jax's moving average with a new value of weight 1 mixed in."""
    weight = memory * average.weight + 1.0
    mixed = average.value + (value - average.value) / weight
    return type(average)(weight=weight, value=mixed)


def _is_average(x: Any) -> bool:
    return isinstance(x, kfac_jax.utils.WeightedMovingAverage)


def natural_step(
    pre: kfac_jax.OptaxPreconditioner,
    state: kfac_jax.OptaxPreconditionState,
    gradient: Params,
    rate: jax.Array,
    start: float,
) -> tuple[Params, kfac_jax.OptaxPreconditionState]:
    """The step to subtract from the parameters, and the new state; call inside `shard_map`.

    The norm constraint caps the Fisher norm of the step that is taken at the start. This cap, like
    that of `protocol.bounded`, falls with the learning rate.

    Args:
        pre: from `preconditioner`
        state: from `sweep`
        gradient: E[dE grad log|psi|]
        rate: the learning rate now
        start: the learning rate of the settings
    """
    gradient = jax.tree.map(lambda g: start * g, gradient)
    if pre._use_cached_inverses:
        state = pre.maybe_update_inverse_cache(state)
        step = pre.apply(gradient, state)
    else:
        step = kfac_solves.bounded_step(pre, state, gradient)
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
        batch = (nuclei.positions, electrons)
        start, damping = self._config.learning_rate, self._config.damping
        state, gradient = sweep(self.preconditioner, state, params, batch, deviation)
        step, state = natural_step(self.preconditioner, state, gradient, rate, start)
        return Update(step, state, gradient, damping)

    def curvature_blocks(self, params: Params) -> dict[str, str]:
        """See `blocks`; call after `init`."""
        return blocks(self.preconditioner, params)

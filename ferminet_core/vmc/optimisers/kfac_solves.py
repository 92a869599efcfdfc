"""The gradient divided by KFAC's damped Kronecker factors.

With p places a layer's block is A (x) B / p. The damping l of the whole block is spread over its
two factors (Martens and Grosse 2015, section 6.3): with the means a and b of their diagonals,

    A (x) B / p + l 1  ~  (a b / p) (A / a + e 1) (x) (B / b + e 1),   e = sqrt(l p / (a b)),

and the layer's step is p / (a b) (A / a + e 1)^-1 G (B / b + e 1)^-1 of its gradient G (inputs,
outputs). Cholesky factors solve that: with n^3/3 + 2 n^2 m operations for a factor (n, n) and m
right-hand sides, where an inverse takes 2 n^3 more. Inverses that several updates share
(`optimise.inverse_period` above one) are kfac-jax's.

Layers of like sizes are solved together, and the devices share the layers of such a stack.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import kfac_jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.lax.linalg import triangular_solve

from ferminet_core.parallel import collectives
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.vmc.optimisers.kfac_blocks import Dense
from ferminet_core.wavefunction.networks import Params

# Sizes that differ less than this go into one stack, where the smaller ones are padded.
LIKE = 64
# What is added to the diagonal, in units of the rounding of the trace. Of random matrices of 833
# rows and low rank, undamped and rounded to float32, Cholesky fails for one in ten with one unit
# and for none with three.
ROUNDING = 4.0


class Layer(NamedTuple):
    """Numbers of a dense layer, or of a stack of layers with one more axis in front.

    inputs: A, (n, n); outputs: B, (m, m); places: p; gradient: G, (n, m)
    """

    inputs: jax.Array
    outputs: jax.Array
    places: jax.Array
    gradient: jax.Array


def bounded_step(
    pre: kfac_jax.OptaxPreconditioner, state: kfac_jax.OptaxPreconditionState, gradient: Params
) -> Params:
    """The natural gradient, shortened to the norm constraint; call inside `shard_map`.

    Args:
        pre: with blocks of `kfac_blocks`
        state: with the factors of all devices
        gradient: a tree like the parameters
    """
    estimator: Any = pre.estimator  # kfac-jax's types do not know the blocks of `kfac_blocks`
    states: Any = state.estimator_state.blocks_states
    damping, blocks = pre.get_identity_weight(state), estimator.blocks
    steps: list[Any] = [None] * len(blocks)
    dense: dict[int, Layer] = {}
    vectors = estimator.params_vector_to_blocks_vectors(gradient)
    for i, (block, own) in enumerate(zip(blocks, states, strict=True)):
        if isinstance(block, Dense):
            joined = block.parameters_shaped_list_to_array(vectors[i])
            inputs, outputs = (factor.value for factor in own.factors)
            dense[i] = Layer(inputs, outputs, own.average_repeats.value, joined)
        else:
            steps[i] = (vectors[i][0] / (own.diagonal_factors[0].value + damping),)
    for i, step in zip(dense, solved(list(dense.values()), damping), strict=True):
        steps[i] = blocks[i].array_to_parameters_shaped_list(step)
    flat, unravel = ravel_pytree(estimator.blocks_vectors_to_params_vector(steps))
    bound: Any = pre._norm_constraint
    norm = jnp.vdot(flat, ravel_pytree(gradient)[0])
    return unravel(flat * jnp.minimum(jnp.sqrt(bound / norm), 1.0))


def solved(layers: Sequence[Layer], damping: jax.Array | float) -> list[jax.Array]:
    """The steps (n, m) of all layers; call inside `shard_map`."""
    steps, before = [jnp.zeros(())] * len(layers), 0
    for group in stacks([layer.gradient.shape for layer in layers]):
        stack = _shared(*_stacked([layers[i] for i in group], damping), before)
        before += len(group)
        for i, step in zip(group, stack, strict=True):
            n, m = layers[i].gradient.shape
            steps[i] = step[:n, :m]
    return list(collectives.total(steps))


def stacks(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """The layers of like sizes, by their numbers."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i, shape in enumerate(shapes):
        found.setdefault(tuple(-(-n // LIKE) for n in shape), []).append(i)
    return list(found.values())


def _stacked(
    layers: Sequence[Layer], damping: jax.Array | float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The damped A and B of a stack of layers, and its gradients times what is left.

    A layer whose walkers give it no input or no derivative has a zero A or B. Its step is G / l. A
    factor (1, 1) is a number; it carries no damping unless both are numbers.
    """
    sizes = np.array([layer.gradient.shape for layer in layers])
    n, m = (int(size) for size in sizes.max(axis=0))
    sides = [
        jnp.stack([_padded(layer.inputs, (n, n)) for layer in layers]),
        jnp.stack([_padded(layer.outputs, (m, m)) for layer in layers]),
    ]
    gradient = jnp.stack([_padded(layer.gradient, (n, m)) for layer in layers])
    places = jnp.stack([layer.places for layer in layers])
    means = [jnp.trace(x, axis1=1, axis2=2) / sizes[:, i] for i, x in enumerate(sides)]
    alive = (means[0] > 0) & (means[1] > 0)
    block = jnp.where(alive, means[0] * means[1] / places, damping)
    damped = np.stack([(sizes[:, 0] > 1) | (sizes[:, 1] == 1), sizes[:, 1] > 1])
    relative = (damping / block) ** (1 / damped.sum(axis=0)).astype(block.dtype)
    factors = []
    for i, (factor, mean) in enumerate(zip(sides, means, strict=True)):
        normed = jnp.where(alive[:, None, None], factor / mean[:, None, None], 0.0)
        own = jnp.where(alive, relative * damped[i], 1.0)
        factors.append(_damped(normed, own, sizes[:, i]))
    return factors[0], factors[1], gradient / block[:, None, None]


def _padded(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.pad(x, [(0, size - n) for size, n in zip(shape, x.shape, strict=True)])


def _damped(factors: jax.Array, damping: jax.Array, sizes: np.ndarray) -> jax.Array:
    """Factors (layer, n, n) of mean 1 and of these sizes, made positive definite."""
    rounding = ROUNDING * jnp.finfo(factors.dtype).eps * sizes
    real = np.arange(factors.shape[-1]) < sizes[:, None]
    diagonal = jnp.where(real, (damping + rounding.astype(damping.dtype))[:, None], 1.0)
    return factors + diagonal[:, :, None] * np.eye(factors.shape[-1], dtype=factors.dtype)


def _shared(inputs: jax.Array, outputs: jax.Array, gradient: jax.Array, before: int) -> jax.Array:
    """A^-1 G B^-1 of a stack, where this device is to compute it, and zeros elsewhere.

    Args:
        inputs: A, (layer, n, n)
        outputs: B, (layer, m, m)
        gradient: G, (layer, n, m)
        before: layers of earlier stacks, so that another device begins with each stack
    """
    devices, count = jax.lax.axis_size(AXIS), gradient.shape[0]
    if devices == 1:
        return _divided(inputs, outputs, gradient)
    each = -(-count // devices)
    first = each * ((jax.lax.axis_index(AXIS) + before) % devices)
    start = jnp.minimum(first, count - each)
    rows = start + jnp.arange(each)
    own = [jax.lax.dynamic_slice_in_dim(x, start, each) for x in (inputs, outputs, gradient)]
    # The last devices' parts overlap those of others, or lie beyond the stack.
    mine = (rows >= first)[:, None, None]
    steps = jnp.where(mine, _divided(*own), 0.0)
    return jax.lax.dynamic_update_slice_in_dim(jnp.zeros_like(gradient), steps, start, 0)


def _divided(inputs: jax.Array, outputs: jax.Array, gradient: jax.Array) -> jax.Array:
    """A^-1 G B^-1 of stacks of matrices."""
    transposed = times_inverse(jnp.swapaxes(gradient, -1, -2), inputs)
    return times_inverse(jnp.swapaxes(transposed, -1, -2), outputs)


def times_inverse(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x M^-1 for a positive definite M (..., n, n) and x (..., m, n).

    From the right: LAPACK takes the rows of x for columns, and nothing is transposed.
    """
    factor = jax.lax.linalg.cholesky(matrix, symmetrize_input=False)
    half = triangular_solve(factor, x, left_side=False, lower=True, transpose_a=True)
    return triangular_solve(factor, half, left_side=False, lower=True)

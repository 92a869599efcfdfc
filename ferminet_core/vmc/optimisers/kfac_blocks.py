"""What KFAC measures of each kind of layer: factors of the Fisher matrix, and a gradient.

kfac-jax finds the layers, and it keeps and inverts their factors. For a layer with the input x and
the derivative d of log|psi| with respect to its output, both of a walker w at a place t (an
electron or a pair), the factors are averages over walkers of sums over places,

    A = < sum_t x x^T >,  B = < sum_t d d^T >,

and the gradient of the energy is < dE_w sum_t x d^T >. Here d carries the square root of 2 that
makes the metric 2 E[g g^T]; the weights dE_w passed to `gradient` make up for it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import kfac_jax

Arrays = tuple[jax.Array, ...]


class Dense(kfac_jax.RepeatedDenseKroneckerFactored):
    """A dense layer x W + b that is applied at several places."""

    def statistics(self, data: Any) -> Arrays:
        """A, B, and the number of places, from the walkers of this device."""
        [delta] = data.tangents.outputs
        inputs = self.input_products(data.primals.inputs)
        rows = delta.reshape(-1, delta.shape[-1])
        walkers = delta.shape[0]
        return inputs / walkers, rows.T @ rows / walkers, jnp.asarray(self.places, delta.dtype)

    def gradient(self, data: Any, weights: jax.Array) -> Arrays:
        """The sums over walkers of weight (walker,) times derivative, shaped like the parameters.

        The rows of the weight matrix are those of `input_products`, with the bias last.
        """
        [delta] = data.tangents.outputs
        weighted = weights.reshape(-1, *[1] * (delta.ndim - 1)) * delta
        found = self.input_gradient(data.primals.inputs, weighted)
        return tuple(self.array_to_parameters_shaped_list(found))

    @property
    def places(self) -> int:
        """How often a walker applies the layer."""
        return math.prod(self.outputs_shapes[0][1:-1])

    def input_products(self, inputs: Any) -> jax.Array:
        """Sum of x x^T over walkers and places, bias last."""
        rows = self._rows(inputs)
        return rows.T @ rows

    def input_gradient(self, inputs: Any, delta: jax.Array) -> jax.Array:
        """Sum of x d^T over walkers and places."""
        return self._rows(inputs).T @ delta.reshape(-1, delta.shape[-1])

    def _rows(self, inputs: Any) -> jax.Array:
        [x] = inputs
        return self._with_bias([x]).reshape(-1, self.array_shape[0])

    def _with_bias(self, parts: list[jax.Array]) -> jax.Array:
        places = parts[0].shape[:-1]
        ones = [jnp.ones((*places, 1), parts[0].dtype)] if self.number_of_parameters == 2 else []
        return jnp.concatenate([*parts, *ones], axis=-1)


class OneElectron(Dense):
    """A layer of the one-electron stream.

    Its input x_i = [h_i, means over the spins, means of pairs with i] (Pfau et al. 2020, eq. 4) is
    never put together: with the means s of a walker, which all its n electrons share, and the rest
    o_i, the sums of x x^T consist of

        sum_i o_i o_i^T,   (sum_i o_i) s^T,   n s s^T,

    and those of x d^T of sum_i o_i d_i^T and s (sum_i d_i)^T. The rows are those of
    `layers.split_weights`, with the bias last.
    """

    def input_products(self, inputs: Any) -> jax.Array:
        """See `Dense`."""
        own, shared, n = self._parts(inputs)
        cross = jnp.sum(own, axis=1).T @ shared
        flat = own.reshape(-1, own.shape[-1])
        oo, ss = flat.T @ flat, self.places * (shared.T @ shared)
        rows = [
            [oo[:n, :n], cross[:n], oo[:n, n:]],
            [cross[:n].T, ss, cross[n:].T],
            [oo[n:, :n], cross[n:], oo[n:, n:]],
        ]
        return jnp.block(rows)

    def input_gradient(self, inputs: Any, delta: jax.Array) -> jax.Array:
        """See `Dense`."""
        own, shared, n = self._parts(inputs)
        found = own.reshape(-1, own.shape[-1]).T @ delta.reshape(-1, delta.shape[-1])
        return jnp.concatenate([found[:n], shared.T @ jnp.sum(delta, axis=1), found[n:]])

    def _parts(self, inputs: Any) -> tuple[jax.Array, jax.Array, int]:
        """The rest o (walker, electron, width) and the means s (walker, width); the width of h."""
        h, *rest = inputs
        n_spins = len(rest) // 2
        shared = jnp.concatenate(rest[:n_spins], axis=-1)
        return self._with_bias([h, *rest[n_spins:]]), shared, h.shape[-1]


class Scale(kfac_jax.ScaleAndShiftDiagonal):
    """A product of an input and a parameter s, which is broadcast over leading axes.

    Its only factor is the diagonal of the Fisher matrix, shaped like s.
    """

    def statistics(self, data: Any) -> Arrays:
        """The diagonal from the walkers of this device."""
        return (jnp.mean(self._derivatives(data) ** 2, axis=0),)

    def gradient(self, data: Any, weights: jax.Array) -> Arrays:
        """See `Dense`."""
        found = self._derivatives(data)
        return (jnp.sum(weights.reshape(-1, *[1] * (found.ndim - 1)) * found, axis=0),)

    def _derivatives(self, data: Any) -> jax.Array:
        """sqrt(2) times the derivative of log|psi| by s, (walker, *shape of s)."""
        [x], [delta] = data.primals.inputs, data.tangents.outputs
        product = x * delta
        return jnp.sum(product, axis=range(1, product.ndim - len(self.parameters_shapes[0])))

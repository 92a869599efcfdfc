"""SPRING, a natural gradient for few walkers (Goldshlager, Abrahamsen, Lin, arXiv:2401.10190).

With n walkers of each geometry g, of weight w_g (sum 1), the rows of a matrix O and a vector e are

    O_gi = sqrt(w_g / n) (grad log|psi(x_gi; R_g)| - mean over i),
    e_gi = sqrt(w_g / n) (E_L(x_gi; R_g) - mean over i).

The means are those of one geometry: energies of other geometries must not enter its gradient. A run
of its own is the case of a single geometry. The step is the minimiser of

    |O phi - e|^2 + damping |phi - momentum phi_before|^2,

which by the push-through identity needs a matrix over the walkers only (their eqs. 22 to 24):

    phi = momentum phi_before + O^T (O O^T + damping 1 + B)^-1 (e - momentum O phi_before).

B is 1/n among the walkers of one geometry and 0 elsewhere. It replaces the zero eigenvalues that
the subtracted means leave; O^T takes out what it adds, so phi does not depend on it. With momentum
0 this is MinSR (Chen and Heyl, arXiv:2302.01941). The step is phi times the learning rate,
shortened to a bound that falls with the learning rate (see `protocol.bounded`). Unlike KFAC's
Fisher metric, O O^T is exact, but only for the walkers at hand. This suits numbers of walkers that
are small compared with that of the parameters.

A few directions on which all walkers depend make eigenvalues of O O^T that exceed the damping by
1e6 and more, and a float32 factor of it solves the other directions wrongly. Products with O itself
are exact enough to correct that (`_solve`).

Where momentum feeds on noise, phi grows for some hundred updates before the energy shows it. A phi
far longer than usual is therefore taken from these walkers alone, without the momentum (`_sudden`).

Each device holds the gradients of its own walkers. One exchange gives it those of all walkers for
its part of the parameters, of size N P / devices for N walkers of all geometries.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from ferminet_core.inputs.config import OptimiseConfig
from ferminet_core.parallel import collectives
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.vmc.optimisers import cholesky
from ferminet_core.vmc.optimisers.protocol import Sample, Update, bounded
from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.networks import Params, Spins

# Of the residual, relative. In single precision, rounding of products with O leaves 2e-5 (LiH). phi
# is known to some 1e-4 then, far better than its noise.
TOLERANCE = 1e-4
# With the largest eigenvalue at 1e7 and 1e8 times the damping, the errors of phi are then 1e-4 and
# 5 % (11 % and 65 % without).
CORRECTIONS = 8
# Published runs on stretched N2 diverged; up to 130 iterations before, phi was three times longer
# than the median of 500 iterations.
SUDDEN, NORMS = 3.0, 500


# The Gram matrix is made of this number of blocks along each side, if they have as many rows as a
# product at full speed needs. Four blocks take 5/8 of the work of the whole.
BLOCKS, LEAST_ROWS = 4, 64


def log_derivatives(
    log_psi: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    electrons: jax.Array,
    chunk: int,
) -> jax.Array:
    """grad log|psi| with respect to all parameters, (walker, parameter).

    The row of a walker is 0 where it is not finite.

    Args:
        log_psi: (params, electrons (electron, 3)) -> log|psi|, a scalar
        params: a tree of arrays
        electrons: (walker, electron, 3), bohr
        chunk: walkers per pass
    """

    def one(walker: jax.Array) -> jax.Array:
        row = ravel_pytree(jax.grad(log_psi)(params, walker))[0]
        # Tested here, while the row is still in the cache; all rows together do not fit.
        return jnp.where(jnp.all(jnp.isfinite(row)), row, 0.0)

    return jax.lax.map(one, electrons, batch_size=min(chunk, electrons.shape[0]))


class State(NamedTuple):
    """phi: the last one, (parameter,); norms: of the last `NORMS`, newest first, 0 before them."""

    phi: jax.Array
    norms: jax.Array


def initial(params: Params) -> State:
    """The state before the first step: no step yet."""
    flat = ravel_pytree(params)[0]
    return State(jnp.zeros_like(flat), jnp.zeros((NORMS,), flat.dtype))


class Rows(NamedTuple):
    """O: a device's part, and the devices' sums of products. N: walkers of all geometries.

    part: (N, own parameters), one geometry after the other
    geometries: their number
    """

    part: jax.Array
    geometries: int

    def forward(self, phi: jax.Array) -> jax.Array:
        """O phi, (N, ...), for this device's part of phi, (own parameters, ...)."""
        return collectives.total(self.part @ phi)

    def backward(self, x: jax.Array) -> jax.Array:
        """This device's part of O^T x, (own parameters, column), for x (N, column)."""
        # In this order: on CPUs the product with the transposed matrix takes ten times as long.
        return (x.T @ self.part).T

    def means(self, x: jax.Array) -> jax.Array:
        """B x, (N, column): at every walker the mean over the walkers of its geometry."""
        own = x.reshape(self.geometries, -1, x.shape[-1])
        mean = jnp.mean(own, axis=1, keepdims=True)
        return jnp.broadcast_to(mean, own.shape).reshape(x.shape)

    def gram(self) -> jax.Array:
        """O O^T + B, (N, N)."""
        n = self.part.shape[0] // self.geometries
        product = collectives.total(symmetric_product(self.part))
        of_one = jnp.eye(self.geometries, dtype=product.dtype)[:, None, :, None]
        blocks = product.reshape(self.geometries, n, self.geometries, n) + of_one / n
        return blocks.reshape(product.shape)


def symmetric_product(a: jax.Array) -> jax.Array:
    """a a^T, (n, n), from the blocks on and below the diagonal."""
    rows = max(LEAST_ROWS, -(-a.shape[0] // BLOCKS))
    edges = [*range(0, a.shape[0], rows), a.shape[0]]
    parts = [a[start:end] for start, end in itertools.pairwise(edges)]
    lower = [[row @ parts[j].T for j in range(i + 1)] for i, row in enumerate(parts)]
    count = range(len(parts))
    return jnp.block([[lower[i][j] if j <= i else lower[j][i].T for j in count] for i in count])


def _exchange(rows: jax.Array, roots: jax.Array, padding: int) -> Rows:
    """O from `log_derivatives` of this device's walkers.

    Args:
        rows: (geometry, walker on this device, parameter)
        roots: (geometry,), sqrt(n / w_g)
        padding: parameters to add, so that the devices get equal parts
    """
    padded = jnp.pad(rows, ((0, 0), (0, 0), (0, padding)))
    part = jax.lax.all_to_all(padded, AXIS, split_axis=2, concat_axis=1, tiled=True)
    centred = (part - jnp.mean(part, axis=1, keepdims=True)) / roots[:, None, None]
    return Rows(centred.reshape(-1, part.shape[-1]), part.shape[0])


def _solve(o: Rows, right: jax.Array, damping: float) -> tuple[jax.Array, jax.Array]:
    """(O O^T + damping 1 + B)^-1 right, (N, column), and the damping of the factor.

    Conjugate gradients, preconditioned by the factor. Their products are with O itself: an entry of
    O O^T carries the rounding of its largest eigenvalue.
    """
    lower, added = cholesky.factor(o.gram(), damping)

    def times(x: jax.Array) -> jax.Array:
        return o.forward(o.backward(x)) + damping * x + o.means(x)

    def precondition(x: jax.Array) -> jax.Array:
        return jax.scipy.linalg.cho_solve((lower, True), x)

    solved, _ = cg(times, right, tol=TOLERANCE, maxiter=CORRECTIONS, M=precondition)
    return solved, added


def _sudden(norm: jax.Array, norms: jax.Array) -> jax.Array:
    """Whether a norm exceeds `SUDDEN` times the median of `NORMS` ones, all of them known."""
    return (norms[-1] > 0) & (norm > SUDDEN * jnp.median(norms))


def natural_step(
    config: OptimiseConfig,
    state: State,
    params: Params,
    rows: jax.Array,
    deviation: jax.Array,
    weights: jax.Array,
    learning_rate: jax.Array,
) -> Update:
    """The step to subtract, the next state and E[dE grad log|psi|]; inside `shard_map`.

    Args:
        config: learning rate at the start, damping, momentum and norm constraint
        state: after the last call
        params: gives the step its structure
        rows: (geometry, walker, parameter), `log_derivatives` of this device's walkers
        deviation: (geometry, walker), hartree, their clipped local energies minus the mean over the
            walkers of the geometry on all devices
        weights: (geometry,), with the sum 1; the rows of a geometry of weight 0 must be finite
        learning_rate: a scalar
    """
    flat, unravel = ravel_pytree(params)
    padding = -flat.size % jax.lax.axis_size(AXIS)
    n = rows.shape[1] * jax.lax.axis_size(AXIS)
    roots = jnp.sqrt(n / weights)
    o = _exchange(rows, roots, padding)
    size = o.part.shape[1]
    everyone = jax.lax.all_gather(deviation, AXIS, axis=1, tiled=True)
    energy = (everyone / roots[:, None]).ravel()
    own = (jax.lax.axis_index(AXIS) * size,)
    before = jax.lax.dynamic_slice(jnp.pad(state.phi, (0, padding)), own, (size,))
    before = config.momentum * before
    right = jnp.stack([energy - o.forward(before), energy], axis=1)
    solved, damping = _solve(o, right, config.damping)
    found = o.backward(jnp.concatenate([solved, energy[:, None]], axis=1)).T
    found = found.at[0].add(before)
    carried, fresh, gradient = jax.lax.all_gather(found, AXIS, axis=1, tiled=True)[:, : flat.size]
    norm = jnp.linalg.norm(carried)
    sudden = _sudden(norm, state.norms)
    phi = jnp.where(sudden, fresh, carried)
    # The median must stay that of ordinary steps.
    norms = jnp.where(sudden, state.norms, jnp.roll(state.norms, 1).at[0].set(norm))
    return Update(
        step=unravel(bounded(config, learning_rate, phi, jnp.linalg.norm(phi))),
        state=State(phi, norms),
        gradient=unravel(gradient),
        damping=damping,
        momentum_dropped=sudden,
    )


class Spring:
    """See `protocol.Optimiser`."""

    def __init__(self, config: OptimiseConfig, spins: Spins, chunk: int) -> None:
        self._config, self._spins, self._chunk = config, spins, chunk

    def init(self, params: Params, electrons: jax.Array, nuclei: Nuclei) -> State:
        """No step yet."""
        del electrons, nuclei
        return initial(params)

    def update(self, state: Any, params: Params, sample: Sample, rate: jax.Array) -> Update:
        """`natural_step` on the walkers' own gradients."""

        def log_psi(params: Params, walker: jax.Array) -> jax.Array:
            return networks.apply(params, walker, sample.nuclei.positions, self._spins)[1]

        rows = log_derivatives(log_psi, params, sample.electrons, self._chunk)
        one = jnp.ones((1,), rows.dtype)
        return natural_step(
            self._config, state, params, rows[None], sample.deviation[None], one, rate
        )

    def curvature_blocks(self, params: Params) -> dict[str, str]:
        """None."""
        del params
        return {}

"""SPRING, a natural gradient for few walkers (Goldshlager, Abrahamsen, Lin, arXiv:2401.10190).

With N walkers, O_i = (grad log|psi(x_i)| - mean) / sqrt(N) the rows of a matrix O, and
e_i = (E_L(x_i) - <E_L>) / sqrt(N), the step is the minimiser of

    |O phi - e|^2 + damping |phi - momentum phi_before|^2,

which by the push-through identity needs a matrix of N x N only (their eqs. 22 to 24):

    phi = momentum phi_before + O^T (O O^T + damping 1 + J/N)^-1 (e - momentum O phi_before).

J/N, all entries 1/N, replaces the zero eigenvalue that the subtracted mean leaves. With momentum 0
this is MinSR (Chen and Heyl, arXiv:2302.01941). The step is phi times the learning rate, shortened
to a bound that falls with the learning rate (see `protocol.bounded`). Unlike KFAC's Fisher metric,
O O^T is exact, but only for the walkers at hand. This suits numbers of walkers that are small
compared with that of the parameters.

A few directions on which all walkers depend make eigenvalues of O O^T that exceed the damping by
1e6 and more, and a float32 factor of it solves the other directions wrongly. Products with O itself
are exact enough to correct that (`_solve`).

Where momentum feeds on noise, phi grows for some hundred updates before the energy shows it. A phi
far longer than usual is therefore taken from these walkers alone, without the momentum (`_sudden`).

Each device holds the gradients of its own walkers. One exchange gives it those of all walkers for
its part of the parameters, of size N P / devices.
"""

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

# Of the residual, relative: ten roundings of single precision.
TOLERANCE = 1e-6
# With the largest eigenvalue at 1e7 and 1e8 times the damping, the errors of phi are then 1e-4 and
# 5 % (11 % and 65 % without).
CORRECTIONS = 8
# Published runs on stretched N2 diverged; up to 130 iterations before, phi was three times longer
# than the median of 500 iterations.
SUDDEN, NORMS = 3.0, 500


def log_derivatives(
    params: Params, electrons: jax.Array, nuclei: Nuclei, spins: Spins, chunk: int
) -> jax.Array:
    """grad log|psi| with respect to all parameters, (walker, parameter).

    The row of a walker is 0 where it is not finite.

    Args:
        params: from `networks.init`
        electrons: (walker, electron, 3), bohr
        nuclei: positions and charges
        spins: (n_up, n_down)
        chunk: walkers per pass
    """

    def one(walker: jax.Array) -> jax.Array:
        def log(p: Params) -> jax.Array:
            return networks.apply(p, walker, nuclei.positions, spins)[1]

        row = ravel_pytree(jax.grad(log)(params))[0]
        # Tested here, while the row is still in the cache; all rows together do not fit.
        return jnp.where(jnp.all(jnp.isfinite(row)), row, 0.0)

    return jax.lax.map(one, electrons, batch_size=min(chunk, electrons.shape[0]))


class State(NamedTuple):
    """phi: the last one, (parameter,); norms: of the last `NORMS`, newest first, 0 before them."""

    phi: jax.Array
    norms: jax.Array


class Rows(NamedTuple):
    """O: a device's part, (all walkers, own parameters), and the devices' sums of products."""

    part: jax.Array

    def forward(self, phi: jax.Array) -> jax.Array:
        """O phi, (walker, ...), for this device's part of phi, (own parameters, ...)."""
        return collectives.total(self.part @ phi)


def _exchange(rows: jax.Array, padding: int) -> Rows:
    """O from `log_derivatives` of this device's walkers: centred, divided by sqrt(N)."""
    padded = jnp.pad(rows, ((0, 0), (0, padding)))
    part = jax.lax.all_to_all(padded, AXIS, split_axis=1, concat_axis=0, tiled=True)
    root = jnp.sqrt(jnp.asarray(part.shape[0], rows.dtype))
    return Rows((part - jnp.mean(part, axis=0)) / root)


def _solve(o: Rows, right: jax.Array, damping: float) -> tuple[jax.Array, jax.Array]:
    """(O O^T + damping 1 + J/N)^-1 right, (walker, column), and the damping of the factor.

    Conjugate gradients, preconditioned by the factor. Their products are with O itself: an entry of
    O O^T carries the rounding of its largest eigenvalue.
    """
    n = right.shape[0]
    gram = collectives.total(o.part @ o.part.T)
    lower, added = cholesky.factor(gram + 1.0 / n, damping)

    def times(x: jax.Array) -> jax.Array:
        return o.forward(o.part.T @ x) + damping * x + jnp.mean(x, axis=0)

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
    learning_rate: jax.Array,
) -> Update:
    """The step to subtract, the next state and E[dE grad log|psi|]; inside `shard_map`.

    Args:
        config: learning rate at the start, damping, momentum and norm constraint
        state: after the last call
        params: gives the step its structure
        rows: `log_derivatives` of this device's walkers
        deviation: (walker,), hartree, their clipped local energies minus the mean over all devices
        learning_rate: a scalar
    """
    flat, unravel = ravel_pytree(params)
    padding = -flat.size % jax.lax.axis_size(AXIS)
    o = _exchange(rows, padding)
    n, size = o.part.shape
    energy = collectives.gather(deviation) / jnp.sqrt(jnp.asarray(n, rows.dtype))
    own = (jax.lax.axis_index(AXIS) * size,)
    before = jax.lax.dynamic_slice(jnp.pad(state.phi, (0, padding)), own, (size,))
    before = config.momentum * before
    right = jnp.stack([energy - o.forward(before), energy], axis=1)
    solved, damping = _solve(o, right, config.damping)
    carried, fresh = o.part.T @ solved[:, 0] + before, o.part.T @ solved[:, 1]
    found = jnp.stack([carried, fresh, o.part.T @ energy])
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
        """The step before the first: zero."""
        del electrons, nuclei
        flat = ravel_pytree(params)[0]
        return State(jnp.zeros_like(flat), jnp.zeros((NORMS,), flat.dtype))

    def update(self, state: Any, params: Params, sample: Sample, rate: jax.Array) -> Update:
        """`natural_step` on the walkers' own gradients."""
        rows = log_derivatives(params, sample.electrons, sample.nuclei, self._spins, self._chunk)
        return natural_step(self._config, state, params, rows, sample.deviation, rate)

    def curvature_blocks(self, params: Params) -> dict[str, str]:
        """None."""
        del params
        return {}

"""SPRING, a natural gradient for few walkers (Goldshlager, Abrahamsen, Lin, arXiv:2401.10190).

With N walkers, O_i = (grad log|psi(x_i)| - mean) / sqrt(N) the rows of a matrix O, and
e_i = (E_L(x_i) - <E_L>) / sqrt(N), the step is the minimiser of

    |O phi - e|^2 + damping |phi - momentum phi_before|^2,

which by the push-through identity needs a matrix of N x N only (their eqs. 22 to 24):

    phi = momentum phi_before + O^T (O O^T + damping 1 + J/N)^-1 (e - momentum O phi_before).

J/N, all entries 1/N, replaces the zero eigenvalue that the subtracted mean leaves. With momentum 0
this is MinSR (Chen and Heyl, arXiv:2302.01941). The step is phi times the learning rate, shortened
to the norm sqrt(norm_constraint). Unlike KFAC's Fisher metric, O O^T is exact, but only for the
walkers at hand. This suits numbers of walkers that are small compared with that of the parameters.

Each device holds the gradients of its own walkers. One exchange gives it those of all walkers for
its part of the parameters, of size N P / devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ferminet_core.inputs.config import OptimiseConfig
from ferminet_core.parallel import collectives
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.vmc.optimisers import cholesky
from ferminet_core.vmc.optimisers.protocol import Sample, Update
from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.networks import Params, Spins


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


def natural_step(
    config: OptimiseConfig,
    before: jax.Array,
    params: Params,
    rows: jax.Array,
    deviation: jax.Array,
    learning_rate: jax.Array,
) -> tuple[Params, jax.Array, Params]:
    """The step to subtract, phi for the next call, and E[dE grad log|psi|]; inside `shard_map`.

    Args:
        config: damping, momentum and norm constraint
        before: phi of the last call, (parameter,)
        params: gives the step its structure
        rows: `log_derivatives` of this device's walkers
        deviation: (walker,), hartree, their clipped local energies minus the mean over all devices
        learning_rate: a scalar
    """
    flat, unravel = ravel_pytree(params)
    devices = jax.lax.axis_size(AXIS)
    n = rows.shape[0] * devices
    padding = -flat.size % devices
    root = jnp.sqrt(jnp.asarray(n, rows.dtype))
    # (own walkers, all parameters) -> (all walkers, own parameters)
    padded = jnp.pad(rows, ((0, 0), (0, padding)))
    part = jax.lax.all_to_all(padded, AXIS, split_axis=1, concat_axis=0, tiled=True)
    part = (part - jnp.mean(part, axis=0)) / root
    energy = collectives.gather(deviation) / root
    size = part.shape[1]
    phi = jax.lax.dynamic_slice(
        jnp.pad(before, (0, padding)), (jax.lax.axis_index(AXIS) * size,), (size,)
    )
    phi = config.momentum * phi
    gram, forward = collectives.total((part @ part.T, part @ phi))
    lower = cholesky.factor(gram + 1.0 / n, config.damping)
    solved = jax.scipy.linalg.cho_solve((lower, True), energy - forward)
    both = jnp.stack([phi + part.T @ solved, part.T @ energy])
    phi, gradient = jax.lax.all_gather(both, AXIS, axis=1, tiled=True)[:, : flat.size]
    shortest = jnp.sqrt(config.norm_constraint) / jnp.maximum(
        jnp.linalg.norm(phi), jnp.finfo(phi.dtype).tiny
    )
    step = jnp.minimum(learning_rate, shortest) * phi
    return unravel(step), phi, unravel(gradient)


class Spring:
    """See `protocol.Optimiser`; the state is phi, (parameter,)."""

    def __init__(self, config: OptimiseConfig, spins: Spins, chunk: int) -> None:
        self._config, self._spins, self._chunk = config, spins, chunk

    def init(self, params: Params, electrons: jax.Array, nuclei: Nuclei) -> jax.Array:
        """The step before the first: zero."""
        del electrons, nuclei
        return jnp.zeros_like(ravel_pytree(params)[0])

    def update(self, state: Any, params: Params, sample: Sample, rate: jax.Array) -> Update:
        """`natural_step` on the walkers' own gradients."""
        rows = log_derivatives(params, sample.electrons, sample.nuclei, self._spins, self._chunk)
        return Update(*natural_step(self._config, state, params, rows, sample.deviation, rate))

    def curvature_blocks(self, params: Params) -> dict[str, str]:
        """None."""
        del params
        return {}

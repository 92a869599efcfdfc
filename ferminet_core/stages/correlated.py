"""The difference of a group's energies at two geometries, from walkers at a third between them.

Equations: `analysis.correlated_differences`. The wavefunction of each geometry is the group's
there, so the difference is that of the shared wavefunction's curve, with all that changes in it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from ferminet_core.analysis import correlated_differences
from ferminet_core.analysis.correlated_differences import Difference
from ferminet_core.inputs.config import RECORDS_PER_CALL
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.parallel import collectives
from ferminet_core.parallel.mesh import REPLICATED, place
from ferminet_core.stages import datasets
from ferminet_core.stages.base import Series, Step
from ferminet_core.stages.inference import Inference, Records, State
from ferminet_core.vmc import mcmc
from ferminet_core.vmc.hamiltonian import Nuclei, local_energy
from ferminet_core.vmc.space_warp import log_jacobian, space_warp
from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.networks import Params


class End(NamedTuple):
    """One of the two geometries: the parameters there, and the molecule."""

    params: Params
    molecule: Molecule


class Correlated(Inference):
    """The measurement of a difference; an `Inference` at the geometry of the walkers.

    Its series have log weights and local energies of both ends, (record, walker, 2).
    """

    name = "difference"

    def __init__(self, spec: RunSpec, optimised: xr.Dataset, start: End, end: End) -> None:
        super().__init__(spec, optimised, xr.Dataset())
        ends = (start, end)
        others = place(self.mesh, tuple(e.params for e in ends), REPLICATED)
        self.params = (self.params, *others)
        self.nuclei = (
            self.nuclei,
            *(datasets.nuclei(e.molecule, self.config, self.dtype) for e in ends),
        )

    def _record(
        self,
        params: tuple[Params, ...],
        walkers: mcmc.Walkers,
        width: jax.Array,
        call: jax.Array,
        nuclei: tuple[Nuclei, ...],
        key: jax.Array,
    ) -> tuple[mcmc.Walkers, Records]:
        """As `Inference._record`, with weights and energies of both ends in place of observables.

        The equilibration needs none, and has zeros.
        """
        key = jax.random.fold_in(key, call)
        log_psi = networks.log_psi(params[0], nuclei[0].positions, self.spins)
        kernel = mcmc.make_kernel(log_psi, nuclei[0], self.spins, self.config.inference.thin)

        def at_ends(electrons: jax.Array) -> jax.Array:
            before = log_psi(electrons)
            found = [
                self._at_end(*pair, electrons, nuclei[0], before)
                for pair in zip(params[1:], nuclei[1:], strict=True)
            ]
            return jnp.stack(found)

        def record(carry: mcmc.Walkers, i: jax.Array) -> tuple[mcmc.Walkers, tuple[jax.Array, ...]]:
            moved, info = kernel(jax.random.fold_in(key, i), carry, width)
            x = moved.electrons
            energies = local_energy(params[0], x, nuclei[0], self.spins, self.chunk)
            nothing = jnp.zeros((2, 2, x.shape[0]), x.dtype)
            ends = jax.lax.cond(call >= 0, at_ends, lambda x: nothing, x)
            return moved, (energies, jnp.mean(info.accepted), ends)

        steps = jnp.arange(RECORDS_PER_CALL)
        walkers, (energies, accepted, ends) = jax.lax.scan(record, walkers, steps)
        logs, locals_ = jnp.transpose(ends, (2, 3, 0, 1))  # (kind, walker, record, end)
        found = {"log_weight": logs, "end_energy": locals_}
        return walkers, Records(energies, collectives.mean(accepted), found)

    def _at_end(
        self,
        params: Params,
        nuclei: Nuclei,
        electrons: jax.Array,
        centre: Nuclei,
        log_psi: jax.Array,
    ) -> jax.Array:
        """log w and local energy (2, walker) of one end."""
        before, after = centre.positions, nuclei.positions
        warped = space_warp(electrons, before, after)
        after_log = networks.log_psi(params, nuclei.positions, self.spins)(warped)
        logs = 2.0 * (after_log - log_psi) + log_jacobian(electrons, before, after)
        return jnp.stack([logs, local_energy(params, warped, nuclei, self.spins, self.chunk)])

    def _measured(self, before: State, walkers: mcmc.Walkers, records: Records) -> Step:
        step = super()._measured(before, walkers, records._replace(observables={}))
        step.stats.pop("walkers", None)
        for name, values in records.observables.items():
            step.stats[name] = np.moveaxis(np.asarray(values), 0, 1)
        return step

    def overlap(self) -> float:
        """The effective share of a few samples, from walkers that are not in equilibrium yet."""
        step = next(iter(self.steps(self.initial()._replace(measuring=True))))
        logs = step.stats["log_weight"]
        return min(correlated_differences.effective(logs[..., side]) for side in (0, 1))

    def difference(self, series: Series) -> Difference:
        """E(end) - E(start) from the series of the measurement.

        Raises:
            LowOverlapError: As `correlated_differences.difference`.
        """
        return correlated_differences.difference(series["log_weight"], series["end_energy"])

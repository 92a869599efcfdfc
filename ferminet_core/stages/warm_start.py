"""Warm start: the wavefunction of a neighbouring geometry instead of pretraining.

The parameters are the neighbour's. The nuclei are those of the spec. The walkers follow them by the
space-warp transformation (`vmc.space_warp`): an electron moves with the nuclei near it. The
optimisation equilibrates the walkers before it uses them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr

from ferminet_core.errors import InputError
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.parallel.mesh import REPLICATED, SPLIT, fetch, place, walker_mesh
from ferminet_core.stages import datasets
from ferminet_core.stages.base import Series, Step
from ferminet_core.vmc.space_warp import space_warp
from ferminet_core.wavefunction.networks import Params


class State(NamedTuple):
    """params: replicated; electrons: (walker, electron, 3), bohr, split over devices."""

    params: Params
    electrons: jnp.ndarray


SPECS = State._make((REPLICATED, SPLIT))


class TakenStart:
    """The start of one run from the wavefunction of another result; a `base.Stage` without steps.

    Its result has the form of the pretraining's.
    """

    name = "pretrain"
    total = 0

    def __init__(self, spec: RunSpec, reference: xr.Dataset, origin: RunSpec, what: str) -> None:
        """Check that the wavefunction suits the run.

        Args:
            spec: The run.
            reference: Its Hartree-Fock solution.
            origin: What the wavefunction was optimised for.
            what: Words for `origin` in an error line.

        Raises:
            InputError: The origin has other nuclei or electrons.
        """
        self.spec = spec
        # As in pretraining: a single determinant is only one of the two of a broken reference.
        self.reference = reference.isel(determinant=slice(0, spec.config.network.determinants))
        found, wanted = origin.molecule, spec.molecule
        if (found.symbols, found.electrons) != (wanted.symbols, wanted.electrons):
            raise InputError(
                f"{spec.run_id}: its {what} {origin.run_id!r} is of another molecule than the "
                "spec's; a start from it needs the same nuclei and electrons"
            )
        self.mesh = walker_mesh(spec.config.mcmc.walkers)
        self.dtype = jnp.dtype(spec.config.runtime.precision)
        self.chunk = datasets.chunk_size(spec.config, wanted.electrons)

    def place(self, state: State) -> State:
        """Walkers split over the devices, the network on each of them."""
        placed: State = place(self.mesh, state, SPECS)
        return placed

    def steps(self, state: State) -> Iterator[Step]:
        """None."""
        return iter(())


class WarmStart(TakenStart):
    """The start of one run from a neighbour's optimised network."""

    def __init__(self, spec: RunSpec, reference: xr.Dataset, neighbour: xr.Dataset) -> None:
        self.neighbour = neighbour
        self.origin = RunSpec.model_validate_json(str(neighbour.attrs["spec"]))
        super().__init__(spec, reference, self.origin, "neighbour")

    def initial(self) -> State:
        """The neighbour's network, and its walkers about the spec's nuclei."""
        params = datasets.params(self.neighbour, self.spec, self.dtype)
        before, after = (np.asarray(s.molecule.positions) for s in (self.origin, self.spec))
        electrons = space_warp(self.neighbour["walkers"].to_numpy().astype(float), before, after)
        return self.place(State(params, jnp.asarray(electrons, self.dtype)))

    def result(self, state: State, series: Series) -> xr.Dataset:
        """As a pretraining of no iterations; `neighbour` names the run it comes from."""
        state = fetch(state)
        attrs = self.neighbour.attrs
        return datasets.network_dataset(
            state.params,
            state.electrons,
            float(attrs["mcmc_width"]),
            series,
            n_iterations=0,
            converged=int(attrs["pretrain_converged"]),
            s2_excess=datasets.spin_excess(self.reference, self.spec.molecule),
            e_hf=float(self.reference.attrs["e_hf"]),
            **datasets.parities(self.reference),
            neighbour=self.origin.run_id,
        )

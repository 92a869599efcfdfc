"""The start of one run from the joint wavefunction of its group, instead of pretraining.

The parameters are the group's at the nuclei of the spec. The walkers are those of the same geometry
if it took part in the joint optimisation. Otherwise they are those of the nearest geometry, and
follow the nuclei by the space-warp transformation (`vmc.space_warp`).
"""

import jax.numpy as jnp
import numpy as np
import xarray as xr

from ferminet_core.errors import BrokenRunError
from ferminet_core.inputs.run_spec import GroupSpec, RunSpec
from ferminet_core.parallel.mesh import fetch
from ferminet_core.stages import datasets, group
from ferminet_core.stages.base import Series
from ferminet_core.stages.optimise import Stats
from ferminet_core.stages.warm_start import State, TakenStart
from ferminet_core.vmc.space_warp import space_warp
from ferminet_core.wavefunction import adaptation


class SharedStart(TakenStart):
    """The start of one run from its group.

    Its series are those of the joint optimisation at the run's geometry; a geometry that took no
    part in it has none.
    """

    def __init__(self, spec: RunSpec, reference: xr.Dataset, joint: xr.Dataset) -> None:
        self.joint = joint
        self.group = GroupSpec.model_validate_json(str(joint.attrs["spec"]))
        super().__init__(spec, reference, self.group, "group")
        if reason := group.left_out(joint).get(spec.run_id):
            raise BrokenRunError(f"{spec.run_id} {self.name}: {reason}")
        self.source = self._source()

    def _source(self) -> int:
        """The place of the run's geometry in the group, or of the nearest one that took part."""
        names = [member.run_id for member in self.group.members]
        if self.spec.run_id in names:
            return names.index(self.spec.run_id)
        own = np.asarray(self.spec.molecule.positions)
        places = np.asarray([member.molecule.positions for member in self.group.members])
        moves = (places - places.mean(axis=1, keepdims=True)) - (own - own.mean(axis=0))
        distances = np.sum(moves**2, axis=(1, 2))
        left_out = group.left_out(self.joint)
        distances[[name in left_out for name in names]] = np.inf
        return int(np.argmin(distances))

    @property
    def took_part(self) -> bool:
        """Whether the run's geometry was one of the joint optimisation's."""
        return self.group.members[self.source].run_id == self.spec.run_id

    def initial(self) -> State:
        """The group's wavefunction at the spec's nuclei, and walkers about them."""
        theta = group.stored_theta(self.joint, self.group, self.dtype)
        z = group.stored_coordinates(self.joint)(np.asarray(self.spec.molecule.positions))
        params = adaptation.adapt(theta, jnp.asarray(z, self.dtype))
        walkers = self.joint["walkers"].to_numpy()[self.source].astype(float)
        before = np.asarray(self.group.members[self.source].molecule.positions)
        warped = space_warp(walkers, before, np.asarray(self.spec.molecule.positions))
        # Copies part within the moves by which the next stage equilibrates its walkers.
        electrons = np.resize(warped, (self.spec.config.mcmc.walkers, *warped.shape[1:]))
        return self.place(State(params, jnp.asarray(electrons, self.dtype)))

    def result(self, state: State, series: Series) -> xr.Dataset:
        """As a pretraining of no iterations, with the series of the joint optimisation."""
        state = fetch(state)
        attrs = self.joint.attrs
        return datasets.network_dataset(
            state.params,
            state.electrons,
            float(self.joint["mcmc_width"].to_numpy()[self.source]),
            self._series() if self.took_part else {},
            n_iterations=0,
            converged=int(attrs["pretrain_converged"]),
            s2_excess=datasets.spin_excess(self.reference, self.spec.molecule),
            e_hf=float(self.reference.attrs["e_hf"]),
            **datasets.parities(self.reference),
            group=self.group.run_id,
            took_part=int(self.took_part),
            # Groups of older versions lack it. Runs that start from these begin with the full rate,
            # like the others of the same folder.
            **{name: float(attrs[name]) for name in ("first_rate", "delay") if name in attrs},
        )

    def _series(self) -> Series:
        """The series of the joint optimisation at the run's geometry, where it had its turn."""
        found = {name: self.joint[name].to_numpy() for name in Stats._fields}
        own = {name: x if x.ndim == 1 else x[:, self.source] for name, x in found.items()}
        turns = np.isfinite(own["pmove"])
        return {name: x[turns] for name, x in own.items()}

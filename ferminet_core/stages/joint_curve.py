"""The stages that measure a group's wavefunction at any geometry along its parameter."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr

from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.parameter_values import value_text
from ferminet_core.inputs.run_spec import GroupSpec, RunSpec
from ferminet_core.stages import group
from ferminet_core.stages.correlated import Correlated, End
from ferminet_core.stages.inference import Inference
from ferminet_core.stages.shared_start import SharedStart
from ferminet_core.wavefunction import adaptation

# Largest displacement of a nucleus to each side of a slope, bohr. The error of a slope hardly
# depends on it, and the bias of the symmetric difference, of second order, is far below it.
SLOPE_SHIFT = 0.005
# A small change of the parameter, relative to its range, for the speed of the nuclei.
_SMALL = 1e-4


class CurveStages:
    """Makes the stages of one group, which share their compiled code."""

    def __init__(
        self,
        spec: GroupSpec,
        joint: xr.Dataset,
        parameter: str,
        molecule_at: Callable[[Mapping[str, float]], Molecule],
        samples: int,
    ) -> None:
        """Take the group's wavefunction.

        Args:
            spec: The group.
            joint: Result of its stage "joint_optimise".
            parameter: The one that varies between the members.
            molecule_at: The molecule at values of the parameters.
            samples: Records of each measurement.
        """
        self.spec, self.joint, self.parameter = spec, joint, parameter
        self._molecule_at = molecule_at
        inference = spec.config.inference.model_copy(update={"samples": samples})
        self._config = spec.config.model_copy(update={"inference": inference})
        self._earlier: dict[type, Any] = {}

    def molecule(self, value: float) -> Molecule:
        """The molecule at a value of the parameter."""
        return self._molecule_at({**self.spec.members[0].parameters, self.parameter: value})

    def bond(self, value: float) -> float:
        """The length of the shortest bond, bohr; infinite for an atom."""
        pairs = itertools.combinations(self.molecule(value).positions, 2)
        return min(itertools.starmap(math.dist, pairs), default=math.inf)

    def slope_step(self, value: float) -> float:
        """The change of the parameter to each side of a slope.

        No nucleus then moves further than `SLOPE_SHIFT`.
        """
        values = [member.parameters[self.parameter] for member in self.spec.members]
        small = _SMALL * (max(values) - min(values))
        low, high = (np.asarray(self.molecule(value + d).positions) for d in (-small, small))
        speed = float(np.linalg.norm(high - low, axis=1).max()) / (2 * small)
        return SLOPE_SHIFT / speed

    def point(self, value: float) -> Inference:
        """The measurement of the energy at a value of the parameter."""
        run, optimised = self._start(value)
        return self._with_code(Inference(run, optimised, _no_reference(run)))

    def step(self, centre: float, start: float, end: float) -> Correlated:
        """The measurement of E(end) - E(start) with walkers at a value between them."""
        run, optimised = self._start(centre)
        return self._with_code(Correlated(run, optimised, self._end(start), self._end(end)))

    def _with_code(self, stage: Any) -> Any:
        """A stage with the compiled code of an earlier one of its kind, if one has run."""
        earlier = self._earlier.get(type(stage))
        if earlier is not None and earlier.executable is not None:
            stage.executable = earlier.executable
        else:
            self._earlier[type(stage)] = stage
        return stage

    def _end(self, value: float) -> End:
        molecule = self.molecule(value)
        dtype = jnp.dtype(self._config.runtime.precision)
        theta = group.stored_theta(self.joint, self.spec, dtype)
        z = group.stored_coordinates(self.joint)(np.asarray(molecule.positions))
        return End(adaptation.adapt(theta, jnp.asarray(z, dtype)), molecule)

    def _start(self, value: float) -> tuple[RunSpec, xr.Dataset]:
        """A run at a value of the parameter, and what its optimisation would start from.

        The run of a geometry that was trained has the name and the random numbers of that run.
        """
        names = {m.parameters[self.parameter]: m.run_id for m in self.spec.members}
        run_id = names.get(value, "")
        if not run_id or run_id in group.left_out(self.joint):
            run_id = f"{self.spec.run_id} {self.parameter} {value_text(value)}"
        run = RunSpec(
            scan=self.spec.scan,
            run_id=run_id,
            geometry=run_id,
            variant=self.spec.variant,
            parameters={self.parameter: value},
            molecule=self.molecule(value),
            config=self._config,
            group=self.spec.run_id,
        )
        start = SharedStart(run, _no_reference(run), self.joint)
        found = start.result(start.initial(), {})
        return run, found.assign_attrs(
            stage="pretrain",
            n_rollbacks=int(self.joint.attrs["n_rollbacks"]),
            pretrain_converged=found.attrs["converged"],
        )


def _no_reference(run: RunSpec) -> xr.Dataset:
    """Stands for the Hartree-Fock reference, which no figure of a curve needs."""
    half = 0.5 * run.molecule.spin
    attrs = {"s2": half * (half + 1.0), "e_hf": math.nan, "method": ""}
    return xr.Dataset(coords={"determinant": [0]}, attrs=attrs)

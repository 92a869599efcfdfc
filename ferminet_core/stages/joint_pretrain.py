"""One pretraining for the wavefunction of several geometries.

The loss is the mean of the geometries' losses (module `pretrain`). One set of parameters can only
fit orbitals that change smoothly with the geometry. So each reference's orbitals first continue
those of its neighbour, outwards from the most central geometry (`chemistry.alignment`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jax.sharding import PartitionSpec

from ferminet_core.chemistry import alignment, orbitals
from ferminet_core.chemistry.start_walkers import start_walkers
from ferminet_core.inputs.run_spec import GroupSpec
from ferminet_core.inputs.start_settings import PretrainConfig
from ferminet_core.parallel import collectives
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.parallel.mesh import REPLICATED, fetch, place, walker_mesh
from ferminet_core.stages import datasets, group, pretrain
from ferminet_core.stages.base import Series
from ferminet_core.stages.pretrain import Pretrain, State
from ferminet_core.stages.reference_fit import Reading, Samples, read
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction import adaptation
from ferminet_core.wavefunction.networks import Params

SPLIT = PartitionSpec(None, AXIS)  # (geometry, walker, ...)
# Adam's for the heads, which are small: Muon's steps have one size whatever the gradient.
HEADS_RATE = 3e-3


class References(NamedTuple):
    """The determinants of all geometries, and z: (geometry, ...)."""

    determinants: orbitals.Determinants
    coordinates: jax.Array


class _Geometry(NamedTuple):
    """One geometry's part of the arguments."""

    state: State  # without parameters
    reference: References
    nuclei: Nuclei
    key: jax.Array
    e_hf: jax.Array


def optimiser(config: PretrainConfig) -> optax.GradientTransformation:
    """The optimiser of the settings for the shared parameters, and Adam for the heads."""
    heads = optax.adam(lambda step: HEADS_RATE / (1.0 + step / 1000.0))
    parts = {"shared": pretrain.optimiser(config), "heads": heads}
    return optax.partition(parts, {"shared": "shared", "heads": "heads"})


def central(spec: GroupSpec) -> int:
    """The place of the member that the group's molecule is."""
    return [member.molecule for member in spec.members].index(spec.molecule)


def of_equal_length(references: list[xr.Dataset], most: int) -> list[xr.Dataset]:
    """References with as many determinants each, at most `most`, by copies of those that they have.

    Where the spin symmetry of a bond breaks, a scan passes from one determinant to several. Copies
    share the weight of their determinant, so each reference stands for the same state as before.
    """
    references = [ds.isel(determinant=slice(0, most)) for ds in references]
    longest = max(ds.sizes["determinant"] for ds in references)
    found = []
    for ds in references:
        order = np.arange(longest) % ds.sizes["determinant"]
        weights = orbitals.coefficients(ds)[order] / np.bincount(order)[order]
        found.append(ds.isel(determinant=order).assign(coefficient=("determinant", weights)))
    return found


class JointPretrain(Pretrain):
    """The pretraining of a group; see `base.Stage`.

    Its states are those of `Pretrain` with an axis of geometries: walkers (geometry, walker,
    electron, 3) and widths (geometry, 2). The parameters are those of `adaptation.start`.
    """

    name = "joint_pretrain"
    specs = State._make((REPLICATED, REPLICATED, SPLIT, SPLIT, REPLICATED, REPLICATED, REPLICATED))
    sample_specs = PartitionSpec(None, None, AXIS)  # (geometry, sweep, walker)

    def __init__(self, spec: GroupSpec, *references: xr.Dataset) -> None:
        self.spec: GroupSpec = spec
        self.config = spec.config
        self.total = self.config.pretrain.max_iterations
        self.spins = spec.molecule.electrons
        self.mesh = walker_mesh(self.config.sharing.walkers, groups=2, setting="sharing.walkers")
        self.dtype = jnp.dtype(self.config.runtime.precision)
        self.nuclei = group.nuclei(spec, self.dtype)
        self.chunk = datasets.chunk_size(self.config, self.spins)
        self.key = group.keys(spec, Pretrain.name)
        self.coordinates = group.make_coordinates(spec)
        self.references = references
        names = [member.run_id for member in spec.members]
        aligned = alignment.align_scan(
            dict(
                zip(
                    names,
                    of_equal_length(list(references), self.config.network.determinants),
                    strict=True,
                )
            ),
            {member.run_id: member.molecule for member in spec.members},
            [names[central(spec)]],
        )
        self.datasets = [aligned[name] for name in names]
        self.energies = np.asarray([ds.attrs["e_hf"] for ds in references])
        found = [orbitals.Determinants.from_dataset(ds) for ds in self.datasets]
        determinants = jax.tree.map(lambda *x: jnp.asarray(np.stack(x), self.dtype), *found)
        z = self.coordinates(np.asarray(self.nuclei.positions, float))
        self.reference = References(determinants, jnp.asarray(z, self.dtype))
        self.optimiser = optimiser(self.config.pretrain)

    # --- per device -------------------------------------------------------------------------------

    def _geometries(
        self, state: State, reference: References, nuclei: Nuclei, key: jax.Array, e_hf: jax.Array
    ) -> _Geometry:
        many = len(self.spec.members)
        every = state._replace(
            params={},
            optimiser=(),
            step=jnp.broadcast_to(state.step, (many,)),
            met=jnp.broadcast_to(state.met, (many,)),
        )
        return _Geometry(every, reference, nuclei, key, e_hf)

    def _iteration(self, state: State, reference: Any, nuclei: Nuclei, key: jax.Array) -> Any:
        """One update for all geometries: the next state and its numbers."""

        def fit(own: _Geometry) -> tuple[State, jax.Array, Params, tuple[jax.Array, jax.Array]]:
            z, determinants = own.reference.coordinates, own.reference.determinants
            step_key = jax.random.fold_in(own.key, state.step)
            before = own.state._replace(params=adaptation.adapt(state.params, z))
            moved, pmove = self._sample(before, determinants, own.nuclei, step_key)
            gradient, squares = self._gradient(
                lambda theta: adaptation.adapt(theta, z),
                state.params,
                moved,
                determinants,
                own.nuclei,
            )
            return moved._replace(params={}), pmove, gradient, squares

        unused = jnp.zeros_like(nuclei.charges[:, 0])
        moved, pmove, gradients, squares = group.over_geometries(
            fit, self._geometries(state, reference, nuclei, key, unused)
        )
        mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), gradients)
        gradient, (difference, norm) = collectives.mean((mean, squares))
        updates, opt_state = self.optimiser.update(gradient, state.optimiser, state.params)
        stats = {
            "orbital_misfit": jnp.sqrt(difference / norm),
            "pmove": pmove[:, 1],
            "pmove_reference": pmove[:, 0],
            "width": moved.widths[:, 1],
        }
        params = adaptation.bounded(optax.apply_updates(state.params, updates))
        after = state._replace(
            reference=moved.reference, network=moved.network, widths=moved.widths
        )
        return after._replace(params=params, optimiser=opt_state, step=state.step + 1), stats

    def _check(
        self, state: State, reference: Any, nuclei: Nuclei, key: jax.Array, e_hf: jax.Array
    ) -> tuple[Samples, Samples]:
        """As for one run, (geometry, sweep, walker)."""

        def check(own: _Geometry) -> tuple[Samples, Samples]:
            z, determinants = own.reference.coordinates, own.reference.determinants
            one = own.state._replace(params=adaptation.adapt(state.params, z))
            return super(JointPretrain, self)._check(
                one, determinants, own.nuclei, own.key, own.e_hf
            )

        found: tuple[Samples, Samples] = group.over_geometries(
            check, self._geometries(state, reference, nuclei, key, e_hf)
        )
        return found

    # --- the loop ---------------------------------------------------------------------------------

    def initial(self) -> State:
        """A random network, and walkers of each geometry as its reference spreads them."""
        middle = central(self.spec)
        params = self._start_params(self.datasets[middle], self.key[middle])
        components = self.reference.coordinates.shape[1]
        theta = adaptation.start(params, components)
        electrons = np.stack(
            [
                start_walkers(
                    np.random.default_rng(run.stage_seed("walkers")),
                    ds,
                    run.molecule,
                    self.config.sharing.walkers,
                )
                for run, ds in zip(self.spec.runs(), self.datasets, strict=True)
            ]
        )
        state = State(
            theta,
            self.optimiser.init(theta),
            *jax.vmap(pretrain.halves)(jnp.asarray(electrons, self.dtype)),
            jnp.full((len(self.spec.members), 2), self.config.mcmc.width, self.dtype),
            jnp.asarray(0, jnp.int32),
            jnp.asarray(False),
        )
        return self.place(state)

    def _e_hf(self) -> Any:
        """The energies of Hartree-Fock (geometry,) on every device."""
        return place(self.mesh, jnp.asarray(self.energies, self.dtype), REPLICATED)

    def _assess(self, found: Any, misfits: np.ndarray, step: int) -> tuple[np.ndarray, bool]:
        """As for one run, (3, geometry); the criterion is met where every geometry meets it."""
        readings = [
            read(*jax.tree.map(lambda x, g=g: x[g], found)) for g in range(len(self.spec.members))
        ]
        met = [
            self.converged(reading, float(misfit), step)
            for reading, misfit in zip(readings, misfits, strict=True)
        ]
        energies = np.asarray([_numbers(reading) for reading in readings]).T
        energies[0] += self.energies
        return energies, all(met)

    def _summary(self, series: Series) -> tuple[str, ...]:
        """The geometries that fit worst."""
        misfit = series["orbital_misfit"][-1]
        excess = series["energy_Eh"][-1] - self.energies
        names = [member.run_id for member in self.spec.members]
        farthest, highest = names[int(np.argmax(misfit))], names[int(np.nanargmax(excess))]
        return (
            f"largest misfit of the orbitals {misfit.max():.3f} ({farthest}), "
            f"at most {np.nanmax(excess):.3f} hartree above Hartree-Fock ({highest})",
        )

    def result(self, state: State, series: Series) -> xr.Dataset:
        """Shared parameters, walkers of all geometries, and the series (step, geometry)."""
        state = fetch(state)
        electrons = np.concatenate([state.reference.electrons, state.network.electrons], axis=1)
        parities = {str(datasets.parities(ds)) for ds in self.references}
        excess = [
            datasets.spin_excess(ds, run.molecule)
            for ds, run in zip(self.references, self.spec.runs(), strict=True)
        ]
        return group.dataset(
            state.params,
            self.coordinates,
            electrons,
            np.asarray(state.widths)[:, 1],
            series,
            {"s2_excess": np.asarray(excess), "e_hf": self.energies},
            n_iterations=int(state.step),
            converged=int(state.met),
            # Where geometries differ in their symmetry, none is asked of the wavefunction.
            **(datasets.parities(self.references[0]) if len(parities) == 1 else {}),
        )


def _numbers(reading: Reading) -> tuple[float, float, float]:
    return reading.excess, reading.error, reading.scatter

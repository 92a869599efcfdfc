"""One optimisation for the wavefunction of several geometries: minimise the mean of their energies.

    L = sum_g w_g <E>_g,    w_g = 1 / number of geometries.

Each geometry has walkers of its own, which sample its own density and never mix with others. Local
energies are clipped and centred within each geometry. SPRING takes one step for the parameters that
all of them share (module `spring`), so each geometry learns from the walkers of all others. The
matrix of the step grows as the square of the number of all walkers.

A geometry that keeps losing its local energies is left out: its weight becomes zero, and the others
go on.
"""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import PartitionSpec

from ferminet_core.analysis.estimates import SPIN_TOLERANCE
from ferminet_core.errors import BrokenRunError
from ferminet_core.inputs.run_spec import GroupSpec
from ferminet_core.parallel import collectives
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.parallel.mesh import REPLICATED, fetch, place, walker_mesh
from ferminet_core.stages import datasets, group, optimise
from ferminet_core.stages.base import Series
from ferminet_core.stages.optimise import BROKEN_UPDATE, FROZEN_WINDOW, Accident, Optimise, Stats
from ferminet_core.vmc import mcmc
from ferminet_core.vmc.energy import EnergyInfo
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.vmc.optimisers import spring
from ferminet_core.wavefunction import adaptation, networks
from ferminet_core.wavefunction.networks import Params

SPLIT = PartitionSpec(None, AXIS)  # (geometry, walker, ...)


class State(NamedTuple):
    """All that the loop depends on besides the spec; `optimise.State` with an axis of geometries.

    params: {"shared", "heads"}, see `adaptation.start`
    walkers: electrons (geometry, walker, electron, 3); width, left_at: (geometry,)
    left_at: the step at which a geometry was left out; -1 for those that take part
    """

    params: Params
    optimiser: Any
    walkers: mcmc.Walkers
    width: jax.Array
    step: jax.Array
    accepted: jax.Array
    rollbacks: jax.Array
    first_rate: jax.Array
    delay: jax.Array
    left_at: jax.Array


class Inputs(NamedTuple):
    """As `optimise.Inputs`, (geometry, ...); coordinates: z, (geometry, component)."""

    nuclei: Nuclei
    key: jax.Array
    penalty: jax.Array
    coordinates: jax.Array


class _Geometry(NamedTuple):
    """One geometry's part of inputs and state, or that of several."""

    inputs: Inputs
    walkers: mcmc.Walkers
    width: jax.Array
    left_at: jax.Array


class _Found(NamedTuple):
    """What one geometry adds to an update."""

    walkers: mcmc.Walkers
    accepted: jax.Array
    rows: jax.Array
    deviation: jax.Array
    energy: EnergyInfo


def _geometries(state: State, inputs: Inputs) -> _Geometry:
    return _Geometry(inputs, state.walkers, state.width, state.left_at)


class JointOptimise(Optimise):
    """The optimisation of a group; see `base.Stage`."""

    name = "joint_optimise"
    specs = State._make(
        SPLIT if name in ("walkers", "accepted") else REPLICATED for name in State._fields
    )

    def __init__(self, spec: GroupSpec, pretrained: xr.Dataset) -> None:
        self.spec: GroupSpec = spec
        self.config = spec.config
        self.total = self.config.optimise.iterations
        self.spins = spec.molecule.electrons
        self.n_walkers = self.config.sharing.walkers
        self.mesh = walker_mesh(self.n_walkers, setting="sharing.walkers")
        self.dtype = jnp.dtype(self.config.runtime.precision)
        self.chunk = datasets.chunk_size(self.config, self.spins)
        self.pretrained = pretrained
        self.parities = datasets.stored_parities(pretrained)
        self.coordinates = group.stored_coordinates(pretrained)
        # Of the order of the geometries, where an update takes some of them.
        self.order_key = jax.random.key(spec.stage_seed(self.name))
        most = max(1, self.config.sharing.rows // self.n_walkers)
        self.n_together = min(most, len(spec.members))
        self.blocks = {}
        mixed = pretrained["s2_excess"].to_numpy() > SPIN_TOLERANCE
        penalty = np.where(mixed, self.config.optimise.spin_penalty, 0.0)
        found = group.nuclei(spec, self.dtype)
        inputs = Inputs(
            found,
            group.keys(spec, Optimise.name),
            jnp.asarray(penalty, self.dtype),
            jnp.asarray(self.coordinates(np.asarray(found.positions, float)), self.dtype),
        )
        self.inputs: Any = place(self.mesh, inputs, REPLICATED)

    # --- one iteration, per device ----------------------------------------------------------------

    def _iteration(self, state: State, inputs: Inputs) -> tuple[State, Stats]:
        """One update: sample and measure each geometry, then one update for all, and adapt."""
        config = self.config
        every = _geometries(state, inputs)
        chosen = group.turns(self.order_key, state.step, len(self.spec.members), self.n_together)
        own: _Geometry = jax.tree.map(lambda x: x[chosen], every)

        def sample(one: _Geometry) -> _Found:
            return self._measure_geometry(state, one)

        found: _Found = group.over_geometries(sample, own)

        takes_part = own.left_at < 0
        rows = jnp.where(takes_part[:, None, None], found.rows, 0.0)
        deviation = jnp.where(takes_part[:, None], found.deviation, 0.0)
        weights = takes_part / jnp.maximum(jnp.sum(takes_part), 1).astype(rows.dtype)
        rate = optimise.learning_rate(config.optimise, state)
        update = spring.natural_step(
            config.optimise, state.optimiser, state.params, rows, deviation, weights, rate
        )
        params = adaptation.bounded(jax.tree.map(jnp.subtract, state.params, update.step))

        window_ends = (state.step + 1) % FROZEN_WINDOW == 0
        moved = state.accepted.at[chosen].add(found.accepted)
        accepted, frozen = mcmc.frozen(moved, window_ends)
        pmove, frozen_share = collectives.mean(
            (jnp.mean(found.accepted, axis=1), jnp.mean(frozen, axis=1))
        )
        width = mcmc.adapt_width(own.width, pmove, config.mcmc.target_acceptance)
        energy = found.energy
        unknown = jnp.full(len(self.spec.members), jnp.nan, rows.dtype)

        def measured(values: jax.Array) -> jax.Array:
            """The numbers of those that took part, and NaN for the others."""
            return unknown.at[chosen].set(values.astype(rows.dtype))

        stats = Stats(
            energy_Eh=measured(energy.energy),
            error_Eh=measured(energy.error),
            variance_Eh2=measured(energy.variance),
            pmove=measured(pmove),
            width=state.width,
            n_nonfinite=measured(energy.n_nonfinite),
            n_outliers=measured(energy.n_outliers),
            learning_rate=rate,
            gradient_norm=optimise.tree_norm(update.gradient),
            update_norm=optimise.tree_norm(update.step),
            n_frozen=jnp.round(frozen_share * self.n_walkers).astype(jnp.int32),
            damping=jnp.asarray(update.damping, rate.dtype),
            momentum_dropped=jnp.asarray(update.momentum_dropped, jnp.int32),
        )
        walkers = jax.tree.map(lambda x, y: x.at[chosen].set(y), state.walkers, found.walkers)
        after = state._replace(
            params=params,
            optimiser=update.state,
            walkers=walkers,
            width=state.width.at[chosen].set(width),
        )
        return after._replace(step=state.step + 1, accepted=accepted), stats

    def _measure_geometry(self, state: State, own: _Geometry) -> _Found:
        """Move the walkers of one geometry, and measure its rows of SPRING's matrix."""
        z, positions = own.inputs.coordinates, own.inputs.nuclei.positions
        params = adaptation.adapt(state.params, z)
        key = jax.random.fold_in(jax.random.fold_in(own.inputs.key, state.step), state.rollbacks)
        walkers, moved = self._kernel(params, own.inputs.nuclei)(key, own.walkers, own.width)
        one = optimise.Inputs(own.inputs.nuclei, own.inputs.key, own.inputs.penalty)
        sample, energy = self._measure(params, walkers, one, key)

        def log_psi(theta: Params, walker: jax.Array) -> jax.Array:
            return networks.apply(adaptation.adapt(theta, z), walker, positions, self.spins)[1]

        rows = spring.log_derivatives(log_psi, state.params, sample.electrons, self.chunk)
        return _Found(walkers, moved.accepted, rows, sample.deviation, energy)

    def _burn_in(self, state: State, inputs: Inputs) -> State:
        """Equilibrate the walkers of every geometry."""

        def equilibrate(own: _Geometry) -> tuple[mcmc.Walkers, jax.Array]:
            params = adaptation.adapt(state.params, own.inputs.coordinates)
            nuclei, key = own.inputs.nuclei, own.inputs.key
            return self._equilibrated(params, nuclei, key, own.walkers, own.width)

        walkers, width = group.over_geometries(equilibrate, _geometries(state, inputs))
        return state._replace(walkers=walkers, width=width)

    # --- the loop ---------------------------------------------------------------------------------

    def initial(self) -> Any:
        """The pretrained wavefunction and walkers with fresh optimiser statistics."""
        theta = group.stored_theta(self.pretrained, self.spec, self.dtype)
        electrons = jnp.asarray(self.pretrained["walkers"].to_numpy(), self.dtype)
        zero = jnp.asarray(0, jnp.int32)
        state = State(
            params=theta,
            optimiser=spring.initial(theta),
            walkers=jax.vmap(mcmc.walkers)(electrons),
            width=jnp.asarray(self.pretrained["mcmc_width"].to_numpy(), self.dtype),
            step=zero,
            accepted=jnp.zeros(electrons.shape[:2], electrons.dtype),
            rollbacks=zero,
            **optimise.schedule(self.config.optimise, {}, self.dtype),
            left_at=jnp.full(len(self.spec.members), -1, jnp.int32),
        )
        return self.place(state)

    def _accident(self, state: State, series: Series) -> Accident | None:
        """The accident, if any, in a block that began with this state."""
        if not np.isfinite(series["update_norm"]).all():
            return BROKEN_UPDATE
        # NaN, where a geometry did not have its turn, compares false.
        most = (series["n_nonfinite"] > self.n_walkers // 2).any(axis=0)
        lost = tuple(np.flatnonzero(most & (np.asarray(state.left_at) < 0)).tolist())
        if not lost:
            return None
        return Accident(f"most local energies of {self._names(lost)} are not finite", lost)

    def _names(self, places: tuple[int, ...]) -> str:
        """The runs at these places of the group."""
        return ", ".join(self.spec.members[place].run_id for place in places)

    def _roll_back(self, state: State, accident: Accident) -> tuple[State, str]:
        """The state before a block with an accident, with one rollback more, and its effect.

        Where the rollbacks are used up, the geometries that lost their energies are left out, and
        the rate is what it was.

        Raises:
            BrokenRunError: the update itself is not finite, or no geometry is left.
        """
        used_up = int(state.rollbacks) >= self.config.optimise.max_rollbacks
        if not used_up or not accident.lost:
            return super()._roll_back(state, accident)
        left_at = np.array(state.left_at)
        left_at[list(accident.lost)] = int(state.step)
        if (left_at >= 0).all():
            raise BrokenRunError(
                f"{self.spec.run_id} {self.name}: {accident.reason}; no geometry is left"
            )
        out = state._replace(left_at=jnp.asarray(left_at), rollbacks=jnp.asarray(0, jnp.int32))
        return self.place(out), f"without {self._names(accident.lost)} from here on"

    def _notes(self, series: Series, done: int) -> tuple[str, ...]:
        """As for one run, of every geometry by name, and the geometry with the largest variance."""
        ends = done + len(series["width"])
        if done // FROZEN_WINDOW == ends // FROZEN_WINDOW:
            return ()
        notes = list(self._notes_on_steps(series))
        for g, member in enumerate(self.spec.members):
            own = {name: x[:, g] for name, x in series.items() if x.ndim == 2}
            notes += [f"{member.run_id}: {line}" for line in self._notes_on_walkers(own)]
        turns = np.isfinite(series["variance_Eh2"])
        total = np.where(turns, series["variance_Eh2"], 0.0).sum(axis=0)
        variance = total / np.maximum(turns.sum(axis=0), 1)
        if ends == self.total:
            worst = int(np.argmax(variance))
            run_id = self.spec.members[worst].run_id
            notes.append(f"largest variance: {variance[worst]:.2g} hartree^2, of {run_id}")
        return tuple(notes)

    def result(self, state: State, series: Series) -> xr.Dataset:
        """Shared parameters, walkers of all geometries, and the series (step, geometry)."""
        state = fetch(state)
        reasons = {
            member.run_id: f"left out of the joint optimisation at step {step}, where most of its "
            "local energies were not finite"
            for member, step in zip(self.spec.members, state.left_at.tolist(), strict=True)
            if step >= 0
        }
        attrs = self.pretrained.attrs
        return group.dataset(
            state.params,
            self.coordinates,
            np.asarray(state.walkers.electrons),
            np.asarray(state.width),
            series,
            {name: self.pretrained[name].to_numpy() for name in ("s2_excess", "e_hf")},
            n_iterations=int(state.step),
            n_rollbacks=int(state.rollbacks),
            pretrain_converged=int(attrs["converged"]),
            left_out=json.dumps(reasons),
            **optimise.continued_schedule(self.config.optimise, state),
            **{name: str(x) for name, x in attrs.items() if name == "parities"},
        )

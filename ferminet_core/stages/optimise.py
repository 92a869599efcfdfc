"""Variational Monte Carlo: minimise <E> (Pfau et al. 2020, section II.D)."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree

from ferminet_core.errors import BrokenRunError
from ferminet_core.inputs.config import OptimiseConfig
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.parallel import collectives
from ferminet_core.parallel.mesh import (
    REPLICATED,
    SPLIT,
    compiled,
    fetch,
    iterate,
    per_device,
    place,
    walker_mesh,
)
from ferminet_core.stages import datasets
from ferminet_core.stages.base import BlockLength, Series, Step
from ferminet_core.vmc import mcmc, parity_penalty, spin_penalty
from ferminet_core.vmc.energy import EnergyInfo, clip_energies, without_broken
from ferminet_core.vmc.hamiltonian import Nuclei, local_energy
from ferminet_core.vmc.optimisers.choice import make_optimiser
from ferminet_core.vmc.optimisers.protocol import Sample
from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.networks import Params


class State(NamedTuple):
    """All that the loop depends on besides the spec. Checkpoints store the fields by these names.

    params, optimiser: replicated trees; walkers: split over devices; width: of their moves
    step: iterations done; rollbacks: how often the loop went back to the state before a block
    accepted: (walker,), moves accepted by each walker since the last test for frozen walkers
    first_rate: learning rate of the first iteration; delay: iterations, of its decay; an extension
    keeps both
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


SPECS = State._make(
    SPLIT if name in ("walkers", "accepted") else REPLICATED for name in State._fields
)
FROZEN_WINDOW = 100  # a walker is frozen after so many iterations without an accepted move
ROLLBACK_FACTOR = 0.5  # each rollback multiplies the learning rate by this


class Inputs(NamedTuple):
    """What differs between the runs of a scan.

    These are arguments of the compiled functions: an executable that held them could serve one run
    only.

    nuclei: the geometry; key: of this run's random numbers
    penalty: hartree, the strength of the `spin_penalty`
    """

    nuclei: Nuclei
    key: jax.Array
    penalty: jax.Array


class Stats(NamedTuple):
    """One number per iteration; energies in hartree.

    energy_Eh: mean of the unclipped local energies; error_Eh: its standard error over walkers
    gradient_norm: of half the gradient of <E>; update_norm: of the step of the parameters
    damping: of the curvature, more than the setting where rounding asked for it
    momentum_dropped: 1 where SPRING's step grew suddenly and went without its momentum
    n_frozen: walkers without an accepted move in the window that ends with this iteration; 0 inside
    a window
    """

    energy_Eh: jax.Array
    error_Eh: jax.Array
    variance_Eh2: jax.Array
    pmove: jax.Array
    width: jax.Array
    n_nonfinite: jax.Array
    n_outliers: jax.Array
    learning_rate: jax.Array
    gradient_norm: jax.Array
    update_norm: jax.Array
    n_frozen: jax.Array
    damping: jax.Array
    momentum_dropped: jax.Array


def learning_rate(config: OptimiseConfig, state: Any) -> jax.Array:
    """first_rate / (1 + step / delay)^decay, halved at every rollback; of a `State`."""
    rate = state.first_rate * (1.0 + state.step / state.delay) ** -config.decay
    rate *= ROLLBACK_FACTOR**state.rollbacks
    return cast(jax.Array, rate)


def schedule(config: OptimiseConfig, start: Mapping[str, Any], dtype: Any) -> dict[str, jax.Array]:
    """The rate and delay that an optimisation begins with.

    Args:
        config: its settings
        start: attributes of what it starts from; those of `continued_schedule` come first
        dtype: of the numbers
    """
    found = {"first_rate": config.learning_rate, "delay": config.planned_delay()}
    return {name: jnp.asarray(start.get(name, value), dtype) for name, value in found.items()}


def continued_schedule(config: OptimiseConfig, state: Any) -> dict[str, float]:
    """Attributes by which another optimisation goes on where this one, of a `State`, has ended.

    With N iterations done, 1 + (N + t) / delay is (1 + N / delay) (1 + t / (delay + N)).
    """
    if int(state.step) == 0:  # without iterations, the default of a delay means nothing
        return {}
    delay = float(state.delay) + int(state.step)
    return {"first_rate": float(learning_rate(config, state)), "delay": delay}


class Accident(NamedTuple):
    """Why a block of iterations is taken back: numbers that are not finite.

    lost: of a group, the places of the geometries that lost most of their local energies
    """

    reason: str
    lost: tuple[int, ...] = ()


BROKEN_UPDATE = Accident("the update is not finite")


def tree_norm(tree: Any) -> jax.Array:
    """Euclidean norm over all leaves."""
    return jnp.linalg.norm(ravel_pytree(tree)[0])


class Optimise:
    """The optimisation of one run; see `base.Stage`."""

    name = "optimise"
    specs: Any = SPECS  # of the state

    def __init__(self, spec: RunSpec, pretrained: xr.Dataset) -> None:
        self.spec, self.config = spec, spec.config
        self.total = self.config.optimise.iterations
        self.spins = spec.molecule.electrons
        self.n_walkers = self.config.mcmc.walkers
        self.mesh = walker_mesh(self.n_walkers)
        self.dtype = jnp.dtype(self.config.runtime.precision)
        self.nuclei = datasets.nuclei(spec.molecule, self.config, self.dtype)
        self.chunk = datasets.chunk_size(self.config, self.spins)
        self.pretrained = pretrained
        self.parities = datasets.stored_parities(pretrained)
        mixed = datasets.spin_is_mixed(pretrained)
        penalty = self.config.optimise.spin_penalty if mixed else 0.0
        key = jax.random.key(spec.stage_seed(self.name))
        inputs = Inputs(self.nuclei, key, jnp.asarray(penalty, self.dtype))
        self.inputs: Inputs = place(self.mesh, inputs, REPLICATED)
        self.optimiser = make_optimiser(self.config.optimise, self.spins, self.chunk)
        self.blocks: dict[str, str] = {}  # curvature block of every parameter

    # --- one iteration, per device ----------------------------------------------------------------

    def _kernel(self, params: Params, nuclei: Nuclei) -> mcmc.Kernel:
        """`mcmc.steps` moves in the density of the wavefunction."""
        log_psi = networks.log_psi(params, nuclei.positions, self.spins)
        return mcmc.make_kernel(log_psi, nuclei, self.spins, self.config.mcmc.steps)

    def _measure(
        self, params: Params, walkers: mcmc.Walkers, inputs: Inputs, key: jax.Array
    ) -> tuple[Sample, EnergyInfo]:
        """The walkers' clipped deviations, penalty included, and the statistics of the energy."""
        config, spins, nuclei = self.config.optimise, self.spins, inputs.nuclei
        electrons = walkers.electrons
        energies = local_energy(params, electrons, nuclei, spins, self.chunk)
        deviation, energy = clip_energies(energies, config.clip, config.clip_centre)
        if self.parities:
            psi = networks.signed_log(params, nuclei.positions, spins)
            energies += parity_penalty.added_energy(psi, electrons, nuclei, self.parities)
            deviation, _ = clip_energies(energies, config.clip, config.clip_centre)
        if spin_penalty.acts(spins) and config.spin_penalty > 0:
            psi = networks.signed_log(params, nuclei.positions, spins)
            added = spin_penalty.added_energy(psi, walkers, spins, inputs.penalty, key)
            deviation, _ = clip_energies(energies + added, config.clip, config.clip_centre)
        return Sample(without_broken(electrons, energies), nuclei, deviation), energy

    def _iteration(self, state: Any, inputs: Any) -> tuple[Any, Stats]:
        """One update: sample, measure, update, adapt."""
        config = self.config
        # Other random numbers after a rollback: the same ones might lead to the same accident.
        key = jax.random.fold_in(jax.random.fold_in(inputs.key, state.step), state.rollbacks)

        walkers, moved = self._kernel(state.params, inputs.nuclei)(key, state.walkers, state.width)

        sample, energy = self._measure(state.params, walkers, inputs, key)

        rate = learning_rate(config.optimise, state)
        update = self.optimiser.update(state.optimiser, state.params, sample, rate)
        params = networks.bounded(jax.tree.map(jnp.subtract, state.params, update.step))

        window_ends = (state.step + 1) % FROZEN_WINDOW == 0
        accepted, frozen = mcmc.frozen(state.accepted + moved.accepted, window_ends)
        pmove, frozen_share = collectives.mean((jnp.mean(moved.accepted), jnp.mean(frozen)))
        width = mcmc.adapt_width(state.width, pmove, config.mcmc.target_acceptance)

        stats = Stats(
            energy_Eh=energy.energy,
            error_Eh=energy.error,
            variance_Eh2=energy.variance,
            pmove=pmove,
            width=state.width,
            n_nonfinite=energy.n_nonfinite,
            n_outliers=energy.n_outliers,
            learning_rate=rate,
            gradient_norm=tree_norm(update.gradient),
            update_norm=tree_norm(update.step),
            n_frozen=jnp.round(frozen_share * self.n_walkers).astype(jnp.int32),
            damping=jnp.asarray(update.damping, rate.dtype),
            momentum_dropped=jnp.asarray(update.momentum_dropped, jnp.int32),
        )
        after = state._replace(params=params, optimiser=update.state, walkers=walkers, width=width)
        return after._replace(step=state.step + 1, accepted=accepted), stats

    # --- the loop ---------------------------------------------------------------------------------

    def _equilibrated(
        self, params: Params, nuclei: Nuclei, key: jax.Array, walkers: mcmc.Walkers, width: Any
    ) -> tuple[mcmc.Walkers, jax.Array]:
        """Walkers after `mcmc.burn_in` moves in |psi|^2, and the width for their next ones."""
        kernel = self._kernel(params, nuclei)
        key = jax.random.fold_in(key, 2**31 - 1)  # apart from the iterations' keys

        def sweep(
            i: jax.Array, carry: tuple[mcmc.Walkers, jax.Array]
        ) -> tuple[mcmc.Walkers, jax.Array]:
            walkers, info = kernel(jax.random.fold_in(key, i), *carry)
            pmove = collectives.mean(jnp.mean(info.accepted))
            return walkers, mcmc.adapt_width(carry[1], pmove, self.config.mcmc.target_acceptance)

        sweeps = -(-self.config.mcmc.burn_in // self.config.mcmc.steps)
        found: tuple[mcmc.Walkers, jax.Array] = jax.lax.fori_loop(
            0, sweeps, sweep, (walkers, width)
        )
        return found

    def _burn_in(self, state: Any, inputs: Any) -> Any:
        """Equilibrate the walkers in the pretrained |psi|^2 before the first average over them."""
        walkers, width = self._equilibrated(
            state.params, inputs.nuclei, inputs.key, state.walkers, state.width
        )
        return state._replace(walkers=walkers, width=width)

    def initial(self) -> Any:
        """The pretrained network and walkers with fresh optimiser statistics."""
        params = datasets.params(self.pretrained, self.spec, self.dtype)
        electrons = jnp.asarray(self.pretrained["walkers"].values, self.dtype)
        local = electrons[: electrons.shape[0] // self.mesh.size]
        optimiser = self.optimiser.init(params, local, self.nuclei)
        self.blocks = self.optimiser.curvature_blocks(params)
        zero = jnp.asarray(0, jnp.int32)
        state = State(
            params=params,
            optimiser=optimiser,
            walkers=mcmc.walkers(electrons),
            width=jnp.asarray(self.pretrained.attrs["mcmc_width"], self.dtype),
            step=zero,
            accepted=jnp.zeros(electrons.shape[0], electrons.dtype),
            rollbacks=zero,
            **schedule(self.config.optimise, self.pretrained.attrs, self.dtype),
        )
        return self.place(state)

    def place(self, state: Any) -> Any:
        """Walkers split over the devices, everything else on each of them."""
        return place(self.mesh, state, self.specs)

    def steps(self, state: Any) -> Iterator[Step]:
        """Blocks of up to `runtime.block` updates per compiled call."""
        if int(state.step) >= self.total:
            return
        block = self._compile(state)
        if int(state.step) == 0:
            specs = (self.specs, REPLICATED)
            burn_in = per_device(self._burn_in, self.mesh, specs, self.specs)
            state = compiled(burn_in, state, self.inputs)(state, self.inputs)
        length = BlockLength(self.config.runtime.block)
        while (done := int(state.step)) < self.total:
            count = length.next(self.total - done)
            began = time.monotonic()
            after, stats = block(state, self.inputs, np.int32(count))
            series: Series = {name: np.asarray(x)[:count] for name, x in stats._asdict().items()}
            length.took(count, time.monotonic() - began)
            if accident := self._accident(state, series):
                state, note = self._roll_back(state, accident)
                yield Step(done, state, {}, (f"{accident.reason}: back to step {done}, {note}",))
                continue
            state = after
            yield Step(done + count, state, series, self._notes(series, done))

    def _accident(self, state: Any, series: Series) -> Accident | None:
        """The accident, if any, in a block that began with this state."""
        del state
        if not np.isfinite(series["update_norm"]).all():
            return BROKEN_UPDATE
        # Single local energies may overflow, as on a node. A wavefunction that has lost most of
        # them does not recover.
        if (lost := int(series["n_nonfinite"].max())) > self.n_walkers // 2:
            return Accident(f"{lost} of {self.n_walkers} local energies are not finite")
        return None

    def _roll_back(self, state: Any, accident: Accident) -> tuple[Any, str]:
        """The state before a block with an accident, with one rollback more, and its effect.

        Raises:
            BrokenRunError: the rollbacks allowed are used up.
        """
        rollbacks, allowed = int(state.rollbacks), self.config.optimise.max_rollbacks
        if rollbacks < allowed:
            more = state._replace(rollbacks=jnp.asarray(rollbacks + 1, jnp.int32))
            return self.place(more), f"learning rate times {ROLLBACK_FACTOR:g}"
        config = self.config.optimise
        rate = float(learning_rate(config, state))
        raise BrokenRunError(
            f"{self.spec.run_id} optimise: after step {int(state.step)} {accident.reason}, and "
            f"{allowed} rollbacks down to a learning rate of {rate:.3g} did not help (width "
            f"{np.max(state.width):.3g}); try a smaller optimise.learning_rate or a larger "
            "optimise.damping"
        )

    def _notes(self, series: Series, done: int) -> tuple[str, ...]:
        """Lines for the user about a block after `done` iterations; none inside a window."""
        if done // FROZEN_WINDOW == (done + len(series["width"])) // FROZEN_WINDOW:
            return ()
        return (*self._notes_on_walkers(series), *self._notes_on_steps(series))

    def _notes_on_walkers(self, series: Series) -> tuple[str, ...]:
        """Lines on the walkers of one geometry."""
        notes = mcmc.width_notes(series["width"], self.config.mcmc.width)
        if frozen := int(series["n_frozen"].max()):
            notes += (f"{frozen} walkers did not move in {FROZEN_WINDOW} iterations",)
        return notes

    def _notes_on_steps(self, series: Series) -> Iterator[str]:
        """Lines on the updates."""
        if dropped := int(series["momentum_dropped"].sum()):
            yield f"{dropped} updates grew suddenly and went without SPRING's momentum"
        setting = self.config.optimise.damping
        if (raised := float(series["damping"].max())) > 2.0 * setting:
            yield f"rounding raised the damping from {setting:g} to {raised:.2g}"

    def _compile(self, state: Any) -> Any:
        """The loop over a block, compiled ahead; a request to stop is heard between blocks."""
        size = self.config.runtime.block

        def block(state: Any, inputs: Any, count: jax.Array) -> tuple[Any, Stats]:
            return iterate(lambda s: self._iteration(s, inputs), state, count, size)

        specs = (self.specs, REPLICATED, REPLICATED)
        call = per_device(block, self.mesh, specs, (self.specs, REPLICATED))
        return compiled(call, state, self.inputs, np.int32(1))

    def result(self, state: Any, series: Series) -> xr.Dataset:
        """Parameters, walkers and the series of all iterations.

        The series of a run that starts from a group begin with those of the joint optimisation.
        """
        state = fetch(state)
        attrs, joint = self.pretrained.attrs, self._joint_series()
        steps = max((len(x) for x in joint.values()), default=0)
        both = {name: np.append(x, series.get(name, ())) for name, x in joint.items()}
        shared = {"n_joint_iterations": steps, "took_part": attrs.get("took_part", 1)}
        return datasets.network_dataset(
            state.params,
            state.walkers.electrons,
            float(state.width),
            # Without iterations the series are there, and empty.
            {name: np.empty(0) for name in Stats._fields} | (both or series),
            n_iterations=steps + int(state.step),
            n_rollbacks=int(state.rollbacks),
            pretrain_converged=int(attrs["converged"]),
            neighbour=attrs.get("neighbour", ""),
            curvature_blocks=json.dumps(self.blocks),
            **({"group": attrs["group"], **shared} if attrs.get("group") else {}),
        )

    def _joint_series(self) -> Series:
        """The series of the joint optimisation that the run starts from, if any."""
        if not self.pretrained.attrs.get("group"):
            return {}
        return {
            name: self.pretrained[name].to_numpy()
            for name in Stats._fields
            if name in self.pretrained
        }

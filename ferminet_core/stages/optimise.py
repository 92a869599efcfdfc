"""Variational Monte Carlo: minimise <E> (Pfau et al. 2020, section II.D)."""

import functools
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

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
from ferminet_core.vmc import mcmc, observables
from ferminet_core.vmc.energy import clip_energies
from ferminet_core.vmc.hamiltonian import Nuclei, local_energy
from ferminet_core.vmc.optimisers import kfac, spring
from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.networks import Params


class State(NamedTuple):
    """All that the loop depends on beside the spec.

    params, optimiser: replicated trees; walkers: split over devices; width: of their moves; step:
    updates done
    accepted: (walker,), moves accepted by each walker since the last look for frozen ones
    rollbacks: how often the loop went back to the state before a block
    """

    params: Params
    optimiser: Any
    walkers: mcmc.Walkers
    width: jax.Array
    step: jax.Array
    accepted: jax.Array
    rollbacks: jax.Array


SPECS = State._make((REPLICATED, REPLICATED, SPLIT, REPLICATED, REPLICATED, SPLIT, REPLICATED))
FROZEN_WINDOW = 100  # iterations without one accepted move that make a walker a frozen one
ROLLBACK_FACTOR = 0.5  # of the learning rate, at each rollback


class Inputs(NamedTuple):
    """What differs between the runs of a scan: an executable that held it could serve one alone.

    nuclei: the geometry; key: of this run's random numbers; penalty: hartree, see `Optimise`
    delay: updates after which the learning rate has fallen; warm starts have their own
    """

    nuclei: Nuclei
    key: jax.Array
    penalty: jax.Array
    delay: jax.Array


class Stats(NamedTuple):
    """One number per iteration (hartree where energies).

    energy_Eh is the mean of the unclipped local energies, error_Eh its standard error over walkers;
    n_frozen is the number of walkers that did not move in the window that ends with this iteration,
    0 inside a window.
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


class Update(NamedTuple):
    """step: to subtract from the parameters; optimiser: its new state; gradient: half that of <E>;
    rate: the learning rate."""

    step: Params
    optimiser: Any
    gradient: Params
    rate: jax.Array


def learning_rate(
    config: OptimiseConfig, delay: jax.Array | float, step: jax.Array, rollbacks: jax.Array
) -> jax.Array:
    """lr / (1 + t / delay)^decay, halved at every rollback."""
    rate = config.learning_rate * (1.0 + step / delay) ** -config.decay
    return rate * ROLLBACK_FACTOR**rollbacks


def accident(series: Series, n_walkers: int) -> str | None:
    """What is wrong with a block of iterations, if anything: numbers that are not finite."""
    bad = np.flatnonzero(~np.isfinite(series["update_norm"]))
    if bad.size:
        return "the update is not finite"
    # Single local energies may overflow, as on a node; a wavefunction that has lost most is lost.
    if (lost := int(series["n_nonfinite"].max())) > n_walkers // 2:
        return f"{lost} of {n_walkers} local energies are not finite"
    return None


def energy_gradient(
    params: Params, walkers: jax.Array, nuclei: Nuclei, spins: networks.Spins, deviation: jax.Array
) -> Params:
    """E[dE grad log|psi|], half the gradient of <E>; call inside `shard_map`.

    Args:
        deviation: (walker,), clipped local energies minus their mean over all devices; where psi is
            0 or no number, neither is the gradient one, and `Optimise` leaves out the update
    """

    def weighted(p: Params) -> jax.Array:
        _, log = networks.apply(p, walkers, nuclei.positions, spins)
        return jnp.mean(deviation * log)

    return collectives.mean(jax.grad(weighted)(params))


def tree_norm(tree: Any) -> jax.Array:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree)))


class Optimise:
    """The optimisation of one run; see `stage.Stage`."""

    name = "optimise"

    def __init__(self, spec: RunSpec, pretrained: xr.Dataset) -> None:
        self.spec, self.config = spec, spec.config
        self.total = self.config.optimise.iterations
        self.spins = spec.molecule.electrons
        self.mesh = walker_mesh(self.config.mcmc.walkers)
        self.dtype = jnp.dtype(self.config.runtime.precision)
        self.nuclei = datasets.nuclei(spec.molecule, self.dtype)
        self.chunk = datasets.chunk_size(self.config, self.spins)
        self.pretrained = pretrained
        # Both spin patterns of a stretched bond have the same energy whatever their relative size
        # and sign, so the energy alone lets a singlet drift into a mixture. H commutes with the
        # exchange of up and down electrons: the penalty moves no eigenstate, it only chooses. Where
        # the reference keeps its spin there is one pattern, and nothing to choose.
        singlet = spec.molecule.spin == 0
        broken = singlet and pretrained.attrs["spin_broken"]
        penalty = self.config.optimise.singlet_penalty if broken else 0.0
        key = jax.random.key(spec.stage_seed(self.name))
        scalars = (jnp.asarray(x, self.dtype) for x in (penalty, self.config.optimise.delay))
        inputs = Inputs(self.nuclei, key, *scalars)
        self.inputs: Inputs = place(self.mesh, inputs, REPLICATED)
        self.blocks: dict[str, str] = {}  # KFAC's block of every parameter
        if self.config.optimise.optimiser == "kfac":
            log_psi = functools.partial(kfac.curvature_function, spins=self.spins)
            self.kfac = kfac.preconditioner(self.config.optimise, log_psi)
        elif self.config.optimise.optimiser == "adam":
            self.adam = optax.scale_by_adam()

    # --- one iteration, per device ----------------------------------------------------------------

    def _update(
        self, state: State, electrons: jax.Array, deviation: jax.Array, inputs: Inputs
    ) -> Update:
        """What to subtract from the parameters, by the chosen optimiser."""
        config, params, spins = self.config.optimise, state.params, self.spins
        optimiser: Any
        nuclei = inputs.nuclei
        rate = learning_rate(config, inputs.delay, state.step, state.rollbacks)
        if config.optimiser == "spring":
            rows = spring.log_derivatives(params, electrons, nuclei, spins, self.chunk)
            step, optimiser, gradient = spring.update(
                config, state.optimiser, params, rows, deviation, rate
            )
            return Update(step, optimiser, gradient, rate)
        gradient = energy_gradient(params, electrons, nuclei, spins, deviation)
        if config.optimiser == "kfac":
            batch = (nuclei.positions, electrons)
            step, optimiser = kfac.update(self.kfac, state.optimiser, params, gradient, batch, rate)
        else:
            direction, optimiser = self.adam.update(gradient, state.optimiser)
            step = jax.tree.map(lambda s: rate * s, direction)
        return Update(step, optimiser, gradient, rate)

    def _iteration(self, state: State, inputs: Inputs) -> tuple[State, Stats]:
        config, spins, nuclei = self.config, self.spins, inputs.nuclei
        # After a rollback other random numbers: the same might lead to the same accident.
        key = jax.random.fold_in(inputs.key, state.step)
        key = jax.random.fold_in(key, state.rollbacks)

        def psi(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return networks.apply(state.params, x, nuclei.positions, spins)

        walkers, info = mcmc.sample(
            key,
            state.walkers,
            lambda x: 2.0 * psi(x)[1],
            nuclei,
            self.spins,
            state.width,
            config.mcmc.steps,
        )
        electrons = walkers.electrons
        energies = local_energy(state.params, electrons, nuclei, spins, self.chunk)
        clip = config.optimise.clip, config.optimise.clip_centre
        deviation, energy = clip_energies(energies, *clip)
        if spins[0] == spins[1] and config.optimise.singlet_penalty > 0:
            flip = observables.spin_flip(psi, electrons, spins)
            added = jnp.where(inputs.penalty > 0, inputs.penalty * (1.0 - flip), 0.0)
            deviation, _ = clip_energies(energies + added, *clip)
        update = self._update(state, electrons, deviation, inputs)
        accepted, frozen = mcmc.frozen(
            state.accepted + info.accepted, (state.step + 1) % FROZEN_WINDOW == 0
        )
        pmove, frozen_share = collectives.mean((jnp.mean(info.accepted), jnp.mean(frozen)))
        stats = Stats(
            energy.energy,
            energy.error,
            energy.variance,
            pmove,
            state.width,
            energy.n_nonfinite,
            energy.n_outliers,
            update.rate,
            tree_norm(update.gradient),
            tree_norm(update.step),
            jnp.round(frozen_share * config.mcmc.walkers).astype(jnp.int32),
        )
        params = jax.tree.map(jnp.subtract, state.params, update.step)
        width = mcmc.adapt_width(state.width, pmove, config.mcmc.target_acceptance)
        after = State(
            params, update.optimiser, walkers, width, state.step + 1, accepted, state.rollbacks
        )
        return after, stats

    # --- the loop ---------------------------------------------------------------------------------

    def _burn_in(self, state: State, inputs: Inputs) -> State:
        """Equilibrate the walkers in the pretrained |psi|^2 before anything is averaged over
        them."""
        steps = self.config.mcmc.steps
        nuclei = inputs.nuclei
        key = jax.random.fold_in(inputs.key, 2**31 - 1)  # apart from the iterations' keys

        def sweep(
            i: jax.Array, carry: tuple[mcmc.Walkers, jax.Array]
        ) -> tuple[mcmc.Walkers, jax.Array]:
            walkers, info = mcmc.sample(
                jax.random.fold_in(key, i),
                carry[0],
                lambda x: 2.0 * networks.apply(state.params, x, nuclei.positions, self.spins)[1],
                nuclei,
                self.spins,
                carry[1],
                steps,
            )
            pmove = collectives.mean(jnp.mean(info.accepted))
            return walkers, mcmc.adapt_width(carry[1], pmove, self.config.mcmc.target_acceptance)

        sweeps = -(-self.config.mcmc.burn_in // steps)
        walkers, width = jax.lax.fori_loop(0, sweeps, sweep, (state.walkers, state.width))
        return state._replace(walkers=walkers, width=width)

    def initial(self) -> State:
        """The pretrained network and walkers with fresh optimiser statistics."""
        params = datasets.params(self.pretrained, self.spec, self.dtype)
        electrons = jnp.asarray(self.pretrained["walkers"].values, self.dtype)
        optimiser: Any
        if self.config.optimise.optimiser == "kfac":
            local = electrons[: electrons.shape[0] // self.mesh.size]
            optimiser = kfac.init(self.kfac, params, self.nuclei.positions, local)
            self.blocks = kfac.blocks(self.kfac, params)
        elif self.config.optimise.optimiser == "adam":
            optimiser = self.adam.init(params)
        else:
            optimiser = spring.init(params)
        zero = jnp.asarray(0, jnp.int32)
        state = State(
            params=params,
            optimiser=optimiser,
            walkers=mcmc.walkers(electrons),
            width=jnp.asarray(self.pretrained.attrs["mcmc_width"], self.dtype),
            step=zero,
            accepted=jnp.zeros(electrons.shape[0], electrons.dtype),
            rollbacks=zero,
        )
        return self.place(state)

    def place(self, state: State) -> State:
        """Walkers split over the devices, all else on each of them."""
        return place(self.mesh, state, SPECS)

    def steps(self, state: State) -> Iterator[Step]:
        """Blocks of up to `runtime.block` updates per compiled call."""
        if int(state.step) >= self.total:
            return
        block = self._compile(state)
        if int(state.step) == 0:
            burn_in = per_device(self._burn_in, self.mesh, (SPECS, REPLICATED), SPECS)
            state = compiled(burn_in, state, self.inputs)(state, self.inputs)
        length = BlockLength(self.config.runtime.block)
        while (done := int(state.step)) < self.total:
            count = length.next(self.total - done)
            began = time.monotonic()
            after, stats = block(state, self.inputs, np.int32(count))
            series: Series = {name: np.asarray(x)[:count] for name, x in stats._asdict().items()}
            length.took(count, time.monotonic() - began)
            if wrong := accident(series, self.config.mcmc.walkers):
                state = self._roll_back(state, wrong)
                note = f"{wrong}: back to step {done}, learning rate times {ROLLBACK_FACTOR:g}"
                yield Step(done, state, {}, (note,))
                continue
            state = after
            yield Step(done + count, state, series, self._notes(series, done))

    def _roll_back(self, state: State, wrong: str) -> State:
        """The state before a block that went wrong, counted.

        Raises:
            BrokenRunError: it went wrong too often.
        """
        rollbacks, allowed = int(state.rollbacks), self.config.optimise.max_rollbacks
        if rollbacks < allowed:
            return self.place(state._replace(rollbacks=jnp.asarray(rollbacks + 1, jnp.int32)))
        config = self.config.optimise
        rate = float(learning_rate(config, config.delay, state.step, state.rollbacks))
        raise BrokenRunError(
            f"{self.spec.run_id} optimise: after step {int(state.step)} {wrong}, and {allowed} "
            f"rollbacks down to a learning rate of {rate:.3g} did not help (width "
            f"{float(state.width):.3g}); try a smaller optimise.learning_rate or a larger "
            "optimise.damping"
        )

    def _notes(self, series: Series, done: int) -> tuple[str, ...]:
        """What a user should know about a block after `done` iterations that went well otherwise;
        looked at where a window ends."""
        if done // FROZEN_WINDOW == (done + len(series["width"])) // FROZEN_WINDOW:
            return ()
        notes = mcmc.width_notes(series["width"], self.config.mcmc.width)
        if frozen := int(series["n_frozen"].max()):
            notes += (f"{frozen} walkers did not move in {FROZEN_WINDOW} iterations",)
        return notes

    def _compile(self, state: State) -> Any:
        """The loop over a block, compiled ahead: a request to stop is heard in between."""
        size = self.config.runtime.block

        def block(state: State, inputs: Inputs, count: jax.Array) -> tuple[State, Stats]:
            return iterate(lambda s: self._iteration(s, inputs), state, count, size)

        specs = (SPECS, REPLICATED, REPLICATED)
        call = per_device(block, self.mesh, specs, (SPECS, REPLICATED))
        return compiled(call, state, self.inputs, np.int32(1))

    def result(self, state: State, series: dict[str, np.ndarray]) -> xr.Dataset:
        """Parameters, walkers and the series of all iterations."""
        state = fetch(state)
        return datasets.network_dataset(
            state.params,
            state.walkers.electrons,
            float(state.width),
            series,
            n_iterations=int(state.step),
            n_rollbacks=int(state.rollbacks),
            pretrain_converged=int(self.pretrained.attrs["converged"]),
            neighbour=self.pretrained.attrs.get("neighbour", ""),
            curvature_blocks=json.dumps(self.blocks),
        )

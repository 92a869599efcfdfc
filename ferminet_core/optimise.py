"""Variational Monte Carlo: minimise <E> with KFAC or Adam (Pfau et al. 2020, section II.D)."""

import functools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from ferminet_core import artefacts, kfac, mcmc, networks, observables
from ferminet_core.config import OptimiseConfig
from ferminet_core.errors import BrokenRunError
from ferminet_core.hamiltonian import Nuclei, local_energy
from ferminet_core.loss import AXIS, clip_energies
from ferminet_core.mesh import REPLICATED, SPLIT, per_device, place, walker_mesh
from ferminet_core.networks import Params
from ferminet_core.scan import RunSpec
from ferminet_core.stage import Series, Step


class State(NamedTuple):
    """All that the loop depends on beside the spec.

    params, optimiser: replicated trees; walkers: split over devices; width: bohr; step: updates
    done
    """

    params: Params
    optimiser: Any
    walkers: mcmc.Walkers
    width: jax.Array
    step: jax.Array


SPECS = State._make((REPLICATED, REPLICATED, SPLIT, REPLICATED, REPLICATED))


class Inputs(NamedTuple):
    """What differs between the runs of a scan: an executable that held it could serve one alone.

    nuclei: the geometry; key: of this run's random numbers; penalty: hartree, see `Optimise`
    """

    nuclei: Nuclei
    key: jax.Array
    penalty: jax.Array


class Stats(NamedTuple):
    """One number per iteration (hartree where energies).

    energy_Eh is the mean of the unclipped local energies, error_Eh its standard error over walkers;
    skipped is 1 where an update was no number and was not applied.
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
    skipped: jax.Array


def learning_rate(config: OptimiseConfig, step: jax.Array) -> jax.Array:
    """lr / (1 + t / delay)^decay."""
    return config.learning_rate * (1.0 + step / config.delay) ** -config.decay


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

    return jax.lax.pmean(jax.grad(weighted)(params), AXIS)


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
        self.nuclei = artefacts.nuclei(spec.molecule, self.dtype)
        self.chunk = artefacts.chunk_size(self.config, self.spins)
        self.pretrained = pretrained
        # Both spin patterns of a stretched bond have the same energy whatever their relative size
        # and sign, so the energy alone lets a singlet drift into a mixture. H commutes with the
        # exchange of up and down electrons: the penalty moves no eigenstate, it only chooses. Where
        # the reference keeps its spin there is one pattern, and nothing to choose.
        singlet = spec.molecule.spin == 0
        broken = singlet and pretrained.attrs["spin_broken"]
        penalty = self.config.optimise.singlet_penalty if broken else 0.0
        self.inputs = Inputs(
            self.nuclei,
            jax.random.key(spec.stage_seed(self.name)),
            jnp.asarray(penalty, self.dtype),
        )
        self.blocks: dict[str, str] = {}  # KFAC's block of every parameter
        if self.config.optimise.optimiser == "kfac":
            log_psi = functools.partial(kfac.curvature_function, spins=self.spins)
            self.kfac = kfac.preconditioner(self.config.optimise, log_psi)
        else:
            self.adam = optax.scale_by_adam()

    # --- one iteration, per device ----------------------------------------------------------------

    def _update(
        self, state: State, gradient: Params, electrons: jax.Array, nuclei: Nuclei, rate: jax.Array
    ) -> tuple[Params, Any]:
        if self.config.optimise.optimiser == "kfac":
            batch = (nuclei.positions, electrons)
            return kfac.update(self.kfac, state.optimiser, state.params, gradient, batch, rate)
        step, optimiser = self.adam.update(gradient, state.optimiser)
        return jax.tree.map(lambda s: rate * s, step), optimiser

    def _iteration(self, state: State, inputs: Inputs) -> tuple[State, Stats]:
        config, spins, nuclei = self.config, self.spins, inputs.nuclei
        key = jax.random.fold_in(inputs.key, state.step)

        def psi(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return networks.apply(state.params, x, nuclei.positions, spins)

        walkers, info = mcmc.sample(
            key,
            state.walkers,
            lambda x: 2.0 * psi(x)[1],
            state.width,
            config.mcmc.steps,
        )
        pmove = jax.lax.pmean(jnp.mean(info.accepted), AXIS)
        electrons = walkers.electrons
        energies = local_energy(state.params, electrons, nuclei, spins, self.chunk)
        clip = config.optimise.clip, config.optimise.clip_centre
        deviation, energy = clip_energies(energies, *clip)
        if spins[0] == spins[1] and config.optimise.singlet_penalty > 0:
            flip = observables.spin_flip(psi, electrons, spins)
            added = jnp.where(inputs.penalty > 0, inputs.penalty * (1.0 - flip), 0.0)
            deviation, _ = clip_energies(energies + added, *clip)
        gradient = energy_gradient(state.params, electrons, nuclei, spins, deviation)
        rate = learning_rate(config.optimise, state.step)
        step, optimiser = self._update(state, gradient, electrons, nuclei, rate)
        update_norm = tree_norm(step)
        good = jnp.isfinite(update_norm)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

        stats = Stats(
            energy.energy,
            energy.error,
            energy.variance,
            pmove,
            state.width,
            energy.n_nonfinite,
            energy.n_outliers,
            rate,
            tree_norm(gradient),
            update_norm,
            ~good,
        )
        params = keep(jax.tree.map(jnp.subtract, state.params, step), state.params)
        width = mcmc.adapt_width(state.width, pmove, config.mcmc.target_acceptance)
        optimiser = keep(optimiser, state.optimiser)
        return State(params, optimiser, walkers, width, state.step + 1), stats

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
                carry[1],
                steps,
            )
            pmove = jax.lax.pmean(jnp.mean(info.accepted), AXIS)
            return walkers, mcmc.adapt_width(carry[1], pmove, self.config.mcmc.target_acceptance)

        sweeps = -(-self.config.mcmc.burn_in // steps)
        walkers, width = jax.lax.fori_loop(0, sweeps, sweep, (state.walkers, state.width))
        return state._replace(walkers=walkers, width=width)

    def start(self) -> State:
        """The pretrained network and walkers with fresh optimiser statistics."""
        params = artefacts.params(self.pretrained, self.spec, self.dtype)
        electrons = jnp.asarray(self.pretrained["walkers"].values, self.dtype)
        if self.config.optimise.optimiser == "kfac":
            local = electrons[: electrons.shape[0] // self.mesh.size]
            optimiser = kfac.init(self.kfac, params, self.nuclei.positions, local)
            self.blocks = kfac.blocks(self.kfac, params)
        else:
            optimiser = self.adam.init(params)
        width = jnp.asarray(self.pretrained.attrs["mcmc_width"], self.dtype)
        state = State(params, optimiser, mcmc.walkers(electrons), width, jnp.asarray(0, jnp.int32))
        state = place(self.mesh, state, SPECS)
        burn_in = per_device(self._burn_in, self.mesh, (SPECS, REPLICATED), SPECS)
        return burn_in(state, self.inputs)

    def steps(self) -> Iterator[Step]:
        """Blocks of `runtime.block` updates per compiled call."""
        state = self.start()
        compiled: dict[int, Any] = {}
        done = 0
        while done < self.total:
            size = min(self.config.runtime.block, self.total - done)
            if size not in compiled:
                compiled[size] = self._compile_block(size)
            state, stats = compiled[size](state, self.inputs)
            series: Series = {name: np.asarray(x) for name, x in stats._asdict().items()}
            done += size
            if np.all(series["skipped"]) or np.all(
                series["n_nonfinite"] >= self.config.mcmc.walkers
            ):
                raise BrokenRunError(
                    f"{self.spec.run_id} optimise: no finite update in iterations "
                    f"{done - size + 1} to {done} (learning rate "
                    f"{series['learning_rate'][-1]:.3g}, {series['n_nonfinite'][-1]:.0f} "
                    "non-finite local energies); try a smaller "
                    "optimise.learning_rate or a larger optimise.damping"
                )
            yield Step(done, state, series)

    def _compile_block(self, size: int) -> Any:
        def block(state: State, inputs: Inputs) -> tuple[State, Stats]:
            return jax.lax.scan(lambda s, _: self._iteration(s, inputs), state, None, length=size)

        return per_device(block, self.mesh, (SPECS, REPLICATED), (SPECS, REPLICATED), donate=(0,))

    def result(self, state: State, series: dict[str, np.ndarray]) -> xr.Dataset:
        """Parameters, walkers and the series of all iterations."""
        return artefacts.network_dataset(
            state.params,
            state.walkers.electrons,
            float(state.width),
            series,
            n_iterations=int(state.step),
            pretrain_converged=int(self.pretrained.attrs["converged"]),
            curvature_blocks=json.dumps(self.blocks),
        )

"""Pretraining: match the network's orbitals to the Hartree-Fock orbitals.

The method is that of Pfau et al. 2020, section III.A, except for the loss: the mean squared
difference of the orbitals at an electron, relative to their squared norm there (`reference_fit`).
One half of the walkers is drawn from the reference's density and fits the orbitals where electrons
are. The other half is drawn from the network's own density and removes density where none should
be.

The loop ends by a criterion: the network's orbitals and its energy must come close to the
reference's. From a worse start the optimisation spends thousands of expensive iterations on
regaining the Hartree-Fock solution.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import xarray as xr
from jax.sharding import PartitionSpec

from ferminet_core.chemistry import orbitals
from ferminet_core.chemistry.start_walkers import start_walkers
from ferminet_core.errors import BrokenRunError
from ferminet_core.inputs.config import CHECK_SWEEPS
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.start_settings import PretrainConfig
from ferminet_core.parallel import collectives
from ferminet_core.parallel.collectives import AXIS
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
from ferminet_core.stages.reference_fit import (
    Reading,
    Samples,
    misfit,
    read,
    samples,
    target_matrices,
)
from ferminet_core.vmc import mcmc
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.networks import Params


class State(NamedTuple):
    """State of the loop; checkpoints store the fields by their names.

    Attributes:
        params: replicated.
        optimiser: replicated.
        reference: walkers of the reference's density, split over devices.
        network: walkers of the network's density, split over devices.
        widths: (2,), of the moves of `reference` and `network`.
        step: iterations done.
        met: whether the criterion is met.
    """

    params: Params
    optimiser: Any
    reference: mcmc.Walkers
    network: mcmc.Walkers
    widths: jax.Array
    step: jax.Array
    met: jax.Array


SPECS = State._make((REPLICATED, REPLICATED, SPLIT, SPLIT, REPLICATED, REPLICATED, REPLICATED))


def reference_decays(dataset: xr.Dataset, n_determinants: int, form: str) -> list[np.ndarray]:
    """Initial exponents (determinant, orbital), bohr^-1, of the envelopes of each spin present.

    An orbital of energy e (hartree) decays as exp(-sqrt(-2 e) r) far from the molecule. With these
    exponents the pretraining does not have to move them from one to those of the core orbitals.
    """
    # Weakly bound or unbound orbitals still need an envelope that vanishes at infinity.
    up, down = (np.sqrt(np.maximum(-2.0 * e, 0.25)) for e in _orbital_energies(dataset))
    order = np.arange(n_determinants) % dataset.sizes["determinant"]
    dense = np.concatenate([up, down], axis=1)
    return [(dense if form == "dense" else own)[order] for own in (up, down) if own.size]


def _orbital_energies(dataset: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Energies (determinant, orbital), hartree, of the reference's up and down orbitals."""
    if "mo_up_energy" in dataset:
        return dataset["mo_up_energy"].to_numpy(), dataset["mo_down_energy"].to_numpy()
    up, down = (
        dataset["orbital_energy"].values[spin][dataset["orbital_occupation"].values[spin] > 0]
        for spin in (0, 1)
    )
    if dataset.sizes["determinant"] == 1:
        return up[None], down[None]
    return np.stack([up, down]), np.stack([down, up])  # a spin-broken solution and its image


def optimiser(config: PretrainConfig) -> optax.GradientTransformation:
    """The optimiser of the settings, with a learning rate that falls as 1 / (1 + t / 1000).

    Muon (Liu et al., arXiv:2502.16982, section 2.1) moves the weight matrices along their momentum
    with all singular values set to about one. Adam moves biases, envelopes and factors. Plain Adam
    needs several times as many iterations until the orbitals fit (`benchmarks.pretraining`).
    """
    make = {"muon": optax.contrib.muon, "adam": optax.adam, "lamb": optax.lamb}[config.optimiser]
    return make(lambda step: config.learning_rate / (1.0 + step / 1000.0))


def halves(electrons: jax.Array) -> tuple[mcmc.Walkers, mcmc.Walkers]:
    """Walkers (walker, electron, 3) of the two densities, all with numbers of their own."""
    first, second = jnp.split(electrons, 2)
    half = first.shape[0]
    return mcmc.walkers(first), mcmc.Walkers(second, jnp.arange(half, 2 * half, dtype=jnp.int32))


def _summary(series: Series, e_hf: float) -> str:
    """The last readings in one line."""
    misfit, energy, error, scatter = (
        float(series[name][-1]) for name in ("orbital_misfit", "energy_Eh", "error_Eh", "scatter")
    )
    return (
        f"misfit of the orbitals {misfit:.3f}, scatter of log|psi/psi_HF| {scatter:.3f}, "
        f"{energy - e_hf:.3f} +- {error:.3f} hartree above Hartree-Fock"
    )


class Pretrain:
    """The pretraining of one run; see `base.Stage`."""

    name = "pretrain"
    specs: Any = SPECS  # of the state
    sample_specs = PartitionSpec(None, AXIS)  # (sweep, walker)

    def __init__(self, spec: RunSpec, reference: xr.Dataset) -> None:
        self.spec, self.config = spec, spec.config
        self.total = self.config.pretrain.max_iterations
        self.spins = spec.molecule.electrons
        self.mesh = walker_mesh(self.config.mcmc.walkers, groups=2)
        self.dtype = jnp.dtype(self.config.runtime.precision)
        self.nuclei = datasets.nuclei(spec.molecule, self.config, self.dtype)
        self.chunk = datasets.chunk_size(self.config, self.spins)
        self.key = jax.random.key(spec.stage_seed(self.name))
        # A single determinant of the network can only be one of the two of a broken reference.
        self.dataset = reference.isel(determinant=slice(0, self.config.network.determinants))
        self.e_hf = float(reference.attrs["e_hf"])
        found = orbitals.Determinants.from_dataset(self.dataset)
        if self.spins[0] == self.spins[1] and found.mo_up.shape[0] == 1:
            # A scan passes from one determinant to two where the spin symmetry breaks. Storing the
            # one twice changes no number, and one executable serves both sides.
            found = found._replace(
                mo_up=np.repeat(found.mo_up, 2, axis=0),
                mo_down=np.repeat(found.mo_down, 2, axis=0),
                coefficients=np.repeat(found.coefficients, 2),
            )
        self.reference = jax.tree.map(lambda x: jnp.asarray(x, self.dtype), found)
        self.optimiser = optimiser(self.config.pretrain)

    # --- per device -------------------------------------------------------------------------------

    def _sample(
        self, state: State, reference: orbitals.Determinants, nuclei: Nuclei, key: jax.Array
    ) -> tuple[State, jax.Array]:
        """Move both halves of the walkers and adapt their widths."""
        moves, target = self.config.pretrain.steps, self.config.mcmc.target_acceptance
        first, second = jax.random.split(key)

        def log_reference(electrons: jax.Array) -> jax.Array:
            return orbitals.log_abs_hf(reference, electrons, nuclei.positions)

        log_network = networks.log_psi(state.params, nuclei.positions, self.spins)
        move_reference, move_network = (
            mcmc.make_kernel(log_psi, nuclei, self.spins, moves)
            for log_psi in (log_reference, log_network)
        )
        hf, hf_info = move_reference(first, state.reference, state.widths[0])
        net, net_info = move_network(second, state.network, state.widths[1])
        accepted = jnp.stack([jnp.mean(hf_info.accepted), jnp.mean(net_info.accepted)])
        pmove = collectives.mean(accepted)
        widths = mcmc.adapt_width(state.widths, pmove, target).astype(state.widths.dtype)
        return state._replace(reference=hf, network=net, widths=widths), pmove

    def _gradient(
        self,
        network_of: Callable[[Params], Params],
        params: Params,
        state: State,
        reference: orbitals.Determinants,
        nuclei: Nuclei,
    ) -> tuple[Params, tuple[jax.Array, jax.Array]]:
        """The gradient of the loss at this device's walkers, and the two sums of `misfit`.

        Args:
            network_of: the network's parameters from those that are fitted
            params: those that are fitted
            state: has the walkers
            reference: the determinants
            nuclei: positions and charges
        """
        electrons = jnp.concatenate([state.reference.electrons, state.network.electrons])
        network, positions = self.config.network, nuclei.positions
        targets = target_matrices(
            reference,
            electrons,
            positions,
            self.spins,
            network.determinants,
            network.determinant_form,
        )
        rows = sum(x.size // x.shape[-1] for x in targets)

        def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            found = networks.orbitals(network_of(params), electrons, positions, self.spins)
            squares = misfit(found, targets)
            return squares[0] / rows, squares

        gradient, squares = jax.grad(loss, has_aux=True)(params)
        return gradient, squares

    def _iteration(self, state: Any, reference: Any, nuclei: Nuclei, key: jax.Array) -> Any:
        """One update: the next state and its numbers."""
        key = jax.random.fold_in(key, state.step)
        state, pmove = self._sample(state, reference, nuclei, key)
        found = self._gradient(lambda params: params, state.params, state, reference, nuclei)
        gradient, (difference, norm) = collectives.mean(found)
        updates, opt_state = self.optimiser.update(gradient, state.optimiser, state.params)
        stats = {
            "orbital_misfit": jnp.sqrt(difference / norm),
            "pmove": pmove[1],
            "pmove_reference": pmove[0],
            "width": state.widths[1],
        }
        params = networks.bounded(optax.apply_updates(state.params, updates))
        return state._replace(params=params, optimiser=opt_state, step=state.step + 1), stats

    def _check(
        self, state: Any, reference: Any, nuclei: Nuclei, key: jax.Array, e_hf: jax.Array
    ) -> tuple[Samples, Samples]:
        """Samples (sweep, walker) of both halves over `CHECK_SWEEPS` sweeps, parameters fixed.

        The loop's own walkers do not move: the test leaves the state unchanged.
        """
        key = jax.random.fold_in(jax.random.fold_in(key, 2**31 - 2), state.step)

        def sweep(carry: State, i: jax.Array) -> tuple[State, Samples]:
            moved, _ = self._sample(carry, reference, nuclei, jax.random.fold_in(key, i))
            electrons = jnp.concatenate([moved.reference.electrons, moved.network.electrons])
            return moved, samples(state.params, reference, electrons, nuclei, self.spins, e_hf)

        _, found = jax.lax.scan(sweep, state, jnp.arange(CHECK_SWEEPS))
        half = state.reference.electrons.shape[0]
        return jax.tree.map(lambda x: x[:, :half], found), jax.tree.map(
            lambda x: x[:, half:], found
        )

    # --- the loop ---------------------------------------------------------------------------------

    def _start_params(self, reference: xr.Dataset, key: jax.Array) -> Params:
        """A random network with the envelopes' decays and the weights of a reference."""
        config = self.config
        params = networks.init(
            jax.random.fold_in(key, 2**31 - 1),
            config.network,
            self.spins,
            reference.sizes["nucleus"],
            self.dtype,
        )
        decays = reference_decays(
            reference, config.network.determinants, config.network.determinant_form
        )
        for envelope, decay in zip(params["envelope"], decays, strict=True):
            axes = (1,) * (envelope["sigma"].ndim - 3)
            start = jnp.asarray(decay.reshape(*decay.shape, *axes), self.dtype)
            envelope["sigma"] = envelope["sigma"] * start
        # A determinant of the reference has its weight, however many copies it has.
        order = np.arange(config.network.determinants) % reference.sizes["determinant"]
        weights = orbitals.coefficients(reference)[order] / np.bincount(order)[order]
        weights = weights / np.abs(weights).mean()
        params["determinants"]["w"] = jnp.asarray(weights, self.dtype)
        if "jastrow" in params:
            # Cusps no longer than the smallest shell: the reference has none.
            length = jnp.asarray(1.0 / max(self.spec.molecule.charges), self.dtype)
            params["jastrow"] = jax.tree.map(lambda a: a * length, params["jastrow"])
        return params

    def initial(self) -> Any:
        """A random network, and walkers as the reference's density spreads them over the atoms."""
        params = self._start_params(self.dataset, self.key)
        rng = np.random.default_rng(self.spec.stage_seed("walkers"))
        walkers = self.config.mcmc.walkers
        electrons = start_walkers(rng, self.dataset, self.spec.molecule, walkers)
        state = State(
            params,
            self.optimiser.init(params),
            *halves(jnp.asarray(electrons, self.dtype)),
            jnp.full((2,), self.config.mcmc.width, self.dtype),
            jnp.asarray(0, jnp.int32),
            jnp.asarray(False),
        )
        return self.place(state)

    def place(self, state: Any) -> Any:
        """Walkers split over the devices, everything else on each of them."""
        return place(self.mesh, state, self.specs)

    def _fixed(self) -> tuple[Any, ...]:
        """The arguments of the compiled functions besides the state, on every device."""
        return place(self.mesh, (self.reference, self.nuclei, self.key), REPLICATED)

    def _e_hf(self) -> Any:
        """The energy of Hartree-Fock on every device."""
        return place(self.mesh, jnp.asarray(self.e_hf, self.dtype), REPLICATED)

    def converged(self, reading: Reading, orbital_misfit: float, step: int) -> bool:
        """Whether the criterion is met.

        The orbitals are then close to the reference's, and the energy, its standard error added,
        exceeds the reference's by no more than the tolerance for each electron.
        """
        config = self.config.pretrain
        return (
            step >= config.min_iterations
            and orbital_misfit < config.orbital_tolerance
            and reading.excess + reading.error < config.energy_tolerance * sum(self.spins)
        )

    def _assess(self, found: Any, misfits: np.ndarray, step: int) -> tuple[np.ndarray, bool]:
        """The criterion's readings, the energy, its error and the scatter, and whether it is met.

        Args:
            found: of `_check`
            misfits: of the orbitals, at the last iteration
            step: iterations done
        """
        reading = read(*found)
        readings = np.asarray([self.e_hf + reading.excess, reading.error, reading.scatter])
        return readings, self.converged(reading, float(misfits), step)

    def steps(self, state: Any) -> Iterator[Step]:
        """Blocks of up to `runtime.block` iterations.

        The criterion is tested every `pretrain.check_every` iterations.

        Raises:
            BrokenRunError: parameters are no longer finite.
        """
        if int(state.step) >= self.total or bool(state.met):
            return
        fixed, e_hf = self._fixed(), self._e_hf()
        block, check = self._compile(state)
        length = BlockLength(self.config.runtime.block)
        every = self.config.pretrain.check_every
        while (done := int(state.step)) < self.total and not bool(state.met):
            count = length.next(min(self.total - done, every - done % every))
            began = time.monotonic()
            state, stats = block(state, *fixed, np.int32(count))
            series: Series = {name: np.asarray(x)[:count] for name, x in stats.items()}
            length.took(count, time.monotonic() - began)
            done += count
            if not np.isfinite(series["orbital_misfit"]).all():
                raise BrokenRunError(
                    f"{self.spec.run_id} pretrain: parameters are no longer finite after {done} "
                    "iterations; try a smaller pretrain.learning_rate"
                )
            # The criterion's readings are stored with the iteration that precedes the test.
            misfits = series["orbital_misfit"]
            readings = np.full((3, *misfits.shape), np.nan)
            if done % every == 0 or done == self.total:
                found = fetch(check(state, *fixed, e_hf))
                readings[:, -1], met = self._assess(found, misfits[-1], done)
                state = self.place(state._replace(met=jnp.asarray(met)))
            series["energy_Eh"], series["error_Eh"], series["scatter"] = readings
            ends = done == self.total or bool(state.met)
            yield Step(done, state, series, self._summary(series) if ends else ())

    def _summary(self, series: Series) -> tuple[str, ...]:
        """The last readings in one line."""
        return (_summary(series, self.e_hf),)

    def _compile(self, state: Any) -> tuple[Any, Any]:
        """A block of iterations and a test of the criterion, compiled ahead."""
        size = self.config.runtime.block

        def block(
            state: Any, reference: Any, nuclei: Nuclei, key: jax.Array, count: jax.Array
        ) -> tuple[Any, dict[str, jax.Array]]:
            return iterate(lambda s: self._iteration(s, reference, nuclei, key), state, count, size)

        # state, reference, nuclei, key, and the number of iterations or the reference's energy
        specs = (self.specs, *(REPLICATED,) * 4)
        fixed = self._fixed()
        updates = per_device(block, self.mesh, specs, (self.specs, REPLICATED))
        check = per_device(self._check, self.mesh, specs, self.sample_specs)
        return (
            compiled(updates, state, *fixed, np.int32(1)),
            compiled(check, state, *fixed, self._e_hf()),
        )

    def result(self, state: State, series: dict[str, np.ndarray]) -> xr.Dataset:
        """Parameters, all walkers and the series.

        The attribute `converged` says whether the criterion was met. `scatter` is the last reading
        of it.
        """
        state = fetch(state)
        # A checkpoint of an earlier version has no readings of the scatter.
        scatter = series.get("scatter", np.empty(0))
        scatter = scatter[np.isfinite(scatter)]
        more = {"scatter": float(scatter[-1])} if scatter.size else {}
        electrons = np.concatenate([state.reference.electrons, state.network.electrons])
        return datasets.network_dataset(
            state.params,
            electrons,
            float(state.widths[1]),
            series,
            n_iterations=int(state.step),
            converged=int(state.met),
            s2_excess=datasets.spin_excess(self.dataset, self.spec.molecule),
            e_hf=self.e_hf,
            **datasets.parities(self.dataset),
            **more,
        )

"""Energy inference: expectation values over |psi|^2 with frozen parameters and a frozen width.

Walkers first equilibrate, by a rule fixed beforehand (see `Inference._after_equilibration`). Then
local energies are recorded unclipped, walker by walker. The mean, its error and its diagnostics are
computed from that raw series alone (module `estimates`).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import PartitionSpec

from ferminet_core.analysis import estimates
from ferminet_core.errors import BrokenRunError
from ferminet_core.inputs.config import RECORDS_PER_CALL
from ferminet_core.inputs.observable_table import OBSERVABLES
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.parallel import collectives
from ferminet_core.parallel.mesh import (
    REPLICATED,
    SPLIT,
    compiled,
    fetch,
    per_device,
    place,
    walker_mesh,
)
from ferminet_core.stages import datasets
from ferminet_core.stages.base import Series, Step
from ferminet_core.vmc import mcmc
from ferminet_core.vmc.hamiltonian import local_energy
from ferminet_core.vmc.observables.evaluate import evaluate_all
from ferminet_core.wavefunction import networks

WINDOW = 50  # records in each of the two windows that the equilibration compares
EQUILIBRIUM_SIGMAS = 2.0  # largest difference of the windows' energies, in standard errors


class State(NamedTuple):
    """All that the loop depends on besides the spec and the parameters.

    Checkpoints store the fields by these names.

    walkers: split over devices; width: of the moves, frozen once measuring
    n_equilibration: records before the measurement; measuring: whether it has begun
    equilibrated: whether it began because the windows agreed; n_records: measured so far
    window: (walker,), hartree, sum of the local energies since the current window of the
    equilibration began; before: (walker,), hartree, means over the window before, NaN in the first;
    both on the host
    """

    walkers: mcmc.Walkers
    width: jax.Array
    n_equilibration: int
    measuring: bool
    equilibrated: bool
    n_records: int
    window: np.ndarray
    before: np.ndarray


class Records(NamedTuple):
    """Measurements of one compiled call.

    energies: (record, walker), hartree; pmove: (record,)
    observables: by name, (walker,) or (walker, component), after the last record
    """

    energies: jax.Array
    pmove: jax.Array
    observables: dict[str, jax.Array]


RECORD_SPECS = Records._make((PartitionSpec(None, collectives.AXIS), REPLICATED, SPLIT))


def _walker_mean(values: np.ndarray) -> np.ndarray:
    """Mean (1, ...) over the walkers of (walker, ...) whose value is finite; NaN if none is.

    A value is not finite where an exchanged psi overflows.
    """
    finite = values[np.isfinite(values).reshape(len(values), -1).all(axis=1)]
    if not len(finite):
        return np.full((1, *values.shape[1:]), np.nan)
    return np.asarray(finite.mean(axis=0, keepdims=True))


def _record_means(energies: np.ndarray) -> np.ndarray:
    """Mean (record,) over the finite entries of each record (record, walker); NaN without any."""
    finite = np.isfinite(energies)
    total = np.where(finite, energies, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / finite.sum(axis=1)


def _of_all_calls(series: Series, n_calls: int) -> Series:
    """The series, with those of observables (call, ...) for all calls.

    An observable that the program learned to measure during a run has NaN for the calls before.
    """
    found = dict(series)
    for observable in OBSERVABLES:
        components = (len(observable.axis),) if observable.axis else ()
        values = series.get(observable.name, np.zeros((0, *components)))
        before = np.full((n_calls - len(values), *components), np.nan)
        found[observable.name] = np.concatenate([before, values])
    return found


class Inference:
    """The measurement of one run; see `base.Stage`."""

    name = "inference"

    def __init__(self, spec: RunSpec, optimised: xr.Dataset, reference: xr.Dataset) -> None:
        self.spec, self.config = spec, spec.config
        # The shortest equilibration, until its end is known.
        self.total = 2 * WINDOW + self.config.inference.samples
        self.spins = spec.molecule.electrons
        self.mesh = walker_mesh(self.config.mcmc.walkers)
        self.dtype = jnp.dtype(self.config.runtime.precision)
        self.nuclei: Any = datasets.nuclei(spec.molecule, self.config, self.dtype)
        self.chunk = datasets.chunk_size(self.config, self.spins)
        self.key = jax.random.key(spec.stage_seed(self.name))
        self.optimised, self.reference = optimised, reference
        self.params: Any = place(
            self.mesh, datasets.params(optimised, spec, self.dtype), REPLICATED
        )
        # One call, compiled. Inferences of other geometries with the same settings may share it.
        self.executable: Any = None

    # --- per device -------------------------------------------------------------------------------

    def _record(
        self,
        params: Any,
        walkers: mcmc.Walkers,
        width: jax.Array,
        call: jax.Array,
        nuclei: Any,
        key: jax.Array,
    ) -> tuple[mcmc.Walkers, Records]:
        """`RECORDS_PER_CALL` local energies of every walker, `inference.thin` moves apart."""
        key = jax.random.fold_in(key, call)
        log_psi = networks.log_psi(params, nuclei.positions, self.spins)
        kernel = mcmc.make_kernel(log_psi, nuclei, self.spins, self.config.inference.thin)

        def record(carry: mcmc.Walkers, i: jax.Array) -> tuple[mcmc.Walkers, tuple[jax.Array, ...]]:
            moved, info = kernel(jax.random.fold_in(key, i), carry, width)
            energies = local_energy(params, moved.electrons, nuclei, self.spins, self.chunk)
            return moved, (energies, jnp.mean(info.accepted))

        walkers, (energies, accepted) = jax.lax.scan(record, walkers, jnp.arange(RECORDS_PER_CALL))
        psi = networks.signed_log(params, nuclei.positions, self.spins)
        observables = evaluate_all(psi, walkers.electrons, nuclei, self.spins)
        return walkers, Records(energies, collectives.mean(accepted), observables)

    # --- the loop ---------------------------------------------------------------------------------

    def initial(self) -> State:
        """The optimisation's last walkers."""
        electrons = jnp.asarray(self.optimised["walkers"].values, self.dtype)
        n_walkers = electrons.shape[0]
        state = State(
            walkers=mcmc.walkers(electrons),
            width=jnp.asarray(self.optimised.attrs["mcmc_width"], self.dtype),
            n_equilibration=0,
            measuring=False,
            equilibrated=False,
            n_records=0,
            window=np.zeros(n_walkers),
            before=np.full(n_walkers, np.nan),
        )
        return self.place(state)

    def place(self, state: State) -> State:
        """Walkers split over the devices; counters and sums on the host."""
        walkers, width = place(self.mesh, (state.walkers, state.width), (SPLIT, REPLICATED))
        return State(
            walkers,
            width,
            int(state.n_equilibration),
            bool(state.measuring),
            bool(state.equilibrated),
            int(state.n_records),
            np.asarray(state.window),
            np.asarray(state.before),
        )

    def steps(self, state: State) -> Iterator[Step]:
        """Equilibration, then measurement, `RECORDS_PER_CALL` records per compiled call."""
        if state.n_records >= self.config.inference.samples:
            return
        measure = self._compile(state)

        nuclei, key = self._fixed()

        def call(state: State, number: int) -> tuple[mcmc.Walkers, Records]:
            width, count = state.width, np.int32(number)
            walkers, records = measure(self.params, state.walkers, width, count, nuclei, key)
            return walkers, fetch(records)

        limit = self.config.inference.max_equilibration
        while not state.measuring:
            if state.n_equilibration >= limit:
                state = state._replace(measuring=True)
                break
            # Calls before the measurement are numbered downwards from -1: other random numbers.
            walkers, records = call(state, -1 - state.n_equilibration // RECORDS_PER_CALL)
            state = self._after_equilibration(state, walkers, records)
            self.total = max(self.total, state.n_equilibration + self.config.inference.samples)
            energies = np.asarray(records.energies, np.float64)
            yield Step(state.n_equilibration, state, {"equilibration_Eh": _record_means(energies)})
        self.total = state.n_equilibration + self.config.inference.samples
        while state.n_records < self.config.inference.samples:
            walkers, records = call(state, state.n_records // RECORDS_PER_CALL)
            step = self._measured(state, walkers, records)
            state = step.state
            yield step

    def _after_equilibration(self, state: State, walkers: mcmc.Walkers, records: Records) -> State:
        """The state after one call of the equilibration.

        The call adapts the width and measures nothing. Walkers are independent. The difference of a
        walker's means over two successive windows, averaged over walkers, therefore has a standard
        error without autocorrelation. Equilibration ends when the difference is below
        `EQUILIBRIUM_SIGMAS` of these errors. A slower drift shows in the measurement itself, whose
        halves are compared in the same way (`estimates.drift`).
        """
        target = self.config.mcmc.target_acceptance
        window = state.window + np.asarray(records.energies, np.float64).sum(axis=0)
        width = mcmc.adapt_width(fetch(state.width), jnp.mean(records.pmove), target)
        state = state._replace(
            walkers=walkers,
            width=place(self.mesh, width, REPLICATED),
            n_equilibration=state.n_equilibration + RECORDS_PER_CALL,
            window=window,
        )
        if state.n_equilibration % WINDOW:
            return state
        means = window / WINDOW
        difference = (means - state.before)[np.isfinite(means - state.before)]
        error = difference.std() / np.sqrt(max(difference.size - 1, 1)) if difference.size else 0.0
        agree = bool(difference.size) and abs(difference.mean()) <= EQUILIBRIUM_SIGMAS * error
        return state._replace(
            window=np.zeros_like(window), before=means, equilibrated=agree, measuring=agree
        )

    def _measured(self, before: State, walkers: mcmc.Walkers, records: Records) -> Step:
        """The step of one call of the measurement.

        Raises:
            BrokenRunError: no local energy of the call is finite.
        """
        call = before.n_records // RECORDS_PER_CALL
        done = before.n_records + RECORDS_PER_CALL
        energies = np.asarray(records.energies, np.float64)
        if not np.isfinite(energies).any():
            raise BrokenRunError(
                f"{self.spec.run_id} inference: no finite local energy in records "
                f"{before.n_records + 1} to {done}; the optimised network is broken"
            )
        stats = {
            "energy_local": energies,
            "energy_Eh": _record_means(energies),
            "pmove": np.asarray(records.pmove),
        }
        for name, values in records.observables.items():
            stats[name] = _walker_mean(np.asarray(values, np.float64))
        if call % max(1, self.config.inference.keep_every // RECORDS_PER_CALL) == 0:
            stats["walkers"] = fetch(walkers.electrons).astype(np.float32)[None]
        state = before._replace(walkers=walkers, n_records=done)
        return Step(before.n_equilibration + done, state, stats)

    def _compile(self, state: State) -> Any:
        """One call, compiled ahead; a request to stop is heard between calls."""
        if self.executable is None:
            call = per_device(
                self._record,
                self.mesh,
                (REPLICATED, SPLIT, REPLICATED, REPLICATED, REPLICATED, REPLICATED),
                (SPLIT, RECORD_SPECS),
            )
            fixed = np.int32(0), *self._fixed()
            self.executable = compiled(call, self.params, state.walkers, state.width, *fixed)
        return self.executable

    def _fixed(self) -> tuple[Any, jax.Array]:
        """Nuclei and key on every device."""
        found: tuple[Any, jax.Array] = place(self.mesh, (self.nuclei, self.key), REPLICATED)
        return found

    def result(self, state: State, series: dict[str, np.ndarray]) -> xr.Dataset:
        """The raw series, with the figures derived from them as attributes."""
        series = {"equilibration_Eh": np.zeros(0), **series}
        series = _of_all_calls(series, state.n_records // RECORDS_PER_CALL)
        variables: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]] = {
            "energy_local": (("sample", "walker"), series["energy_local"], {"units": "hartree"}),
            "equilibration_Eh": (
                ("equilibration",),
                series["equilibration_Eh"],
                {"units": "hartree"},
            ),
            "pmove": (("sample",), series["pmove"], {"units": "1"}),
            **{o.name: (o.dims, series[o.name], {"units": o.unit}) for o in OBSERVABLES},
            "walkers": (
                ("kept", "walker", "electron", "xyz"),
                series["walkers"],
                {"units": "bohr"},
            ),
        }
        conditions = estimates.Conditions(
            seed=self.spec.stage_seed("bootstrap"),
            spin=self.spec.molecule.spin,
            equilibrated=state.equilibrated,
            pretrain_converged=bool(self.optimised.attrs.get("pretrain_converged", 1)),
            n_rollbacks=int(self.optimised.attrs["n_rollbacks"]),
        )
        attrs = {
            **estimates.figures(series, conditions),
            "n_opt": int(self.optimised.attrs["n_iterations"]),
            "neighbour": str(self.optimised.attrs.get("neighbour", "")),
            "equilibrated": int(state.equilibrated),
            "mcmc_width": float(state.width),
            "hf_Eh": float(self.reference.attrs["e_hf"]),
            "hf_method": str(self.reference.attrs["method"]),
        }
        return xr.Dataset(variables, attrs=attrs)

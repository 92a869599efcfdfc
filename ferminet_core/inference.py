"""Energy inference: expectation values over |psi|^2 with frozen parameters and a frozen width.

Walkers are first brought to equilibrium, by a rule fixed beforehand (see `Inference._equilibrate`);
then local energies are recorded unclipped, walker by walker, and the mean, its error and its
diagnostics are computed from that raw series alone (module `statistics`).
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import PartitionSpec

from ferminet_core import artefacts, mcmc, networks, observables
from ferminet_core.errors import BrokenRunError
from ferminet_core.hamiltonian import Nuclei, local_energy
from ferminet_core.loss import AXIS
from ferminet_core.mesh import REPLICATED, SPLIT, per_device, place, walker_mesh
from ferminet_core.networks import Params
from ferminet_core.scan import RunSpec
from ferminet_core.stage import Step
from ferminet_core.statistics import reblock, summarise_energy

RECORDS_PER_CALL = 10  # recorded local energies per compiled call; spin and dipole once per call
WINDOW = 50  # records in each of the two windows that the equilibration compares
DRIFT_SIGMAS = 4.0  # 6e-5 by chance
SPIN_TOLERANCE = 0.05  # of <S^2>; a singlet with 2.5 % of triplet weight
EQUILIBRIUM_SIGMAS = 2.0  # largest difference of the windows' energies, in standard errors


class State(NamedTuple):
    """walkers: split over devices; width: bohr, frozen once measuring; kept: electrons stored so
    far."""

    walkers: mcmc.Walkers
    width: jax.Array
    kept: tuple[np.ndarray, ...]


class Records(NamedTuple):
    """What one compiled call measures: energies (record, walker), hartree; pmove (record,);
    s2 (walker,); dipole (walker, 3), e bohr."""

    energies: jax.Array
    pmove: jax.Array
    s2: jax.Array
    dipole: jax.Array


RECORD_SPECS = Records._make((PartitionSpec(None, AXIS), REPLICATED, SPLIT, SPLIT))


def _finite_mean(values: np.ndarray) -> np.ndarray:
    """Mean over walkers, (1,), without those whose exchanged psi overflows; NaN if none is left."""
    finite = values[np.isfinite(values)]
    return np.array([finite.mean() if finite.size else np.nan])


def drift(energies: np.ndarray) -> float:
    """Difference of the two halves of a series (record, walker), in standard errors.

    From the walkers' own differences, which are independent of each other.
    """
    half = len(energies) // 2
    difference = energies[half : 2 * half].mean(axis=0) - energies[:half].mean(axis=0)
    difference = difference[np.isfinite(difference)]
    if difference.size < 2:
        return float("nan")
    error = difference.std(ddof=1) / np.sqrt(difference.size)
    return float(difference.mean() / error) if error > 0 else 0.0


class Inference:
    """The measurement of one run; see `stage.Stage`."""

    name = "inference"

    def __init__(self, spec: RunSpec, optimised: xr.Dataset, reference: xr.Dataset) -> None:
        self.spec, self.config = spec, spec.config
        calls = -(-self.config.inference.samples // RECORDS_PER_CALL)
        self.total = calls * RECORDS_PER_CALL
        self.spins = spec.molecule.electrons
        self.mesh = walker_mesh(self.config.mcmc.walkers)
        self.dtype = jnp.dtype(self.config.runtime.precision)
        self.nuclei = artefacts.nuclei(spec.molecule, self.dtype)
        self.chunk = artefacts.chunk_size(self.config, self.spins)
        self.key = jax.random.key(spec.stage_seed(self.name))
        self.optimised, self.reference = optimised, reference
        self.params = place(self.mesh, artefacts.params(optimised, spec, self.dtype), REPLICATED)
        self.n_equilibration, self.equilibrated = 0, False
        self._measure = self._compile()

    # --- per device -------------------------------------------------------------------------------

    def _record(
        self,
        params: Params,
        walkers: mcmc.Walkers,
        width: jax.Array,
        call: jax.Array,
        nuclei: Nuclei,
        key: jax.Array,
    ) -> tuple[mcmc.Walkers, Records]:
        """`RECORDS_PER_CALL` local energies of every walker, `inference.thin` moves apart."""
        key = jax.random.fold_in(key, call)

        def psi(electrons: jax.Array) -> tuple[jax.Array, jax.Array]:
            return networks.apply(params, electrons, nuclei.positions, self.spins)

        def record(carry: mcmc.Walkers, i: jax.Array) -> tuple[mcmc.Walkers, tuple[jax.Array, ...]]:
            moved, info = mcmc.sample(
                jax.random.fold_in(key, i),
                carry,
                lambda x: 2.0 * psi(x)[1],
                width,
                self.config.inference.thin,
            )
            energies = local_energy(params, moved.electrons, nuclei, self.spins, self.chunk)
            return moved, (energies, jax.lax.pmean(jnp.mean(info.accepted), AXIS))

        walkers, (energies, pmove) = jax.lax.scan(record, walkers, jnp.arange(RECORDS_PER_CALL))
        s2 = observables.spin_squared(psi, walkers.electrons, self.spins)
        dipole = observables.dipole(walkers.electrons, nuclei)
        return walkers, Records(energies, pmove, s2, dipole)

    def _compile(self) -> Any:
        return per_device(
            self._record,
            self.mesh,
            (REPLICATED, SPLIT, REPLICATED, REPLICATED, REPLICATED, REPLICATED),
            (SPLIT, RECORD_SPECS),
        )

    def _call(
        self, walkers: mcmc.Walkers, width: jax.Array, call: int
    ) -> tuple[mcmc.Walkers, Records]:
        return self._measure(self.params, walkers, width, jnp.asarray(call), self.nuclei, self.key)

    # --- the loop ---------------------------------------------------------------------------------

    def _equilibrate(self, state: State) -> State:
        """Sample until two successive windows agree, adapting the width; nothing of this is kept.

        Walkers are independent, so the difference of a walker's means over the two windows,
        averaged over walkers, has a standard error that no autocorrelation spoils. Equilibration
        ends when the difference is below `EQUILIBRIUM_SIGMAS` of these errors. A slower drift shows
        in the measurement itself, whose halves are compared in the same way (`drift`).
        """
        calls = WINDOW // RECORDS_PER_CALL
        walkers, width, before = state.walkers, state.width, None
        target = self.config.mcmc.target_acceptance
        while self.n_equilibration < self.config.inference.max_equilibration:
            window = []
            for _ in range(calls):
                # Calls before the measurement are numbered downwards from -1: other random numbers.
                call = -1 - self.n_equilibration // RECORDS_PER_CALL
                walkers, records = self._call(walkers, width, call)
                window.append(np.asarray(records.energies, np.float64))
                width = mcmc.adapt_width(width, jnp.mean(records.pmove), target)
                self.n_equilibration += RECORDS_PER_CALL
            means = np.concatenate(window).mean(axis=0)
            if before is not None:
                difference = (means - before)[np.isfinite(means - before)]
                error = difference.std() / np.sqrt(max(difference.size - 1, 1))
                if difference.size and abs(difference.mean()) <= EQUILIBRIUM_SIGMAS * error:
                    self.equilibrated = True
                    break
            before = means
        return State(walkers, width, ())

    def start(self) -> State:
        """The optimisation's last walkers, brought to equilibrium."""
        electrons = jnp.asarray(self.optimised["walkers"].values, self.dtype)
        walkers = place(self.mesh, mcmc.walkers(electrons), SPLIT)
        width = jnp.asarray(self.optimised.attrs["mcmc_width"], self.dtype)
        return self._equilibrate(State(walkers, width, ()))

    def steps(self) -> Iterator[Step]:
        """`RECORDS_PER_CALL` records per compiled call."""
        state = self.start()
        keep_calls = max(1, self.config.inference.keep_every // RECORDS_PER_CALL)
        for call in range(self.total // RECORDS_PER_CALL):
            walkers, records = self._call(state.walkers, state.width, call)
            kept = state.kept
            if call % keep_calls == 0:
                kept = (*kept, np.asarray(walkers.electrons, np.float32))
            state = State(walkers, state.width, kept)
            energies = np.asarray(records.energies, np.float64)
            if not np.isfinite(energies).any():
                raise BrokenRunError(
                    f"{self.spec.run_id} inference: no finite local energy in records "
                    f"{call * RECORDS_PER_CALL + 1} to {(call + 1) * RECORDS_PER_CALL}; "
                    "the optimised network is broken"
                )
            yield Step(
                (call + 1) * RECORDS_PER_CALL,
                state,
                {
                    "energy_local": energies,
                    "energy_Eh": np.nanmean(
                        np.where(np.isfinite(energies), energies, np.nan), axis=1
                    ),
                    "pmove": np.asarray(records.pmove),
                    "s2": _finite_mean(np.asarray(records.s2, np.float64)),
                    "dipole": np.asarray(records.dipole, np.float64).mean(axis=0, keepdims=True),
                },
            )

    def result(self, state: State, series: dict[str, np.ndarray]) -> xr.Dataset:
        """The raw series, and the statistics derived from it as attributes."""
        energy = summarise_energy(series["energy_local"], self.spec.stage_seed("bootstrap"))
        s2 = reblock(series["s2"][np.isfinite(series["s2"])])
        dipole = [reblock(component) for component in series["dipole"].T]
        flags = list(energy.flags)
        if not self.equilibrated:
            flags.append(f"not in equilibrium after {self.n_equilibration} records")
        sigmas = drift(series["energy_local"])
        if abs(sigmas) > DRIFT_SIGMAS:
            flags.append(f"the energy drifts: its halves differ by {sigmas:.1f} standard errors")
        if not self.optimised.attrs.get("pretrain_converged", 1):
            flags.append("pretraining ended before its criterion was met")
        total_spin = self.spec.molecule.spin / 2
        excess = s2.mean - total_spin * (total_spin + 1)
        if abs(excess) > max(SPIN_TOLERANCE, 5 * s2.error):
            flags.append(f"<S^2> is {s2.mean:.3f}, {excess:+.3f} from that of the spin asked for")
        skipped = int(self.optimised["skipped"].sum())
        if skipped:
            flags.append(f"{skipped} optimisation updates were not finite and were left out")
        variables = {
            "energy_local": (("sample", "walker"), series["energy_local"], {"units": "hartree"}),
            "pmove": (("sample",), series["pmove"], {"units": "1"}),
            "s2": (("call",), series["s2"], {"units": "1"}),
            "dipole": (("call", "xyz"), series["dipole"], {"units": "e bohr"}),
            "walkers": (
                ("kept", "walker", "electron", "xyz"),
                np.stack(state.kept),
                {"units": "bohr"},
            ),
        }
        attrs = {
            "energy_Eh": energy.mean,
            "error_Eh": energy.error,
            "error_error_Eh": energy.error_error,
            "error_bootstrap_Eh": energy.error_bootstrap,
            "variance_Eh2": energy.variance,
            "tau": energy.tau,
            "rhat": energy.rhat,
            "s2": s2.mean,
            "s2_error": s2.error,
            **{f"dipole_{axis}": d.mean for axis, d in zip("xyz", dipole, strict=True)},
            **{f"dipole_{axis}_error": d.error for axis, d in zip("xyz", dipole, strict=True)},
            "n_nonfinite": energy.n_nonfinite,
            "n_outliers": energy.n_outliers,
            "pmove": float(series["pmove"].mean()),
            "n_samples": series["energy_local"].shape[0],
            "n_walkers": series["energy_local"].shape[1],
            "n_opt": int(self.optimised.attrs["n_iterations"]),
            "n_equilibration": self.n_equilibration,
            "mcmc_width": float(state.width),
            "hf_Eh": float(self.reference.attrs["e_hf"]),
            "hf_method": str(self.reference.attrs["method"]),
            "flags": json.dumps(flags),
        }
        return xr.Dataset(variables, attrs=attrs)

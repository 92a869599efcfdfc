"""The Python interface: results of a scan as objects, and the stages of one run in memory.

It composes the other rooms and computes nothing itself. It is meant for scripts and notebooks, so
it changes no setting of the process: precision and the precision of matrix products are set around
each call and restored after it, whatever the caller uses JAX for. Devices are those that JAX finds.
The variables that choose them (`CUDA_VISIBLE_DEVICES`, `XLA_FLAGS`) and the folder of compiled code
(`JAX_COMPILATION_CACHE_DIR`) must be set before JAX is loaded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from ferminet_core.analysis import summary, verdict
from ferminet_core.errors import InputError
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.geometries import FACTORS, parse_atom, read_xyz
from ferminet_core.inputs.messages import did_you_mean, show
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.overrides import DEFAULT_PRESET, flatten, resolve
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.spec_files import load_run
from ferminet_core.runner import status
from ferminet_core.storage import artefacts

if TYPE_CHECKING:
    from ferminet_core.stages.base import Stage, Step

# Of runs that were computed in memory, in the place of a scan's name.
IN_MEMORY = "in memory"


class Progress(NamedTuple):
    """The state of a running stage.

    stage: its name; step, total: iterations done and to be done, where `total` may still change
    energy, error: mean energy of the latest iterations and its standard error, hartree; None where
    the stage has measured none
    """

    stage: str
    step: int
    total: int
    energy: float | None
    error: float | None


def molecule(
    atoms: Sequence[str] | Path, units: str = "bohr", charge: int = 0, spin: int = 0
) -> Molecule:
    """Nuclei and electrons in the notation of system files.

    Args:
        atoms: One `El x y z` per atom, such as `["H 0 0 -0.7", "H 0 0 0.7"]`, or the path of an XYZ
            file.
        units: Of the coordinates, "bohr" or "angstrom".
        charge: Total charge.
        spin: 2S, the number of up electrons minus that of down electrons.

    Returns:
        The molecule; its positions are in bohr.

    Raises:
        InputError: Unknown element or unit, wrong coordinates, or an impossible charge or spin.
    """
    if units not in FACTORS:
        raise InputError(f"units: found {show(units)}{did_you_mean(units, FACTORS)}")
    if isinstance(atoms, Path):
        parsed = list(read_xyz(atoms, "atoms"))
    elif isinstance(atoms, str):
        raise InputError(f"atoms: found {show(atoms)}; allowed: a list of lines, or a Path")
    else:
        parsed = [
            parse_atom(line, partial("atoms[{}]".format, i), ()) for i, line in enumerate(atoms)
        ]
    symbols = tuple(atom.symbol for atom in parsed)
    positions = tuple(atom.position({}, units) for atom in parsed)
    return Molecule.make(symbols, positions, charge, spin)


def configuration(preset: str = DEFAULT_PRESET, **overrides: Any) -> Config:
    """All settings of a run: defaults, then those of a preset, then overrides.

    Args:
        preset: "smoke", "small", "paper" or "pfau2020".
        **overrides: Settings by section, such as `optimise={"iterations": 500}`, or by dotted key,
            such as `**{"optimise.iterations": 500}`.

    Raises:
        InputError: Unknown preset or setting, a wrong type, or a value out of bounds.
    """
    return resolve(preset, flatten(overrides, str), str)


class Run:
    """One geometry in one variant: its settings, its results and its wavefunction.

    spec: molecule, settings and seeds of the run
    """

    spec: RunSpec

    @property
    def molecule(self) -> Molecule:
        """Nuclei (bohr), charge and spin."""
        return self.spec.molecule

    @property
    def state(self) -> str:
        """Of the whole run: waiting, running, resumable, failed, broken or done."""
        raise NotImplementedError

    @property
    def verdict(self) -> str:
        """The judgement on the energy: "converged", or what is wrong with it."""
        raise NotImplementedError

    def dataset(self, stage: str) -> xr.Dataset:
        """The result of a stage; read from disk on the first call.

        Args:
            stage: "reference", "pretrain", "optimise", "inference" or "conventional".

        Raises:
            InputError: The stage does not exist or has not finished.
            ArtefactError: The file is damaged.
        """
        raise NotImplementedError

    @property
    def energy(self) -> float:
        """Mean energy of the inference, hartree.

        Raises:
            InputError: The inference has not finished.
        """
        return float(self.dataset("inference").attrs["energy_Eh"])

    @property
    def error(self) -> float:
        """Standard error of `energy`, hartree; see `energy`."""
        return float(self.dataset("inference").attrs["error_Eh"])

    def series(self, stage: str = "optimise") -> pd.DataFrame:
        """What a stage recorded in each iteration, one row per iteration; energies in hartree.

        Args:
            stage: "pretrain" or "optimise".

        Raises:
            InputError: The stage has not finished, or has no iterations.
        """
        found = self.dataset(stage)
        names = [name for name, values in found.data_vars.items() if values.dims == ("step",)]
        if not names:
            raise InputError(f"{self.spec.run_id}: {stage} recorded no series; try 'optimise'")
        return found[names].to_dataframe()

    def wavefunction(self) -> "Wavefunction":
        """The wavefunction with the parameters that the optimisation found.

        Raises:
            InputError: The optimisation has not finished.
        """
        return Wavefunction(self.spec, self.dataset("optimise"))


class StoredRun(Run):
    """A run in the folder of a scan, finished or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[str, xr.Dataset] = {}

    @cached_property
    def spec(self) -> RunSpec:  # type: ignore[override]
        """The run as its spec files have it."""
        return load_run(self.folder.parents[1], self.folder.name)

    @property
    def state(self) -> str:
        """As `Run.state`, at the time of the call."""
        from ferminet_core.report.run_outcomes import run_outcome

        return run_outcome(self.folder).state

    @property
    def verdict(self) -> str:
        """As `Run.verdict`, by the scan's last summary; empty if there is none of this result."""
        states = status.with_verdicts({self.folder: status.run_states(self.folder)})[self.folder]
        return "".join(state.verdict for state in states)

    def dataset(self, stage: str) -> xr.Dataset:
        """See `Run.dataset`."""
        if stage not in self._loaded:
            _check_stage(stage, status.stages_of(self.folder), self.folder.name)
            found = status.stage_state(self.folder, stage)
            if found.state != "done":
                reason = f": {found.reason}" if found.reason else ""
                raise InputError(f"{self.folder}: {stage} is not done ({found.state}{reason})")
            self._loaded[stage] = artefacts.load(self.folder / f"{stage}.zarr.zip")
        return self._loaded[stage]


class ComputedRun(Run):
    """A run that was computed in memory."""

    def __init__(self, spec: RunSpec, datasets: Mapping[str, xr.Dataset]) -> None:
        self.spec, self._datasets = spec, datasets

    @property
    def state(self) -> str:
        """As `Run.state`: the chain returns when it is done."""
        return "done"

    @cached_property
    def verdict(self) -> str:
        """See `Run.verdict`."""
        optimise = self.dataset("optimise")
        outcome = summary.RunOutcome(
            self.state,
            inference=self.dataset("inference").attrs,
            reference=self.dataset("reference").attrs,
            optimisation={name: optimise[name].to_numpy() for name in verdict.SERIES},
        )
        alone = Scan(
            name=self.spec.scan,
            title="",
            path=Path(),
            preset="",
            parameters=(),
            runs=[self.spec],
            literature=[],
            quantities=[],
            correlation=None,
        )
        found = summary.summarise(alone, {self.spec.run_id: outcome})
        return str(found.derived["verdicts"][self.spec.run_id]["verdict"])

    def dataset(self, stage: str) -> xr.Dataset:
        """See `Run.dataset`."""
        _check_stage(stage, tuple(self._datasets), self.spec.run_id)
        return self._datasets[stage]


def _check_stage(stage: str, known: Sequence[str], run: str) -> None:
    if stage not in known:
        raise InputError(f"{run}: found no stage {stage!r}{did_you_mean(stage, known)}")


class Wavefunction:
    """psi of one run with fixed parameters.

    Electrons are arrays (..., electron, 3) in bohr, spin up first. Results are NumPy arrays in the
    precision of the run (`runtime.precision`).

    walkers: (walker, electron, 3), bohr, where the optimisation left them; they sample |psi|^2
    """

    def __init__(self, spec: RunSpec, optimised: xr.Dataset) -> None:
        """Take the parameters from the result of an optimisation.

        Args:
            spec: The run that was optimised.
            optimised: Result of its stage "optimise".

        Raises:
            InputError: It holds another network than the spec's.
        """
        import jax

        from ferminet_core.stages import datasets
        from ferminet_core.vmc import hamiltonian, mcmc
        from ferminet_core.wavefunction import networks

        self.spec, spins = spec, spec.molecule.electrons
        self._dtype = np.dtype(spec.config.runtime.precision)
        self.walkers: np.ndarray = optimised["walkers"].to_numpy().astype(self._dtype)
        self._width = float(optimised.attrs["mcmc_width"])
        with _jax_set(spec.config):
            self._params = datasets.params(optimised, spec, self._dtype)
            self._nuclei = datasets.nuclei(spec.molecule, self._dtype)
        chunk = datasets.chunk_size(spec.config, spins)
        self._psi = jax.jit(lambda p, x, nuclei: networks.apply(p, x, nuclei.positions, spins))
        self._local_energy = jax.jit(
            lambda p, x, nuclei: hamiltonian.local_energy(p, x, nuclei, spins, chunk)
        )

        def moved(params: Any, x: Any, nuclei: Any, key: Any, moves: int) -> Any:
            log_psi = networks.log_psi(params, nuclei.positions, spins)
            kernel = mcmc.make_kernel(log_psi, nuclei, spins, moves)
            width = jax.numpy.asarray(self._width, self._dtype)
            return kernel(key, mcmc.walkers(x), width)[0].electrons

        self._moved = jax.jit(moved, static_argnums=4)

    def sign_log_psi(self, electrons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sign of psi and log|psi|, (...) each, for electrons (..., electron, 3), bohr.

        Raises:
            InputError: The electrons have another shape.
        """
        with _jax_set(self.spec.config):
            sign, log = self._psi(self._params, self._checked(electrons), self._nuclei)
            return np.asarray(sign), np.asarray(log)

    def log_psi(self, electrons: np.ndarray) -> np.ndarray:
        """log|psi| (...); see `sign_log_psi`."""
        return self.sign_log_psi(electrons)[1]

    def local_energy(self, electrons: np.ndarray) -> np.ndarray:
        """(H psi) / psi, (...), hartree, for electrons (..., electron, 3), bohr.

        Raises:
            InputError: The electrons have another shape.
        """
        x = self._checked(electrons)
        with _jax_set(self.spec.config):
            energies = self._local_energy(self._params, x.reshape(-1, *x.shape[-2:]), self._nuclei)
            return np.asarray(energies).reshape(x.shape[:-2])

    def sample(
        self, moves: int = 100, seed: int = 0, start: np.ndarray | None = None
    ) -> np.ndarray:
        """Walkers after Metropolis moves in |psi|^2, with the width that the optimisation reached.

        Args:
            moves: Moves of every walker.
            seed: Of the random numbers.
            start: (walker, electron, 3), bohr; `walkers` if None.

        Returns:
            (walker, electron, 3), bohr.

        Raises:
            InputError: `start` has another shape.
        """
        import jax

        x = self._checked(self.walkers if start is None else start)
        if x.ndim != 3:
            raise InputError(f"start: found shape {x.shape}, allowed: (walker, electron, 3)")
        with _jax_set(self.spec.config):
            key = jax.random.key(seed)
            return np.asarray(self._moved(self._params, x, self._nuclei, key, moves))

    def _checked(self, electrons: np.ndarray) -> np.ndarray:
        x = np.asarray(electrons, self._dtype)
        n = self.spec.molecule.n_electrons
        if x.shape[-2:] != (n, 3):
            raise InputError(f"electrons: found shape {x.shape}, allowed: (..., {n}, 3)")
        return x


class ScanResults:
    """The results of a scan on disk, finished or not.

    folder: of the scan; runs: by run_id, in the order of the run table
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: dict[str, Run] = {
            path.name: StoredRun(path) for path in status.run_folders(folder)
        }

    @cached_property
    def dataset(self) -> xr.Dataset:
        """The scan over the dimension `run`: energies, errors, dipoles, literature and more.

        Raises:
            InputError: The scan has not been summarised.
        """
        path = self.folder / "scan.zarr.zip"
        self._check_summarised(path)
        return artefacts.load(path)

    @cached_property
    def table(self) -> pd.DataFrame:
        """scan.csv, one row per run: energies in hartree, counts as integers, names as text.

        Raises:
            InputError: The scan has not been summarised.
        """
        path = self.folder / "scan.csv"
        self._check_summarised(path)
        columns = pd.read_csv(path, nrows=0).columns
        # Text is text in the dataset too. A parameter is a number, whatever its name.
        known = self.dataset
        texts = {name for name in columns if name in known and known[name].dtype.kind == "U"}
        counts = {name for name in columns if name.startswith("n_") and name not in known.coords}
        types: dict[str, Any] = {
            name: str if name in texts else "Int64" if name in counts else "float64"
            for name in columns
        }
        empty = {name: [] if name in texts else [""] for name in columns}
        return pd.read_csv(path, dtype=types, keep_default_na=False, na_values=empty)

    def _check_summarised(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; `python -m ferminet_core summary` writes it, as soon as "
                "one run has finished"
            )


def open_results(folder: str | Path) -> ScanResults:
    """Open the results of a scan, `results/<scan>`; nothing is computed.

    Raises:
        InputError: This is not the folder of a scan.
    """
    folder = Path(folder)
    if not (folder / "spec").is_dir():
        raise InputError(f"{folder}: not the folder of a scan (try results/h2)")
    return ScanResults(folder)


def run(
    molecule: Molecule,
    config: Config,
    *,
    name: str = "run",
    progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Compute one run in memory: Hartree-Fock, pretraining, optimisation and inference.

    No file is read or written. An interrupted call leaves nothing to resume; for long calculations
    use a system file and the command line.

    Args:
        molecule: From `molecule`, or of a run of `load_system`.
        config: From `configuration`, or of a run of `load_system`.
        name: Random numbers follow from `config.seed` and this name. With the `run_id` of a scan's
            run they are those of that run.
        progress: Called after every block of iterations.

    Returns:
        The finished run.

    Raises:
        InputError: The basis set or the number of walkers does not fit the molecule or the devices.
        BrokenRunError: Hartree-Fock did not converge, or numbers are no longer finite.
    """
    from ferminet_core.chemistry import reference
    from ferminet_core.stages import base, inference, optimise, pretrain

    spec = RunSpec(scan=IN_MEMORY, run_id=name, geometry=name, molecule=molecule, config=config)
    found: dict[str, xr.Dataset] = {}

    def compute(stage: "Stage") -> None:
        def report(done: "Step") -> None:
            if progress:
                progress(_progress(stage, done))

        found[stage.name] = stage.result(*base.run(stage, report)).assign_attrs(stage=stage.name)

    with _jax_set(config):
        found["reference"] = reference.run(spec)
        if progress:
            progress(Progress("reference", 1, 1, float(found["reference"].attrs["e_hf"]), None))
        compute(pretrain.Pretrain(spec, found["reference"]))
        compute(optimise.Optimise(spec, found["pretrain"]))
        compute(inference.Inference(spec, found["optimise"], found["reference"]))
    return ComputedRun(spec, found)


def _progress(stage: "Stage", done: "Step") -> Progress:
    from ferminet_core.runner.progress import read_stats

    reading = read_stats(done.stats)
    return Progress(stage.name, done.step, stage.total, reading.energy, reading.error)


@contextmanager
def _jax_set(config: Config) -> Iterator[None]:
    """JAX with the precision of a run, for the length of a call."""
    import jax

    double = config.runtime.precision == "float64"
    # "highest", or float32 products run with a 10-bit mantissa (TF32) on NVIDIA GPUs.
    with jax.enable_x64(double), jax.default_matmul_precision("highest"):
        yield

"""The Python interface: results of a scan as objects, and the stages of one run in memory.

It composes the other rooms and computes nothing itself. It is meant for scripts and notebooks, so
it changes no setting of the process: precision and the precision of matrix products are set around
each call and restored after it, whatever the caller uses JAX for. Devices are those that JAX finds.
The variables that choose them (`CUDA_VISIBLE_DEVICES`, `XLA_FLAGS`) and the folder of compiled code
(`JAX_COMPILATION_CACHE_DIR`) must be set before JAX is loaded.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import xarray as xr

from ferminet_core.analysis import optimisation_rules, summary
from ferminet_core.errors import InputError
from ferminet_core.inputs.atoms import FACTORS, check_comment, frame_atoms, parse_atom
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.group_curves import open_group
from ferminet_core.inputs.messages import did_you_mean, show
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.overrides import check_given, flatten, resolve
from ferminet_core.inputs.pseudopotentials import NONE, Choice, pseudopotentials
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.scan import Scan
from ferminet_core.inputs.scan_columns import COLUMNS, Kind
from ferminet_core.inputs.spec_files import load_run
from ferminet_core.inputs.stage_table import chain, load_code
from ferminet_core.inputs.xyz_files import read_frames
from ferminet_core.runner import status
from ferminet_core.runner.origins import misfits
from ferminet_core.storage import artefacts

if TYPE_CHECKING:
    from ferminet_core.analysis.joint_curve import JointCurve
    from ferminet_core.runner.progress import Reading
    from ferminet_core.stages.base import Stage, Step
    from ferminet_core.stages.frozen import Wavefunction

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
    atoms: Sequence[str] | Path,
    units: str | None = None,
    charge: int = 0,
    spin: int = 0,
    pseudopotential: Choice = NONE,
) -> Molecule:
    """Nuclei and electrons in the notation of system files.

    Args:
        atoms: One `El x y z` per atom, such as `["H 0 0 -0.7", "H 0 0 0.7"]`, or the path of an XYZ
            file.
        units: Of the coordinates, "bohr" or "angstrom". Lines are in bohr by default. Those of an
            XYZ file must be given.
        charge: Total charge.
        spin: 2S, the number of up electrons minus that of down electrons.
        pseudopotential: Name or file for all elements, such as "ccecp", or {element: name}. The
            setting `reference.basis` has to fit it.

    Returns:
        The molecule; its positions are in bohr.

    Raises:
        InputError: Unknown element, unit or pseudopotential, wrong coordinates, or an impossible
            charge or spin.
    """
    if units is None:
        if isinstance(atoms, Path):
            raise InputError("units: is missing; allowed: angstrom (usual in XYZ files), bohr")
        units = "bohr"
    if units not in FACTORS:
        raise InputError(f"units: found {show(units)}{did_you_mean(units, FACTORS)}")
    if isinstance(atoms, Path):
        frames = read_frames(atoms, "atoms")
        if len(frames) > 1:
            raise InputError(
                f"atoms: {atoms}: has {len(frames)} frames; allowed: one; a system file with "
                "`xyz` makes a scan of them"
            )
        check_comment(frames[0], units, charge, spin)
        parsed = frame_atoms(frames[0])
    elif isinstance(atoms, str):
        raise InputError(f"atoms: found {show(atoms)}; allowed: a list of lines, or a Path")
    else:
        parsed = [
            parse_atom(line, partial("atoms[{}]".format, i), ()) for i, line in enumerate(atoms)
        ]
    symbols = tuple(atom.symbol for atom in parsed)
    positions = tuple(atom.position({}, units) for atom in parsed)

    def where(*keys: str) -> str:
        return ".".join(("pseudopotential", *keys))

    potentials = pseudopotentials(pseudopotential, set(symbols), Path(), where)
    return Molecule.make(symbols, positions, charge, spin, pseudopotentials=potentials)


def configuration(preset: str | None = None, **overrides: Any) -> Config:
    """All settings of a run: defaults, then those of a preset, then overrides.

    Args:
        preset: "smoke", "small", "gpu", "paper" or "pfau2020". Must be given.
        **overrides: Settings by section, such as `optimise={"iterations": 500}`, or by dotted key,
            such as `**{"optimise.iterations": 500}`.

    Raises:
        InputError: No or unknown preset, unknown setting, a wrong type, or a value out of bounds.
    """
    return resolve(check_given(preset, lambda: "preset"), flatten(overrides, str), str)


class Run:
    """One geometry in one variant: its settings, its results and its wavefunction."""

    @property
    def spec(self) -> RunSpec:
        """Molecule, settings and seeds of the run."""
        raise NotImplementedError

    @property
    def molecule(self) -> Molecule:
        """Nuclei (bohr), charge and spin."""
        return self.spec.molecule

    @property
    def state(self) -> str:
        """Of the whole run: waiting, running, resumable, failed, broken, stale or done."""
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
            InputError: The stage does not exist or has not finished, or its result is stale.
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
        from ferminet_core.stages.frozen import Wavefunction

        return Wavefunction(self.spec, self.dataset("optimise"))


class StoredRun(Run):
    """A run in the folder of a scan, finished or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[str, xr.Dataset] = {}

    @cached_property
    def spec(self) -> RunSpec:
        """The run as its spec files have it."""
        return load_run(self.folder.parents[1], self.folder.name)

    @property
    def state(self) -> str:
        """As `Run.state`, at the time of the call."""
        from ferminet_core.report.run_outcomes import run_outcome

        return run_outcome(self.spec, self.folder).state

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
            if wrong := misfits(self.spec, self.folder).get(stage):
                raise InputError(f"{self.folder}: {stage} is stale: {wrong}")
            self._loaded[stage] = artefacts.load(self.folder / f"{stage}.zarr.zip")
        return self._loaded[stage]


class ComputedRun(Run):
    """A run that was computed in memory, as far as was asked for."""

    def __init__(self, spec: RunSpec, datasets: Mapping[str, xr.Dataset]) -> None:
        self._spec, self._datasets = spec, datasets

    @property
    def spec(self) -> RunSpec:
        """See `Run.spec`."""
        return self._spec

    @property
    def state(self) -> str:
        """As `Run.state`: "done", or "waiting" for stages that were not asked for."""
        return "done" if "inference" in self._datasets else "waiting"

    @cached_property
    def verdict(self) -> str:
        """See `Run.verdict`."""
        optimise = self.dataset("optimise")
        outcome = summary.RunOutcome(
            self.state,
            inference=self.dataset("inference").attrs,
            reference=self.dataset("reference").attrs,
            optimisation={name: optimise[name].to_numpy() for name in optimisation_rules.SERIES},
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


class Runs(dict[str, Run]):
    """Runs by run_id; a name that is not there is an InputError with the nearest ones."""

    def __missing__(self, name: str) -> Run:
        raise InputError(f"runs: found no run {show(name)}{did_you_mean(name, self, 'there are')}")


class ScanResults:
    """The results of a scan on disk, finished or not.

    folder: of the scan; runs: by run_id, in the order of the run table
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = Runs({path.name: StoredRun(path) for path in status.run_folders(folder)})

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
        # Columns that are not declared hold parameters and published energies.
        kinds = {column.name: column.kind for column in COLUMNS}
        types = {Kind.TEXT: str, Kind.COUNT: "Int64", Kind.NUMBER: "float64"}
        chosen: dict[str, Any] = {c: types[kinds.get(c, Kind.NUMBER)] for c in columns}
        empty = {c: [] if chosen[c] is str else [""] for c in columns}
        return pd.read_csv(path, dtype=chosen, keep_default_na=False, na_values=empty)

    def curve(
        self,
        points: int | None = None,
        at: Sequence[float] = (),
        *,
        slopes: bool = False,
        differences: bool = False,
        samples: int | None = None,
        group: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> "JointCurve":
        """The shared wavefunction of the scan along its parameter, measured without training.

        Results are kept in the folder of the scan. A call measures what is missing of what it asks
        for, as `python -m ferminet_core curve` does; one that asks for nothing only reads.

        Args:
            points: Energies at so many values of the parameter, evenly over the trained range.
            at: Energies at these values.
            slopes: Slopes of the energy at all trained values.
            differences: Energy differences between neighbouring trained values.
            samples: Records of each measurement; those of the inference if None.
            group: Name of the group; needed if the scan has several.
            progress: Called after every block of records.

        Returns:
            All measurements: `points` and `steps` are tables, `neighbours()` the differences.

        Raises:
            InputError: The scan has no such group, it has not been optimised, or a value is outside
                of its range.
            LockedError: Another process measures this group.
        """
        from ferminet_core.runner import curve

        source = open_group(self.folder, group)
        request = curve.Request(points, tuple(at), slopes, differences, samples)
        if request == curve.Request(samples=samples):
            return curve.measured(source)[0]

        def report(done: int, total: int, reading: "Reading") -> None:
            if progress:
                progress(Progress(curve.NAME, done, total, reading.energy, reading.error))

        return curve.measure(source, request, report)

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
    folder = Path(os.path.expanduser(folder))
    if not (folder / "spec").is_dir():
        raise InputError(f"{folder}: not the folder of a scan (try results/h2)")
    return ScanResults(folder)


def run(
    molecule: Molecule,
    config: Config,
    *,
    name: str = "run",
    until: str = "inference",
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
        until: The last stage: "reference", "pretrain", "optimise" or "inference".
        progress: Called after every block of iterations.

    Returns:
        The run with the results of these stages.

    Raises:
        InputError: The stage is unknown, the basis set does not fit the molecule, or the number of
            walkers does not fit the devices.
        BrokenRunError: Hartree-Fock did not converge, or numbers are no longer finite.
    """
    from ferminet_core.stages import base
    from ferminet_core.stages.frozen import precision_of

    _check_stage(until, [entry.name for entry in chain()], name)
    spec = RunSpec(scan=IN_MEMORY, run_id=name, geometry=name, molecule=molecule, config=config)
    found: dict[str, xr.Dataset] = {}

    def compute(stage: "Stage") -> xr.Dataset:
        def report(done: "Step") -> None:
            if progress:
                progress(_progress(stage, done))

        return stage.result(*base.run(stage, report)).assign_attrs(stage=stage.name)

    with precision_of(config):
        for entry in chain():
            parents = [found[parent] for parent in entry.parents]
            made = load_code(entry.computed_by)(spec, *parents)
            found[entry.name] = compute(made) if entry.ranks else made
            if progress and not entry.ranks:
                energy = float(found[entry.name].attrs["e_hf"])
                progress(Progress(entry.name, 1, 1, energy, None))
            if entry.name == until:
                break
    return ComputedRun(spec, found)


def _progress(stage: "Stage", done: "Step") -> Progress:
    from ferminet_core.runner.progress import read_stats

    reading = read_stats(done.stats)
    return Progress(stage.name, done.step, stage.total, reading.energy, reading.error)

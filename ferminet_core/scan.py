"""From a system file to the table of runs, and to one resolved spec file per run.

A run is a geometry in one variant of the settings. The Snakefile expands the table on every start,
so neither JAX nor PySCF is imported here.
"""

import contextlib
import copy
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ferminet_core import basis
from ferminet_core.config import Config, Resume, resume_rules, setting_keys
from ferminet_core.errors import InputError
from ferminet_core.expansion import RunPlan, expand
from ferminet_core.neighbours import is_forest
from ferminet_core.system import Molecule
from ferminet_core.system_file import CorrelationSpec, LiteratureSpec, QuantitySpec
from ferminet_core.validation import dotted, error_lines

__all__ = [
    "LiteratureSpec",
    "RunSpec",
    "Scan",
    "check_bases",
    "conventional_spec",
    "load_run",
    "load_scan",
    "load_spec",
    "write_specs",
]

SCHEMA_VERSION = 2
# Positions (bohr) that differ by less are the same request: a constant's next CODATA value, or
# another order of additions, is no reason to compute a geometry again.
SAME_POSITION = 1e-8

# The stage before each, whose settings count as well, and the sections that the stage adds to them.
_SECTIONS: Mapping[str, tuple[str | None, tuple[str, ...]]] = {
    "reference": (None, ("reference",)),
    "conventional": (None, ("conventional",)),
    "pretrain": ("reference", ("seed", "network", "mcmc", "pretrain", "runtime")),
    "optimise": ("pretrain", ("optimise",)),
    "inference": ("optimise", ("inference",)),
}


class RunSpec(BaseModel):
    """One run, complete: what its stages read, and all that they read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = Field(SCHEMA_VERSION, le=SCHEMA_VERSION)
    scan: str
    run_id: str
    geometry: str
    variant: str = ""
    parameters: dict[str, float] = {}
    molecule: Molecule
    config: Config
    # The run whose optimised wavefunction this one starts from; empty: it is pretrained.
    neighbour: str = ""
    # What was asked for: molecule, preset and explicit overrides, and with a neighbour the share of
    # the iterations. The spec file is rewritten when this changes, and not when a default or a
    # preset's value does.
    request: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _older(cls, data: Any) -> Any:
        return _of_this_version(data) if isinstance(data, dict) else data

    def stage_seed(self, stage: str) -> int:
        """Seed (32 bits) of a stage of this run."""
        text = json.dumps([self.config.seed, self.run_id, stage])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def stage_hash(self, stage: str) -> str:
        """SHA-256 (hex) over the molecule and all settings that the results of a stage and its
        parents depend on."""
        settings = flat_settings(self.config, stage)
        rules = resume_rules()
        content = {
            "molecule": self.molecule.model_dump(mode="json"),
            "config": {k: v for k, v in settings.items() if rules[k] is not Resume.FREE},
        }
        return hashlib.sha256(_json(content).encode()).hexdigest()


def _of_this_version(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec as it is stored now; version 1 had conventional energies among the reference's."""
    if spec.get("schema_version") != 1:
        return spec
    spec = {**copy.deepcopy(spec), "schema_version": SCHEMA_VERSION}
    for owner, section, key in (
        ("config", "reference", "correlated"),
        ("request", "overrides", "reference.correlated"),
    ):
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            spec[owner][section].pop(key)
    return spec


def _sections(stage: str | None) -> Iterator[str]:
    """The sections of the settings that a stage and those before it use."""
    while stage is not None:
        stage, sections = _SECTIONS[stage]
        yield from sections


def flat_settings(
    config: Config | Mapping[str, Any], stage: str, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings that a stage and its parents use, {dotted key: plain value}.

    Args:
        config: settings, or what was stored of them.
        stage: name of the stage.
        defaults: values of settings that an older version did not store.
    """
    stored = config.model_dump(mode="json") if isinstance(config, Config) else config
    used, found = set(_sections(stage)), {}
    for key in setting_keys():
        section, _, name = key.partition(".")
        if section not in used:
            continue
        owner = stored.get(section, {}) if name else stored
        found[key] = (
            owner[name or section]
            if defaults is None
            else owner.get(name or section, defaults[key])
        )
    return found


class Scan(BaseModel):
    """A system file's runs, and what is to be drawn beside them."""

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    path: Path
    preset: str
    parameters: tuple[str, ...]
    runs: list[RunSpec]
    literature: list[LiteratureSpec]  # `file` relative to the working directory
    quantities: list[QuantitySpec]
    correlation: CorrelationSpec | None


def load_scan(
    path: Path | str,
    preset: str | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
) -> Scan:
    """Read, validate and expand a system file.

    Args:
        path: the system file
        preset: instead of the file's own; another one is added to the scan's name
        overrides: settings above all others, as a mapping or as `key=value` texts

    Raises:
        InputError: anything wrong, one line for each problem; for basis sets see `check_bases`.
    """
    plan = expand(Path(path), preset, overrides)
    runs = [_run_spec(plan.name, run) for run in plan.runs]
    folder = plan.path.parent
    return Scan(
        name=plan.name,
        title=plan.title,
        path=plan.path,
        preset=plan.preset,
        parameters=plan.parameters,
        runs=runs,
        literature=[
            entry.model_copy(update={"file": os.path.normpath(folder / entry.file)})
            for entry in plan.literature
        ],
        quantities=plan.quantities,
        correlation=plan.correlation,
    )


def _run_spec(scan: str, run: RunPlan) -> RunSpec:
    molecule = run.molecule
    return RunSpec(
        scan=scan,
        run_id=run.run_id,
        geometry=run.geometry,
        variant=run.variant,
        parameters=run.parameters,
        molecule=molecule,
        config=run.config,
        neighbour=run.neighbour,
        request={
            "molecule": molecule.model_dump(mode="json"),
            "preset": run.preset,
            "overrides": run.overrides,
            **({"share": run.share} if run.neighbour else {}),
        },
    )


def check_bases(runs: Iterable[RunSpec], where: str) -> None:
    """Check that the runs' basis sets exist for their elements; imports PySCF.

    Raises:
        InputError: unknown basis set or element missing; the line begins with `where`.
    """
    symbols: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        named = [("reference.basis", run.config.reference.basis)]
        if run.config.conventional.methods:
            named += [("conventional.basis", name) for name in run.config.conventional.basis]
        for pair in named:
            symbols.setdefault(pair, set()).update(run.molecule.symbols)
    for (key, name), elements in symbols.items():
        try:
            basis.check_basis(name, elements, key)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def conventional_spec(scan: Path, run_id: str) -> Path:
    """The spec file of a run's conventional energies; it is there if the run asks for any.

    Args:
        scan: folder of the scan.
        run_id: of the run.
    """
    return scan / "spec" / "conventional" / f"{run_id}.json"


def write_specs(scan: Scan, results_dir: Path | str) -> list[Path]:
    """Write the runs' spec files, `<results>/<scan>/spec/<run_id>.json`; returns all their paths.

    A file is rewritten only if its run's request changed. A run thus keeps the settings that it was
    made with when newer code brings other defaults, and the files of runs that need no work keep
    their times; it also keeps the neighbour that it started from when another, nearer one comes.
    Conventional energies have a file of their own (`conventional_spec`), so that asking for others
    touches nothing that the Monte Carlo waits on. Basis sets of new or changed runs are checked
    before anything is written.

    Raises:
        InputError: unknown basis set.
    """
    folder = Path(results_dir) / scan.name
    paths = [folder / "spec" / f"{run.run_id}.json" for run in scan.runs]
    changed = [*_changed_chains(scan, paths), *_changed_conventional(scan, folder)]
    if changed:
        names = {part.run_id for part, _ in changed}
        check_bases((run for run in scan.runs if run.run_id in names), str(scan.path))
    for part, path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        left_out = set(Config.model_fields) - part.config.model_fields_set
        text = part.model_dump_json(indent=1, exclude={"config": left_out})
        _write_atomically(path, text + "\n")
    for run in scan.runs:
        if not run.config.conventional.methods:
            conventional_spec(folder, run.run_id).unlink(missing_ok=True)
    return paths


def _part(run: RunSpec, conventional: bool) -> RunSpec:
    """What is stored in one of a run's two spec files, with the settings of its stages alone: those
    of the conventional energies, or those of all other stages."""
    section = "conventional"
    config = Config(**{k: v for k, v in run.config if (k == section) is conventional})
    overrides = {
        key: value
        for key, value in run.request["overrides"].items()
        if key.startswith(f"{section}.") is conventional
    }
    request = {**run.request, "overrides": overrides}
    if conventional:
        request.pop("share", None)
        run = run.model_copy(update={"neighbour": ""})
    return run.model_copy(update={"config": config, "request": request})


def _changed_chains(scan: Scan, paths: list[Path]) -> list[tuple[RunSpec, Path]]:
    """What the spec files of the chain should hold and do not."""
    pairs = [(_part(run, False), path) for run, path in zip(scan.runs, paths, strict=True)]
    stored = {run.run_id: _stored_neighbour(path, run) for run, path in pairs}
    planned = {run.run_id: run.neighbour for run in scan.runs}
    kept = {name: n for name, n in stored.items() if n is not None and n in {"", *planned}}
    neighbours = {**planned, **kept}
    if not is_forest(neighbours):
        neighbours = planned
    return [
        (run.model_copy(update={"neighbour": neighbours[run.run_id]}), path)
        for run, path in pairs
        if stored[run.run_id] != neighbours[run.run_id]
    ]


def _changed_conventional(scan: Scan, folder: Path) -> list[tuple[RunSpec, Path]]:
    """The same for the spec files of the conventional energies of runs that ask for them."""
    pairs = [
        (_part(run, True), conventional_spec(folder, run.run_id))
        for run in scan.runs
        if run.config.conventional.methods
    ]
    return [(run, path) for run, path in pairs if _stored_neighbour(path, run) is None]


def load_spec(path: Path | str) -> RunSpec:
    """Read a run's spec file; settings that it lacks (an older version's) get their defaults.

    Raises:
        InputError: missing, damaged, or written by a newer version.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from None
    try:
        return RunSpec.model_validate_json(text)
    except ValidationError as error:
        lines = error_lines(
            error,
            lambda location: (),
            lambda location: ": ".join(filter(None, (str(path), dotted(location)))),
        )
        raise InputError("\n".join(line for _, line in lines)) from None


def load_run(scan: Path, run_id: str) -> RunSpec:
    """A run as its two spec files have it together.

    Args:
        scan: folder of the scan.
        run_id: of the run.

    Raises:
        InputError: as `load_spec`.
    """
    run = load_spec(scan / "spec" / f"{run_id}.json")
    path = conventional_spec(scan, run_id)
    if not path.exists():
        return run
    update = {"conventional": load_spec(path).config.conventional}
    return run.model_copy(update={"config": run.config.model_copy(update=update)})


def _stored_neighbour(path: Path, run: RunSpec) -> str | None:
    """The neighbour in a spec file, empty without one; None where the file is missing, damaged, or
    does not answer this request."""
    try:
        spec = _of_this_version(json.loads(path.read_text(encoding="utf-8")))
        stored = spec["request"]
        molecule = Molecule.model_validate(stored.pop("molecule"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    # Through JSON, as the stored one went: tuples become lists.
    request = json.loads(_json(run.request))
    del request["molecule"]
    same = stored == request and _same(molecule, run.molecule)
    return str(spec.get("neighbour", "")) if same else None


def _same(a: Molecule, b: Molecule) -> bool:
    return (a.symbols, a.charge, a.spin) == (b.symbols, b.charge, b.spin) and all(
        math.dist(p, q) < SAME_POSITION for p, q in zip(a.positions, b.positions, strict=True)
    )


def _json(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _write_atomically(path: Path, text: str) -> None:
    """Write by a rename: several processes may expand the same table at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def neighbours(scan: Scan, results_dir: Path) -> dict[str, str]:
    """Which run each one starts from by its spec file, of those that start from another."""
    folder = results_dir / scan.name / "spec"
    warm = [run.run_id for run in scan.runs if run.neighbour]
    return {run_id: load_spec(folder / f"{run_id}.json").neighbour for run_id in warm}


def electrons(spec: Path) -> int:
    """Number of electrons of the run whose spec lies in a file; for expressions in profiles."""
    return sum(load_spec(Path(spec)).molecule.electrons)

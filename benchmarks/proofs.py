"""Long checks of the numbers; each is a command and prints its findings.

    .venv/bin/python -m benchmarks error-bars results/h2/runs/r_1.4
    .venv/bin/python -m benchmarks patterns results/h2/runs/r_6
    .venv/bin/python -m benchmarks first-steps systems/lih.yaml
    .venv/bin/python -m benchmarks checkpoints systems/lih.yaml --preset small

Exit code 1 if a check fails.
"""

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr

from ferminet_core.chemistry import hartree_fock
from ferminet_core.inputs import run_spec, scan
from ferminet_core.runner.run_stage import SAVE_RATIO
from ferminet_core.stages import datasets
from ferminet_core.stages.base import run as run_stage
from ferminet_core.stages.inference import Inference
from ferminet_core.stages.optimise import Optimise
from ferminet_core.stages.pretrain import Pretrain
from ferminet_core.storage import artefacts
from ferminet_core.storage import checkpoints as checkpoint_files

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


def _load(run: Path) -> tuple[run_spec.RunSpec, dict[str, xr.Dataset]]:
    """Spec and artefacts of a finished run, results/<scan>/runs/<run_id>."""
    spec = run_spec.load_spec(run.parent.parent / "spec" / f"{run.name}.json")
    names = ("reference", "optimise")
    return spec, {name: artefacts.load(run / f"{name}.zarr.zip") for name in names}


def _infer(
    spec: run_spec.RunSpec, parents: dict[str, xr.Dataset], seed: int, samples: int
) -> xr.Dataset:
    """An inference with its own seed and length."""
    config = spec.config.model_copy(
        update={
            "seed": seed,
            "inference": spec.config.inference.model_copy(update={"samples": samples}),
        }
    )
    stage = Inference(
        spec.model_copy(update={"config": config}), parents["optimise"], parents["reference"]
    )
    return stage.result(*run_stage(stage))


def _verdict(held: bool) -> None:
    print("holds" if held else "does not hold")
    raise typer.Exit(0 if held else 1)


@app.command()
def error_bars(run: Path, seeds: int = 20, samples: int = 200) -> None:
    """Compare the spread of the energies of many short inferences with their errors.

    With right errors (E_i - mean) / error_i has variance 1; over 20 seeds chance leaves it between
    0.6 and 1.6 in six cases of seven.
    """
    spec, parents = _load(run)
    found = [_infer(spec, parents, 1000 + seed, samples).attrs for seed in range(seeds)]
    energy = np.array([x["energy_Eh"] for x in found])
    error = np.array([x["error_Eh"] for x in found])
    bootstrap = np.array([x["error_bootstrap_Eh"] for x in found])
    mean = np.average(energy, weights=error**-2)
    variance = float(np.sum(((energy - mean) / error) ** 2) / (seeds - 1))
    by_bootstrap = float(np.sum(((energy - mean) / bootstrap) ** 2) / (seeds - 1))
    print(f"{seeds} seeds, {samples} records: mean {mean:.6f}, errors about {error.mean():.2e}")
    print(f"variance of (E - mean) / error: {variance:.2f}; bootstrap: {by_bootstrap:.2f}")
    _verdict(0.6 < variance < 1.6)


def _patterns(charge: int, count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Electrons of each spin at the nuclei of a chain of equal atoms of odd charge, (nucleus,).

    The patterns are neutral atoms with spins up and down in turns or in two halves, and ions in
    turns.
    """
    unpaired = 3 if charge in (7, 15) else 1  # N and P, half-filled p shells
    turns = 1 - 2 * (np.arange(count) % 2)
    halves = np.where(np.arange(count) < count // 2, 1, -1)
    ions = (charge + turns) // 2
    spins = {"alternating spins": turns} | ({"spins in halves": halves} if count > 2 else {})
    neutral = {
        name: ((charge + spin * unpaired) // 2, (charge - spin * unpaired) // 2)
        for name, spin in spins.items()
    }
    return neutral | {"ionic": (ions, ions)}


def _electrons_per_atom(inference: xr.Dataset, nuclei: np.ndarray, up: int) -> str:
    """Mean numbers of spin-up and spin-down electrons that each nucleus is nearest to."""
    x = inference["walkers"].values.reshape(-1, inference.sizes["electron"], 1, 3)
    nearest = np.linalg.norm(x - nuclei, axis=-1).argmin(axis=-1)
    at = (nearest[..., None] == np.arange(len(nuclei))).mean(axis=0)
    return ", ".join(
        f"{a:.2f}/{b:.2f}" for a, b in zip(at[:up].sum(0), at[up:].sum(0), strict=True)
    )


@app.command()
def patterns(run: Path, samples: int = 1000) -> None:
    """Check a chain of stretched bonds from walkers of different spin patterns.

    Their energies must agree within three errors.
    """
    spec, parents = _load(run)
    nuclei, charges = np.asarray(spec.molecule.positions), set(spec.molecule.charges)
    charge, count = int(min(charges)), len(nuclei)
    known = len(charges) == 1 and charge % 2 and count % 2 == 0
    if not known or spec.molecule.electrons != (charge * count // 2,) * 2:
        sys.exit("patterns: made for even chains of one element of odd charge, neutral, of spin 0")
    rng = np.random.default_rng(0)
    optimised = parents["optimise"]
    size = optimised.sizes["walker"]
    found: dict[str, Mapping[str, Any]] = {}
    for seed, (name, spins) in enumerate(_patterns(charge, count).items()):
        sites = np.concatenate([np.repeat(np.arange(count), n) for n in spins])
        # Half of the walkers with spins exchanged.
        both = np.stack([sites, count - 1 - sites])[np.arange(size) % 2]
        start = nuclei[both] + rng.normal(scale=0.7 / charge, size=(*both.shape, 3))
        changed = optimised.assign(walkers=optimised["walkers"].copy(data=start.astype("f4")))
        inference = _infer(spec, {**parents, "optimise": changed}, 7 + seed, samples)
        found[name] = x = inference.attrs
        print(
            f"{name}: {x['energy_Eh']:.6f} +- {x['error_Eh']:.6f}, S^2 {x['s2']:.4f}, R-hat "
            f"{x['rhat']:.4f}, equilibrated for {x['n_equilibration']} records, flags "
            f"{json.loads(str(x['flags']))}, up/down at each nucleus "
            + _electrons_per_atom(inference, nuclei, spec.molecule.electrons[0]),
            flush=True,
        )
    energy = np.array([x["energy_Eh"] for x in found.values()])
    error = np.array([x["error_Eh"] for x in found.values()])
    pull = np.abs(energy[:, None] - energy) / np.hypot(error[:, None], error)
    print(f"largest difference: {pull.max():.1f} errors")
    _verdict(bool(pull.max() < 3))


@app.command()
def first_steps(
    systems: list[Path],
    steps: Annotated[int, typer.Option(help="Iterations of the optimisation.")] = 20,
) -> None:
    """Compare the mean energy of the first iterations of the optimisation with E_HF."""
    specs = [run for path in systems for run in scan.load_scan(path).runs]
    held = True
    for spec in specs:
        reference = hartree_fock.solve(spec.molecule, spec.config.reference)
        began = time.monotonic()
        stage = Pretrain(spec, reference)
        pretrained = stage.result(*run_stage(stage))
        seconds = time.monotonic() - began
        energies: list[float] = []
        optimise = Optimise(spec, pretrained)
        for step in optimise.steps(optimise.initial()):
            energies += step.stats["energy_Eh"].tolist()
            if len(energies) >= steps:
                break
        e_hf = float(reference.attrs["e_hf"])
        excess = np.array(energies[:steps]) - e_hf
        percent = 100 / abs(e_hf)
        held &= bool(excess.mean() * percent < 0.5)
        print(
            f"{spec.scan} {spec.run_id}: E_HF {e_hf:.5f}, {pretrained.attrs['n_iterations']} "
            f"pretraining iterations in {seconds:.1f} s, first {steps} steps above E_HF by "
            f"{excess.mean():.4f} +- {excess.std() / np.sqrt(len(excess)):.4f} Eh, "
            f"{excess.mean() * percent:.3f} % (largest single step {excess.max() * percent:.3f} %)"
        )
    _verdict(held)


def _noise(array: np.ndarray) -> np.ndarray:
    """Random numbers of an array's shape and type, as a new optimiser's zeros compress well."""
    if array.dtype.kind != "f":
        return array
    return np.random.default_rng(0).normal(size=array.shape).astype(array.dtype)


@app.command()
def checkpoints(systems: list[Path], preset: str = "paper") -> None:
    """Print the size of a checkpoint of the optimisation, and the seconds to write one."""
    for spec in (run for path in systems for run in scan.load_scan(path, preset=preset).runs):
        reference = hartree_fock.solve(spec.molecule, spec.config.reference)
        pretrain = Pretrain(spec, reference)
        state = Optimise(spec, pretrain.result(pretrain.initial(), {})).initial()
        with tempfile.TemporaryDirectory() as folder:
            seconds = []
            for step in range(3):
                began = time.monotonic()
                leaves = {name: _noise(x) for name, x in datasets.state_leaves(state).items()}
                path = checkpoint_files.save(Path(folder), step, leaves, {}, {}, lambda: None)
                seconds.append(time.monotonic() - began)
            size = path.stat().st_size
        spacing = max(60 * spec.config.checkpoint.every_minutes, SAVE_RATIO * min(seconds))
        print(
            f"{spec.scan} {spec.run_id}: {size / 2**20:.1f} MiB, {min(seconds):.2f} s to write, "
            f"{100 * min(seconds) / spacing:.2f} % of the run at the default spacing"
        )

"""Speed compared with other codes in one run.

`make bench` does it, or

    .venv/bin/python -m benchmarks.speed environments   # an environment for each other code
    .venv/bin/python -m benchmarks.speed run [--case LiH] [--rounds 3] [--settings-known]
    .venv/bin/python -m benchmarks.speed growth         # with the number of electrons
    .venv/bin/python -m benchmarks.speed psiformer      # the other network

Each code has the fastest of the chunks and numbers of devices tried, and takes turns with this
project. A ratio is the other code's seconds over this project's in the same round. Results are in
`benchmarks/results/`: a list of records as JSON, and a table.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from benchmarks.cases import CASES, CHAINS, Case
from ferminet_core.parallel.jax_setup import processor_type

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers"
RESULTS = ROOT / "benchmarks" / "results"
SIZES = ("layers", "one_electron_width", "two_electron_width", "determinants")
ITERATIONS = {"LiH": 200, "H10": 200, "N2": 25}  # 100 for the others
DEEPQMC = ("deepqmc==1.3.0", "hydra-core==1.3.2", "folx==0.2.30", "kfac-jax==0.0.8")
FOLX = ("folx==0.2.30", "jaxtyping==0.3.11", "wadler-lindig==0.1.8")


# --- the other codes' environments ----------------------------------------------------------------


def _create(name: str, python: str, packages: tuple[str, ...], *options: str) -> Path:
    """Make a virtual environment with packages unless it exists, and return its Python."""
    folder = PEERS / name
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", folder], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", *options, *packages]
        subprocess.run(pip, check=True)
        (folder / "ready").touch()
    return folder / "bin" / "python"


def _makes_environments(python: str) -> bool:
    """Whether this Python exists and works; a version manager's placeholder may not."""
    if shutil.which(python) is None:
        return False
    tried = subprocess.run(
        [python, "-c", "import venv, ensurepip"], capture_output=True, check=False
    )
    return tried.returncode == 0


@app.command()
def environments() -> None:
    """Set up DeepQMC (Python 3.12 or 3.13) and folx (with this project's own packages)."""
    newer = [p for p in ("python3.12", "python3.13") if _makes_environments(p)]
    if newer:
        _create("deepqmc", newer[0], DEEPQMC)
    else:
        print("DeepQMC 1.3.0 needs Python 3.12 or 3.13, which is not here: left out")
    python = _create("folx", sys.executable, FOLX, "--no-deps")
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    ask = [str(python), "-c", query]
    theirs = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    ours = subprocess.run(
        [sys.executable, "-c", query], capture_output=True, text=True, check=True
    ).stdout.strip()
    Path(theirs, "project.pth").write_text(f"{ours}\n{ROOT}\n")


# --- workers --------------------------------------------------------------------------------------


def work(python: Path | str, *words: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run a worker on a job with its number of host devices; return the last line it prints."""
    command = [str(python), *words, json.dumps(job)]
    devices = f"--xla_force_host_platform_device_count={job['devices']}"
    environment = {**os.environ, "XLA_FLAGS": devices}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} {command[-1]}\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def own(case: Case, devices: int = 2, parts: bool = True, **settings: Any) -> dict[str, Any]:
    """Times of this project's iteration, and of its parts on request."""
    job = {"case": case.name, "devices": devices, "iterations": ITERATIONS.get(case.name, 100)}
    job |= {"parts": parts, "preset": case.preset, "settings": settings}
    return work(sys.executable, "-m", "benchmarks.parts", job=job)


def _described(case: Case) -> dict[str, Any]:
    molecule, network = case.molecule, case.spec().config.network
    return {
        "symbols": list(molecule.symbols),
        "positions": [list(p) for p in molecule.positions],
        "walkers": case.walkers,
        **{size: getattr(network, size) for size in SIZES},
    }


def folx(case: Case, repeats: int, **choice: Any) -> dict[str, Any]:
    """folx's local energy and this project's, in turns."""
    job = {**_described(case), "spins": list(case.molecule.electrons), "repeats": repeats, **choice}
    return work(PEERS / "folx" / "bin" / "python", "benchmarks/peer_folx.py", job=job)


def deepqmc(case: Case, iterations: int, **choice: Any) -> dict[str, Any]:
    """DeepQMC's iteration, sampling and local energy."""
    job = {**_described(case), "multiplicity": 1, "moves": 10, "iterations": iterations}
    job |= {"repeats": min(iterations, 20), **choice}
    return work(PEERS / "deepqmc" / "bin" / "python", "benchmarks/peer_deepqmc.py", job=job)


# --- comparisons ----------------------------------------------------------------------------------


def record(
    case: Case, part: str, peer: str, rounds: list[tuple[float, float]], choice: Any
) -> dict[str, Any]:
    """One line of the results, from (own seconds, the other's) of several rounds."""
    ratios = [theirs / ours for ours, theirs in rounds]
    return {
        "case": case.name,
        "part": part,
        "seconds": statistics.median(ours for ours, _ in rounds),
        "peer": peer,
        "peer_seconds": statistics.median(theirs for _, theirs in rounds),
        "ratio": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "peer_settings": choice,
    }


def best_folx(case: Case, own_chunk: int) -> dict[str, Any]:
    """The best of its chunks, sparsities and numbers of devices."""
    choices = [
        {"chunk": chunk, "sparsity": sparsity, "devices": devices, "own_chunk": own_chunk}
        for chunk in (1, 8, None)
        for sparsity in (0, 6)
        for devices in (1, 2)
    ]
    tried = [statistics.median(folx(case, 3, **choice)["seconds"]) for choice in choices]
    return choices[tried.index(min(tried))]


def against_folx(case: Case, rounds: int, best: dict[str, Any]) -> dict[str, Any]:
    """Local energies, folx with its best settings."""
    pairs = []
    for _ in range(rounds):
        found = folx(case, 15, **best)
        ours = found["own_seconds"]
        if best["devices"] == 1:  # its best setting, compared with our two devices
            ours = folx(case, 15, **{**best, "devices": 2})["own_seconds"]
        pairs.append((statistics.median(ours), statistics.median(found["seconds"])))
    return record(case, "local energy", "folx", pairs, best)


def best_deepqmc(case: Case) -> dict[str, Any]:
    """One or two devices, in pieces or not.

    Pieces of one or eight walkers are left out: DeepQMC unrolls its loop over them, and a
    compilation then takes many minutes.
    """
    choices: list[dict[str, Any]] = [{"devices": 1}, {"devices": 2}]
    choices.append({"devices": 2, "chunk": case.walkers // 4})
    tried = [statistics.median(deepqmc(case, 5, **choice)["iteration_s"]) for choice in choices]
    return choices[tried.index(min(tried))]


def against_deepqmc(case: Case, rounds: int, best: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Compare whole iterations and parts, DeepQMC with its best settings."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    names = {"iteration": "iteration_s", "sampling": "sampling_s", "local energy": "local_energy_s"}
    for _ in range(rounds):
        ours = own(case)
        theirs = deepqmc(case, max(10, ITERATIONS[case.name] // 5), **best)
        if abs(theirs["parameters"] / ours["parameters"] - 1) > 0.02:
            sys.exit(f"{case.name}: {theirs['parameters']} parameters, {ours['parameters']} here")
        for part, key in names.items():
            seconds = ours["seconds"][part], theirs[key]
            pairs.setdefault(part, []).append(tuple(map(statistics.median, seconds)))
        last = ours["seconds"]
    for part, found in pairs.items():
        yield record(case, part, "DeepQMC", found, best)
    for part in ("curvature", "update"):
        seconds = statistics.median(last[part])
        yield {"case": case.name, "part": part, "seconds": seconds, "peer": None}


def table(records: list[dict[str, Any]]) -> str:
    """The records as Markdown."""
    lines = [
        "| case | part | ms here | other code | ms there | ratio | spread |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in records:
        cells = [r["case"], r["part"], f"{1e3 * r['seconds']:.1f}"]
        if r["peer"]:
            low, high = r["spread"]
            cells += [r["peer"], f"{1e3 * r['peer_seconds']:.1f}", f"{r['ratio']:.2f}"]
            cells.append(f"{low:.2f} to {high:.2f}")
        else:
            cells += ["", "", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> str:
    """Machine and versions of a measurement."""
    commit = ["git", "describe", "--always", "--dirty"]
    here = subprocess.run(commit, capture_output=True, text=True, check=False, cwd=ROOT).stdout
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "kfac-jax")]
    parts = [f"{os.cpu_count()} cores", processor_type(), f"Python {platform.python_version()}"]
    return ", ".join([*parts, *versions, *DEEPQMC, *FOLX, f"commit {here.strip()}"])


@app.command()
def run(
    case: Annotated[list[str] | None, typer.Option(help="LiH, H10 or N2; default: all.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of each comparison.")] = 3,
    other: Annotated[
        Literal["folx", "DeepQMC"] | None, typer.Option(help="The other code; default: both.")
    ] = None,
    settings_known: Annotated[
        bool, typer.Option("--settings-known", help="Keep the settings of the other codes.")
    ] = False,
) -> None:
    """Measure, and write the results; those of other cases and codes are kept."""
    peers = [other] if other else ["folx", "DeepQMC"]
    path = RESULTS / "latest.json"
    records: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    for name in case or list(CASES):
        before = [record for record in records if record["case"] == name and settings_known]
        known = {record["peer"]: record.get("peer_settings") for record in before}
        # Parts without another code belong to the iteration, which is compared with DeepQMC.
        records = [r for r in records if r["case"] != name or (r["peer"] or "DeepQMC") not in peers]
        found: list[dict[str, Any]] = []
        if "folx" in peers and (PEERS / "folx" / "ready").exists():
            chunk = int(own(CASES[name], parts=False)["chunk"])
            best = known.get("folx") or best_folx(CASES[name], chunk)
            found.append(against_folx(CASES[name], rounds, {**best, "own_chunk": chunk}))
        if "DeepQMC" in peers and (PEERS / "deepqmc" / "ready").exists():
            best = known.get("DeepQMC") or best_deepqmc(CASES[name])
            found += against_deepqmc(CASES[name], rounds, best)
        records += [{**record, "machine": machine()} for record in found]
        records.sort(key=lambda r: [list(CASES).index(r["case"]), r["peer"] != "folx"])
        print(table(records), flush=True)
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(records, indent=1) + "\n")
        where = {(r["case"], r["peer"] or "DeepQMC"): r["machine"] for r in records}
        heads = "\n".join(f"* {' and '.join(at)}: {described}" for at, described in where.items())
        (RESULTS / "latest.md").write_text(f"{heads}\n\n{table(records)}\n")


def exponent(seconds: dict[int, float]) -> tuple[float, float]:
    """p of t ~ n^p by least squares on logarithms, and its standard error; {electrons: seconds}."""
    n, t = (np.log(np.array(list(x), float)) for x in (seconds, seconds.values()))
    (slope, _), covariance = np.polyfit(n, t, 1, cov=True)
    return float(slope), float(np.sqrt(covariance[0, 0]))


@app.command()
def psiformer(
    rounds: Annotated[int, typer.Option(help="Rounds of each comparison.")] = 3,
) -> None:
    """Print times per iteration of Psiformers of preset `small`, one device here and in DeepQMC."""
    print("| case | walkers | parameters here, there | here, ms | DeepQMC, ms | ratio | spread |")
    print("|---|---|---|---|---|---|---|")
    for case in (CASES["LiH"], CASES["N2"]._replace(preset="small")):
        kind = {"network.kind": "psiformer"}
        network = case.spec(**kind).config.network
        theirs = {name: getattr(network, name) for name in (*SIZES, "attention_heads")}
        pairs = []
        for _ in range(rounds):
            ours = own(case, devices=1, parts=False, **kind)
            peer = deepqmc(case, 10, devices=1, network=network.kind, **theirs)
            found = ours["seconds"]["iteration"], peer["iteration_s"]
            pairs.append((statistics.median(found[0]), statistics.median(found[1])))
        r = record(case, "iteration", "DeepQMC", pairs, None)
        low, high = r["spread"]
        print(
            f"| {case.name} | {case.walkers} | {ours['parameters']}, {peer['parameters']} "
            f"| {1e3 * r['seconds']:.1f} | {1e3 * r['peer_seconds']:.1f} "
            f"| {r['ratio']:.2f} | {low:.2f} to {high:.2f} |",
            flush=True,
        )


@app.command()
def growth() -> None:
    """Print times per iteration of hydrogen chains (64 walkers, two devices) and the exponents."""
    seconds: dict[str, dict[int, float]] = {"here": {}, "DeepQMC": {}}
    print("| chain | here, ms | DeepQMC, ms | ratio |\n|---|---|---|---|")
    for name, case in CHAINS.items():
        ours = statistics.median(own(case, parts=False)["seconds"]["iteration"])
        theirs = statistics.median(deepqmc(case, 10, devices=2)["iteration_s"])
        n = sum(case.molecule.electrons)
        seconds["here"][n], seconds["DeepQMC"][n] = ours, theirs
        print(
            f"| {name} | {1e3 * ours:.1f} | {1e3 * theirs:.1f} | {theirs / ours:.2f} |", flush=True
        )
    for code, found in seconds.items():
        print("{}: t ~ n^p, p = {:.2f} +- {:.2f}".format(code, *exponent(found)))


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.speed")

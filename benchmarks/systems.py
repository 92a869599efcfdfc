"""Every system of the project from end to end at the preset `smoke`, with a check of its energies.

    .venv/bin/python -m benchmarks.systems --results results/smoke [NAME ...]

A run that was finished before is not repeated.
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from ferminet_core.inputs.scan import Scan, load_scan

ROOT = Path(__file__).parents[1]
PRESET = "smoke"
# These replace the settings of the system files, which are meant for larger presets. With 64
# walkers steps as long as the norm constraint allows are mostly noise: twenty leave N2 0.7 hartree
# higher.
NEAR_HARTREE_FOCK = [
    "pretrain.orbital_tolerance=0.02",
    "pretrain.max_iterations=10000",
    "optimise.iterations=20",
    "optimise.learning_rate=1e-4",
    "inference.samples=500",
]
# A network from other bond lengths is far from Hartree-Fock and has to be optimised: a fifth of
# these iterations are its own. With 64 walkers SPRING diverges there.
FROM_NEIGHBOURS = [
    "mcmc.walkers=256",
    "optimise.iterations=1000",
    "inference.samples=200",
]
# So few iterations give no correlation energy, but they should reach Hartree-Fock.
ALLOWED_ABOVE_HF = 0.020  # hartree per electron
ALLOWED_ERROR = 0.010  # hartree per electron

app = typer.Typer(add_completion=False, help=__doc__)


def checked(scan: Scan, table: pd.DataFrame) -> pd.DataFrame:
    """Energies of a scan's table and of Hartree-Fock, in hartree, and the fault of each."""
    rows = table.set_index("run_id")
    found = []
    for run in scan.runs:
        row = rows.loc[run.run_id]
        electrons = sum(run.molecule.electrons)
        above, error = row["energy_Eh"] - row["hf_Eh"], row["error_Eh"]
        limit = max(3 * error, ALLOWED_ABOVE_HF * electrons)
        wrong = []
        if row["state"] != "done":
            wrong.append(f"{row['state']}: {row['verdict']}")
        else:
            if not above < limit:
                wrong.append(f"{1e3 * above:.1f} mEh above Hartree-Fock, over {1e3 * limit:.1f}")
            if not error <= ALLOWED_ERROR * electrons:
                wrong.append(f"an error of {1e3 * error:.1f} mEh")
        found.append(
            {
                "scan": scan.name,
                "run_id": run.run_id,
                "electrons": electrons,
                **{name: row[name] for name in ("energy_Eh", "error_Eh", "hf_Eh")},
                "above_hf_Eh": above,
                "limit_Eh": limit,
                "fault": ", ".join(wrong),
            }
        )
    return pd.DataFrame(found)


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(help="Systems; default: all.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
) -> None:
    """Run the systems one after the other, and write a table of all to RESULTS/systems.csv.

    The exit code is 1 if an energy is out of bounds.
    """
    missing, tables, n_runs = [], [], 0
    for name in names or sorted(path.stem for path in (ROOT / "systems").glob("*.yaml")):
        words = [str(Path(sys.executable).with_name("snakemake"))]
        words += ["--profile", "cluster_profiles/local", "--keep-going", "--quiet"]
        words += ["--config", f"system={name}", f"preset={PRESET}", f"results={results}"]
        path = ROOT / "systems" / f"{name}.yaml"
        warm = any(run.neighbour for run in load_scan(path, preset=PRESET).runs)
        settings = FROM_NEIGHBOURS if warm else NEAR_HARTREE_FOCK
        words += [f"set={' '.join(settings)}"]
        scan = load_scan(path, preset=PRESET, overrides=settings)
        n_runs += len(scan.runs)
        ended = subprocess.run(words, cwd=ROOT, check=False).returncode
        table = results / scan.name / "scan.csv"
        if not table.is_file():
            missing.append(f"{name}: snakemake ended with {ended}, and there is no table")
            continue
        tables.append(checked(scan, pd.read_csv(table)))
        held = int((tables[-1]["fault"] == "").sum())
        print(f"{name}: {held} of {len(scan.runs)} runs hold", flush=True)
        pd.concat(tables).to_csv(results / "systems.csv", index=False, float_format="%.6f")
    wrong = [
        f"{row.scan} {row.run_id}: {row.fault}"
        for table in tables
        for row in table[table["fault"] != ""].itertuples()
    ]
    print("\n".join(missing + wrong))
    print(f"{n_runs} runs, of which {len(wrong)} do not hold; no table of {len(missing)} systems")
    raise typer.Exit(1 if missing or wrong else 0)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.systems")

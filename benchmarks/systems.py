"""Every system of the project from end to end at the preset `smoke`, and whether its energies hold.

    .venv/bin/python -m benchmarks.systems --results results/smoke [NAME ...]

A run that was finished before is not repeated.
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from ferminet_core.scan import Scan, load_scan

ROOT = Path(__file__).parents[1]
PRESET = "smoke"
# In place of what the system files ask for, which is meant for larger presets.
SETTINGS = ["optimise.iterations=20", "inference.samples=100"]
# With twenty updates nobody expects correlation energy, but near Hartree-Fock it should be.
ALLOWED_ABOVE_HF = 0.020  # hartree an electron
ALLOWED_ERROR = 0.010  # hartree an electron

app = typer.Typer(add_completion=False, help=__doc__)


def faults(scan: Scan, table: pd.DataFrame) -> dict[str, str]:
    """What is wrong with the energies of a scan's table, by run."""
    found = {}
    rows = table.set_index("run_id")
    for run in scan.runs:
        row = rows.loc[run.run_id]
        electrons = sum(run.molecule.electrons)
        if row["state"] != "done":
            found[run.run_id] = f"{row['state']}: {row['verdict']}"
            continue
        above, error = row["energy_Eh"] - row["hf_Eh"], row["error_Eh"]
        limit = max(3 * error, ALLOWED_ABOVE_HF * electrons)
        wrong = []
        if not above < limit:
            wrong.append(f"{1e3 * above:.1f} mEh above Hartree-Fock, over {1e3 * limit:.1f}")
        if not error <= ALLOWED_ERROR * electrons:
            wrong.append(f"an error of {1e3 * error:.1f} mEh")
        if wrong:
            found[run.run_id] = ", ".join(wrong)
    return found


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(help="Systems; all if none.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
) -> None:
    """Run the systems one after the other; the exit code tells whether all energies hold."""
    wrong, n_runs = [], 0
    for name in names or sorted(path.stem for path in (ROOT / "systems").glob("*.yaml")):
        words = [str(Path(sys.executable).with_name("snakemake"))]
        words += ["--profile", "cluster_profiles/local", "--keep-going", "--quiet"]
        words += ["--config", f"system={name}", f"preset={PRESET}", f"results={results}"]
        words += [f"set={' '.join(SETTINGS)}"]
        scan = load_scan(ROOT / "systems" / f"{name}.yaml", preset=PRESET, overrides=SETTINGS)
        n_runs += len(scan.runs)
        ended = subprocess.run(words, cwd=ROOT, check=False).returncode
        path = results / scan.name / "scan.csv"
        if not path.is_file():
            wrong.append(f"{name}: snakemake ended with {ended}, and there is no table")
            continue
        found = faults(scan, pd.read_csv(path))
        wrong += [f"{scan.name} {run_id}: {line}" for run_id, line in found.items()]
        print(f"{name}: {len(scan.runs) - len(found)} of {len(scan.runs)} runs hold", flush=True)
    print("\n".join(wrong))
    print(f"{n_runs} runs, of which {len(wrong)} do not hold")
    raise typer.Exit(1 if wrong else 0)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.systems")

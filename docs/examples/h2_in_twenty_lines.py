"""The hydrogen molecule at 1.4 bohr: from two nuclei to an energy with an error bar.

python docs/examples/h2_in_twenty_lines.py
"""

import ferminet_core

# J. S. Sims, S. A. Hagstrom, J. Chem. Phys. 124, 094101 (2006), hartree.
EXACT = -1.174476


def show(progress: ferminet_core.Progress) -> None:
    """Print the stage, its iterations and the energy."""
    energy = "" if progress.energy is None else f"{progress.energy:10.4f} hartree"
    print(f"{progress.stage:>9} {progress.step:5d} of {progress.total:5d} {energy}", flush=True)


molecule = ferminet_core.molecule(["H 0 0 -0.7", "H 0 0 0.7"], units="bohr")
# A small network and few iterations: about a minute, most of it to compile.
config = ferminet_core.configuration("smoke", optimise={"iterations": 200})
run = ferminet_core.run(molecule, config, progress=show)

difference = 1e3 * (run.energy - EXACT)
print(f"energy   {run.energy:.5f} +- {run.error:.5f} hartree")
print(f"exact    {EXACT:.5f} hartree: {difference:+.2f} +- {1e3 * run.error:.2f} millihartree")
print(f"verdict  {run.verdict}")

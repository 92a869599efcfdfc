"""A finished scan of a diatomic: its table, its curve, and the electron density at the minimum.

python docs/examples/analyse_a_scan.py results/h2
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import ferminet_core
from ferminet_core.analysis.electron_density import plane_density, principal_frame, project

scan = ferminet_core.open(sys.argv[1])
figures = Path.cwd()
print(scan.table[["run_id", "energy_Eh", "error_Eh", "verdict"]].to_string(index=False))

# The curve; the distance is the only parameter of this scan.
done = scan.table[scan.table["state"] == "done"].sort_values("R")
figure, axes = plt.subplots(layout="constrained")
axes.plot(done["R"], done["hf_Eh"], "s--", label="Hartree-Fock")
axes.errorbar(done["R"], done["energy_Eh"], done["error_Eh"], fmt="o-", capsize=3, label="FermiNet")
axes.set(xlabel="R (bohr)", ylabel="energy (hartree)", title=scan.dataset.attrs["title"])
axes.legend()
figure.savefig(figures / "curve.png")

# The density at the lowest point, from the walkers that the inference stored.
run = scan.runs[str(done.loc[done["energy_Eh"].idxmin(), "run_id"])]
walkers = run.dataset("inference")["walkers"].to_numpy()  # (kept, walker, electron, xyz), bohr
nuclei = np.array(run.molecule.positions)  # (nucleus, xyz), bohr
frame = principal_frame(nuclei)
electrons = project(walkers.reshape(-1, *walkers.shape[2:]), frame)
density = plane_density(electrons[..., :2], project(nuclei, frame)[:, :2])

figure, axes = plt.subplots(layout="constrained")
mesh = axes.pcolormesh(*density.edges, density.density.T)
axes.plot(*project(nuclei, frame)[:, :2].T, "w+")
axes.set(xlabel="along the bond (bohr)", ylabel="across the bond (bohr)", aspect="equal")
figure.colorbar(mesh, label="electrons per square bohr")
figure.savefig(figures / "density.png")
print(f"written: curve.png and density.png, the density of {run.spec.run_id}")

import ferminet_core

molecule = ferminet_core.molecule(["H 0 0 -0.7", "H 0 0 0.7"], units="bohr")
config = ferminet_core.configuration("smoke", optimise={"iterations": 200})
run = ferminet_core.run(molecule, config)
print(f"E = {run.energy:.4f} +- {run.error:.4f} hartree, {run.verdict}")

psi = run.wavefunction()
electrons = psi.sample(moves=100)  # (walker, electron, xyz), bohr, from |psi|^2
energies = psi.local_energy(electrons)  # (walker,), hartree
log_psi = psi.log_psi(electrons)  # (walker,)

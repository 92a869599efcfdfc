"""The wavefunction psi and its derivatives."""

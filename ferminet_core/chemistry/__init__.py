"""Hartree-Fock and conventional energies by PySCF, and Hartree-Fock orbitals in JAX."""

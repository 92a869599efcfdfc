"""Devices and ranks: JAX set-up, the mesh of walkers, MPI."""

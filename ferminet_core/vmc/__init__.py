"""Sampling, local energies, gradients and optimisers."""

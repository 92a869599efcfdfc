"""Expectation values next to the energy, one file for each."""

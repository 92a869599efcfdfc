"""Optimisers of the energy."""

"""Runs one stage on files: attempt, resume, stop, progress, status."""

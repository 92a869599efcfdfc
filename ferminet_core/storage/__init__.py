"""Files that are whole or absent: artefacts, checkpoints, leases."""

"""The predicted cost of a scan."""

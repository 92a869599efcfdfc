"""Table, plots, report page and bibliography of a scan."""

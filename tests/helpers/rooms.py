"""The rooms of the package in the order in which they may import each other."""

# From the top down. Modules outside the rooms come first, and the entry point last.
ROOMS = (
    "errors",
    "units",
    "storage",
    "inputs",
    "parallel",
    "wavefunction",
    "chemistry",
    "vmc",
    "analysis",
    "stages",
    "runner",
    "planning",
    "report",
    "interface",
    "cli",
)

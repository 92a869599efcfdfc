"""FermiNet: neural-network wavefunctions for scans of bond lengths and other geometries.

Modules are layered (see `tests/test_layers.py`): what is computed (0), the wavefunction (1),
expectation values (2), stages (3), files and displays (4), command line (5). Importing the package
itself imports nothing else.
"""

__version__ = "0.1.0"

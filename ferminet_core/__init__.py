"""FermiNet: neural-network wavefunctions for scans of bond lengths and other geometries.

Importing the package loads nothing else. Each name of the public interface is loaded on its first
use (PEP 562), so that a script that only reads system files never loads JAX.

    load_system    a system file as a table of runs
    molecule       nuclei and electrons, built in code
    configuration  all settings, from a preset and overrides
    run            the stages of one run, in memory
    open           the results of a scan on disk

Lengths are in bohr and energies in hartree unless a name or an argument says otherwise.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferminet_core.errors import ArtefactError as ArtefactError
    from ferminet_core.errors import BrokenRunError as BrokenRunError
    from ferminet_core.errors import FermiNetError as FermiNetError
    from ferminet_core.errors import InputError as InputError
    from ferminet_core.inputs.config import Config as Config
    from ferminet_core.inputs.molecule import Molecule as Molecule
    from ferminet_core.inputs.scan import load_scan as load_system
    from ferminet_core.interface import Progress as Progress
    from ferminet_core.interface import Run as Run
    from ferminet_core.interface import ScanResults as ScanResults
    from ferminet_core.interface import configuration as configuration
    from ferminet_core.interface import molecule as molecule
    from ferminet_core.interface import open_results as open
    from ferminet_core.interface import run as run
    from ferminet_core.stages.frozen import Wavefunction as Wavefunction

__version__ = "0.1.0"

__all__ = [
    "ArtefactError",
    "BrokenRunError",
    "Config",
    "FermiNetError",
    "InputError",
    "Molecule",
    "Progress",
    "Run",
    "ScanResults",
    "Wavefunction",
    "configuration",
    "load_system",
    "molecule",
    "open",
    "run",
]

# The module of every public name, and its name there where that differs.
_HOMES = {
    **dict.fromkeys(
        ("ArtefactError", "BrokenRunError", "FermiNetError", "InputError"), "ferminet_core.errors"
    ),
    "Config": "ferminet_core.inputs.config",
    "Molecule": "ferminet_core.inputs.molecule",
    "load_system": "ferminet_core.inputs.scan:load_scan",
    "Wavefunction": "ferminet_core.stages.frozen",
    "open": "ferminet_core.interface:open_results",
    **dict.fromkeys(
        ("Progress", "Run", "ScanResults", "configuration", "molecule", "run"),
        "ferminet_core.interface",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, original = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(module), original or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Stage `reference`: the Hartree-Fock solution that a run starts from."""

import xarray as xr

from ferminet_core.chemistry import hartree_fock
from ferminet_core.inputs.run_spec import RunSpec


def run(spec: RunSpec) -> xr.Dataset:
    """Solve Hartree-Fock for the run's molecule. `hartree_fock.solve` describes the variables.

    Raises:
        InputError: The basis or method does not fit the molecule.
        BrokenRunError: No solution converged.
    """
    return hartree_fock.solve(spec.molecule, spec.config.reference)

"""Charge or spin that sits on one of equal atoms, against the symmetry of the molecule.

Of a state without spatial degeneracy the densities of charge and spin are as symmetric as the
nuclei, so certain components of their first moments vanish. A wavefunction of one determinant that
is optimised at a long bond may keep a charge on one atom: the energy hardly tells (NumPy only).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ferminet_core.chemistry.symmetry import centre, forbidden_part, operations
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.observable_table import OBSERVABLES

# Exceeded by noise in one of two million cases. In 350 runs of 4 to 20 000 iterations, with as few
# as 50 records, the largest deviation was 4.3 errors.
CLEAR_SIGMAS = 5.0
# Share of one electron on the wrong atom that does not matter. Of two states a and b, on either
# atom, cos(x) a + sin(x) b with a difference cos(2 x) of the weights loses cos(2 x)^2 / 2, here
# 1e-3, of the energy that their interaction brings.
SHARE = 0.05
# Equal atoms count as at least so far apart, bohr: about the size of an atom.
_LEAST_EXTENT = 1.0


def localisation_flags(inference: Mapping[str, Any], molecule: Molecule) -> list[str]:
    """Sentences on moments of charge and spin that contradict the symmetry of the nuclei.

    Args:
        inference: attributes of the inference; moments that it did not measure get no sentence.
        molecule: nuclei, charge and spin.
    """
    # All centres that treat equal nuclei alike are one in the directions where symmetry says 0.
    positions, numbers = np.array(molecule.positions), np.array(molecule.atomic_numbers, float)
    group = operations(positions, numbers)
    projector = forbidden_part(group)
    middle = centre(positions, numbers)
    moved = [np.linalg.norm(positions[o.permutation] - positions, axis=1).max() for o in group]
    limit = SHARE * max(*moved, _LEAST_EXTENT)
    flags = []
    for name, words, total, what in (
        ("dipole", "dipole moment", molecule.charge, "a charge"),
        ("spin_moment", "moment of the spin density", molecule.spin, "a spin"),
    ):
        observable = next(o for o in OBSERVABLES if o.name == name)
        mean, error = (
            np.array([float(inference.get(figure + end, np.nan)) for figure in observable.figures])
            for end in ("", "_error")
        )
        wrong = projector @ (mean - total * middle)
        size = float(np.linalg.norm(wrong))
        sigma = float(np.linalg.norm(wrong / size * error)) if size > 0.0 else 0.0
        if size > max(limit, CLEAR_SIGMAS * sigma):
            flags.append(
                f"the {words} is {size:.3f} +- {sigma:.3f} {observable.unit} in a direction where "
                f"symmetry says 0: {what} sits on one of equal atoms"
            )
    return flags

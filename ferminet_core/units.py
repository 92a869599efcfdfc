"""Conversion factors. Inside the package lengths are in bohr and energies in hartree.

CODATA 2018 recommended values: E. Tiesinga, P. J. Mohr, D. B. Newell, B. N. Taylor,
Rev. Mod. Phys. 93, 025010 (2021). The thermochemical calorie is 4.184 J and the Avogadro constant
6.02214076e23 / mol, both by definition.
"""

BOHR_IN_ANGSTROM = 0.529177210903
ANGSTROM_IN_BOHR = 1.0 / BOHR_IN_ANGSTROM

HARTREE_IN_EV = 27.211386245988
HARTREE_IN_JOULE = 4.3597447222071e-18
HARTREE_IN_KCAL_PER_MOL = HARTREE_IN_JOULE * 6.02214076e23 / 4184.0
HARTREE_IN_INVERSE_CM = 219474.63136320

ATOMIC_MASS_UNIT_IN_ELECTRON_MASSES = 1822.888486209

# "Chemical accuracy": 1 kcal/mol, in hartree.
CHEMICAL_ACCURACY = 1.0 / HARTREE_IN_KCAL_PER_MOL


def format_duration(seconds: float) -> str:
    """A duration for people: "45 s", "12 min", "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

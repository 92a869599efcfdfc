"""Molecules and networks of the speed measurements, here and in other codes."""

from typing import Any, NamedTuple

from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.overrides import resolve
from ferminet_core.inputs.run_spec import RunSpec

N2_BOND = 2.068  # bohr
LIH_BOND = 3.015  # bohr
CHAIN_SPACING = 1.8  # bohr


class Case(NamedTuple):
    """A molecule, the preset whose network it gets, and the number of walkers.

    atoms: element, x, y, z in bohr, one atom after the other
    """

    name: str
    atoms: str
    preset: str
    walkers: int

    @property
    def molecule(self) -> Molecule:
        """The molecule, without charge or spin."""
        words = [atom.split() for atom in self.atoms.split(", ")]
        return Molecule(
            symbols=tuple(w[0] for w in words),
            positions=tuple((float(w[1]), float(w[2]), float(w[3])) for w in words),
            charge=0,
            spin=0,
        )

    def spec(self, **settings: Any) -> RunSpec:
        """The run with these settings, ten moves, and KFAC with an inverse in every iteration."""
        fixed = {
            "mcmc.walkers": self.walkers,
            "mcmc.steps": 10,
            "optimise.optimiser": "kfac",
            "optimise.inverse_period": 1,
            "network.determinant_form": "dense",
            "network.envelope": "isotropic",
        }
        config = resolve(self.preset, {**fixed, **settings}, str)
        molecule = self.molecule
        return RunSpec(scan="s", run_id="r", geometry="r", molecule=molecule, config=config)


def chain(n: int) -> Case:
    """n hydrogen atoms on a line."""
    atoms = ", ".join(f"H 0 0 {CHAIN_SPACING * i:g}" for i in range(n))
    return Case(f"H{n}", atoms, "small", 64)


CASES = {
    case.name: case
    for case in (
        Case("LiH", f"Li 0 0 0, H 0 0 {LIH_BOND}", "small", 256),
        chain(10),
        Case("N2", f"N 0 0 0, N 0 0 {N2_BOND}", "paper", 64),
    )
}
ATOMS = {"Be": Case("Be", "Be 0 0 0", "small", 256)}
CHAINS = {f"H{n}": chain(n) for n in (4, 8, 12, 16, 20)}

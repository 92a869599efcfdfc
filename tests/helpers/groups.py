"""Groups of small molecules for the joint stages."""

from collections.abc import Callable, Sequence
from typing import Any

import xarray as xr

from ferminet_core.chemistry import hartree_fock
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import GroupSpec, Member, RunSpec
from ferminet_core.inputs.warm_starts import central
from helpers.molecules import with_pseudopotentials


def hydrogen(bond: float, charge: int = 0) -> Molecule:
    """H2, or its cation with a charge of 1."""
    positions = ((0, 0, -bond / 2), (0, 0, bond / 2))
    return Molecule(symbols=("H", "H"), positions=positions, charge=charge, spin=charge)


def settings(**sections: Any) -> Config:
    """Settings that a test can afford, in double precision; `sections` change some of them."""
    plain: dict[str, Any] = {
        "network": {
            "layers": 1,
            "one_electron_width": 8,
            "two_electron_width": 4,
            "determinants": 2,
        },
        "mcmc": {"walkers": 16, "burn_in": 20},
        "sharing": {"walkers": 16},
        "pretrain": {"min_iterations": 0, "max_iterations": 20, "check_every": 20},
        "optimise": {"optimiser": "spring", "iterations": 5},
        "runtime": {"block": 5, "precision": "float64"},
    }
    for name, values in sections.items():
        plain[name] = {**plain.get(name, {}), **values}
    return Config.model_validate(plain)


def lithium_hydride(bond: float) -> Molecule:
    """LiH with a pseudopotential for lithium: two electrons."""
    return with_pseudopotentials(("Li", "H"), ((0, 0, 0), (0, 0, bond)), choice={"Li": "ccecp"})


def group_of(
    bonds: Sequence[float],
    config: Config,
    charge: int = 0,
    make: Callable[[float], Molecule] | None = None,
) -> GroupSpec:
    """H2, its cation, or what `make` gives, at these bond lengths, bohr."""
    molecules = {f"r_{bond:g}": make(bond) if make else hydrogen(bond, charge) for bond in bonds}
    return GroupSpec(
        scan="s",
        run_id="shared",
        geometry="shared",
        molecule=molecules[central(molecules)],
        config=config,
        members=tuple(
            Member(run_id=name, parameters={"R": bond}, molecule=molecule)
            for bond, (name, molecule) in zip(bonds, molecules.items(), strict=True)
        ),
    )


def references_of(spec: GroupSpec) -> list[xr.Dataset]:
    """The Hartree-Fock solutions of the members."""
    reference = spec.config.reference
    return [hartree_fock.solve(member.molecule, reference) for member in spec.members]


def run_of(spec: GroupSpec, bond: float, **update: Any) -> RunSpec:
    """A run at a bond length that starts from the group."""
    molecule, name = hydrogen(bond), f"r_{bond:g}"
    config = spec.config.model_copy(
        update={"optimise": spec.config.optimise.model_copy(update=update)}
    )
    return RunSpec(
        scan="s", run_id=name, geometry=name, molecule=molecule, config=config, group="shared"
    )

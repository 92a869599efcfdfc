"""The stages of a run and of a group of runs, declared once.

Hashes, commands, workflow rules, status and reset all read this table. Snakemake imports it, so it
loads neither JAX, PySCF nor NumPy.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import did_you_mean


@dataclass(frozen=True)
class StageEntry:
    """One stage of a run or of a group of runs that share a wavefunction.

    Attributes:
        name: Name of the stage, of its command and of its files.
        help: Help text of its command.
        computed_by: `module:name` of what computes it. A stage on ranks names a class that takes
            the spec and the parents' datasets in the order of `parents`; a stage of one process
            names a function that takes the spec, and the number of cores if `cores` is set.
        sections: Sections of the settings that it adds to those of its parents.
        parents: Stages of the same run whose results it reads. A stage of a group reads those of
            the group, and those of runs from each member.
        neighbour: Stage of another run that it may start from; empty if there is none.
        from_neighbour: `module:name` of the class that computes it from a neighbour's result, which
            follows those of the parents.
        group: Stage of a group that it may start from; empty if there is none.
        from_group: `module:name` of the class that computes it from a group's result, which follows
            those of the parents.
        ranks: Whether it iterates, with checkpoints, on one or several ranks. Otherwise it is one
            call in one process.
        cores: Whether it takes a number of CPU cores.
        chain: Whether it belongs to the chain of a run that ends with the energy.
        of_group: Whether it is a stage of a group. Its class takes the spec of the group, and the
            parents' datasets, those of runs in the order of the members.
    """

    name: str
    help: str
    computed_by: str
    sections: tuple[str, ...]
    parents: tuple[str, ...] = ()
    neighbour: str = ""
    from_neighbour: str = ""
    group: str = ""
    from_group: str = ""
    ranks: bool = True
    cores: bool = True
    chain: bool = True
    of_group: bool = False

    @property
    def of_members(self) -> tuple[str, ...]:
        """The parents that are stages of each member of a group; none for a stage of a run."""
        return tuple(p for p in self.parents if self.of_group and not declared(p).of_group)


STAGES = (
    StageEntry(
        "reference",
        help="Solve Hartree-Fock for one run.",
        computed_by="ferminet_core.chemistry.reference:run",
        sections=("reference",),
        ranks=False,
        cores=False,
    ),
    StageEntry(
        "joint_pretrain",
        help="Fit one network to the Hartree-Fock orbitals of all geometries of a group.",
        computed_by="ferminet_core.stages.joint_pretrain:JointPretrain",
        sections=("seed", "network", "mcmc", "pretrain", "runtime", "sharing"),
        parents=("reference",),
        chain=False,
        of_group=True,
    ),
    StageEntry(
        "joint_optimise",
        help="Minimise the energies of all geometries of a group with one wavefunction.",
        computed_by="ferminet_core.stages.joint_optimise:JointOptimise",
        sections=("optimise", "pseudopotential"),
        parents=("joint_pretrain",),
        chain=False,
        of_group=True,
    ),
    StageEntry(
        "pretrain",
        help="Fit the network's orbitals to the Hartree-Fock orbitals of one run, or start from "
        "the network of its neighbour or of its group.",
        computed_by="ferminet_core.stages.pretrain:Pretrain",
        sections=("seed", "network", "mcmc", "pretrain", "runtime"),
        parents=("reference",),
        neighbour="optimise",
        from_neighbour="ferminet_core.stages.warm_start:WarmStart",
        group="joint_optimise",
        from_group="ferminet_core.stages.shared_start:SharedStart",
    ),
    StageEntry(
        "optimise",
        help="Minimise the energy of one run's wavefunction.",
        computed_by="ferminet_core.stages.optimise:Optimise",
        sections=("optimise", "pseudopotential"),
        parents=("pretrain",),
    ),
    StageEntry(
        "inference",
        help="Measure the energy of one run's optimised wavefunction, with its error.",
        computed_by="ferminet_core.stages.inference:Inference",
        sections=("inference",),
        parents=("optimise", "reference"),
    ),
    StageEntry(
        "conventional",
        help="Compute the conventional energies of one run: coupled cluster, NEVPT2, full CI and "
        "others.",
        computed_by="ferminet_core.chemistry.conventional:run",
        sections=("conventional",),
        ranks=False,
        chain=False,
    ),
)
_BY_NAME = {stage.name: stage for stage in STAGES}


def declared(name: str) -> StageEntry:
    """The entry of a stage.

    Raises:
        InputError: There is no stage of this name.
    """
    if name not in _BY_NAME:
        raise InputError(f"unknown stage {name!r}{did_you_mean(name, _BY_NAME)}")
    return _BY_NAME[name]


def chain() -> tuple[StageEntry, ...]:
    """The stages that lead to the energy, each after its parents."""
    return tuple(stage for stage in STAGES if stage.chain)


def of_runs() -> tuple[StageEntry, ...]:
    """The stages of a run: the chain and the conventional energies."""
    return tuple(stage for stage in STAGES if not stage.of_group)


def of_groups() -> tuple[StageEntry, ...]:
    """The stages of a group, each after its parents."""
    return tuple(stage for stage in STAGES if stage.of_group)


def walkers_key(stage: str) -> str:
    """The setting with the number of walkers of a stage, by dotted key."""
    return "sharing.walkers" if declared(stage).of_group else "mcmc.walkers"


def load_code(path: str) -> Any:
    """The object that a `module:name` of the table names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)

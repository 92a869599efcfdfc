"""Settings of the reference, the conventional energies and the pretraining."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ferminet_core.inputs.basis_sets import dunning, plain
from ferminet_core.inputs.messages import show
from ferminet_core.inputs.setting_fields import (
    COUNT,
    MAX_COUNT,
    RATE,
    STEPS,
    Resume,
    Section,
    Whole,
    resume_rule,
    why,
)

_FITS = why("every network meets it from the start")


def _one_name(value: object) -> object:
    """Refuse a basis set per element, which PySCF would accept."""
    if isinstance(value, dict):
        raise ValueError(  # noqa: TRY004  (pydantic reports this one)
            f"found {show(value)}; allowed: one basis set for all elements, such as 'cc-pvdz'"
        )
    return value


BasisName = Annotated[str, BeforeValidator(_one_name), Field(min_length=1, max_length=100)]
ConventionalMethod = Literal["rhf", "uhf", "ccsd(t)", "uccsd(t)", "nevpt2", "fci"]


class ReferenceConfig(Section):
    """The Hartree-Fock solution that a run starts from."""

    method: Literal["auto", "rhf", "rohf", "uhf"] = Field(
        "auto", description="Hartree-Fock method. auto: the stable solution of lowest energy."
    )
    basis: BasisName = Field("cc-pvdz", description="Gaussian basis set, by PySCF's name.")


class ConventionalConfig(Section):
    """Conventional energies to compare with. The Monte Carlo does not depend on them."""

    methods: Annotated[tuple[ConventionalMethod, ...], Field(strict=False)] = Field(
        (),
        description="Methods. Without any, the stage does not run. rhf means ROHF for open shells.",
        json_schema_extra=resume_rule(Resume.RESTART),
    )
    basis: Annotated[tuple[BasisName, ...], Field(strict=False)] = Field(
        ("cc-pvdz",),
        min_length=1,
        max_length=20,
        description="Gaussian basis sets, by PySCF's names.",
        json_schema_extra=resume_rule(Resume.RESTART) | why("each is a calculation of its own"),
    )
    extrapolate: bool = Field(
        False,
        description="Estimate the basis-set limit from the last two sets, which must be neighbours "
        "in one of Dunning's families.",
        json_schema_extra=resume_rule(Resume.RESTART),
    )

    @field_validator("methods", "basis")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for index, name in enumerate(names):
            if plain(name) in map(plain, names[:index]):
                raise ValueError(f"{name!r} is given twice; keep one")
        return names

    @model_validator(mode="after")
    def _neighbours(self) -> "ConventionalConfig":
        if not self.extrapolate:
            return self
        small, large = (dunning(name) for name in ("", *self.basis)[-2:])
        if small and large and small._replace(cardinal=small.cardinal + 1) == large:
            return self
        raise ValueError(
            f"extrapolate is true with basis {show(list(self.basis))}; allowed: a basis whose last "
            "two sets are neighbours, smaller first, in one of Dunning's families; "
            f"try {_neighbours_to_try(self.basis)}"
        )


def _neighbours_to_try(names: Sequence[str]) -> str:
    """Two neighbouring sets, those of a pseudopotential if one of the names is.

    Settings do not know the pseudopotentials, and other sets are refused with them.
    """
    found = [set_ for name in names if (set_ := dunning(name)) and set_.potential]
    label = found[0].potential if found else "ccecp"
    label = label.replace("ccecp", "ccecp-", 1).strip("-")
    sets = f"[{label}-cc-pvtz, {label}-cc-pvqz]"
    if found:
        return sets
    return f"[cc-pvtz, cc-pvqz], or with the pseudopotential ccecp {sets}"


class PretrainConfig(Section):
    """Fit of the network's orbitals to the Hartree-Fock orbitals."""

    optimiser: Literal["muon", "adam", "lamb"] = Field(
        "muon", description="Optimiser, from optax (2020: adam)."
    )
    learning_rate: float = Field(
        1e-2,
        gt=0,
        le=10,
        json_schema_extra=RATE,
        description="Initial learning rate. It falls as 1 / (1 + t/1000) at iteration t.",
    )
    min_iterations: Whole = Field(
        200,
        ge=0,
        le=MAX_COUNT,
        description="Smallest number of iterations.",
        json_schema_extra=COUNT,
    )
    max_iterations: Whole = Field(
        20000,
        ge=1,
        le=MAX_COUNT,
        description="Largest number of iterations.",
        json_schema_extra=resume_rule(Resume.GROW) | COUNT,
    )
    energy_tolerance: float = Field(
        0.01,
        gt=0,
        le=10,
        json_schema_extra=_FITS,
        description="Pretraining ends when the energy above Hartree-Fock's plus its error is at "
        "most this, in hartree per electron, and the orbitals fit.",
    )
    orbital_tolerance: float = Field(
        0.035,
        gt=0,
        le=10,
        description="Rms misfit of the orbitals at an electron, relative to their norm there, at "
        "which the orbitals fit.",
        json_schema_extra=_FITS,
    )
    steps: Whole = Field(
        2,
        ge=1,
        le=10_000,
        description="Moves of the walkers per iteration.",
        json_schema_extra=STEPS,
    )
    check_every: Whole = Field(
        100,
        ge=1,
        le=MAX_COUNT,
        description="Iterations between checks of the criterion.",
        json_schema_extra=COUNT,
    )

    @model_validator(mode="after")
    def _order(self) -> "PretrainConfig":
        if self.min_iterations > self.max_iterations:
            raise ValueError(
                f"min_iterations is {self.min_iterations}; allowed: at most max_iterations, "
                f"{self.max_iterations}; set both"
            )
        return self

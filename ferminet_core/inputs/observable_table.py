"""The observables next to the energy, once: what they are called and what they mean.

To add one, write `ferminet_core/vmc/observables/MODULE.py` with a function `evaluate`, and add an
entry to `OBSERVABLES`. Inference, figures and tables loop over this list. No JAX is loaded here.

All observables are averaged in one way: over the walkers whose value is finite into one number for
each call, and over the calls by reblocking (`analysis.statistics`).
"""

from typing import NamedTuple


class Observable(NamedTuple):
    """An expectation value that inference measures once in each compiled call.

    name: of the series in the inference artefact, and of the figures
    module: the file in `vmc/observables` that evaluates it
    unit: of the series
    heading: of a column in a report; meaning: a phrase for the documentation
    axis: the dimension of a vector, one letter for each component; empty for a scalar
    in_table: whether scan.csv has its figures; the dataset scan.zarr.zip always has
    """

    name: str
    module: str
    unit: str
    heading: str
    meaning: str
    axis: str = ""
    in_table: bool = True

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the series."""
        return ("call", self.axis) if self.axis else ("call",)

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the averages, one for each component; their errors end in `_error`."""
        return tuple(f"{self.name}_{letter}" for letter in self.axis) or (self.name,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the averages, each followed by that of its error."""
        return tuple(name for figure in self.figures for name in (figure, f"{figure}_error"))


OBSERVABLES = (
    Observable(
        name="s2",
        module="total_spin",
        unit="1",
        heading="⟨S²⟩",
        meaning="total spin, S(S+1) for a pure state",
    ),
    Observable(
        name="dipole",
        module="dipole",
        unit="e bohr",
        heading="dipole moment (e bohr)",
        meaning="dipole moment of nuclei minus electrons about the origin",
        axis="xyz",
        in_table=False,
    ),
    Observable(
        name="spin_moment",
        module="spin_moment",
        unit="bohr",
        heading="spin moment (bohr)",
        meaning="first moment of the spin density, up minus down electrons, about the origin",
        axis="xyz",
        in_table=False,
    ),
)

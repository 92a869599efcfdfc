"""The observables that inference measures next to the energy: names, units and meanings.

An observable is described here and evaluated in `ferminet_core.vmc.observables`. Statistics, table,
dataset and report go through `OBSERVABLES` and name none of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ferminet_core.analysis.statistics import Reblocking

SPIN_TOLERANCE = 0.05  # of <S^2>; a singlet with 2.5 % of triplet weight


def no_doubt(_mean: Reblocking, _spin: int) -> str:
    """The check of an observable that any state may have."""
    return ""


@dataclass(frozen=True)
class Observable:
    """An expectation value with a standard error.

    Attributes:
        name: the variable of the inference's artefact that holds its series: (call,), or
            (call, component) with components.
        heading: its name in words.
        unit: of the series and of the mean; empty for a pure number.
        meaning: a sentence without its full stop.
        components: their names, in the order of the series; empty for a scalar.
        in_table: whether scan.csv has columns for it, or only scan.zarr.zip.
        doubt: from the mean and the spin 2S that was asked for, a sentence on why the wavefunction
            may not be the state that was asked for; empty if there is no doubt.
    """

    name: str
    heading: str
    unit: str
    meaning: str
    components: tuple[str, ...] = ()
    in_table: bool = False
    doubt: Callable[[Reblocking, int], str] = no_doubt

    def figures(self) -> Iterator[tuple[str, str]]:
        """Names of the mean and of its standard error, for each component."""
        for component in self.components or ("",):
            name = f"{self.name}_{component}" if component else self.name
            yield name, f"{name}_error"


def _wrong_spin(s2: Reblocking, spin: int) -> str:
    total_spin = spin / 2
    excess = s2.mean - total_spin * (total_spin + 1)
    if abs(excess) > max(SPIN_TOLERANCE, 5 * s2.error):
        return f"<S^2> is {s2.mean:.3f}, {excess:+.3f} from that of the spin asked for"
    return ""


OBSERVABLES = (
    Observable(
        "s2",
        heading="⟨S²⟩",
        unit="",
        meaning="total spin <S^2>, which is S(S+1) for a pure spin state",
        in_table=True,
        doubt=_wrong_spin,
    ),
    Observable(
        "dipole",
        heading="dipole moment",
        unit="e bohr",
        meaning="dipole moment about the origin",
        components=("x", "y", "z"),
    ),
)

"""The curves of a scan: which of its runs belong together on one.

A curve is what one variant computes of one state over one parameter. Energies of different nuclei,
charges, spins or pseudopotentials are never on one curve, and neither are structures of the same
nuclei that are separate entries of `geometries`, such as a chain and a square. All that is fitted,
compared or drawn along a parameter is taken per curve. Hartree-Fock and published energies belong
to a state.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ferminet_core.inputs.molecule import Pseudopotential
from ferminet_core.inputs.origin import potential_label, potentials_of
from ferminet_core.inputs.parameter_values import entry_name
from ferminet_core.inputs.run_spec import RunSpec


class State(NamedTuple):
    """A molecule in one electronic state, at any of its geometries, with one set of potentials.

    entry: of `geometries`, empty for the atoms at the top of a system file; symbols: of the nuclei;
    spin: 2S; potentials: the pseudopotentials with their numbers, none for all electrons
    """

    entry: str
    symbols: tuple[str, ...]
    charge: int
    spin: int
    potentials: tuple[Pseudopotential, ...] = ()

    @property
    def formula(self) -> str:
        """The nuclei with their charge, such as "H2+"."""
        return formula(self.symbols, self.charge)


class Curve(NamedTuple):
    """The runs of one state in one variant over the scan's parameter.

    label: of the state, empty if the scan has no other; run_ids: in the order of the scan
    """

    state: State
    variant: str
    label: str
    run_ids: tuple[str, ...]

    @property
    def name(self) -> str:
        """State and variant, as far as the scan has several; may be empty."""
        return ", ".join(filter(None, (self.label, self.variant)))


def state_of(run: RunSpec) -> State:
    """The state that a run computes."""
    molecule = run.molecule
    entry = entry_name(run.geometry, run.parameters) if run.parameters else run.geometry
    potentials = potentials_of(molecule)
    return State(entry, molecule.symbols, molecule.charge, molecule.spin, potentials)


def varied_parameter(runs: Sequence[RunSpec]) -> str | None:
    """The parameter along the curves of a scan; None if there is none, or several.

    It is the scan's only parameter, or the only one that varies within a state and a variant. A
    fixed angle does not vary, and neither does a parameter whose cases choose the spin.
    """
    names = {name for run in runs for name in run.parameters}
    if len(names) > 1:
        values: dict[tuple[State, str, str], set[float]] = {}
        for run in runs:
            for name, value in run.parameters.items():
                values.setdefault((state_of(run), run.variant, name), set()).add(value)
        names = {name for (_, _, name), found in values.items() if len(found) > 1}
    return names.pop() if len(names) == 1 else None


def curves_of(runs: Sequence[RunSpec], parameter: str | None) -> list[Curve]:
    """The curves of a scan over a parameter, in the order of its runs; none without a parameter."""
    found: dict[tuple[State, str], list[str]] = {}
    for run in runs:
        if parameter in run.parameters:
            found.setdefault((state_of(run), run.variant), []).append(run.run_id)
    labels = state_labels(state for state, _ in found)
    return [
        Curve(state, variant, labels[state], tuple(run_ids))
        for (state, variant), run_ids in found.items()
    ]


def state_labels(states: Iterable[State]) -> dict[State, str]:
    """The shortest names that tell states apart; an empty one for the only state.

    A name is that of the entry of `geometries`, else the formula. Where these are equal, the charge
    and the spin follow as a system file gives them.
    """
    different = list(dict.fromkeys(states))
    if len(different) == 1:
        return {different[0]: ""}
    names = {state: state.entry or state.formula for state in different}
    counts = Counter(names.values())
    labels = {}
    for state, name in names.items():
        same = [other for other in different if names[other] == name]
        charge = f", charge {state.charge}" if len({s.charge for s in same}) > 1 else ""
        spin = f", spin {state.spin}" if len({s.spin for s in same}) > 1 else ""
        texts = _potential_texts(s.potentials for s in same)
        potential = f", {texts[state.potentials]}" if len(texts) > 1 else ""
        labels[state] = f"{name}{charge}{spin}{potential}" if counts[name] > 1 else name
    return labels


def _potential_texts(
    found: Iterable[tuple[Pseudopotential, ...]],
) -> dict[tuple[Pseudopotential, ...], str]:
    """The shortest texts that tell sets of potentials apart: names, elements, else a number."""
    different = list(dict.fromkeys(found))
    names = ["+".join(sorted({p.name for p in of})) or "all electrons" for of in different]
    if len(set(names)) < len(names):
        names = [potential_label(of) for of in different]
    numbered = [
        f"{name}, numbers {names[: place + 1].count(name)}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]
    return dict(zip(different, numbered, strict=True))


def formula(symbols: Iterable[str], charge: int = 0) -> str:
    """Nuclei in the order given, and their charge: "H2+", "LiH", "O 2-"."""
    text = "".join(f"{s}{n if n > 1 else ''}" for s, n in Counter(symbols).items())
    if charge == 0:
        return text
    sign = "+" if charge > 0 else "-"
    return f"{text}{sign}" if abs(charge) == 1 else f"{text} {abs(charge)}{sign}"

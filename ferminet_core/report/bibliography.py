"""The references to cite for a set of runs, chosen by their settings from `citations.bib`."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ferminet_core.inputs.basis_sets import element_basis, plain
from ferminet_core.inputs.molecule import ELEMENTS
from ferminet_core.inputs.pseudopotentials import canonical
from ferminet_core.inputs.run_spec import RunSpec

BIB_FILE = Path(__file__).with_name("citations.bib")
_ENTRY = re.compile(r"^@\w+\{(\w+),\n.*?^\}\n", re.MULTILINE | re.DOTALL)
# The key of a source in a table of literature, among other words: author and year.
_SOURCE_KEY = re.compile(r"\b[A-Z][A-Za-z]+(?:19|20)\d\d\b")


class Use(NamedTuple):
    """References for one purpose; `applies` says whether a run used it."""

    purpose: str
    keys: tuple[str, ...]
    applies: Callable[[RunSpec], bool]


def _always(run: RunSpec) -> bool:
    return True


def _optimised_by(optimiser: str) -> Callable[[RunSpec], bool]:
    return lambda run: run.config.optimise.optimiser == optimiser


def _warm(run: RunSpec) -> bool:
    return run.neighbour != ""


def _shared(run: RunSpec) -> bool:
    return run.group != ""


def _pretrained(run: RunSpec) -> bool:
    return not _warm(run)


def _pretrained_by(optimiser: str) -> Callable[[RunSpec], bool]:
    return lambda run: _pretrained(run) and run.config.pretrain.optimiser == optimiser


def _methods(run: RunSpec) -> Collection[str]:
    """Conventional methods in the run's settings."""
    return run.config.conventional.methods


def _asked_for(*methods: str) -> Callable[[RunSpec], bool]:
    return lambda run: not set(methods).isdisjoint(_methods(run))


def _open_shell_triples(run: RunSpec) -> bool:
    """Whether a (T) correction uses orbitals other than those of RHF."""
    methods = _methods(run)
    return "uccsd(t)" in methods or ("ccsd(t)" in methods and run.molecule.spin > 0)


def _extrapolated(run: RunSpec) -> bool:
    return bool(_methods(run)) and run.config.conventional.extrapolate


def _bases(run: RunSpec) -> Iterator[tuple[str, str]]:
    """The basis sets of a run, each with an element that uses it."""
    names = [run.config.reference.basis]
    if _methods(run):
        names += run.config.conventional.basis
    potentials = {p.symbol: p.name for p in run.molecule.pseudopotentials}
    for name in names:
        for symbol in run.molecule.symbols:
            yield element_basis(name, symbol, potentials), symbol


def _potentials(run: RunSpec) -> Iterator[tuple[str, str]]:
    """The pseudopotentials of a run, each with the element that has it."""
    for potential in run.molecule.pseudopotentials:
        yield potential.name, potential.symbol


def _has_potentials(run: RunSpec) -> bool:
    return bool(run.molecule.pseudopotentials)


def _as_in_the_later_code(run: RunSpec) -> bool:
    network = run.config.network
    return network.determinant_form == "dense" or network.envelope == "isotropic"


def _psiformer(run: RunSpec) -> bool:
    return run.config.network.kind == "psiformer"


def _point_of_a_curve(run: RunSpec) -> bool:
    return len(run.molecule.symbols) == 2 and bool(run.parameters)


USES: tuple[Use, ...] = (
    Use("the wavefunction, its pretraining and optimisation", ("Pfau2020",), _always),
    Use("Psiformer", ("vonGlehn2023",), _psiformer),
    Use("dense determinants or isotropic envelopes", ("Spencer2020",), _as_in_the_later_code),
    Use("scaled inputs", ("vonGlehn2023",), lambda run: run.config.network.inputs == "log"),
    Use("electron-electron cusps", ("Kato1957",), lambda run: run.config.network.jastrow),
    Use("sampling", ("Metropolis1953", "Hastings1970", "Umrigar1993"), _always),
    Use("the local energy by a forward Laplacian", ("Li2024",), _always),
    Use("folx, the forward Laplacian of Psiformer", ("Folx2023",), _psiformer),
    Use("pseudopotentials in the local energy", ("Mitas1991", "Fahy1990"), _has_potentials),
    Use("a FermiNet with pseudopotentials", ("Li2022",), _has_potentials),
    Use("KFAC", ("Martens2015", "KFACJAX2022"), _optimised_by("kfac")),
    Use("SPRING", ("Goldshlager2024",), _optimised_by("spring")),
    Use("MinSR, which SPRING extends", ("Chen2024",), _optimised_by("spring")),
    Use("Adam, in the optimisation", ("Kingma2015",), _optimised_by("adam")),
    Use("Muon, in the pretraining", ("Liu2025",), _pretrained_by("muon")),
    Use("Adam, in the pretraining", ("Kingma2015",), _pretrained_by("adam")),
    Use("LAMB, in the pretraining", ("You2020",), _pretrained_by("lamb")),
    Use("start configurations drawn from the reference", ("Hough2006",), _pretrained),
    Use("warm starts: walkers that follow the nuclei", ("Umrigar1989",), _warm),
    Use("warm starts: the order of the runs", ("Prim1957",), _warm),
    Use("one wavefunction for several geometries", ("Scherbela2022", "Gao2022"), _shared),
    Use("orbitals that change smoothly along a curve", ("Schoenemann1966", "Prim1957"), _shared),
    Use("walkers that follow the nuclei", ("Umrigar1989",), _shared),
    Use("slopes and differences of energies", ("Filippi2000",), _shared),
    Use("error bars by reblocking", ("Flyvbjerg1989", "Lee2011"), _always),
    Use("autocorrelation times", ("Sokal1997",), _always),
    Use("R-hat over walkers", ("Gelman2013",), _always),
    Use("the bootstrap over walkers", ("Efron1979",), _always),
    Use("the estimate at zero variance", ("Fu2024",), _always),
    Use("the estimator of <S^2>", ("Pauncz1979",), lambda run: run.molecule.n_down > 0),
    Use("bond length and frequency of a diatomic", ("Simons1973", "Jay2021"), _point_of_a_curve),
    Use("Hartree-Fock and its integrals", ("Sun2020", "Sun2018", "Sun2015"), _always),
    Use("stability of Hartree-Fock solutions", ("Seeger1977",), _always),
    Use("CCSD(T)", ("Raghavachari1989",), _asked_for("ccsd(t)", "uccsd(t)")),
    Use("CCSD(T) of open shells", ("Watts1993",), _open_shell_triples),
    Use("NEVPT2", ("Angeli2001",), _asked_for("nevpt2")),
    Use("CASSCF and its active space", ("Sun2017", "Sayfutyarova2017"), _asked_for("nevpt2")),
    Use("full CI", ("Knowles1984",), _asked_for("fci")),
    Use("Hartree-Fock at the basis-set limit", ("Halkier1999",), _extrapolated),
    Use("correlation at the basis-set limit", ("Helgaker1997", "Halkier1998"), _extrapolated),
    Use("automatic differentiation and compilation", ("JAX2018",), _always),
    Use("optax's optimisers", ("DeepMind2020",), _pretrained),
    Use("optax's optimisers", ("DeepMind2020",), _optimised_by("adam")),
    Use("the workflow", ("Molder2021",), _always),
)

_FIRST_ROW = ("B", "C", "N", "O", "F", "Ne")
_SECOND_ROW = ("Al", "Si", "P", "S", "Cl", "Ar")
_VALENCE, _ANY = r"(aug)?ccpv[dtq56]z", r"(aug)?cc(pv|pcv|pwcv)[dtq56]z"


def _row(first: str, last: str) -> tuple[str, ...]:
    return ELEMENTS[ELEMENTS.index(first) : ELEMENTS.index(last) + 1]


# Basis sets: their names (as `basis_sets.plain` gives them), elements and reference.
BASES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (_ANY, ("H", *_FIRST_ROW), "Dunning1989"),
    (_ANY, ("He",), "Woon1994"),
    (_ANY, ("Li", "Be", "Na", "Mg"), "Prascher2011"),
    (_ANY, _SECOND_ROW, "Woon1993"),
    (_ANY, _row("Sc", "Zn"), "Balabanov2005"),
    (_VALENCE, _row("Ga", "Kr"), "Wilson1999"),
    (r"augcc.*", ("H", *_FIRST_ROW), "Kendall1992"),
    (r"(aug)?ccpcv.*", _FIRST_ROW, "Woon1995"),
    (r"(aug)?ccpcv.*", _SECOND_ROW, "Peterson2002"),
    (r"(aug)?ccpwcv.*", (*_FIRST_ROW, *_SECOND_ROW), "Peterson2002"),
    (r"sto3g", _row("H", "Ne"), "Hehre1969"),
    (r"631g", ("H", "C", "N", "O", "F"), "Hehre1972"),
    (r"def2(svp|tzvpp?|qzvpp?)", ELEMENTS, "Weigend2005"),
)

_CCECP = r"ccecp"
# Pseudopotentials, in the same way. The sets of ccECP are published with their potentials.
POTENTIALS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (_CCECP, ("B", "C", "N", "O", "F", "S"), "Bennett2017"),
    (_CCECP, _row("Na", "Ar"), "Bennett2018"),
    (_CCECP, _row("Sc", "Zn"), "Annaberdiyev2018"),
    (_CCECP, ("H", "He", "Li", "Be", "F", "Ne", "K", "Ca", *_row("Ga", "Kr")), "Wang2019"),
    (_CCECP, ("Mo", "Pd", "Ag", "Te", "I", "W", "Ir", "Au", "Bi"), "Wang2022"),
    (r"bfd(pp)?", ("H", "He", *_row("Li", "Ca"), *_row("Ga", "Kr")), "Burkatzki2007"),
)
_SETS_OF_POTENTIALS = tuple(
    (rf"{pattern}(aug)?(cc|v).+", symbols, key) for pattern, symbols, key in POTENTIALS
)
# Sets without an entry, of a potential that has none either: one line is enough.
_OF_POTENTIAL = r"(ccecp|bfd).+"


@cache
def entries() -> dict[str, str]:
    """The BibTeX entries by key, in the file's order."""
    text = BIB_FILE.read_text(encoding="utf-8")
    return {match[1]: match[0] for match in _ENTRY.finditer(text)}


def purposes(runs: Sequence[RunSpec], sources: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The references to cite, and their purposes.

    Args:
        runs: the runs of one or more scans.
        sources: of the published energies that the runs are compared with, as in their tables.

    Returns:
        The purposes by key, in the order of importance; and a line for each pseudopotential, basis
        set and source without an entry.
    """
    found: dict[str, list[str]] = {}
    missing: list[str] = []
    for use in USES:
        if any(use.applies(run) for run in runs):
            for key in use.keys:
                found.setdefault(key, []).append(use.purpose)
    for what, table, used in (
        ("pseudopotential", POTENTIALS, _potentials),
        ("basis set", (*BASES, *_SETS_OF_POTENTIALS), _bases),
    ):
        for name, symbol in sorted({pair for run in runs for pair in used(run)}):
            keys = _keys(table, name, symbol)
            for key in keys:
                found.setdefault(key, []).append(f"{what} {name}")
            if not keys and not (used is _bases and re.fullmatch(_OF_POTENTIAL, plain(name))):
                missing.append(f"no entry for {what} {name} of {symbol}: cite its authors")
    for source in sorted(set(sources)):
        keys = [key for key in _SOURCE_KEY.findall(source) if key in entries()]
        for key in keys:
            found.setdefault(key, []).append("published energies for comparison")
        if not keys:
            missing.append(f"no entry for the source {source!r} of published energies")
    return {key: "; ".join(dict.fromkeys(texts)) for key, texts in found.items()}, missing


def _keys(table: Sequence[tuple[str, tuple[str, ...], str]], name: str, symbol: str) -> list[str]:
    return [
        key
        for pattern, symbols, key in table
        if symbol in symbols and re.fullmatch(pattern, canonical(name))
    ]


def bibliography(runs: Sequence[RunSpec], sources: Iterable[str], origin: str) -> str:
    """BibTeX entries for the runs, below comment lines with the purpose of each entry.

    Args:
        runs: as for `purposes`.
        sources: as for `purposes`.
        origin: the path of the runs, for the first line.
    """
    cited, missing = purposes(runs, sources)
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    width = max(len(key) for key in cited)
    lines = [f"% References for {count} of {origin}, and the purpose of each:"]
    lines += [f"%   {key:{width}}  {purpose}" for key, purpose in cited.items()]
    lines += [f"% {line}" for line in missing]
    lines.append("% To cite this program see CITATION.cff.")
    return "\n".join(lines) + "\n\n" + "\n".join(entries()[key] for key in cited)

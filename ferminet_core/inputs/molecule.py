"""A molecule: nuclei, positions, number of electrons and spin."""

import difflib
import hashlib
import json
import math
import re
from typing import Annotated, Any, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import dotted, error_lines, show

# In the order of their nuclear charge.
# fmt: off
ELEMENTS = (
    "H", "He",
    "Li", "Be", "B", "C", "N", "O", "F", "Ne",
    "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar",
    "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn",
    "Ga", "Ge", "As", "Se", "Br", "Kr",
    "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd",
    "In", "Sn", "Sb", "Te", "I", "Xe",
    "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb",
    "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn",
    "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu",
)
# fmt: on
# The elements that may have all of their electrons. The others need a pseudopotential: no basis
# set of PySCF's describes their cores, and relativity matters.
ALL_ELECTRON = ELEMENTS[:36]
# Nuclei nearer than this (bohr) are a slip, and no basis set suits them.
COINCIDENT = 1e-3
# Bounds of what users give (see `Molecule.make`). Stored molecules need not obey them.
MAX_COORDINATE = 1000.0  # bohr; there, single precision still resolves 1e-4 bohr
MAX_ELECTRONS = 200  # the largest published calculations of this kind have about a hundred
MAX_ATOMS = MAX_ELECTRONS
# Validation context of a molecule that a user gives.
GIVEN = {"given": True}

# What users of other programs write in place of an element.
_HINTS = {
    "D": "deuterium: write H; nuclei are fixed, so their mass does not matter",
    "T": "tritium: write H; nuclei are fixed, so their mass does not matter",
    "Tv": "a translation vector: periodic systems are not supported",
    "X": "dummy atoms are not supported; leave this line out",
    "Xx": "dummy atoms are not supported; leave this line out",
}
_GHOST = re.compile(r"(?i)(ghost|gh|bq|x)[-_:.@]?[a-z]{0,2}[0-9]*|@[a-z]+|[a-z]{1,2}:")
_LABEL = re.compile(r"(?i)([a-z]{1,2})(?:[-_:@#(.]?[0-9].*|@.+)")
ALLOWED_ELEMENTS = f"{ALL_ELECTRON[0]} to {ALL_ELECTRON[-1]}"
ALLOWED_WITH_POTENTIALS = f"{ALLOWED_ELEMENTS}, with a pseudopotential to {ELEMENTS[-1]}"

Position = tuple[float, float, float]


class RadialTerm(NamedTuple):
    """A term c r^(n - 2) exp(-a r^2) of a potential, hartree and bohr: n, a and c."""

    power: int
    exponent: float
    coefficient: float


class Pseudopotential(BaseModel):
    """What stands for the nucleus and the core of an element, as numbers.

    Besides -(Z - core) / r it has a local part U and a part U_l for each angular momentum l = 0, 1,
    ... of an electron about the nucleus (see docs/pseudopotentials.md).

    name: as the system file gives it; core: electrons that it replaces
    local: U; channels: U_0, U_1, ...
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    symbol: str
    name: str
    core: Annotated[int, Field(ge=0)]
    local: tuple[RadialTerm, ...]
    channels: tuple[tuple[RadialTerm, ...], ...]


class Molecule(BaseModel):
    """Nuclei at fixed positions (bohr) with electrons of given charge and spin.

    `spin` is 2S = n_up - n_down. Elements with one of `pseudopotentials` have valence electrons
    only, and no other electron counts. Construction raises pydantic's ValidationError; `make`
    raises an InputError instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    symbols: Annotated[tuple[str, ...], Field(min_length=1)]
    positions: tuple[Position, ...]
    charge: Annotated[int, Field(strict=True)] = 0
    spin: Annotated[int, Field(strict=True)] = 0
    # By symbol; of elements of the molecule only.
    pseudopotentials: tuple[Pseudopotential, ...] = ()

    @model_serializer(mode="wrap")
    def _without_empty(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Molecules with all electrons keep the hashes that they had without this key."""
        content: dict[str, Any] = dump(self)
        if not self.pseudopotentials:
            content.pop("pseudopotentials", None)
        return content

    @model_validator(mode="after")
    def _possible(self, info: ValidationInfo) -> "Molecule":
        for symbol in self.symbols:
            check_element(symbol)
            if symbol not in ALL_ELECTRON and symbol not in self.cores:
                raise ValueError(needs_potential(symbol))
        if len(self.symbols) != len(self.positions):
            raise ValueError(f"{len(self.symbols)} symbols for {len(self.positions)} positions")
        if info.context is GIVEN:
            self._check_computable()
        self._check_distances()
        self._check_electrons()
        return self

    def _check_distances(self) -> None:
        """Only atoms that are near each other in x can coincide."""
        order = sorted(range(len(self.positions)), key=lambda i: self.positions[i])
        for place, i in enumerate(order):
            for j in order[place + 1 :]:
                if self.positions[j][0] - self.positions[i][0] >= COINCIDENT:
                    break
                distance = math.dist(self.positions[i], self.positions[j])
                if distance < COINCIDENT:
                    first, second = sorted((i, j))
                    raise ValueError(
                        f"atoms {first + 1} ({self.symbols[first]}) and {second + 1} "
                        f"({self.symbols[second]}) coincide: {distance:.2g} bohr apart; "
                        f"allowed: at least {COINCIDENT:g}"
                    )

    def _check_electrons(self) -> None:
        n = self.n_electrons
        if n < 1:
            raise ValueError(
                f"charge: found {show(self.charge)}, which leaves {show(n)} electrons; "
                f"allowed: at most {n + self.charge - 1}"
            )
        if not 0 <= self.spin <= n or (n - self.spin) % 2:
            nearest = min(max(self.spin, n % 2), n)
            nearest -= (n - nearest) % 2
            few = ", ".join(str(spin) for spin in range(n % 2, min(n, n % 2 + 8) + 1, 2))
            listed = few + ", ..." * (n > n % 2 + 8)
            raise ValueError(
                f"spin: found {show(self.spin)} (2S, up minus down electrons), impossible with "
                f"{show(n)} electron{'s' * (n != 1)}; did you mean {show(nearest)}? "
                f"allowed: {listed}"
            )

    def _check_computable(self) -> None:
        """Refuse what no machine can compute, and anions that do not exist."""
        for i, position in enumerate(self.positions):
            if max(map(abs, position)) > MAX_COORDINATE:
                raise ValueError(
                    f"atom {i + 1} ({self.symbols[i]}): found a coordinate of "
                    f"{max(position, key=abs):g} bohr; allowed: at most {MAX_COORDINATE:g} from "
                    "the origin (single precision resolves 1e-4 bohr there)"
                )
        if self.charge < -len(self.symbols):
            raise ValueError(
                f"charge: found {show(self.charge)}; allowed: at least {-len(self.symbols)} "
                "(an atom in vacuum binds at most one electron more)"
            )
        if self.n_electrons > MAX_ELECTRONS:
            raise ValueError(
                f"found {self.n_electrons} electrons; allowed: at most {MAX_ELECTRONS} "
                "(the largest published calculations have about 100)"
            )

    @classmethod
    def make(
        cls,
        symbols: tuple[str, ...],
        positions: tuple[Position, ...],
        charge: int = 0,
        spin: int = 0,
        where: str = "molecule",
        pseudopotentials: tuple[Pseudopotential, ...] = (),
    ) -> "Molecule":
        """A molecule; positions in bohr.

        Raises:
            InputError: The molecule is impossible or too large; the line begins with `where`.
        """
        try:
            parts = {"symbols": symbols, "positions": positions, "charge": charge, "spin": spin}
            parts |= {"pseudopotentials": pseudopotentials}
            return cls.model_validate(parts, context=GIVEN)
        except ValidationError as error:
            lines = error_lines(
                error,
                lambda location: cls.model_fields,
                lambda location: f"{where}: {dotted(location)}" if location else where,
            )
            raise InputError("\n".join(line for _, line in lines)) from None

    @property
    def cores(self) -> dict[str, int]:
        """Electrons that pseudopotentials replace, by the elements that have one."""
        return {potential.symbol: potential.core for potential in self.pseudopotentials}

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """Places in the periodic table, in order of the atoms: these tell elements apart."""
        return tuple(ELEMENTS.index(symbol) + 1 for symbol in self.symbols)

    @property
    def charges(self) -> tuple[float, ...]:
        """Charges of the nuclei in order of the atoms, less those of cores with a pseudopotential.

        With pseudopotentials several elements have one charge, such as 4 of C and Si.
        """
        cores = self.cores
        return tuple(
            float(number - cores.get(symbol, 0))
            for symbol, number in zip(self.symbols, self.atomic_numbers, strict=True)
        )

    @property
    def n_electrons(self) -> int:
        """Number of electrons."""
        return round(sum(self.charges)) - self.charge

    @property
    def n_up(self) -> int:
        """Number of spin-up electrons."""
        return (self.n_electrons + self.spin) // 2

    @property
    def n_down(self) -> int:
        """Number of spin-down electrons; never more than `n_up`."""
        return (self.n_electrons - self.spin) // 2

    @property
    def electrons(self) -> tuple[int, int]:
        """(n_up, n_down)."""
        return self.n_up, self.n_down

    @property
    def nuclear_repulsion(self) -> float:
        """Coulomb energy of the nuclei among each other, hartree."""
        return math.fsum(
            self.charges[i] * self.charges[j] / math.dist(self.positions[i], self.positions[j])
            for i in range(len(self.symbols))
            for j in range(i)
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over nuclei, positions, charge, spin and pseudopotentials."""
        return hashlib.sha256(
            json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()
        ).hexdigest()


def needs_potential(symbol: str) -> str:
    """What is wrong with an element that has all of its electrons, and too many."""
    return (
        f"{symbol} needs a pseudopotential; give `pseudopotential`, such as ccecp; "
        f"without one allowed: {ALLOWED_ELEMENTS}"
    )


def check_element(symbol: str) -> None:
    """Check an element's symbol.

    Raises:
        ValueError: The element is unknown; the text has a suggestion.
    """
    if symbol in ELEMENTS:
        return
    # Case first: CL is Cl and not C.
    named = [e for e in ELEMENTS if e.lower() == symbol.lower()]
    label = _LABEL.fullmatch(symbol)
    if named:
        hint = f"did you mean {named[0]!r}?"
    elif symbol in _HINTS:
        hint = _HINTS[symbol]
    elif label and label[1].capitalize() in ELEMENTS:
        hint = f"labels are not supported; write {label[1].capitalize()}, and one basis set for all"
    elif _GHOST.fullmatch(symbol):
        hint = "ghost atoms are not supported; leave this line out"
    else:
        close = difflib.get_close_matches(symbol[:10], ELEMENTS, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]!r}?" if close else ""
    hint = f"{hint} " if hint.endswith("?") else f"{hint}; " * bool(hint)
    raise ValueError(f"unknown element {show(symbol)}; {hint}allowed: {ALLOWED_WITH_POTENTIALS}")

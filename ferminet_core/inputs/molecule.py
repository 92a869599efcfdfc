"""A molecule: nuclei, positions, number of electrons and spin."""

import hashlib
import json
import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import did_you_mean, dotted, error_lines

# In the order of their nuclear charge.
# fmt: off
ELEMENTS = (
    "H", "He",
    "Li", "Be", "B", "C", "N", "O", "F", "Ne",
    "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar",
    "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn",
    "Ga", "Ge", "As", "Se", "Br", "Kr",
)
# fmt: on
# Nuclei nearer than this (bohr) are a slip, and no basis set suits them.
COINCIDENT = 1e-3

Position = tuple[float, float, float]


class Molecule(BaseModel):
    """Nuclei at fixed positions (bohr) with electrons of given charge and spin.

    `spin` is 2S = n_up - n_down. Construction raises pydantic's ValidationError; `make` raises an
    InputError instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    symbols: Annotated[tuple[str, ...], Field(min_length=1)]
    positions: tuple[Position, ...]
    charge: Annotated[int, Field(strict=True)] = 0
    spin: Annotated[int, Field(strict=True)] = 0

    @model_validator(mode="after")
    def _possible(self) -> "Molecule":
        for symbol in self.symbols:
            check_element(symbol)
        if len(self.symbols) != len(self.positions):
            raise ValueError(f"{len(self.symbols)} symbols for {len(self.positions)} positions")
        self._check_distances()
        self._check_electrons()
        return self

    def _check_distances(self) -> None:
        for i, first in enumerate(self.positions):
            for j, second in enumerate(self.positions[:i]):
                distance = math.dist(first, second)
                if distance < COINCIDENT:
                    raise ValueError(
                        f"atoms {j + 1} ({self.symbols[j]}) and {i + 1} ({self.symbols[i]}) "
                        f"coincide: {distance:.2g} bohr apart; allowed: at least {COINCIDENT:g}"
                    )

    def _check_electrons(self) -> None:
        n = self.n_electrons
        if n < 1:
            raise ValueError(
                f"charge: found {self.charge}, which leaves {n} electrons; "
                f"allowed: at most {n + self.charge - 1}"
            )
        possible = range(n % 2, n + 1, 2)
        if self.spin not in possible:
            nearest = min(possible, key=lambda spin: (abs(spin - self.spin), spin))
            listed = ", ".join(str(s) for s in possible[:5]) + ", ..." * (len(possible) > 5)
            raise ValueError(
                f"spin: found {self.spin} (2S, up minus down electrons), impossible with {n} "
                f"electron{'s' * (n != 1)}; did you mean {nearest}? allowed: {listed}"
            )

    @classmethod
    def make(
        cls,
        symbols: tuple[str, ...],
        positions: tuple[Position, ...],
        charge: int = 0,
        spin: int = 0,
        where: str = "molecule",
    ) -> "Molecule":
        """A molecule; positions in bohr.

        Raises:
            InputError: The molecule is impossible; the line begins with `where`.
        """
        try:
            return cls(symbols=symbols, positions=positions, charge=charge, spin=spin)
        except ValidationError as error:
            lines = error_lines(
                error,
                lambda location: cls.model_fields,
                lambda location: f"{where}: {dotted(location)}" if location else where,
            )
            raise InputError("\n".join(line for _, line in lines)) from None

    @property
    def charges(self) -> tuple[float, ...]:
        """Nuclear charges, in order of the atoms."""
        return tuple(float(ELEMENTS.index(symbol) + 1) for symbol in self.symbols)

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
        """SHA-256 (hex) over nuclei, positions, charge and spin."""
        return hashlib.sha256(
            json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()
        ).hexdigest()


def check_element(symbol: str) -> None:
    """Check an element's symbol.

    Raises:
        ValueError: The element is unknown; the text has a suggestion.
    """
    if symbol not in ELEMENTS:
        # Case first: CL is Cl and not C.
        named = [e for e in ELEMENTS if e.lower() == symbol.lower()]
        hint = f"; did you mean {named[0]!r}?" if named else did_you_mean(symbol, ELEMENTS)
        raise ValueError(f"unknown element {symbol!r}{hint}")

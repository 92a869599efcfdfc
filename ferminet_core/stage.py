"""What every iterative stage is: a generator of (step, state, statistics) that opens no file."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr

Series = dict[str, np.ndarray]


class Step(NamedTuple):
    """The state after `step` iterations.

    step: iterations done; state: all that the rest of the loop depends on
    stats: one number per iteration since the step before, (iterations,)
    """

    step: int
    state: Any
    stats: Series


class Stage(Protocol):
    """A loop over iterations, driven from outside.

    name: the stage's name; total: iterations, an upper bound where a criterion may end the loop
    """

    name: str
    total: int

    def steps(self) -> Iterator[Step]:
        """Run the loop; yields after each block of iterations."""
        ...

    def result(self, state: Any, series: dict[str, np.ndarray]) -> xr.Dataset:
        """The finished artefact from the last state and the statistics of all steps."""
        ...

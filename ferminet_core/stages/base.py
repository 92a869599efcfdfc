"""The interface of an iterative stage: a generator of states and series that opens no file."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr

from ferminet_core.parallel import distributed

Series = dict[str, np.ndarray]
BLOCK_SECONDS = 2.0


class Step(NamedTuple):
    """The state after `step` iterations.

    step: iterations done; state: all that the rest of the loop depends on
    stats: the series recorded since the step before, by name; each may grow by any number of
    entries along its first axis
    notes: lines for the user
    """

    step: int
    state: Any
    stats: Series
    notes: tuple[str, ...] = ()


class Stage(Protocol):
    """A loop over iterations, driven from outside.

    The loop may stop after any step and continue from that step's state, in this process or in
    another. On the same devices it then gives the same bits as without the stop.

    Attributes:
        name: the stage's name.
        chunk: walkers per pass of the local energy, which affects rounding.
    """

    name: str
    chunk: int

    @property
    def total(self) -> int:
        """Iterations; an upper bound where a criterion may end the loop."""
        ...

    def initial(self) -> Any:
        """The state before the first iteration."""
        ...

    def place(self, state: Any) -> Any:
        """A state with its arrays on the devices that `steps` expects."""
        ...

    def steps(self, state: Any) -> Iterator[Step]:
        """Run the loop from a state to its end; yields after each block of iterations."""
        ...

    def result(self, state: Any, series: Series) -> xr.Dataset:
        """The finished artefact from the last state and the series of all steps."""
        ...


class BlockLength:
    """The number of iterations in a compiled call, from measured times.

    A request to stop waits for the end of a call, so a call should take `BLOCK_SECONDS` at most.
    The first call makes one iteration.
    """

    def __init__(self, largest: int) -> None:
        self._largest, self._next = largest, 1

    def next(self, left: int) -> int:
        """Iterations of the next call, at most `left`."""
        return min(self._next, left)

    def took(self, iterations: int, seconds: float) -> None:
        """Record the time of a call; rank 0's clock counts for all ranks."""
        fitting = int(BLOCK_SECONDS * iterations / max(seconds, 1e-9))
        fitting = distributed.ranks().from_root(fitting)
        self._next = max(1, min(self._largest, fitting))


class Recorder:
    """The series of a loop, gathered block by block."""

    def __init__(self, series: Series | None = None) -> None:
        self._blocks = {name: [values] for name, values in (series or {}).items()}

    def add(self, stats: Series) -> None:
        """Append a block's values, (entries, ...)."""
        for name, values in stats.items():
            self._blocks.setdefault(name, []).append(np.atleast_1d(np.asarray(values)))

    def series(self) -> Series:
        """Each series over all blocks."""
        for name, blocks in self._blocks.items():
            if len(blocks) > 1:  # so that the next call does not copy the old blocks one by one
                self._blocks[name] = [np.concatenate(blocks)]
        return {name: blocks[0] for name, blocks in self._blocks.items()}


def run(stage: Stage, on_step: Callable[[Step], None] = lambda step: None) -> tuple[Any, Series]:
    """Run a whole stage in memory; `on_step` is called with each step.

    Returns:
        The last state and the series.
    """
    state, recorder = stage.initial(), Recorder()
    for step in stage.steps(state):
        state = step.state
        recorder.add(step.stats)
        on_step(step)
    return state, recorder.series()

"""What a run has started from, and which parts of its optimisation's series are its own.

The series of a run that starts from a group begin with those of the joint optimisation at its
geometry. Its own iterations, if there are any, follow; their learning rate goes on from there.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Series = Mapping[str, np.ndarray]


class RunStart(NamedTuple):
    """What a run has started from.

    neighbour, group: names; both are empty for a run that was pretrained
    took_part: whether its geometry was one of those that the group was trained for
    joint: iterations of the joint optimisation at the beginning of its series; own: those after it
    walkers: of its geometry in the joint optimisation; 0 for as many as in the inference
    """

    neighbour: str = ""
    group: str = ""
    took_part: bool = True
    joint: int = 0
    own: int = 0
    walkers: int = 0

    @property
    def untrained(self) -> bool:
        """Whether nothing was optimised at the geometry."""
        return bool(self.group) and not self.took_part and self.own == 0

    @property
    def text(self) -> str:
        """In the words of the column `start`."""
        if not self.group:
            return "neighbour" if self.neighbour else "pretrained"
        joint = "joint" if self.took_part else "zero-shot"
        return f"{joint} + {self.own} iterations" if self.own else joint

    def own_part(self, series: Series) -> Series:
        """The iterations of its own; all of them for a run that has not started from a group."""
        return {name: values[self.joint :] for name, values in series.items()}


def of_group(text: str) -> bool:
    """Whether a text of the column `start` is that of a run that has started from a group."""
    return text.startswith(("joint", "zero-shot"))


def read_start(optimised: Mapping[str, Any], walkers: int = 0) -> RunStart:
    """What a run has started from.

    Args:
        optimised: Attributes of its optimisation.
        walkers: Of each geometry in the joint optimisation.
    """
    joint = int(optimised.get("n_joint_iterations", 0))
    return RunStart(
        neighbour=str(optimised.get("neighbour", "")),
        group=str(optimised.get("group", "")),
        took_part=bool(optimised.get("took_part", 1)),
        joint=joint,
        own=int(optimised.get("n_iterations", 0)) - joint,
        walkers=walkers,
    )

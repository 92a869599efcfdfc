"""What the fields of all settings have in common: types, bounds and rules for a resume."""

import enum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def whole(value: object) -> object:
    """2e4 is a float in YAML, and means 20000."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(whole)]


class Resume(enum.Enum):
    """Whether a setting may change when a stage that uses it is resumed or extended.

    NO: never; the results depend on it
    GROW: it may grow; the steps done are the first ones of the longer loop
    KEPT: never; where it is not set, a longer loop keeps the value of the shorter one
    ROUNDING: yes; results differ by rounding
    FREE: yes; results do not depend on it
    RESTART: yes. The stage is one call and starts over. The earlier files are kept.
    """

    NO = "no"
    GROW = "may grow"
    KEPT = "no (kept)"
    RESTART = "yes (starts over)"
    ROUNDING = "yes (rounding)"
    FREE = "yes"


UNCHANGEABLE = (Resume.NO, Resume.KEPT)


def resume_rule(rule: Resume) -> dict[str, Any]:
    """What a resume may do to a setting."""
    return {"resume": rule.value}


def why(reason: str) -> dict[str, Any]:
    """The reason for the bounds of a setting, for error lines and the page of settings."""
    return {"why": reason}


# Iterations, moves and records. The bound catches slips of the keyboard and keeps numbers of steps
# within 32 bits.
MAX_COUNT = 100_000_000
COUNT = why("a hundred million takes months on any machine")
RATE = why("parameters are of order 1, and a larger step leaves nothing of them")
STEPS = why("walkers forget their positions within tens of moves")


class Section(BaseModel):
    """Base class of settings. Refuses unknown keys, text for numbers, and numbers for booleans."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

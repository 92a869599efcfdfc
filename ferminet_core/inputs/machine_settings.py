"""Settings of precision, division of the work and checkpoints."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ferminet_core.inputs.setting_fields import (
    COUNT,
    MAX_COUNT,
    Resume,
    Section,
    Whole,
    resume_rule,
    whole,
    why,
)


class RuntimeConfig(Section):
    """Precision and division of the work."""

    precision: Literal["float32", "float64"] = Field(
        "float32", description="Precision of the network."
    )
    chunk: Annotated[int, Field(ge=1, le=10_000_000), BeforeValidator(whole)] | None = Field(
        None,
        description="Walkers per pass of the local energy. Default: as many as the cache allows.",
        json_schema_extra=resume_rule(Resume.ROUNDING) | why("there are no more walkers"),
    )
    block: Whole = Field(
        50,
        ge=1,
        le=1_000_000,
        description="Largest number of iterations per compiled call; fewer if they take seconds.",
        json_schema_extra=resume_rule(Resume.FREE) | why("a stage stops only between two calls"),
    )


class CheckpointConfig(Section):
    """Checkpoints of a stage during and after its run. No result depends on them."""

    every_minutes: float = Field(
        10.0,
        gt=0,
        le=525_600,
        description="Minutes between checkpoints; more if they would take over 2 % of the run.",
        json_schema_extra=resume_rule(Resume.FREE) | why("a year"),
    )
    every_steps: Annotated[int, Field(ge=1, le=MAX_COUNT), BeforeValidator(whole)] | None = Field(
        None,
        description="Steps between checkpoints, in addition. Default: only time counts.",
        json_schema_extra=resume_rule(Resume.FREE) | COUNT,
    )
    keep: Whole = Field(
        2,
        ge=1,
        le=1000,
        description="Number of checkpoints of a running stage that are kept.",
        json_schema_extra=resume_rule(Resume.FREE) | why("each holds the whole state"),
    )
    keep_finished: bool = Field(
        True,
        description="Keep the last checkpoint of a finished stage, so that it can be extended.",
        json_schema_extra=resume_rule(Resume.FREE),
    )

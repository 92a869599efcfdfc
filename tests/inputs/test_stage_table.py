"""The stage table: what the commands, the hashes and the workflow rely on."""

import importlib
import inspect

import pytest

from ferminet_core.errors import InputError
from ferminet_core.inputs.config import SECTIONS, Config, setting_keys
from ferminet_core.inputs.run_spec import flat_settings
from ferminet_core.inputs.stage_table import (
    STAGES,
    StageEntry,
    chain,
    declared,
    of_groups,
    of_runs,
)


@pytest.mark.parametrize("entry", STAGES, ids=lambda entry: entry.name)
def test_parents_come_before_their_stage(entry: StageEntry) -> None:
    before = [other.name for other in STAGES[: STAGES.index(entry)]]
    assert set(entry.parents) <= set(before)
    assert bool(entry.neighbour) == bool(entry.from_neighbour)
    if entry.neighbour:
        assert declared(entry.neighbour).chain
    assert bool(entry.group) == bool(entry.from_group)
    if entry.group:
        assert entry.group in before
        assert declared(entry.group).of_group


def test_the_chain_ends_with_the_energy() -> None:
    assert [entry.name for entry in chain()] == ["reference", "pretrain", "optimise", "inference"]


@pytest.mark.parametrize("entry", STAGES, ids=lambda entry: entry.name)
def test_what_computes_a_stage_takes_its_inputs(entry: StageEntry) -> None:
    inputs = 1 + len(entry.parents) if entry.ranks else 1 + entry.cores
    expected = {entry.computed_by: inputs}
    for other in filter(None, (entry.from_neighbour, entry.from_group)):
        expected[other] = inputs + 1
    if entry.of_members:  # any number of them
        expected[entry.computed_by] = 6
    for path, count in expected.items():
        module, _, name = path.partition(":")
        computes = getattr(importlib.import_module(module), name)
        inspect.signature(computes).bind(*range(count))


def test_every_section_of_settings_belongs_to_one_stage() -> None:
    used = [section for entry in of_runs() for section in entry.sections]
    # Checkpoints decide no result; the seed is a setting without a section.
    assert sorted(used) == sorted({"seed", *SECTIONS} - {"checkpoint", "sharing"})
    # A group has those of its runs up to the optimisation, and its own.
    joint = {section for entry in of_groups() for section in entry.sections}
    chain = [declared(name).sections for name in ("pretrain", "optimise")]
    assert joint == {"sharing", *chain[0], *chain[1]}


def test_a_stage_uses_the_settings_of_its_ancestors() -> None:
    found = flat_settings(Config(), "inference")
    others = ("conventional.", "checkpoint.", "sharing.")
    assert list(found) == [key for key in setting_keys() if not key.startswith(others)]
    joint = [key for key in flat_settings(Config(), "joint_optimise") if key not in found]
    assert joint == [key for key in setting_keys() if key.startswith("sharing.")]
    assert all(key.startswith("conventional.") for key in flat_settings(Config(), "conventional"))


def test_an_unknown_stage_has_a_suggestion() -> None:
    with pytest.raises(InputError, match="unknown stage 'optimize'; did you mean 'optimise'"):
        declared("optimize")

"""What differs between a result's spec and what the scan asks for."""

from pathlib import Path

import pytest
from helpers.scans import make_scan

from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.origin import describe, differences, same_molecule
from ferminet_core.inputs.run_spec import RunSpec, parse_spec

H2 = "units: bohr\natoms: [H 0 0 -R/2, H 0 0 R/2]\npreset: smoke\nparameters: {R: [1.4]}\n"


def run_of(folder: Path, text: str) -> RunSpec:
    folder.mkdir(exist_ok=True)
    (run,) = make_scan(folder, text).runs
    return run


def stored(run: RunSpec) -> RunSpec:
    """A run's spec as an artefact holds it."""
    return parse_spec(run.model_dump_json(), "a test")


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (
            "units: bohr",
            "units: angstrom",
            "H1-H2 = 1.4 bohr, the file says 2.64562 bohr (units: bohr, now angstrom)",
        ),
        ("R/2]", "R/2+0.1]", "computed with H1-H2 = 1.4 bohr, the file says 1.5 bohr"),
        ("H 0 0 R", "F 0 0 R", "computed for H*2, the file says H F"),
        ("preset", "spin: 2\npreset", "computed with spin 0, the file says 2"),
        (
            "preset: smoke",
            "charge: -1\nspin: 1\npreset: smoke",
            "computed with charge 0, the file says -1; computed with spin 0, the file says 1",
        ),
        ("[H 0 0 -R/2, H 0 0 R/2]", "[H 0 0 0, H 0 0 R]", "the file turns or moves"),
        ("preset", "overrides: {seed: 3}\npreset", "seed 0, the file says 3"),
        (
            "preset",
            "overrides: {optimise.learning_rate: 0.02}\npreset",
            "optimise.learning_rate 0.05, the file says 0.02",
        ),
    ],
)
def test_what_differs_is_named(tmp_path: Path, old: str, new: str, found: str) -> None:
    made = stored(run_of(tmp_path / "1", H2))
    wanted = run_of(tmp_path / "2", H2.replace(old, new))
    assert found in describe(differences(made, wanted, "inference"))
    assert differences(made, stored(made), "inference") == []


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    made = run_of(tmp_path / "1", H2)
    other = run_of(tmp_path / "2", H2.replace("smoke", "paper"))
    assert describe(differences(made, other, "inference")).endswith(" more")


@pytest.mark.parametrize(
    "setting",
    [
        "optimise.iterations: 500",  # the table says how many each run has
        "inference.samples: 500",
        "pretrain.max_iterations: 30000",
        "runtime.chunk: 7",
        "checkpoint.keep: 5",
        "conventional.methods: [uhf]",
        "optimise.learning_rate: 0.05",  # as by default
    ],
)
def test_what_a_resume_may_change_is_no_difference(tmp_path: Path, setting: str) -> None:
    runs = [
        run_of(tmp_path / "1", H2),
        run_of(tmp_path / "2", f"{H2}overrides: {{{setting}}}\n"),
    ]
    for made, wanted in (runs, runs[::-1]):
        assert differences(stored(made), wanted, "inference") == []
        assert differences(stored(made), wanted, "conventional") == []


def test_a_new_default_is_no_difference(tmp_path: Path) -> None:
    """Neither of an unchanged request, nor next to a setting that was raised."""
    run = run_of(tmp_path, H2)
    older = run.config.model_copy(
        update={"optimise": run.config.optimise.model_copy(update={"clip": 4.0})}
    )
    made = stored(run.model_copy(update={"config": older}))
    assert differences(made, run, "inference") == []
    longer = run_of(tmp_path, f"{H2}overrides: {{optimise.iterations: 500}}\n")
    assert differences(made, longer, "inference") == []
    asked = run_of(tmp_path, f"{H2}overrides: {{optimise.clip: 5.0}}\n")
    assert differences(made, asked, "inference") == ["optimise.clip 4.0, the file says 5.0"]


def test_a_setting_counts_for_the_stages_that_use_it(tmp_path: Path) -> None:
    made = stored(run_of(tmp_path / "1", H2))
    wanted = run_of(tmp_path / "2", f"{H2}overrides: {{inference.thin: 3}}\n")
    assert differences(made, wanted, "optimise") == []
    assert differences(made, wanted, "inference") != []


def test_starts(tmp_path: Path) -> None:
    text = H2.replace("[1.4]", "[1.4, 2.0]") + "overrides: {optimise.delay: 1000}\n"
    warm = "warm_start: {anchors: [r_1.4]"
    cold, near, far = (
        make_scan(tmp_path, text + more).runs[1]
        for more in ("", f"{warm}}}\n", f"{warm}, share: 0.5}}\n")
    )
    assert (cold.neighbour, near.neighbour) == ("", "r_1.4")
    # A point that is added may make another one the anchor.
    assert differences(stored(near), cold, "inference") == []
    assert differences(stored(cold), near, "inference") == []
    assert differences(stored(near), far, "inference") == [
        "optimise.delay 200.0, the file says 500.0"
    ]
    other = near.model_copy(update={"neighbour": "r_9"})
    assert differences(stored(other), near, "inference") == []


def test_positions_within_rounding_are_the_same() -> None:
    def h2(z: float) -> Molecule:
        return Molecule(symbols=("H", "H"), positions=((0, 0, 0), (0, 0, z)))

    assert same_molecule(h2(1.4), h2(1.4 + 5e-9))
    assert not same_molecule(h2(1.4), h2(1.4 + 2e-8))

"""From system file to run table and spec files: expansion, every validation error, upkeep."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.paths import ROOT

from ferminet_core.analysis.literature import read_published
from ferminet_core.errors import InputError
from ferminet_core.inputs import overrides
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.overrides import presets, resolve
from ferminet_core.inputs.run_spec import RunSpec, load_spec
from ferminet_core.inputs.scan import Scan, check_bases, load_scan
from ferminet_core.inputs.spec_files import conventional_spec, load_run, write_specs
from ferminet_core.inputs.system_file import json_schema
from ferminet_core.units import ANGSTROM_IN_BOHR

H2 = """
units: bohr
atoms:
  - H 0 0 -R/2
  - H 0 0 R/2
parameters:
  R: [1.0, 1.4, 5]
preset: smoke
"""

Load = Callable[..., Scan]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes a system file of this text and loads it."""

    def write_and_load(text: str, **options: Any) -> Scan:
        path = tmp_path / "h2.yaml"
        path.write_text(text)
        return load_scan(path, **options)

    return write_and_load


def ids(scan: Scan) -> list[str]:
    return [run.run_id for run in scan.runs]


# -- expansion --


def test_one_parameter(load: Load) -> None:
    scan = load(H2)
    assert (scan.name, scan.preset, scan.parameters) == ("h2", "smoke", ("R",))
    assert ids(scan) == ["r_1", "r_1.4", "r_5"]
    run = scan.runs[1]
    assert (run.scan, run.geometry, run.variant) == ("h2", "r_1.4", "")
    assert run.parameters == {"R": 1.4}
    assert run.molecule.positions == ((0.0, 0.0, -0.7), (0.0, 0.0, 0.7))
    assert run.molecule.symbols == ("H", "H")


def test_values_as_range_named_grid_and_single_number(load: Load) -> None:
    text = H2.replace("[1.0, 1.4, 5]", "{}")
    assert ids(load(text.format("{start: 0.8, stop: 6, num: 5}"))) == [
        "r_0.8",
        "r_2.1",
        "r_3.4",
        "r_4.7",
        "r_6",
    ]
    assert ids(load(text.format("{start: 3, stop: 1, num: 2}"))) == ["r_3", "r_1"]
    assert ids(load(text.format("1.4"))) == ["r_1.4"]
    named = text.format("{grid: bonds}") + "grids: {bonds: [1, 2], others: [3]}\n"
    assert ids(load(named)) == ["r_1", "r_2"]
    named = text.format("{grid: bonds}") + "grids: {bonds: {start: 1, stop: 2, num: 3}}\n"
    assert ids(load(named)) == ["r_1", "r_1.5", "r_2"]


def test_a_range_has_the_values_of_a_list(load: Load) -> None:
    """0.1 + 2 * 0.1 is not the double 0.3; name, value and position are those of 0.3."""
    text = H2.replace("[1.0, 1.4, 5]", "{}")
    in_range = load(text.format("{start: 0.1, stop: 0.4, num: 4}")).runs[2]
    listed = load(text.format("[0.3]")).runs[0]
    assert in_range == listed


def test_several_parameters_make_a_product(load: Load) -> None:
    scan = load(
        """
units: angstrom
preset: smoke
atoms:
  - O 0 0 0
  - H 0 0 r
  - H 0 r*sin(radians(theta)) r*cos(radians(theta))
parameters:
  r: [0.9, 1]
  theta: [90, 104.5]
"""
    )
    assert ids(scan) == ["r_0.9_theta_90", "r_0.9_theta_104.5", "r_1_theta_90", "r_1_theta_104.5"]
    x, y, z = scan.runs[3].molecule.positions[2]
    angle = math.radians(104.5)
    expected = (0.0, math.sin(angle) * ANGSTROM_IN_BOHR, math.cos(angle) * ANGSTROM_IN_BOHR)
    assert (x, y, z) == pytest.approx(expected, rel=1e-14)  # a few roundings


def test_a_single_geometry_has_the_name_of_the_scan(load: Load) -> None:
    scan = load("name: hydrogen\n" + ATOM)
    assert ids(scan) == ["hydrogen"]
    assert scan.runs[0].parameters == {}


def test_list_of_geometries_with_their_own_charge_spin_and_settings(load: Load) -> None:
    scan = load(
        """
preset: smoke
units: bohr
overrides: {mcmc.walkers: 128}
geometries:
  - {name: li, atoms: [Li 0 0 0], spin: 1}
  - {name: li+, atoms: [Li 0 0 0], charge: 1, overrides: {mcmc: {walkers: 32}}}
  - {name: no, atoms: [N 0 0 0, O 0 0 1.15], units: angstrom, spin: 1}
"""
    )
    assert ids(scan) == ["li", "li+", "no"]
    assert [run.molecule.electrons for run in scan.runs] == [(2, 1), (1, 1), (8, 7)]
    assert [run.config.mcmc.walkers for run in scan.runs] == [128, 32, 128]
    assert scan.runs[2].molecule.positions[1][2] == 1.15 * ANGSTROM_IN_BOHR


def test_geometries_take_the_parameters_that_they_use(load: Load) -> None:
    """A curve and the atoms that it dissociates into, in one table."""
    scan = load(
        H2
        + """
geometries:
  - {name: h, atoms: [H 0 0 0], spin: 1}
  - {name: h2+, atoms: [H 0 0 0, H 0 0 R], charge: 1, spin: 1}
  - {name: heh+, atoms: [He 0 0 0, H 0 0 R], charge: 1, parameters: {R: 1.46}}
"""
    )
    assert ids(scan) == [
        "r_1",
        "r_1.4",
        "r_5",
        "h",
        "h2+_r_1",
        "h2+_r_1.4",
        "h2+_r_5",
        "heh+_r_1.46",
    ]
    assert [run.parameters for run in scan.runs[3:5]] == [{}, {"R": 1.0}]
    assert scan.parameters == ("R",)


def test_parameters_of_a_listed_geometry_may_be_mere_labels(load: Load) -> None:
    scan = load(
        "units: bohr\ngeometries: [{name: a, atoms: [He 0 0 0], parameters: {label: 3}}]\n"
        "preset: smoke\n"
    )
    assert scan.runs[0].parameters == {"label": 3.0}


def test_variants(load: Load) -> None:
    scan = load(
        H2.replace("[1.0, 1.4, 5]", "[1, 2]")
        + """
variants:
  - {name: base}
  - {name: adam, overrides: {optimise.optimiser: adam}}
  - {name: seed1, overrides: {seed: 1}}
"""
    )
    assert ids(scan) == ["r_1", "r_1+adam", "r_1+seed1", "r_2", "r_2+adam", "r_2+seed1"]
    assert [run.variant for run in scan.runs[:3]] == ["", "adam", "seed1"]
    assert [run.geometry for run in scan.runs[:3]] == ["r_1"] * 3
    assert [run.config.optimise.optimiser for run in scan.runs[:3]] == ["kfac", "adam", "kfac"]
    assert [run.config.seed for run in scan.runs[:3]] == [0, 0, 1]


def test_cases_change_spin_charge_and_settings(load: Load) -> None:
    scan = load(
        H2
        + """
cases:
  - {where: R > 4, overrides: {reference.method: uhf}}
  - {where: R > 1.2 and R < 2, spin: 2}
  - {where: R == 1, charge: 1, spin: 1}
"""
    )
    assert [run.config.reference.method for run in scan.runs] == ["auto", "auto", "uhf"]
    assert [run.molecule.electrons for run in scan.runs] == [(1, 0), (2, 0), (1, 1)]


def test_cases_leave_geometries_without_their_parameter_alone(load: Load) -> None:
    scan = load(
        H2
        + """
geometries: [{name: h, atoms: [H 0 0 0], spin: 1}]
cases: [{where: not R > 4, overrides: {seed: 7}}]
"""
    )
    assert [run.config.seed for run in scan.runs] == [7, 7, 0, 0]


def test_a_parameter_may_be_used_by_cases_alone(load: Load) -> None:
    scan = load(
        "units: bohr\natoms: [Li 0 0 0]\nspin: 1\nparameters: {q: [0, 1]}\npreset: smoke\n"
        "cases: [{where: q == 1, charge: 1, spin: 0}]\n"
    )
    assert [(run.run_id, run.molecule.n_electrons) for run in scan.runs] == [("q_0", 3), ("q_1", 2)]


def test_precedence(load: Load) -> None:
    """Each level sets what the level above it leaves alone, and beats all below."""
    keys = [
        "mcmc.walkers",  # set by the preset, too
        "mcmc.steps",
        "mcmc.burn_in",
        "optimise.inverse_period",
        "inference.thin",
        "runtime.block",
    ]
    levels = ["file", "variant", "geometry", "case", "command line"]

    def overrides(level: int) -> str:
        # Level 1 sets all keys but the first, level 2 all but the first two, and so on.
        return json.dumps(dict.fromkeys(keys[level + 1 :], 10 * (level + 1)))

    scan = load(
        f"""
units: bohr
preset: smoke
overrides: {overrides(0)}
variants: [{{name: v, overrides: {overrides(1)}}}]
geometries:
  - {{name: g, atoms: [He 0 0 R], parameters: {{R: [0]}}, overrides: {overrides(2)}}}
cases: [{{where: R < 1, overrides: {overrides(3)}}}]
""",
        overrides=[f"{keys[5]}=50"],
    )
    (run,) = scan.runs
    found = [getattr(getattr(run.config, s), n) for s, n in (key.split(".") for key in keys)]
    smoke = presets()["smoke"]["mcmc.walkers"]
    assert smoke != Config().mcmc.walkers
    assert found == [smoke, *(10 * (i + 1) for i in range(len(levels)))]


def test_command_line_overrides(load: Load) -> None:
    run = load(
        H2,
        overrides=[
            "mcmc.walkers=32",
            "optimise.learning_rate = 1e-3",
            "reference.basis=6-31g",
            "conventional.methods=[fci, ccsd(t)]",
            "runtime.chunk=null",
        ],
    ).runs[0]
    assert run.config.mcmc.walkers == 32
    assert run.config.optimise.learning_rate == 1e-3
    assert run.config.reference.basis == "6-31g"
    assert run.config.conventional.methods == ("fci", "ccsd(t)")
    assert load(H2, overrides={"mcmc": {"walkers": 32}}).runs[0].config.mcmc.walkers == 32


def test_another_preset_has_another_folder(load: Load) -> None:
    assert load(H2, preset="smoke").name == "h2"
    assert load(H2, preset="small").name == "h2-small"
    assert load(H2 + "name: hydrogen\n", preset="small").name == "hydrogen-small"
    assert load(H2.replace("preset: smoke", ""), preset="paper").name == "h2"
    config = load(H2, preset="small").runs[0].config
    assert config.network.layers == 3
    assert config == resolve("small", {}, str)


def test_seed_key_and_yaml_numbers(load: Load) -> None:
    """YAML 1.2: 1e-3 and 2e4 are numbers."""
    text = H2 + "seed: 5\noverrides: {optimise: {learning_rate: 1e-3, iterations: 2e4}}\n"
    config = load(text).runs[0].config
    assert (config.seed, config.optimise.iterations) == (5, 20_000)
    assert config.optimise.learning_rate == 1e-3


def test_xyz_files(load: Load, tmp_path: Path) -> None:
    (tmp_path / "water.xyz").write_text(
        "3\nwater, in angstrom\nO 0 0 0.1173 0.5\n H 0.0 0.7572 -0.4692\nH 0 -0.7572 -4.692e-1\n\n"
    )
    scan = load("preset: smoke\nunits: angstrom\nxyz: water.xyz\n")
    assert scan.runs[0].molecule.symbols == ("O", "H", "H")
    assert scan.runs[0].molecule.positions[2] == (
        0.0,
        -0.7572 * ANGSTROM_IN_BOHR,
        -0.4692 * ANGSTROM_IN_BOHR,
    )


def test_literature_is_named_and_never_opened(load: Load, tmp_path: Path) -> None:
    entry = "{name: exact, file: literature/none.csv, match: {R_bohr: R}, kind: exact}"
    (literature,) = load(H2 + f"literature: [{entry}]\n").literature
    assert literature.file == str(tmp_path / "literature" / "none.csv")
    assert (literature.value, literature.error, literature.where) == ("value", None, {})


def test_stage_seeds_differ_by_seed_run_and_stage(load: Load) -> None:
    first, second, _ = load(H2).runs
    other = load(H2 + "seed: 1\n").runs[0]
    stages = ("pretrain", "optimise", "inference")
    seeds = {run.stage_seed(stage) for run in (first, second, other) for stage in stages}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**32 for seed in seeds)
    # Fixed for ever: a run that is repeated in years must draw the same numbers.
    assert first.stage_seed("optimise") == 989114941


def test_stage_hashes_see_what_a_stage_depends_on(load: Load) -> None:
    stages = ("reference", "pretrain", "optimise", "inference", "conventional")

    def changed(*overrides: str) -> list[bool]:
        before, after = load(H2).runs[0], load(H2, overrides=overrides).runs[0]
        return [before.stage_hash(stage) != after.stage_hash(stage) for stage in stages]

    assert changed() == [False, False, False, False, False]
    assert changed("inference.thin=3") == [False, False, False, True, False]
    assert changed("inference.accuracy=3e-4") == [False, False, False, False, False]
    assert changed("optimise.clip=3") == [False, False, True, True, False]
    assert changed("network.layers=1") == [False, True, True, True, False]
    assert changed("seed=1") == [False, True, True, True, False]
    assert changed("reference.basis=sto-3g") == [True, True, True, True, False]
    assert changed("conventional.methods=[fci]") == [False, False, False, False, True]
    one, two, _ = load(H2).runs
    assert all(one.stage_hash(stage) != two.stage_hash(stage) for stage in stages)


def test_run_ids_can_be_file_names(load: Load) -> None:
    text = H2.replace("[1.0, 1.4, 5]", "[2e-3, 1e10, 123456.75, 0.00005]").replace("R", "Rab_1")
    text = text.replace("Rab_1/2", "Rab_1**0.1")
    assert ids(load(text)) == ["rab_1_0.002", "rab_1_1e10", "rab_1_123456.75", "rab_1_5e-05"]
    negative = ids(load(H2.replace("[1.0, 1.4, 5]", "[-1.5]")))
    assert negative == ["r_-1.5"]
    assert all(re.fullmatch("[a-z0-9][a-z0-9_.+-]*", run_id) for run_id in ids(load(text)))


SYSTEMS = sorted(path.stem for path in (ROOT / "systems").glob("*.yaml"))


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems_of_the_project(name: str) -> None:
    scan = load_scan(ROOT / "systems" / f"{name}.yaml")
    check_bases(scan.runs, name)
    assert scan.name == name
    references, warnings = read_published(scan)
    assert warnings == []
    assert all(np.isfinite(list(reference.values.values())).all() for reference in references)


@pytest.mark.parametrize("name", ["atoms", "ionization", "molecules", "kfac_vs_adam"])
def test_electrons_of_the_systems_are_those_of_the_literature(name: str) -> None:
    folder = ROOT / "systems" / "literature"
    tables = [pd.read_csv(folder / f"{table}.csv") for table in ("atoms", "molecules")]
    counts = pd.concat(tables).groupby("geometry")[["n_alpha", "n_beta"]].agg(["min", "max"])
    checked = 0
    for run in load_scan(ROOT / "systems" / f"{name}.yaml").runs:
        if run.geometry in counts.index:
            up, down = run.molecule.electrons
            assert list(counts.loc[run.geometry]) == [up, up, down, down], run.geometry
            checked += 1
    assert checked >= 9


def test_exact_energies_give_the_measured_ionization_potentials() -> None:
    scan = load_scan(ROOT / "systems" / "ionization.yaml")
    best = next(r for r in read_published(scan)[0] if r.name == "best").values
    compared = 0
    for quantity in scan.quantities:
        if quantity.published is None or not set(quantity.of) <= set(best):
            continue
        exact = sum(factor * best[geometry] for geometry, factor in quantity.of.items())
        # Relativity and the motion of the nucleus: 2.0 mEh of neon's, less of the others.
        assert abs(exact - quantity.published) < 2.1e-3, quantity.name
        compared += 1
    assert compared == 10  # the potentials of all but helium, and the affinity of hydrogen


def test_import_is_quick_and_light() -> None:
    """The Snakefile expands the table on login nodes at every start."""
    code = (
        "import sys\n"
        "from ferminet_core.inputs.scan import load_scan\n"
        "load_scan(sys.argv[1])\n"
        "print({'jax', 'pyscf', 'numpy', 'pandas', 'snakemake'} & set(sys.modules))\n"
    )

    def processor_seconds(code: str) -> tuple[float, str]:
        """Other work on the machine takes no part of these; with the standard output."""
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-c", code, ROOT / "systems/h2.yaml"],
            capture_output=True,
            text=True,
            check=True,
        )
        after = os.times()
        used = after.children_user + after.children_system
        return used - before.children_user - before.children_system, done.stdout

    used, told = processor_seconds(code)
    assert told == "set()\n"
    # Quick, whatever the machine: it takes less than the import of JAX alone would add.
    assert used < processor_seconds("import jax")[0]


# -- what is wrong, and how it is said --


def second_line_of(text: str) -> bool:
    """Two slips, or one that is two: a misspelt key is a missing one, too."""
    return any(slip in text for slip in ("paramters", "were", "stp"))


ATOM = "units: bohr\natoms: [H 0 0 0]\nspin: 1\npreset: smoke\n"
VARIED = H2 + "variants: [{name: %s}, {name: %s}]\n"
WITH_GEOMETRIES = "units: bohr\ngeometries: [{name: %s, atoms: [He 0 0 0]}, %s]\npreset: smoke\n"
LITERATURE = H2 + "literature: [{name: %s, file: x.csv, match: {R_bohr: %s}, kind: %s}]\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        # YAML
        ("units: [bohr\natoms: 3\n", ":2: .*expected ',' or '\\]'"),
        ("units: bohr\n\tatoms: x\n", ":2: found a tab .*; use spaces in place of tabs"),
        ("units: bohr\nunits: angstrom\n", ":2: key 'units' is given twice; keep one"),
        (H2 + "overrides: {mcmc: {steps: 1, steps: 2}}\n", "key 'steps' is given twice"),
        ("a: &x [1]\nb: *x\n", ":2: aliases .* are not supported"),
        ("a: !!python/object/apply:os.system [true]\n", ":1: tags .*os.system.* are not supp"),
        ("a: !!timestamp x\n", ":1: tags .* are not supported"),
        (H2.replace("- H 0 0 R", "- !H 0 0 R"), ":5: tags \\(!H\\) are not supported"),
        ("- units: bohr\n", ":1: found a list; allowed: a mapping"),
        ("just text\n", ":1: found a str; allowed: a mapping"),
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("a: 1\n---\nb: 1\n", "expected a single document|but found another document"),
        ("a: \x07\n", "control characters are not allowed"),
        ("[" * 5000, "nested too deeply|expected"),
        # keys and types
        (H2 + "prest: smoke\n", ":9: prest: unknown key; did you mean 'preset'"),
        (H2 + "overrides:\n  network:\n    layer: 3\n", ":11: overrides.network.layer: unknown"),
        (H2 + "overrides:\n  network.layer: 3\n", ":10: overrides.network.layer: unknown setting"),
        (H2 + "overrides: {mcmc.walkers: 0}\n", "mcmc.walkers: found 0; allowed: at least 2"),
        (H2 + "overrides: 3\n", "overrides: found 3; allowed: a valid dictionary"),
        (H2 + "cases: [{were: R > 1}]\n", "cases\\[0\\].were: unknown key; did you mean 'where'"),
        (H2 + "cases: [{spin: 0}]\n", "cases\\[0\\].where: is missing"),
        (H2 + "<<: {a: 1}\n", "<<: unknown key"),
        (H2 + "1: 2\n", ":9: key '1' is not text"),
        (H2 + "? [a]\n: 2\n", ":9: key .* is not text"),
        (H2 + "cases: [3]\n", "cases\\[0\\]: found 3"),
        (H2 + "charge: one\n", "charge: found 'one'; allowed: a valid integer"),
        (H2 + "charge: true\n", "charge: found True; allowed: a valid integer"),
        (H2 + "spin: 0.5\n", "spin: found 0.5; allowed: a valid integer"),
        (H2 + "seed: -1\n", "seed: found -1; allowed: at least 0"),
        (H2 + "seed: 1\noverrides: {seed: 2}\n", "seed: also given in overrides"),
        (H2.replace("smoke", "smal"), "preset: unknown preset 'smal'; did you mean 'small'"),
        (H2.replace("smoke", "3"), "preset: found 3; allowed: a valid string"),
        (H2 + "name: H 2\n", "name: found 'H 2'; allowed: names of the form"),
        (H2 + "name: ../h2\n", "name: found '../h2'; allowed: names of the form"),
        (H2 + "atoms_: 3\nparamters: 3\n", "atoms_: unknown key; did you mean 'atoms'"),
        # atoms
        (H2.replace("units: bohr", ""), "units: is missing, .* allowed: bohr, angstrom"),
        (H2.replace("bohr", "nm"), ":2: units: found 'nm'; allowed: angstrom, bohr"),
        (H2.replace("bohr", "Bohr"), "units: found 'Bohr'; did you mean 'bohr'"),
        ("units: bohr\n", "no geometry; give `atoms`, `xyz` or `geometries`"),
        ("units: bohr\natoms: []\n", "atoms: found \\[\\]"),
        ("units: bohr\natoms: H 0 0 0\n", "atoms: found 'H 0 0 0'; allowed: a valid list"),
        (ATOM.replace("H 0 0 0", "3"), "atoms\\[0\\]: found 3; allowed: a valid string"),
        (ATOM.replace("H 0 0 0", "H 0 0"), "atoms\\[0\\]: found 'H 0 0'; allowed: an element and"),
        (ATOM.replace("H 0 0 0", "H 0 0 1 / 2"), "without spaces inside"),
        (ATOM.replace("H 0 0 0", "h 0 0 0"), "unknown element 'h'; did you mean 'H'"),
        (
            ATOM.replace("H 0 0 0", "D 0 0 0"),
            "unknown element 'D'; deuterium: write H; .*; allowed: H to Kr",
        ),
        (ATOM.replace("H 0 0 0", "H 0 0 nan"), "unknown parameter 'nan'"),
        (ATOM.replace("H 0 0 0", "H 0 0 1e999"), "has no finite real value"),
        (ATOM.replace("H 0 0 0", "H 0 0 9**9**9"), "exponent 3.8742e\\+08 is too large"),
        (ATOM.replace("H 0 0 0", "H 0 0 __import__('os')"), "unknown function '__import__'"),
        (ATOM.replace("[H 0 0 0]", "['H 0 0 os.name']"), "attribute access is not allowed"),
        (H2.replace("0 -R/2", "0 -r/2"), ":4: .*unknown parameter 'r'; did you mean 'R'"),
        (H2.replace("0 -R/2", "0 -S/2"), "unknown parameter 'S'.*allowed: R"),
        (H2.replace("0 -R/2", "0 sqrt(-R)"), "atoms\\[0\\]: .*no finite real value"),
        (H2.replace("0 -R/2", "0 1/(R-1.4)"), "'1/\\(R-1.4\\)': has no finite real value"),
        (H2 + "xyz: a.xyz\n", "xyz: `atoms` is given as well"),
        # molecules
        (H2 + "spin: 1\n", "geometry r_1: spin: found 1 .*; did you mean 0. allowed: 0, 2"),
        (H2 + "charge: 2\n", "geometry r_1: charge: found 2, which leaves 0 electrons"),
        (H2.replace("1.4,", "0,"), "geometry r_0: atoms 1 \\(H\\) and 2 \\(H\\) coincide"),
        (ATOM.replace("[H 0 0 0]", "[H 0 0 0, H 0 0 0, H 0 0 1]"), "geometry h2: atoms 1"),
        (ATOM + "overrides: {reference.method: rhf}\n", "run h2: reference.method: .*rhf needs"),
        (ATOM + "overrides: {pretrain.max_iterations: 1}\n", "run h2: pretrain: min_iterations is"),
        # parameters
        (H2.replace("[1.0, 1.4, 5]", "[]"), ":7: parameters.R: empty grid"),
        (H2.replace("[1.0, 1.4, 5]", "{start: 1, stop: 2, num: 0}"), "R.num: found 0; allowed: at"),
        (H2.replace("[1.0, 1.4, 5]", "{start: 1, stop: 2, num: 1e9}"), "num: found 1000000000; al"),
        (H2.replace("[1.0, 1.4, 5]", "{start: 1, stop: 2}"), "parameters.R.num: is missing"),
        (H2.replace("[1.0, 1.4, 5]", "{start: 1, stp: 2, num: 3}"), "stp: unknown key.*'stop'"),
        (H2.replace("[1.0, 1.4, 5]", "{start: 1, stop: 1, num: 3}"), "1 is given twice"),
        (H2.replace("[1.0, 1.4, 5]", "{grid: x}"), "unknown grid 'x'; grids: none"),
        (H2.replace("[1.0, 1.4, 5]", "{grid: bond}") + "grids: {bonds: [1]}\n", "mean 'bonds'"),
        (H2.replace("[1.0, 1.4, 5]", "{grid: x}") + "grids: {x: []}\n", "grids.x: empty grid"),
        (H2.replace("[1.0, 1.4, 5]", "{grid: x}") + "grids: {x: 3}\n", "grids.x: found 3; allowed"),
        (H2.replace("[1.0, 1.4, 5]", "many"), "R: found 'many'; allowed: a list of numbers, "),
        (H2.replace("[1.0, 1.4, 5]", "[1, two]"), "R\\[1\\]: found 'two'; allowed: a valid number"),
        (H2.replace("[1.0, 1.4, 5]", "[1, .nan]"), "R\\[1\\]: found nan; allowed: a finite number"),
        (H2.replace("[1.0, 1.4, 5]", "[1, .inf]"), "R\\[1\\]: found inf; allowed: a finite number"),
        (H2.replace("[1.0, 1.4, 5]", "[1, true]"), "R\\[1\\]: found True; allowed: a valid number"),
        (H2.replace("[1.0, 1.4, 5]", "[1, 1.0]"), "R: 1 is given twice \\(to 10 digits\\)"),
        (H2.replace("[1.0, 1.4, 5]", "[1.4, 1.40000000001]"), "R: 1.4 is given twice"),
        (H2 + "  S: [1]\n", ":9: mapping values are not allowed"),
        (H2.replace("  R:", "  S: [1, 2]\n  R:"), "parameters.S: no coordinate and no case uses"),
        (H2.replace("  R:", "  r: [1, 2]\n  R:"), "parameters.R: differs from 'r' only in case"),
        (H2.replace("R", "tau"), "'tau' is a column of the scan table"),
        (H2.replace("R", "sqrt"), "'sqrt' is a word of expressions"),
        (H2.replace("  R:", "  1x: [1]\n  R:"), "found '1x'; allowed: names of the form"),
        (WITH_GEOMETRIES % ("a", "") + "parameters: {R: 1}\n", "R: no geometry uses"),
        # cases
        (H2 + "cases: [{where: R >}]\n", "cases\\[0\\].where: 'R >': not arithmetic"),
        (H2 + "cases: [{where: S > 1}]\n", "cases\\[0\\].where: .*unknown parameter 'S'"),
        (H2 + "cases: [{where: R}]\n", "number where a condition is needed"),
        (H2 + "cases: [{where: 1/(R-1) > 1}]\n", "cases\\[0\\].where: .*no finite real value"),
        (H2 + "cases: [{where: 'open(R)'}]\n", "unknown function 'open'"),
        (H2 + "cases: [{where: R > 1, overrides: {x: 1}}]\n", "cases\\[0\\].overrides.x: unknown"),
        (H2 + "cases: [{where: R > 4, spin: 1}]\n", "geometry r_5: spin: found 1"),
        # names
        (VARIED % ("adam", "adam"), "variants\\[1\\].name: variant 'adam' is given twice"),
        (VARIED % ("Adam", "b"), "variants\\[0\\].name: found 'Adam'; allowed: names of the form"),
        (VARIED % ("a+b", "b"), "variants\\[0\\].name: found 'a\\+b'; allowed: names"),
        (H2 + "variants: [{name: base, overrides: {seed: 1}}]\n", "'base' is the variant without"),
        (
            H2 + "variants: [{name: a, overrides: {sed: 1}}]\n",
            "variants\\[0\\].overrides.sed: unkn",
        ),
        (WITH_GEOMETRIES % ("a", "{name: a, atoms: [Be 0 0 0]}"), "two runs are named 'a'"),
        (WITH_GEOMETRIES % ("A", ""), "geometries\\[0\\].name: found 'A'; allowed: names"),
        (WITH_GEOMETRIES % ("a/b", ""), "geometries\\[0\\].name: found 'a/b'; allowed: names"),
        (WITH_GEOMETRIES % ("a", "{name: b}"), "geometries\\[1\\]: no coordinates; give `atoms`"),
        (WITH_GEOMETRIES % ("a", "{name: b, atom: [H 0 0 0]}"), "atom: unknown key.*mean 'atoms'"),
        (
            WITH_GEOMETRIES % ("a", "{name: b, atoms: [He 0 0 0], parameters: {x: [1, 2]}}"),
            "geometries\\[1\\].parameters.x: no coordinate and no case",
        ),
        (
            WITH_GEOMETRIES % ("a", "{name: 'a+b', atoms: [Be 0 0 0]}")
            + "variants: [{name: base}, {name: b}]\n",
            "two runs are named 'a\\+b'",
        ),
        # literature
        (LITERATURE % ("e", "S", "exact"), "match.R_bohr: unknown parameter 'S'; parameters|allow"),
        (LITERATURE % ("e", "R", "exakt"), "kind: found 'exakt'; did you mean 'exact'"),
        (LITERATURE % ("a b", "R", "exact"), "literature\\[0\\].name: found 'a b'; allowed: names"),
        (
            H2 + 2 * "literature: [{name: e, file: x, match: {x: R}, kind: exact}]\n",
            "key 'literature' is given twice",
        ),
        (
            H2 + "literature:\n" + 2 * "  - {name: e, file: x, match: {x: R}, kind: exact}\n",
            ":11: literature\\[1\\].name: literature 'e' is given twice",
        ),
    ],
)
def test_each_error_has_its_line(load: Load, tmp_path: Path, text: str, line: str) -> None:
    text = text.replace(", ]", "]")
    with pytest.raises(InputError, match=line) as caught:
        load(text)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "h2.yaml"))
    assert re.search(line, message.splitlines()[0])
    assert len(message.splitlines()) == 1 or second_line_of(text)


def test_several_problems_have_a_line_each(load: Load) -> None:
    with pytest.raises(InputError) as caught:
        load(H2 + "prest: 1\ncharge: x\n")
    lines = str(caught.value).splitlines()
    assert [re.sub(r".*h2\.yaml:(\d+: \w+): .*", r"\1", line) for line in lines] == [
        "9: prest",
        "10: charge",
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"preset": "tiny"}, "--preset: unknown preset 'tiny'; allowed: gpu, paper, pfau2020"),
        ({"overrides": ["mcmc.walker=3"]}, "--set mcmc.walker: unknown setting.*'walkers'"),
        ({"overrides": ["mcmc.walkers"]}, "--set: found 'mcmc.walkers'; allowed: KEY=VALUE"),
        ({"overrides": ["mcmc.walkers="]}, "--set: found 'mcmc.walkers='; allowed: KEY=VALUE"),
        ({"overrides": ["mcmc.walkers=x"]}, "--set mcmc.walkers: found 'x'; allowed: a valid int"),
        ({"overrides": ["seed=1", "seed=2"]}, "--set seed: given twice"),
        ({"overrides": ["conventional.methods=[fci"]}, "--set conventional.methods:1: .*expected"),
        ({"overrides": {"mcmc": {"walkers": 0}}}, "--set mcmc.walkers: found 0"),
    ],
)
def test_errors_of_the_command_line(load: Load, options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line) as caught:
        load(H2, **options)
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable_files(load: Load, tmp_path: Path) -> None:
    load(H2)
    with pytest.raises(InputError, match="no such file; system files there: h2"):
        load_scan(tmp_path / "hh.yaml")
    with pytest.raises(InputError, match=r"no such file$"):
        load_scan(tmp_path / "none" / "hh.yaml")
    with pytest.raises(InputError, match="is a folder; give the system file"):
        load_scan(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"title: caf\xe9\n")
    with pytest.raises(InputError, match="cannot be read: it is not UTF-8"):
        load_scan(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_text("#" * 1_000_001)
    with pytest.raises(InputError, match="larger than 1000000 bytes"):
        load_scan(tmp_path / "big.yaml")
    (tmp_path / "my scan.yaml").write_text(H2)
    with pytest.raises(InputError, match="'my scan' cannot name its results; give a `name:`"):
        load_scan(tmp_path / "my scan.yaml")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "a.xyz cannot be read: No such file"),
        ("", "a.xyz:1: found ''; allowed: the number of atoms"),
        ("H 0 0 0\n", "a.xyz:1: found 'H 0 0 0'; allowed: the number of atoms"),
        ("0\n\n", "a.xyz:1: found '0'; allowed: the number of atoms"),
        ("2\n\nH 0 0 0\n", "a.xyz: found 1 atoms; the first line says 2"),
        ("1\n\nH 0 0 0\nH 0 0 1\n", "a.xyz: found 2 atoms; the first line says 1"),
        ("1\n\nH 0 0\n", "a.xyz:3: found 'H 0 0'; allowed: an element and three"),
        ("1\n\nH 0 0 R\n", "a.xyz:3: found 'R'; allowed: a finite number"),
        ("1\n\nH 0 nan 0\n", "a.xyz:3: found 'nan'; allowed: a finite number"),
        ("1\n\nXx 0 0 0\n", "a.xyz:3: unknown element 'Xx'"),
    ],
)
def test_unreadable_xyz(load: Load, tmp_path: Path, content: str | None, line: str) -> None:
    if content is not None:
        (tmp_path / "a.xyz").write_text(content)
    with pytest.raises(InputError, match=line) as caught:
        load("units: bohr\nspin: 1\nxyz: a.xyz\n")
    assert str(caught.value).startswith(f"{tmp_path / 'h2.yaml'}:3: xyz: ")
    assert "\n" not in str(caught.value)


def test_nothing_in_a_system_file_is_run(load: Load, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    call = f"__import__('pathlib').Path('{mark}').touch()"
    for text in (
        ATOM.replace("[H 0 0 0]", json.dumps([f"H 0 0 {call}"])),
        H2 + f"cases: [{{where: {json.dumps(call)}}}]\n",
        f"a: !!python/object/apply:os.system ['touch {mark}']\n",
    ):
        with pytest.raises(InputError):
            load(text)
    assert not mark.exists()


def test_too_many_runs(load: Load) -> None:
    text = H2.replace("-R/2", "-R/S").replace(
        "R: [1.0, 1.4, 5]",
        "R: {start: 1, stop: 2, num: 101}\n  S: {start: 1, stop: 2, num: 101}",
    )
    with pytest.raises(InputError, match="more than 10000 runs"):
        load(text)


def test_a_preset_must_be_given_and_paper_stands_for_what_was_implied(
    load: Load, tmp_path: Path
) -> None:
    """Names and requests of runs whose file had no preset stay those of `preset: paper`."""
    without = H2.replace("preset: smoke\n", "")
    with pytest.raises(InputError, match=r"h2.yaml: preset: is missing; allowed: .*try .*small"):
        load(without)
    paper = load(without + "preset: paper\n")
    assert (paper.name, paper.runs[0].request["preset"]) == ("h2", "paper")
    assert load(without, preset="paper") == paper
    assert load(without, preset="smoke").name == "h2-smoke"


# -- basis sets --


def test_basis_sets_are_checked_for_every_element(load: Load) -> None:
    def check(text: str) -> None:
        check_bases(load(text).runs, "h2.yaml")

    check(H2)
    check(H2 + "overrides: {reference.basis: aug-cc-pVTZ}\n")
    for name, line in (
        (
            "cc-pvdzz",
            "h2.yaml: reference.basis: unknown .* 'cc-pvdzz'; did you mean 'cc-pvdz'",
        ),
        ("qwertyuiop", "unknown basis set 'qwertyuiop'; try 'cc-pvdz'"),
        ("/etc/passwd", "unknown basis set '/etc/passwd'"),
    ):
        with pytest.raises(InputError, match=line):
            check(H2 + f"overrides: {{reference.basis: {name}}}\n")
    core = "overrides: {reference.basis: cc-pcvdz}\n"  # made of two files in PySCF
    check("units: bohr\natoms: [Ne 0 0 0]\npreset: smoke\n" + core)
    with pytest.raises(InputError, match="'cc-pcvdz' has no functions for K; it has H, He, Li, "):
        check("units: bohr\natoms: [K 0 0 0]\nspin: 1\npreset: smoke\n" + core)
    core = core.replace("cc-pcvdz", "lanl2dz")
    chlorine = "units: bohr\natoms: [Cl 0 0 0]\nspin: 1\npreset: smoke\n" + core
    with pytest.raises(InputError, match="needs a pseudopotential for Cl"):
        check(chlorine)


def test_basis_sets_of_conventional_energies_are_checked_where_asked_for(load: Load) -> None:
    sets = "conventional.basis: [cc-pvtz, cc-pvdzz]"
    check_bases(load(H2 + f"overrides: {{{sets}}}\n").runs, "h2.yaml")
    asked = load(H2 + f"overrides: {{{sets}, conventional.methods: [fci]}}\n")
    with pytest.raises(InputError, match=r"^h2\.yaml: conventional\.basis: unknown .*'cc-pvdzz'"):
        check_bases(asked.runs, "h2.yaml")


def test_an_unknown_basis_stops_before_any_spec_is_written(load: Load, tmp_path: Path) -> None:
    scan = load(H2 + "cases: [{where: R > 4, overrides: {reference.basis: nonsense}}]\n")
    with pytest.raises(InputError, match="unknown basis set 'nonsense'"):
        write_specs(scan, tmp_path / "results")
    assert not (tmp_path / "results").exists()


# -- spec files --


OLD = 10**18  # nanoseconds since 1970: the year 2001


@pytest.fixture
def written(load: Load, tmp_path: Path) -> Callable[..., dict[str, int]]:
    """Loads a text, writes its specs, returns the files' times, and then sets these to `OLD`."""

    def write(text: str, **options: Any) -> dict[str, int]:
        paths = write_specs(load(text, **options), tmp_path / "results")
        found = {path.stem: path.stat().st_mtime_ns for path in paths}
        for path in paths:
            os.utime(path, ns=(OLD, OLD))
        return found

    return write


def test_spec_files_hold_the_whole_run(load: Load, tmp_path: Path) -> None:
    scan = load(H2)
    paths = write_specs(scan, tmp_path / "results")
    assert paths == [
        tmp_path / "results" / "h2" / "spec" / f"{run.run_id}.json" for run in scan.runs
    ]
    assert [load_spec(path) for path in paths] == scan.runs
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)  # no leftovers
    stored = json.loads(paths[0].read_text())
    assert stored["schema_version"] == 2
    assert "conventional" not in stored["config"]
    assert stored["config"]["network"] == scan.runs[0].config.network.model_dump()


def test_only_changed_requests_are_rewritten(written: Callable[..., dict[str, int]]) -> None:
    assert OLD not in written(H2).values()
    assert set(written(H2).values()) == {OLD}
    # Touched, commented, reordered, retitled; literature and unused grids.
    assert set(written(H2 + "# more\ntitle: Other\ngrids: {x: [1]}\n").values()) == {OLD}
    reordered = yaml.safe_dump(yaml.safe_load(H2), sort_keys=True)
    assert not reordered.startswith("units")
    assert set(written(reordered).values()) == {OLD}
    # The same geometry in other words.
    assert set(written(H2.replace("R/2", "0.5*R")).values()) == {OLD}
    # A bond length more: the others stay.
    more = written(H2.replace("[1.0,", "[1.0, 1.2,"))
    assert [run_id for run_id, time in more.items() if time != OLD] == ["r_1.2"]
    # A bond length less: nothing to write.
    assert set(written(H2).values()) == {OLD}
    # A case touches the runs that it speaks of.
    case = written(H2 + "cases: [{where: R > 4, overrides: {reference.method: uhf}}]\n")
    assert [run_id for run_id, time in case.items() if time != OLD] == ["r_5"]
    back = written(H2)
    assert [run_id for run_id, time in back.items() if time != OLD] == ["r_5"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("bohr", "angstrom"),
        lambda text: text.replace("smoke", "small"),
        lambda text: text + "spin: 2\n",
        lambda text: text + "charge: -2\n",
        lambda text: text + "seed: 1\n",
        lambda text: text + "overrides: {mcmc.walkers: 32}\n",
        lambda text: text.replace("-R/2", "-R/2-1e-6"),
    ],
)
def test_changed_requests_are_rewritten(
    written: Callable[..., dict[str, int]], change: Callable[[str], str]
) -> None:
    written(H2)
    assert OLD not in written(change(H2)).values()


def test_newer_defaults_do_not_change_old_runs(
    load: Load,
    written: Callable[..., dict[str, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As an upgrade would: another preset value, for a file that is there and a new one."""
    written(H2)
    newer = {**presets()}
    newer["smoke"] = {**newer["smoke"], "mcmc.walkers": 48}
    old_walkers = presets()["smoke"]["mcmc.walkers"]
    monkeypatch.setattr(overrides, "presets", lambda: newer)
    found = written(H2.replace("[1.0,", "[1.0, 1.2,"))
    assert [run_id for run_id, time in found.items() if time != OLD] == ["r_1.2"]
    specs = [load_spec(tmp_path / "results/h2/spec" / f"{name}.json") for name in ("r_1", "r_1.2")]
    assert [spec.config.mcmc.walkers for spec in specs] == [old_walkers, 48]
    # Once its own request changes, a run takes the settings of today.
    written(H2 + "seed: 1\n")
    assert load_spec(tmp_path / "results/h2/spec/r_1.json").config.mcmc.walkers == 48


def test_settings_that_a_spec_lacks_have_their_defaults(load: Load, tmp_path: Path) -> None:
    scan = load(H2)
    path = write_specs(scan, tmp_path)[0]
    stored = json.loads(path.read_text())
    del stored["config"]["inference"]["keep_every"]
    del stored["config"]["runtime"]
    del stored["variant"]
    path.write_text(json.dumps(stored))
    spec = load_spec(path)
    assert spec.config.runtime == Config().runtime
    assert spec.config.inference.keep_every == Config().inference.keep_every
    assert spec.config.network == scan.runs[0].config.network
    before = path.stat().st_mtime_ns
    write_specs(scan, tmp_path)
    assert path.stat().st_mtime_ns == before


def test_specs_of_another_version_are_refused_and_kept(load: Load, tmp_path: Path) -> None:
    scan = load(H2)
    path = write_specs(scan, tmp_path)[0]
    for version in (1, 3):
        other = json.dumps({**json.loads(path.read_text()), "schema_version": version})
        path.write_text(other)
        refusal = f"{path}: schema_version: found {version}; supported: 2; write results to another"
        with pytest.raises(InputError, match=re.escape(refusal)):
            load_spec(path)
        with pytest.raises(InputError, match=re.escape(refusal)):
            write_specs(scan, tmp_path)
        assert path.read_text() == other


def test_conventional_energies_have_spec_files_of_their_own(load: Load, tmp_path: Path) -> None:
    def written(text: str) -> tuple[set[str], set[str]]:
        """Which files of the chain and of the branch were written; their times are set back."""
        scan = load(text)
        paths = write_specs(scan, tmp_path)
        beside = sorted((paths[0].parent / "conventional").glob("*.json"))
        found = [
            {p.stem for p in group if p.stat().st_mtime_ns != OLD} for group in (paths, beside)
        ]
        for path in (*paths, *beside):
            os.utime(path, ns=(OLD, OLD))
        return found[0], found[1]

    every = {run.run_id for run in load(H2).runs}
    asked = H2 + "overrides: {conventional: {methods: [fci], basis: [%s]}%s}\n"
    assert written(H2) == (every, set())
    assert written(asked % ("sto-3g", "")) == (set(), every)
    assert written(asked % ("sto-3g", "")) == (set(), set())
    assert written(asked % ("cc-pvdz", "")) == (set(), every)
    assert written(asked % ("cc-pvdz", ", optimise.clip: 3")) == (every, set())
    path = conventional_spec(tmp_path / "h2", "r_5")
    spec = load_spec(path)
    assert spec.config.conventional.methods == ("fci",)
    assert list(json.loads(path.read_text())["config"]) == ["conventional"]
    both = load_run(tmp_path / "h2", "r_5").config
    assert (both.conventional.methods, both.optimise.clip) == (("fci",), 3.0)
    # Another geometry is another molecule for both.
    assert written((asked % ("cc-pvdz", ", optimise.clip: 3")).replace("-R/2", "-R/2-0.1")) == (
        every,
        every,
    )
    case = "cases: [{where: R > 4, overrides: {conventional.methods: [fci]}}]\n"
    assert written(H2 + case)[1] == {"r_5"}
    assert [p.stem for p in path.parent.iterdir()] == ["r_5"]
    written(H2)
    assert list(path.parent.iterdir()) == []


def test_last_digits_of_positions_do_not_matter(load: Load, tmp_path: Path) -> None:
    scan = load(H2)
    path = write_specs(scan, tmp_path)[0]
    for shift, rewritten in ((1e-10, False), (1e-6, True)):
        stored = json.loads(path.read_text())
        stored["request"]["molecule"]["positions"][0][2] += shift
        path.write_text(json.dumps(stored))
        os.utime(path, ns=(OLD, OLD))
        write_specs(scan, tmp_path)
        assert (path.stat().st_mtime_ns != OLD) is rewritten


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{", "[]", "{}", '{"request": {"molecule": 3}}', '{"request": []}'),
        '{"request": {"overrides": [1]}}',
    ],
)
def test_damaged_specs_are_written_again(load: Load, tmp_path: Path, damage: str) -> None:
    scan = load(H2)
    path = write_specs(scan, tmp_path)[0]
    path.write_text(damage)
    with pytest.raises(InputError, match=re.escape(str(path))):
        load_spec(path)
    write_specs(scan, tmp_path)
    assert load_spec(path) == scan.runs[0]


def test_specs_that_cannot_be_read(load: Load, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read: No such file"):
        load_spec(tmp_path / "none.json")
    path = write_specs(load(H2), tmp_path)[0]
    stored = json.loads(path.read_text())
    stored["config"]["network"]["future"] = 1
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"config\.network\.future: unknown key"):
        load_spec(path)


def test_specs_do_not_depend_on_the_file_once_written(load: Load, tmp_path: Path) -> None:
    path = write_specs(load(H2), tmp_path)[1]
    (tmp_path / "h2.yaml").unlink()
    spec = load_spec(path)
    assert isinstance(spec, RunSpec)
    assert spec.molecule.positions[1] == (0.0, 0.0, 0.7)


# -- schema --


def test_schema_knows_every_setting_and_key() -> None:
    schema = json_schema()
    json.dumps(schema)
    overrides = schema["$defs"]["Overrides"]
    assert "network.layers" in overrides["properties"]
    assert "network" in overrides["properties"]
    assert overrides["additionalProperties"] is False
    assert schema["additionalProperties"] is False
    assert {"smoke", "small", "gpu", "paper"} <= set(schema["properties"]["preset"]["enum"])
    for name in SYSTEMS:
        text = (ROOT / "systems" / f"{name}.yaml").read_text()
        assert set(yaml.safe_load(text)) <= set(schema["properties"])


def test_schema_accepts_the_project_s_systems() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for name in SYSTEMS:
        data = yaml.safe_load((ROOT / "systems" / f"{name}.yaml").read_text())
        jsonschema.validate(data, json_schema())
    with pytest.raises(jsonschema.ValidationError, match="layer"):
        jsonschema.validate({"overrides": {"network.layer": 1}}, json_schema())


def test_the_home_folder_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/h.xyz").write_text("1\n\nH 0 0 0\n")
    text = (
        "name: h\nunits: bohr\nxyz: ~/h.xyz\nspin: 1\npreset: smoke\n"
        "literature: [{name: a, file: ~/a.csv, match: {x: geometry}, kind: exact}]\n"
    )
    (tmp_path / "home/h.yaml").write_text(text)
    scan = load_scan("~/h.yaml")
    assert scan.runs[0].molecule.symbols == ("H",)
    assert scan.literature[0].file == str(tmp_path / "home/a.csv")

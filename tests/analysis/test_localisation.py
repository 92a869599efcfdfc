"""Flags of charges and spins on one of equal atoms."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.molecules import atom, diatomic
from helpers.scans import inference_attributes, make_scan

from ferminet_core.analysis import summary
from ferminet_core.analysis.estimates import Conditions, figures
from ferminet_core.analysis.localisation import localisation_flags
from ferminet_core.inputs.molecule import Molecule


def moments(dipole_z: float, error: float, spin_z: float = 0.0) -> dict[str, float]:
    """Attributes of an inference: moments along z, with one error for all components."""
    found = {f"{name}_{c}": 0.0 for name in ("dipole", "spin_moment") for c in "xyz"}
    found |= {f"{name}_error": error for name in found}
    return found | {"dipole_z": dipole_z, "spin_moment_z": spin_z}


@pytest.mark.parametrize(
    ("length", "dipole", "error"),
    [(5.0, -0.90, 0.02), (8.0, -3.97, 0.01)],  # He2+ from one determinant, as measured
)
def test_a_charge_on_one_helium_is_flagged(length: float, dipole: float, error: float) -> None:
    (flag,) = localisation_flags(
        moments(dipole, error), diatomic("He", "He", length, charge=1, spin=1)
    )
    assert flag == (
        f"the dipole moment is {-dipole:.3f} +- {error:.3f} e bohr in a direction where symmetry "
        "says 0: a charge sits on one of equal atoms"
    )


def test_moments_that_symmetry_allows_are_not_flagged() -> None:
    assert not localisation_flags(moments(-2.3, 0.01), diatomic("Li", "H", 3.015))
    # The moment of an ion about the origin is that of its centre.
    shifted = Molecule(symbols=("He", "He"), positions=((0, 0, 1), (0, 0, 9)), charge=1, spin=1)
    assert not localisation_flags(moments(5.0, 0.01, spin_z=5.0), shifted)
    assert localisation_flags(moments(0.0, 0.01), shifted)


@pytest.mark.parametrize(
    ("dipole", "error", "flagged"),
    [(0.39, 0.01, False), (0.41, 0.01, True), (0.9, 0.19, False), (0.9, 0.17, True)],
)
def test_neither_noise_nor_a_small_share_is_flagged(
    dipole: float, error: float, flagged: bool
) -> None:
    # 5 % of an electron over 8 bohr are 0.4; 5 standard errors.
    molecule = diatomic("He", "He", 8.0, charge=1, spin=1)
    assert bool(localisation_flags(moments(dipole, error), molecule)) == flagged


def test_a_spin_on_one_atom_is_flagged() -> None:
    (flag,) = localisation_flags(moments(0.0, 0.01, spin_z=-7.5), diatomic("He", "He", 8.0, spin=2))
    assert "a spin sits on one of equal atoms" in flag


def test_runs_without_moments_have_no_flags() -> None:
    molecule = diatomic("He", "He", 8.0, charge=1, spin=1)
    assert not localisation_flags({}, molecule)
    assert localisation_flags(
        {"dipole_x": 0.0, "dipole_y": 0.0, "dipole_z": 4.0}
        | {f"dipole_{c}_error": 0.01 for c in "xyz"},
        molecule,
    )
    assert not localisation_flags(moments(np.nan, np.nan), atom("He"))


@pytest.mark.parametrize(("hop", "flagged"), [(0.5, False), (0.0, True)])
def test_a_series_of_hops_is_symmetric_and_one_of_a_fixed_charge_is_not(
    hop: float, flagged: bool
) -> None:
    rng = np.random.default_rng(2)
    # The mean over 256 walkers of a charge at -4 or 4 bohr, from call to call.
    side = np.where(rng.random((60, 256)) < hop, -4.0, 4.0)
    z = (side + rng.normal(size=side.shape)).mean(axis=1)
    vector = np.stack([0.0 * z, 0.0 * z, z], axis=1)
    series = {
        "energy_local": rng.normal(size=(600, 256)),
        "equilibration_Eh": np.zeros(0),
        "pmove": np.full(600, 0.5),
        "s2": np.full(60, 0.75),
        "dipole": vector,
        "spin_moment": -vector,
    }
    found = figures(series, Conditions(0, 1, True, True, 0))
    molecule = diatomic("He", "He", 8.0, charge=1, spin=1)
    assert len(localisation_flags(found, molecule)) == 2 * flagged
    assert "symmetry" not in json.loads(found["flags"])


def test_a_flagged_run_is_suspect_whenever_it_was_made(tmp_path: Path) -> None:
    """Runs of earlier versions have no moment of the spin density; their dipole is enough."""
    text = """
units: bohr
atoms: ["He 0 0 -R/2", "He 0 0 R/2"]
charge: 1
spin: 1
parameters: {R: [5.0, 8.0]}
preset: smoke
"""
    scan = make_scan(tmp_path, text, name="he2")
    one, other = (
        {k: x for k, x in inference_attributes(-4.9, s2=0.75, **moment).items() if "spin" not in k}
        for moment in ({"dipole_z": -0.9, "dipole_z_error": 0.02}, {"dipole_z": 0.01})
    )
    found = summary.summarise(
        scan,
        {
            run.run_id: summary.RunOutcome("done", inference=attributes)
            for run, attributes in zip(scan.runs, (one, other), strict=True)
        },
    )
    first, second = (run.run_id for run in scan.runs)
    (flag,) = found.derived["flagged"][first]
    assert flag in found.derived["verdicts"][first]["verdict"]
    assert found.derived["verdicts"][first]["verdict"].startswith("suspect")
    assert second not in found.derived["flagged"]

"""Optimisations that keep the parity of their reference."""

from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr
from helpers.molecules import diatomic

from ferminet_core.chemistry import hartree_fock
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.stages.base import run
from ferminet_core.stages.optimise import Optimise
from ferminet_core.stages.pretrain import Pretrain
from ferminet_core.stages.warm_start import WarmStart
from ferminet_core.vmc.hamiltonian import Nuclei, potential_energy
from ferminet_core.vmc.parity_penalty import Parity

INVERSION = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))


def spec_of(length: float) -> RunSpec:
    config = Config.model_validate(
        {
            "network": {
                "layers": 1,
                "one_electron_width": 8,
                "two_electron_width": 4,
                "determinants": 2,
            },
            "reference": {"basis": "sto-3g"},
            "mcmc": {"walkers": 32, "burn_in": 1},
            "optimise": {"iterations": 1, "optimiser": "adam"},
            "runtime": {"block": 1, "precision": "float64"},
        }
    )
    molecule = diatomic("He", "He", length, charge=1, spin=1)
    return RunSpec(scan="s", run_id="r", geometry="r", molecule=molecule, config=config)


def broken(spec: RunSpec) -> xr.Dataset:
    """The reference of a larger basis, where the charge is on one atom."""
    config = spec.config.reference.model_copy(update={"basis": "6-31g"})
    return hartree_fock.solve(spec.molecule, config)


def potential(params: Any, electrons: jax.Array, nuclei: Nuclei, *_: Any) -> jax.Array:
    """In place of the local energy: compiled in no time."""
    return potential_energy(electrons, nuclei)


@pytest.mark.slow
def test_the_parity_reaches_the_optimisation_and_changes_no_energy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ferminet_core.stages.optimise.local_energy", potential)
    spec = spec_of(8.0)
    reference = broken(spec)
    assert reference.sizes["determinant"] == 2
    stage = Pretrain(spec, reference)
    pretrained = stage.result(stage.initial(), {})
    with_parity = Optimise(spec, pretrained)
    assert with_parity.parities == (Parity(INVERSION, -1),)  # of the state 2 Sigma u
    # By an earlier version, or of a reference without a broken symmetry.
    kept = {name: x for name, x in pretrained.attrs.items() if name != "parities"}
    without = Optimise(spec, pretrained.drop_attrs().assign_attrs(kept))
    assert without.parities == ()

    def first_update(stage: Any) -> tuple[Any, dict[str, np.ndarray]]:
        state, series = run(stage)
        return state.params, series

    (one, energies), (other, same_energies) = map(first_update, (with_parity, without))
    # The penalty is in the gradient, not in the energy.
    np.testing.assert_allclose(energies["energy_Eh"], same_energies["energy_Eh"], rtol=1e-12)
    changed = [
        float(np.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    ]
    assert max(changed) > 1e-6  # adam's first step is the learning rate, 1e-3 or so, each way


def test_a_warm_start_keeps_the_parity_of_its_own_reference() -> None:
    spec = spec_of(8.0)
    stage = Pretrain(spec, broken(spec))
    optimise = Optimise(spec, stage.result(stage.initial(), {}))
    neighbour = optimise.result(optimise.initial(), {}).assign_attrs(spec=spec.model_dump_json())
    short = spec_of(2.0)
    for target, kept in ((spec, True), (short, False)):
        warm = WarmStart(target, broken(target), neighbour)
        found = warm.result(warm.initial(), {})
        assert ("parities" in found.attrs) is kept

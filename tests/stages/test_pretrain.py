"""Pretraining reaches its criterion, and the optimisation starts from there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from ferminet_core.chemistry import hartree_fock
from ferminet_core.errors import InputError
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.start_settings import ReferenceConfig
from ferminet_core.parallel.mesh import walker_mesh
from ferminet_core.stages.base import run
from ferminet_core.stages.pretrain import Pretrain, optimiser, reference_decays
from ferminet_core.stages.reference_fit import Reading
from ferminet_core.wavefunction import networks

STRETCHED = Molecule(symbols=("H", "H"), positions=((0, 0, 0), (0, 0, 4.0)), charge=0, spin=0)
APART = Molecule(symbols=("N", "H"), positions=((0, 0, 0), (0, 0, 6.0)), charge=0, spin=2)
LITHIUM = Molecule(symbols=("Li",), positions=((0, 0, 0),), charge=0, spin=1)


def spec_of(molecule: Molecule, **sections: dict) -> RunSpec:
    network = {"layers": 2, "one_electron_width": 16, "two_electron_width": 8, "determinants": 2}
    config = Config.model_validate({"network": network, "mcmc": {"walkers": 64}, **sections})
    return RunSpec(scan="s", run_id="r", geometry="r", molecule=molecule, config=config)


def solve(molecule: Molecule) -> xr.Dataset:
    return hartree_fock.solve(molecule, Config().reference)


def test_envelopes_start_from_the_decay_of_the_orbitals() -> None:
    # Unrestricted: Koopmans' theorem does not hold for open-shell orbitals of ROHF.
    solved = hartree_fock.solve(LITHIUM, ReferenceConfig(method="uhf"))
    core = np.sqrt(-2 * solved["orbital_energy"].values[0, 0])
    (up, down) = reference_decays(solved, 3, "dense")
    assert up.shape == down.shape == (3, 3)
    np.testing.assert_allclose(up[:, 0], core)
    # Koopmans: the 2s electron of lithium decays with its ionization energy, 0.196 hartree.
    assert up[0, 1] == pytest.approx(np.sqrt(2 * 0.196), rel=0.02)
    assert [x.shape for x in reference_decays(solved, 3, "block")] == [(3, 2), (3, 1)]


def test_a_reference_of_several_determinants_gives_their_weights_and_decays() -> None:
    solved = solve(APART)
    assert solved.sizes["determinant"] == 4
    spec = spec_of(APART, network={"layers": 1, "one_electron_width": 8, "determinants": 6})
    weights = np.asarray(Pretrain(spec, solved).initial().params["determinants"]["w"])
    # Determinants 0 and 1 of the reference have two copies among six.
    sums = np.array([weights[0] + weights[4], weights[1] + weights[5], weights[2], weights[3]])
    expected = solved["coefficient"].to_numpy()
    # Single precision, after two divisions.
    np.testing.assert_allclose(sums / sums[0], expected / expected[0], rtol=1e-6)
    assert np.abs(weights).mean() == pytest.approx(1.0, rel=1e-6)

    up, down = reference_decays(solved, 6, "block")
    levels = solved["mo_up_energy"].to_numpy(), solved["mo_down_energy"].to_numpy()
    for found, energies in zip((up, down), levels, strict=True):
        decays = np.sqrt(np.maximum(-2.0 * energies, 0.25))
        np.testing.assert_allclose(found, decays[[0, 1, 2, 3, 0, 1]])
    # The energies of the first determinant's orbitals are those of the solution.
    occupied = solved["orbital_occupation"].to_numpy() > 0
    np.testing.assert_array_equal(levels[1][0], solved["orbital_energy"].to_numpy()[1][occupied[1]])

    earlier = solved.drop_vars(["coefficient", "mo_up_energy", "mo_down_energy"])
    state = Pretrain(spec, earlier.isel(determinant=slice(1))).initial()
    np.testing.assert_array_equal(state.params["determinants"]["w"], np.ones(6))


def test_criterion_is_per_electron_and_adds_the_error() -> None:
    section = {"min_iterations": 10, "energy_tolerance": 0.01, "orbital_tolerance": 0.025}
    stage = Pretrain(spec_of(LITHIUM, pretrain=section), solve(LITHIUM))

    def met(excess: float, error: float, orbital: float = 0.02, step: int = 100) -> bool:
        return stage.converged(Reading(excess, error, 0.1), orbital, step)

    # 0.03 hartree for three electrons.
    assert met(0.019, 0.01)
    assert not met(0.021, 0.01)
    assert not met(0.0, 0.031)  # an energy that is not known is not low
    assert met(-0.02, 0.01)
    assert not met(0.0, 0.01, orbital=0.03)
    assert not met(0.0, 0.01, step=9)
    assert not met(np.nan, np.nan)


def test_a_checkpoint_without_scatter_completes() -> None:
    stage = Pretrain(spec_of(LITHIUM), solve(LITHIUM))
    series = {"orbital_misfit": np.ones(5), "scatter": np.array([np.nan, 0.3, np.nan])}
    found = stage.result(stage.initial(), series)
    np.testing.assert_array_equal(found["scatter"], [np.nan, np.nan, np.nan, 0.3, np.nan])
    assert found.attrs["scatter"] == 0.3
    assert "scatter" not in stage.result(stage.initial(), {}).attrs


@pytest.mark.slow
def test_pretraining_of_lithium_ends_near_hartree_fock() -> None:
    # An independent look at the result: loose settings keep it short, the bar is their own.
    section = {"orbital_tolerance": 0.1, "energy_tolerance": 0.05, "max_iterations": 1500}
    stage = Pretrain(spec_of(LITHIUM, pretrain=section), solve(LITHIUM))
    notes: list[str] = []
    state, series = run(stage, lambda step: notes.extend(step.notes))
    assert series["orbital_misfit"][-1] < 0.1
    excess = series["energy_Eh"][-1] - stage.e_hf
    # Below E_HF only by what correlation can give (45 mEh) and noise.
    error = series["error_Eh"][-1]
    assert -0.045 - 4 * error < excess < 0.05 * 3 - error
    assert int(state.step) < 1500
    result = stage.result(state, series)
    assert result.attrs["converged"] == 1
    (note,) = notes  # at the end
    assert f"scatter of log|psi/psi_HF| {series['scatter'][-1]:.3f}" in note
    assert result.attrs["scatter"] == series["scatter"][-1] < 0.5
    assert result["walkers"].shape == (64, 3, 3)


def test_muon_moves_weight_matrices_and_adam_the_rest() -> None:
    spec = spec_of(LITHIUM)
    params = networks.init(jax.random.key(0), spec.config.network, (2, 1), 1, jnp.float64)
    rng = np.random.default_rng(1)
    gradient = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
    rule = optimiser(spec.config.pretrain)
    update, _ = rule.update(gradient, rule.init(params), params)
    rate = spec.config.pretrain.learning_rate
    for step in jax.tree.leaves(update):
        if step.ndim == 2:
            # Five Newton-Schulz iterations leave singular values between some 0.7 and 1.2, of a
            # random matrix; wide outputs are scaled up (Jordan et al.'s choice, in optax).
            scale = rate * np.sqrt(max(1.0, step.shape[1] / step.shape[0]))
            singular = np.linalg.svd(step, compute_uv=False) / scale
            assert singular.min() > 0.5
            assert singular.max() < 1.5
        else:
            # The first step of Adam with Nesterov's look-ahead and b1 = 0.9, whatever the gradient.
            nadam = rate * (0.9 * 0.1 / (1 - 0.9**2) + 1)
            # Its eps of 1e-8 next to gradients of 1e-3 and more.
            np.testing.assert_allclose(np.abs(step), nadam, rtol=1e-5)


def test_walkers_must_divide_over_the_devices() -> None:
    with pytest.raises(InputError, match=r"mcmc.walkers: found 6; .* \(try 8\)"):
        walker_mesh(6, groups=2)
    with pytest.raises(InputError, match=r"^sharing.walkers: found 6"):
        walker_mesh(6, groups=2, setting="sharing.walkers")

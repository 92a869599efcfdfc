"""The stages of a group against those of single runs, in float64; on one and two devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from helpers.groups import group_of, references_of, run_of, settings
from jax.sharding import Mesh

from ferminet_core.errors import BrokenRunError
from ferminet_core.inputs.run_spec import GroupSpec
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.stages import datasets, group, optimise, parameters
from ferminet_core.stages.base import Recorder, Series
from ferminet_core.stages.base import run as run_stage
from ferminet_core.stages.joint_optimise import JointOptimise, State
from ferminet_core.stages.joint_pretrain import JointPretrain, of_equal_length
from ferminet_core.stages.optimise import Optimise
from ferminet_core.stages.shared_start import SharedStart
from ferminet_core.vmc.hamiltonian import Nuclei, potential_energy
from ferminet_core.wavefunction import adaptation

BONDS = (1.0, 1.4, 3.0)  # the last with two determinants


def on_devices(monkeypatch: pytest.MonkeyPatch, devices: int) -> None:
    mesh = Mesh(jax.devices()[:devices], (AXIS,))
    for module in ("optimise", "joint_optimise", "pretrain", "joint_pretrain", "warm_start"):
        monkeypatch.setattr(
            f"ferminet_core.stages.{module}.walker_mesh", lambda *walkers, **groups: mesh
        )


def pretrained_group(spec: GroupSpec) -> xr.Dataset:
    stage = JointPretrain(spec, *references_of(spec))
    return stage.result(*run_stage(stage))


@pytest.fixture(scope="module")
def spec() -> GroupSpec:
    return group_of(BONDS, settings())


@pytest.fixture(scope="module")
def pretrained(spec: GroupSpec) -> xr.Dataset:
    with pytest.MonkeyPatch.context() as monkeypatch:
        on_devices(monkeypatch, 1)
        return pretrained_group(spec)


def potential(params: Any, electrons: jax.Array, nuclei: Nuclei, spins: Any, chunk: int) -> Any:
    """In place of the local energy where a test does not depend on it: compiled in no time."""
    return potential_energy(electrons, nuclei)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    on_devices(monkeypatch, 1)
    monkeypatch.setattr("ferminet_core.stages.optimise.local_energy", potential)
    return monkeypatch


def optimised(spec: GroupSpec, pretrained: xr.Dataset) -> tuple[State, Series]:
    return run_stage(JointOptimise(spec, pretrained))


# --- one geometry is the optimisation of one run --------------------------------------------------


def test_a_group_of_one_optimises_as_a_run_alone(quick: pytest.MonkeyPatch) -> None:
    """Same walkers, same keys, same series."""
    config = settings(optimise={"spin_penalty": 0.2})
    alone_group = group_of((3.0,), config)
    start = pretrained_group(alone_group)
    assert start["s2_excess"].item() > 0.5
    state, series = optimised(alone_group, start)

    stage = JointOptimise(alone_group, start)
    theta = group.stored_theta(start, alone_group, stage.dtype)
    run = alone_group.runs()[0]
    single = datasets.network_dataset(
        theta["shared"],
        start["walkers"].to_numpy()[0],
        start["mcmc_width"].item(),
        {},
        s2_excess=start["s2_excess"].item(),
        converged=1,
    )
    alone, expected = run_stage(Optimise(run, single))
    for name, values in expected.items():
        # Rounding in double precision of five updates; the damping of 1e-3 under curvatures of up
        # to 100 raises it by 1e5.
        found = series[name].reshape(values.shape)
        np.testing.assert_allclose(found, values, rtol=1e-9, atol=1e-11, err_msg=name)
    both = zip(jax.tree.leaves(state.params["shared"]), jax.tree.leaves(alone.params), strict=True)
    for found, wanted in both:
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)


# --- layouts --------------------------------------------------------------------------------------


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All geometries in one call, as on a GPU."""
    monkeypatch.setattr(group, "over_geometries", lambda function, tree: jax.vmap(function)(tree))


@pytest.mark.slow
def test_devices_and_geometries_at_once_take_the_same_joint_steps(
    spec: GroupSpec, pretrained: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_devices(monkeypatch, 1)
    one, series = optimised(spec, pretrained)
    on_devices(monkeypatch, 2)
    two, _ = optimised(spec, pretrained)
    on_devices(monkeypatch, 1)
    at_once(monkeypatch)
    together, others = optimised(spec, pretrained)
    for other in (two, together):
        pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)
        for mine, theirs in pairs:
            # As for a single run.
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-11)
    # The walkers as well: no move is accepted in one form and refused in the other.
    np.testing.assert_allclose(
        one.walkers.electrons, together.walkers.electrons, rtol=0, atol=1e-11
    )
    np.testing.assert_allclose(series["energy_Eh"], others["energy_Eh"], rtol=0, atol=1e-10)


@pytest.mark.campaign
def test_geometries_at_once_are_pretrained_alike(
    spec: GroupSpec, pretrained: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_devices(monkeypatch, 1)
    at_once(monkeypatch)
    together = pretrained_group(spec)
    for name in pretrained.data_vars:
        # Rounding in double precision of twenty updates; walkers are stored in single precision.
        exact = pretrained[name].dtype == np.float64
        np.testing.assert_allclose(
            together[name], pretrained[name], rtol=0, atol=1e-9 if exact else 1e-6, err_msg=name
        )


def test_the_order_of_the_members_does_not_matter(
    spec: GroupSpec, pretrained: xr.Dataset, quick: pytest.MonkeyPatch
) -> None:
    order = [2, 0, 1]
    turned = spec.model_copy(update={"members": tuple(spec.members[g] for g in order)})
    dims = {"geometry": order}
    state, series = optimised(spec, pretrained)
    other, others = optimised(turned, pretrained.isel(dims))
    for one, two in zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True):
        # As for a single run on several devices: other orders of summation.
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-11)
    np.testing.assert_allclose(series["energy_Eh"][:, order], others["energy_Eh"], atol=1e-10)


def test_a_stopped_optimisation_continues_with_the_same_bits(
    spec: GroupSpec, pretrained: xr.Dataset, quick: pytest.MonkeyPatch
) -> None:
    stage = JointOptimise(spec, pretrained)
    steps = list(stage.steps(stage.initial()))
    assert len(steps) > 1
    again = JointOptimise(spec, pretrained)
    leaves = datasets.state_leaves(steps[0].state)
    state = again.place(datasets.restore_state(leaves, again.initial()))
    last = list(again.steps(state))[-1].state
    expected = datasets.state_leaves(steps[-1].state)
    for name, leaf in datasets.state_leaves(last).items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


# --- energies stay in their geometry --------------------------------------------------------------


def test_a_constant_added_to_the_energies_of_one_geometry_changes_nothing(
    spec: GroupSpec, pretrained: xr.Dataset, quick: pytest.MonkeyPatch
) -> None:
    plain, _ = optimised(spec, pretrained)

    def shifted(params: Any, electrons: jax.Array, nuclei: Nuclei, spins: Any, chunk: int) -> Any:
        short = nuclei.positions[1, 2] - nuclei.positions[0, 2] < 1.2
        return potential_energy(electrons, nuclei) + jnp.where(short, 50.0, 0.0)

    quick.setattr("ferminet_core.stages.optimise.local_energy", shifted)
    found, _ = optimised(spec, pretrained)
    for one, two in zip(jax.tree.leaves(plain.params), jax.tree.leaves(found.params), strict=True):
        # The sum of 50 and energies of order one loses two digits of sixteen.
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-9)


def test_a_geometry_that_loses_its_energies_is_left_out(
    spec: GroupSpec, pretrained: xr.Dataset, quick: pytest.MonkeyPatch
) -> None:
    def lost(params: Any, electrons: jax.Array, nuclei: Nuclei, spins: Any, chunk: int) -> Any:
        stretched = nuclei.positions[1, 2] - nuclei.positions[0, 2] > 2.0
        return potential_energy(electrons, nuclei) + jnp.where(stretched, jnp.nan, 0.0)

    quick.setattr("ferminet_core.stages.optimise.local_energy", lost)
    config = settings(optimise={"max_rollbacks": 1})
    spec = spec.model_copy(update={"config": config})
    stage = JointOptimise(spec, pretrained)
    notes: list[str] = []
    state, series = run_stage(stage, lambda step: notes.extend(step.notes))
    assert np.asarray(state.left_at).tolist() == [-1, -1, 0]
    assert len(series["energy_Eh"]) == 5
    assert np.isfinite(series["energy_Eh"][:, :2]).all()
    assert [line for line in notes if "without r_3" in line]
    assert int(state.rollbacks) == 0
    found = stage.result(state, series)
    reason = group.left_out(found)["r_3"]
    assert "step 0" in reason
    found = found.assign_attrs(spec=spec.model_dump_json(), stage="joint_optimise")
    with pytest.raises(BrokenRunError, match="r_3 pretrain: left out"):
        SharedStart(run_of(spec, 3.0), references_of(spec)[2], found)
    # The others are optimised as in a group without it.
    fewer = spec.model_copy(update={"members": spec.members[:2]})
    two, _ = optimised(fewer, pretrained.isel(geometry=[0, 1]))
    for one, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-11)  # as above


def test_a_group_without_any_energies_fails(
    spec: GroupSpec, pretrained: xr.Dataset, quick: pytest.MonkeyPatch
) -> None:
    def lost(params: Any, electrons: jax.Array, nuclei: Nuclei, spins: Any, chunk: int) -> Any:
        return potential_energy(electrons, nuclei) + jnp.nan

    quick.setattr("ferminet_core.stages.optimise.local_energy", lost)
    config = settings(optimise={"max_rollbacks": 0})
    with pytest.raises(BrokenRunError, match="no geometry is left"):
        optimised(spec.model_copy(update={"config": config}), pretrained)


def test_an_update_that_is_not_finite_is_taken_back(
    spec: GroupSpec, pretrained: xr.Dataset, quick: pytest.MonkeyPatch
) -> None:
    """With half the rate; when the rollbacks are used up, no geometry is to blame."""
    stage = JointOptimise(spec, pretrained)
    state = stage.initial()
    series = {"update_norm": np.array([0.1, np.nan]), "n_nonfinite": np.zeros((2, 3))}
    accident = stage._accident(state, series)
    assert accident is not None
    after, note = stage._roll_back(state, accident)
    assert (int(after.rollbacks), note) == (1, "learning rate times 0.5")
    allowed = spec.config.optimise.max_rollbacks
    used_up = state._replace(rollbacks=jnp.asarray(allowed, jnp.int32))
    with pytest.raises(BrokenRunError, match="the update is not finite, and 5 rollbacks"):
        stage._roll_back(used_up, accident)


# --- start of a run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def joint(spec: GroupSpec, pretrained: xr.Dataset) -> xr.Dataset:
    with pytest.MonkeyPatch.context() as monkeypatch:
        on_devices(monkeypatch, 1)
        monkeypatch.setattr("ferminet_core.stages.optimise.local_energy", potential)
        stage = JointOptimise(spec, pretrained)
        found = stage.result(*run_stage(stage))
    return found.assign_attrs(spec=spec.model_dump_json(), stage="joint_optimise")


def test_a_member_starts_from_its_own_part(
    spec: GroupSpec, joint: xr.Dataset, quick: pytest.MonkeyPatch
) -> None:
    run = run_of(spec, 1.4, iterations=0)
    stage = SharedStart(run, references_of(spec)[1], joint)
    start = stage.result(*run_stage(stage))
    theta = group.stored_theta(joint, spec, jnp.float64)
    z = group.stored_coordinates(joint)(np.asarray(run.molecule.positions))
    expected = adaptation.adapt(theta, jnp.asarray(z))
    found = parameters.from_variables(start)
    jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(np.asarray, expected))
    np.testing.assert_array_equal(start["walkers"], joint["walkers"][1])
    # What follows has the series of the joint optimisation at this geometry.
    result = Optimise(run, start)
    done = result.result(*run_stage(result))
    np.testing.assert_array_equal(done["energy_Eh"], joint["energy_Eh"][:, 1])
    np.testing.assert_array_equal(done["learning_rate"], joint["learning_rate"])
    assert (done.attrs["n_iterations"], done.attrs["n_joint_iterations"]) == (5, 5)
    assert done.attrs["took_part"] == 1


def test_own_updates_follow_the_joint_ones(
    spec: GroupSpec, joint: xr.Dataset, quick: pytest.MonkeyPatch
) -> None:
    run = run_of(spec, 1.4, iterations=3)
    start = SharedStart(run, references_of(spec)[1], joint)
    stage = Optimise(run, start.result(*run_stage(start)))
    done = stage.result(*run_stage(stage))
    assert done.sizes["step"] == done.attrs["n_iterations"] == 8
    np.testing.assert_array_equal(done["energy_Eh"][:5], joint["energy_Eh"][:, 1])
    # One schedule for both: 5 joint iterations have a delay of 1.
    rates = spec.config.optimise.learning_rate / (1.0 + np.arange(8.0))
    np.testing.assert_allclose(done["learning_rate"], rates, rtol=1e-14)  # rounding


def rates_of_own(spec: GroupSpec, joint: xr.Dataset, bond: float) -> np.ndarray:
    """The learning rates of the first iterations of a run of 10 that starts from the group."""
    reference = references_of(group_of((bond,), spec.config))[0]
    run = run_of(spec, bond, iterations=10)
    start = SharedStart(run, reference, joint)
    stage = Optimise(run, start.result(start.initial(), {}))
    state = stage.initial()
    states = [state._replace(step=jnp.asarray(step)) for step in range(10)]
    return np.asarray([optimise.learning_rate(run.config.optimise, one) for one in states])


@pytest.mark.parametrize("bond", [1.4, 1.6])  # a member, and a geometry without training
def test_own_rates_continue_the_schedule_of_the_joint_ones(
    spec: GroupSpec, joint: xr.Dataset, bond: float
) -> None:
    """With its delay, decay and rollbacks: lr / 4 / (1 + (40 + t) / 7)^0.5."""
    config = settings(optimise={"decay": 0.5, "iterations": 40, "delay": 7.0})
    spec = spec.model_copy(update={"config": config})
    state = JointOptimise(spec, joint.assign_attrs(converged=1)).initial()
    two = jnp.asarray(2, jnp.int32)
    ended = state._replace(step=jnp.asarray(40, jnp.int32), rollbacks=two)
    attrs = optimise.continued_schedule(config.optimise, ended)
    joint = joint.assign_attrs(spec=spec.model_dump_json(), **attrs)
    rates = (
        spec.config.optimise.learning_rate / 4.0 * (1.0 + (40.0 + np.arange(10.0)) / 7.0) ** -0.5
    )
    np.testing.assert_allclose(rates_of_own(spec, joint, bond), rates, rtol=1e-14)  # rounding


def test_own_rates_start_where_there_is_no_schedule_to_continue(
    spec: GroupSpec, joint: xr.Dataset
) -> None:
    """After a group without iterations, and after one of an older version."""
    state = JointOptimise(spec, joint.assign_attrs(converged=1)).initial()
    assert optimise.continued_schedule(spec.config.optimise, state) == {}
    older = joint.copy()
    older.attrs = {k: v for k, v in joint.attrs.items() if k not in ("first_rate", "delay")}
    rates = spec.config.optimise.learning_rate / (1.0 + np.arange(10.0) / 2.0)
    np.testing.assert_allclose(rates_of_own(spec, older, 1.4), rates, rtol=1e-14)  # rounding


def test_another_geometry_starts_from_the_nearest_one(
    spec: GroupSpec, joint: xr.Dataset, quick: pytest.MonkeyPatch
) -> None:
    run = run_of(spec, 1.6, iterations=2).model_copy(
        update={"config": settings(mcmc={"walkers": 40}, optimise={"iterations": 2})}
    )
    reference = references_of(group_of((1.6,), spec.config))[0]
    stage = SharedStart(run, reference, joint)
    start = stage.result(*run_stage(stage))
    assert start.sizes["walker"] == 40
    assert start.attrs["took_part"] == 0
    # From 1.4 bohr: each nucleus moves by 0.1 bohr, and no electron by more.
    moved = start["walkers"].to_numpy()[:16] - joint["walkers"].to_numpy()[1]
    assert 0.05 < np.abs(moved[..., 2]).max() < 0.1 + 1e-6
    done = Optimise(run, start)
    assert done.result(*run_stage(done)).sizes["step"] == 2


# --- pretraining ----------------------------------------------------------------------------------


def test_a_joint_pretraining_fits_every_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to the criterion of single runs, with the orbitals of both spin patterns at 3 bohr."""
    on_devices(monkeypatch, 1)
    config = settings(
        network={"layers": 2, "one_electron_width": 16},
        pretrain={"max_iterations": 800, "check_every": 100},
        runtime={"block": 100},
    )
    found = pretrained_group(group_of(BONDS, config))
    assert found.attrs["converged"] == 1
    assert (found["orbital_misfit"][-1] < config.pretrain.orbital_tolerance).all()
    excess = (found["energy_Eh"][-1] - found["e_hf"]).to_numpy()
    # The criterion: energy and its error within the tolerance for each electron.
    assert (excess < config.pretrain.energy_tolerance * 2).all()
    assert found["s2_excess"].to_numpy() == pytest.approx([0, 0, 0.6], abs=0.3)


def test_references_of_equal_length_stand_for_the_same_states() -> None:
    one, two = references_of(group_of((1.4, 3.0), settings()))
    longer, same = of_equal_length([one, two], 8)
    assert longer.sizes["determinant"] == same.sizes["determinant"] == 2
    assert longer["coefficient"].sum() == 1.0
    np.testing.assert_array_equal(longer["mo_up"][0], longer["mo_up"][1])
    np.testing.assert_array_equal(same["mo_up"], two["mo_up"])
    (single,) = of_equal_length([two], 1)
    assert single.sizes["determinant"] == 1


# --- some of the geometries in an update ----------------------------------------------------------


def test_every_geometry_has_its_turn() -> None:
    key = jax.random.key(0)
    turns = jax.jit(lambda step: group.turns(key, step, 7, 3))
    for start in (0, 3, 300):
        taken = [np.asarray(turns(jnp.asarray(step))) for step in range(start, start + 3)]
        assert set(np.concatenate(taken).tolist()) == set(range(7))
        assert all(len(set(one.tolist())) == 3 for one in taken)
    assert not np.array_equal(turns(jnp.asarray(0)), turns(jnp.asarray(3)))


def test_an_update_of_some_geometries_leaves_the_others(
    spec: GroupSpec, pretrained: xr.Dataset, quick: pytest.MonkeyPatch
) -> None:
    some = settings(sharing={"rows": 32}, optimise={"iterations": 4}, runtime={"block": 1})
    spec = spec.model_copy(update={"config": some})
    stage = JointOptimise(spec, pretrained)
    before = np.asarray(stage.initial().walkers.electrons)
    state, recorder = stage.initial(), Recorder()
    for step in stage.steps(state):
        turns = np.isfinite(step.stats["energy_Eh"][0])
        assert turns.sum() == 2
        after = np.asarray(step.state.walkers.electrons)
        if step.step > 1:  # the first step also equilibrates
            moved = (after != before).any(axis=(1, 2, 3))
            np.testing.assert_array_equal(moved, turns)
        before = after
        recorder.add(step.stats)
        state = step.state
    found = stage.result(state, recorder.series())
    # Two updates are a round: each geometry once at least.
    assert np.isfinite(found["energy_Eh"].to_numpy()[:2]).any(axis=0).all()
    assert dict(found["energy_Eh"].sizes) == {"step": 4, "geometry": 3}


def test_a_run_has_the_series_of_its_turns(
    spec: GroupSpec, joint: xr.Dataset, quick: pytest.MonkeyPatch
) -> None:
    some = joint.copy(deep=True)
    some["pmove"][1::2, 1] = np.nan
    run = run_of(spec, 1.4, iterations=0)
    stage = SharedStart(run, references_of(spec)[1], some)
    start = stage.result(*run_stage(stage))
    np.testing.assert_array_equal(start["energy_Eh"], joint["energy_Eh"][::2, 1])
    np.testing.assert_array_equal(start["learning_rate"], joint["learning_rate"][::2])

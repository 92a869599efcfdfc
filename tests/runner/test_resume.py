"""A loop that is left and taken up again goes on as if it had not been left, bit by bit."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from helpers.optimisers import OTHER_OPTIMISERS
from jax.sharding import Mesh

from ferminet_core.chemistry import hartree_fock
from ferminet_core.errors import ArtefactError
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.stages import datasets, optimise
from ferminet_core.stages.base import Recorder, Stage, run
from ferminet_core.stages.inference import Inference
from ferminet_core.stages.optimise import Optimise
from ferminet_core.stages.pretrain import Pretrain
from ferminet_core.storage import artefacts, checkpoints
from ferminet_core.wavefunction import networks

MOLECULE = Molecule(symbols=("H", "H"), positions=((0, 0, 0), (0, 0, 3.0)), charge=0, spin=0)


def spec_of(steps: int, **optimise_settings: Any) -> RunSpec:
    network = {"layers": 1, "one_electron_width": 8, "two_electron_width": 4, "determinants": 2}
    config = Config.model_validate(
        {
            "network": network,
            "mcmc": {"walkers": 32, "burn_in": 20},
            "pretrain": {"min_iterations": 0, "max_iterations": steps, "check_every": 4},
            "optimise": {"iterations": steps, "learning_rate": 0.01, **optimise_settings},
            "inference": {"samples": 10 * steps, "thin": 1, "keep_every": 20},
            "runtime": {"block": 3, "precision": "float64"},
        }
    )
    return RunSpec(scan="s", run_id="r", geometry="r", molecule=MOLECULE, config=config)


def of_kind(spec: RunSpec, kind: str) -> RunSpec:
    """The run with another network."""
    network = spec.config.network.model_copy(update={"kind": kind, "jastrow": True})
    config = spec.config.model_copy(update={"network": network})
    return spec.model_copy(update={"config": config})


@pytest.fixture(scope="module")
def reference() -> xr.Dataset:
    return hartree_fock.solve(MOLECULE, Config().reference)


@pytest.fixture(scope="module")
def pretrained(reference: xr.Dataset) -> xr.Dataset:
    stage = Pretrain(spec_of(20), reference)
    return stage.result(*run(stage))


@pytest.fixture(scope="module")
def optimised(pretrained: xr.Dataset) -> xr.Dataset:
    stage = Optimise(spec_of(8), pretrained)
    return stage.result(*run(stage))


def leave(stage: Stage, folder: Path, after: int) -> checkpoints.Checkpoint:
    """Run a stage until `after` steps or more, and come back from a checkpoint on the disk."""
    recorder = Recorder()
    for step in stage.steps(stage.initial()):
        recorder.add(step.stats)
        if step.step >= after:
            break
    leaves = datasets.state_leaves(step.state)
    path = checkpoints.save(folder, step.step, leaves, recorder.series(), {}, lambda: None)
    return checkpoints.load(path)


def go_on(stage: Stage, found: checkpoints.Checkpoint) -> tuple[Any, dict[str, np.ndarray]]:
    state = stage.place(datasets.restore_state(found.leaves, stage.initial()))
    recorder = Recorder(found.series)
    for step in stage.steps(state):
        assert step.step > found.step
        state = step.state
        recorder.add(step.stats)
    return state, recorder.series()


def assert_same(stage: Stage, one: tuple[Any, Any], two: tuple[Any, Any]) -> None:
    """The very same states, series and artefacts; NaN equals NaN."""
    first, second = (datasets.state_leaves(state) for state, _ in (one, two))
    assert first.keys() == second.keys()
    for name, leaf in first.items():
        np.testing.assert_array_equal(leaf, second[name], err_msg=name)
    xr.testing.assert_identical(stage.result(*one), stage.result(*two))


def use_devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    mesh = Mesh(jax.devices()[:count], (AXIS,))
    for module in ("optimise", "pretrain", "inference"):
        monkeypatch.setattr(f"ferminet_core.stages.{module}.walker_mesh", lambda *_, **__: mesh)


def assert_no_code(folder: Path) -> None:
    """A checkpoint holds numbers and JSON only: every member is Zarr's metadata or raw chunks."""
    (path,) = checkpoints.steps_in(folder).values()
    ds = artefacts.load(path)
    assert {str(ds[name].dtype.kind) for name in ds.variables} <= set("biuf")
    assert json.dumps(ds.attrs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("period", "devices"), [pytest.param(1, 1, marks=pytest.mark.campaign), (5, 2)]
)
def test_optimisation_n_plus_n_is_2n(
    period: int,
    devices: int,
    pretrained: xr.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_devices(monkeypatch, devices)
    # The first half is a whole run of 7 steps, which the longer one extends with the same delay.
    shorter = spec_of(7, inverse_period=period)
    delay = shorter.config.optimise.planned_delay()
    whole = Optimise(spec_of(14, inverse_period=period, delay=delay), pretrained)
    half = leave(Optimise(shorter, pretrained), tmp_path, 7)
    assert half.step == 7
    assert_no_code(tmp_path)
    rest = Optimise(spec_of(14, inverse_period=period), pretrained)
    assert_same(whole, run(whole), go_on(rest, half))


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", OTHER_OPTIMISERS)
def test_other_optimisers_n_plus_n_is_2n(
    optimiser: str, pretrained: xr.Dataset, tmp_path: Path
) -> None:
    def stage() -> Optimise:
        return Optimise(spec_of(8, optimiser=optimiser), pretrained)

    assert_same(stage(), run(stage()), go_on(stage(), leave(stage(), tmp_path, 5)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(networks.NETWORKS.keys() - {"ferminet"}))
def test_other_networks_n_plus_n_is_2n(
    kind: str, reference: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two devices. Only the optimisation has a state that depends on the network."""
    use_devices(monkeypatch, 2)
    spec = of_kind(spec_of(6), kind)
    pretrain = Pretrain(spec, reference)
    start = pretrain.result(pretrain.initial(), {})

    def stage() -> Optimise:
        return Optimise(spec, start)

    assert_same(stage(), run(stage()), go_on(stage(), leave(stage(), tmp_path, 3)))


@pytest.mark.parametrize(
    "after", [3, *(pytest.param(after, marks=pytest.mark.campaign) for after in (4, 8))]
)
def test_pretraining_n_plus_n_is_2n(after: int, reference: xr.Dataset, tmp_path: Path) -> None:
    """Left inside a block, after a look at the criterion, and at the end of a shorter run."""
    whole, rest = (Pretrain(spec_of(14), reference) for _ in range(2))
    first = Pretrain(spec_of(8), reference)
    assert_same(whole, run(whole), go_on(rest, leave(first, tmp_path, after)))


@pytest.mark.slow
@pytest.mark.parametrize("after", [30, 120, 160])
def test_inference_n_plus_n_is_2n(
    after: int, optimised: xr.Dataset, reference: xr.Dataset, tmp_path: Path
) -> None:
    """Left inside the first window of the equilibration, after it, and while measuring."""

    def stage() -> Inference:
        return Inference(spec_of(10), optimised, reference)

    one, two = run(stage()), go_on(stage(), leave(stage(), tmp_path, after))
    assert_same(stage(), one, two)
    assert len(two[1]["energy_local"]) == 100
    assert two[1]["walkers"].shape == (5, 32, 2, 3)


@pytest.mark.slow
def test_an_observable_measured_only_after_a_resume_has_no_earlier_values(
    optimised: xr.Dataset, reference: xr.Dataset
) -> None:
    """As of a checkpoint by a version that did not measure it."""
    stage = Inference(spec_of(10), optimised, reference)
    state, series = run(stage)
    dipole = series.pop("dipole")
    later = stage.result(state, {**series, "dipole": dipole[4:]})
    np.testing.assert_array_equal(later["dipole"], [*np.full((4, 3), np.nan), *dipole[4:]])
    # Rounding of a sum of six numbers.
    assert later.attrs["dipole_z"] == pytest.approx(dipole[4:, 2].mean(), rel=1e-12)
    assert np.isnan(stage.result(state, series).attrs["dipole_z"])
    assert later.attrs["s2"] == stage.result(state, series).attrs["s2"]


@pytest.mark.slow
def test_blocks_do_not_change_the_numbers(
    pretrained: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a call takes: one iteration at a time, or as many as there is room for."""
    stages = [Optimise(spec_of(9), pretrained) for _ in range(2)]
    one = run(stages[0])
    monkeypatch.setattr("ferminet_core.stages.base.BLOCK_SECONDS", 0.0)
    steps = [step.step for step in stages[1].steps(stages[1].initial())]
    assert steps == list(range(1, 10))
    assert_same(stages[0], one, run(stages[1]))


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(
    pretrained: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_devices(monkeypatch, 2)
    half = leave(Optimise(spec_of(6), pretrained), tmp_path, 3)
    both = [go_on(Optimise(spec_of(6), pretrained), half)]
    use_devices(monkeypatch, 1)
    both.append(go_on(Optimise(spec_of(6), pretrained), half))
    for a, b in zip(*(jax.tree.leaves(state.params) for state, _ in both), strict=True):
        # Order of summation in float64, times condition numbers as in test_optimise: 1e-10.
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_an_update_that_is_no_number_is_taken_back(
    pretrained: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block with the accident is made again, with other random numbers and half the rate."""
    stage = Optimise(spec_of(6), pretrained)
    compile_ = stage._compile
    calls = []

    def compile_faulty(state: optimise.State) -> Any:
        block = compile_(state)

        def faulty(state: optimise.State, *rest: Any) -> Any:
            after, stats = block(state, *rest)
            calls.append((int(state.step), int(state.rollbacks)))
            if len(calls) == 2:
                after = after._replace(params=jax.tree.map(lambda x: x * jnp.nan, after.params))
                stats = stats._replace(update_norm=stats.update_norm * jnp.nan)
            return after, stats

        return faulty

    monkeypatch.setattr(stage, "_compile", compile_faulty)
    steps = list(stage.steps(stage.initial()))
    assert calls[1] == (1, 0)
    assert calls[2] == (1, 1)
    assert [step.step for step in steps if step.notes] == [1]
    assert "not finite: back to step 1" in next(step.notes[0] for step in steps if step.notes)
    series = Recorder()
    for step in steps:
        series.add(step.stats)
    rates = series.series()["learning_rate"]
    assert len(rates) == 6
    config = stage.config.optimise
    expected = config.learning_rate / (1 + np.arange(6) / config.planned_delay())
    expected[1:] /= 2
    np.testing.assert_allclose(rates, expected, rtol=1e-6)  # powers in float32
    assert stage.result(steps[-1].state, series.series()).attrs["n_rollbacks"] == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(steps[-1].state.params))


@pytest.mark.slow
def test_frozen_walkers_and_a_lost_width_are_told(
    pretrained: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimise, "FROZEN_WINDOW", 4)
    stuck = pretrained.assign_attrs(mcmc_width=1e6)  # no proposal will be accepted
    stage = Optimise(spec_of(4), stuck)
    notes = [note for step in stage.steps(stage.initial()) for note in step.notes]
    assert any("32 walkers did not move in 4 iterations" in note for note in notes)
    assert any("width has grown to" in note for note in notes)
    healthy = Optimise(spec_of(4), pretrained)
    assert not [note for step in healthy.steps(healthy.initial()) for note in step.notes]


@pytest.mark.slow
def test_a_state_of_another_shape_is_refused(pretrained: xr.Dataset, tmp_path: Path) -> None:
    found = leave(Optimise(spec_of(4), pretrained), tmp_path, 2)
    state = Optimise(spec_of(4), pretrained).initial()
    longer = jnp.zeros((64, 2, 3))
    template = state._replace(walkers=state.walkers._replace(electrons=longer))
    with pytest.raises(ArtefactError, match=r"walkers\.electrons is float64\(32, 2, 3\), needed"):
        datasets.restore_state(found.leaves, template)
    less = {name: leaf for name, leaf in found.leaves.items() if name != "width"}
    with pytest.raises(ArtefactError, match="parts differ: width"):
        datasets.restore_state(less, state)

"""A small shared wavefunction of H2 between the geometries that it was trained at."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
import pytest
import xarray as xr
from helpers.groups import group_of, hydrogen, lithium_hydride, settings
from jax.sharding import Mesh

from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import GroupSpec
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.stages import group
from ferminet_core.stages.base import run as run_stage
from ferminet_core.stages.joint_curve import SLOPE_SHIFT, CurveStages
from ferminet_core.stages.optimise import Stats
from ferminet_core.wavefunction import adaptation, networks

SAMPLES = 400


def joint_of(spec: GroupSpec) -> xr.Dataset:
    """A joint wavefunction with random parameters and heads, as a training would leave it."""
    dtype, molecule = np.dtype("float64"), spec.molecule
    network, spins = spec.config.network, molecule.electrons
    params = networks.init(jax.random.key(1), network, spins, len(molecule.symbols), dtype)
    coordinates = group.make_coordinates(spec)
    theta = adaptation.start(params, coordinates.axes.shape[1])
    rng = np.random.default_rng(0)
    heads = jax.tree.map(lambda x: x + 0.05 * rng.normal(size=x.shape), theta["heads"])
    electrons = rng.normal(size=(len(spec.members), spec.config.sharing.walkers, 2, 3))
    widths = np.full(len(spec.members), 0.5)
    series = {name: np.zeros((1, len(spec.members))) for name in Stats._fields}
    found = group.dataset({**theta, "heads": heads}, coordinates, electrons, widths, series, {})
    attrs = {"n_rollbacks": 0, "pretrain_converged": 1, "spec": spec.model_dump_json()}
    return found.assign_attrs(stage="joint_optimise", **attrs)


@pytest.fixture(scope="module")
def spec() -> GroupSpec:
    config = settings(
        mcmc={"walkers": 256},
        sharing={"walkers": 32},
        inference={"samples": SAMPLES, "thin": 5},
    )
    return group_of((1.2, 1.4, 1.7), config)


@contextmanager
def stages_of(spec: GroupSpec, make: Callable[[float], Molecule]) -> Iterator[CurveStages]:
    mesh = Mesh(jax.devices()[:1], (AXIS,))
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in ("warm_start", "inference"):
            monkeypatch.setattr(
                f"ferminet_core.stages.{module}.walker_mesh", lambda *walkers, **groups: mesh
            )
        monkeypatch.setattr("ferminet_core.stages.inference.evaluate_all", lambda *given: {})
        yield CurveStages(spec, joint_of(spec), "R", lambda at: make(at["R"]), SAMPLES)


@pytest.fixture(scope="module")
def stages(spec: GroupSpec) -> Iterator[CurveStages]:
    with stages_of(spec, hydrogen) as found:
        yield found


def assert_a_difference_agrees(stages: CurveStages, one: float, two: float) -> None:
    """A difference of energies equals that of two inferences, with a smaller error."""
    energies = []
    for value in (one, two):
        _, series = run_stage(stages.point(value))
        walkers = series["energy_local"].mean(axis=0)
        energies.append((walkers.mean(), walkers.std(ddof=1) / np.sqrt(walkers.size)))
    (start, start_error), (end, end_error) = energies
    step = stages.step((one + two) / 2, one, two)
    found = step.difference(run_stage(step)[1])
    apart = np.hypot(start_error, end_error)
    assert abs(found.value - (end - start)) < 4 * np.hypot(apart, found.error)
    assert found.error < 0.7 * apart
    assert 0.5 < found.effective < 1.0


@pytest.mark.slow
def test_a_difference_agrees_with_two_inferences(stages: CurveStages) -> None:
    assert_a_difference_agrees(stages, 1.35, 1.65)


@pytest.mark.campaign
def test_a_difference_with_a_pseudopotential(spec: GroupSpec) -> None:
    with_potential = group_of((2.6, 3.0, 3.5), spec.config, make=lithium_hydride)
    with stages_of(with_potential, lithium_hydride) as stages:
        assert_a_difference_agrees(stages, 2.9, 3.2)


@pytest.mark.campaign
def test_segments_of_a_way_add_up(stages: CurveStages) -> None:
    """To the difference across all of it, from other walkers at another place."""

    def difference(start: float, end: float) -> tuple[float, float]:
        stage = stages.step((start + end) / 2, start, end)
        found = stage.difference(run_stage(stage)[1])
        return found.value, found.error

    whole, halves = difference(1.35, 1.65), [difference(1.35, 1.5), difference(1.5, 1.65)]
    error = np.sqrt(whole[1] ** 2 + sum(e**2 for _, e in halves))
    assert abs(whole[0] - sum(value for value, _ in halves)) < 4 * error


@pytest.mark.slow
def test_an_end_at_the_walkers_own_place_has_their_energies(stages: CurveStages) -> None:
    stage = stages.step(1.4, 1.4, 1.45)
    step = next(iter(stage.steps(stage.initial()._replace(measuring=True))))
    np.testing.assert_allclose(step.stats["log_weight"][..., 0], 0.0, atol=1e-10)
    np.testing.assert_allclose(
        step.stats["end_energy"][..., 0], step.stats["energy_local"], rtol=1e-9
    )
    assert np.abs(step.stats["log_weight"][..., 1]).max() > 1e-3


@pytest.mark.slow
def test_the_compiled_code_serves_all_geometries(stages: CurveStages) -> None:
    stages.point(1.2)  # one that never runs
    first = stages.point(1.3)
    next(iter(first.steps(first.initial())))
    second = stages.point(1.6)
    assert second.executable is not None
    assert second.executable is stages.point(1.25).executable


def test_the_shift_of_a_slope_is_that_of_a_nucleus(stages: CurveStages) -> None:
    assert stages.slope_step(1.4) == pytest.approx(2 * SLOPE_SHIFT)  # half of R each
    assert stages.bond(1.55) == pytest.approx(1.55)


def test_a_trained_geometry_has_its_run_s_random_numbers(
    stages: CurveStages, spec: GroupSpec
) -> None:
    assert stages.point(1.4).spec.stage_seed("inference") == spec.runs()[1].stage_seed("inference")
    assert stages.point(1.4).spec.run_id == "r_1.4"
    assert stages.point(1.41).spec.run_id not in {member.run_id for member in spec.members}

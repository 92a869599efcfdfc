"""A whole run in memory."""

import itertools

import jax
import numpy as np
import pytest

import ferminet_core
from ferminet_core.analysis.estimates import SERIES, Conditions, figures
from ferminet_core.stages.pretrain import Pretrain

pytestmark = pytest.mark.slow

STAGES = ["reference", "pretrain", "optimise", "inference"]


@pytest.fixture(scope="module")
def computed() -> tuple[ferminet_core.Run, list[ferminet_core.Progress]]:
    """The hydrogen atom in a network as small as can be."""
    config = ferminet_core.configuration(
        "smoke",
        network={"layers": 1, "one_electron_width": 4, "two_electron_width": 2, "determinants": 1},
        mcmc={"walkers": 16},
        pretrain={"min_iterations": 0, "max_iterations": 60, "check_every": 20},
        optimise={"optimiser": "adam", "iterations": 12},
        inference={"samples": 20},
        runtime={"block": 5},
    )
    reports: list[ferminet_core.Progress] = []
    molecule = ferminet_core.molecule(["H 0 0 0"], spin=1)
    return ferminet_core.run(molecule, config, progress=reports.append), reports


def test_progress_is_reported_stage_by_stage(
    computed: tuple[ferminet_core.Run, list[ferminet_core.Progress]],
) -> None:
    _, reports = computed
    stages = {stage: list(found) for stage, found in itertools.groupby(reports, lambda p: p.stage)}
    assert list(stages) == STAGES
    for found in stages.values():
        steps = [report.step for report in found]
        assert steps == sorted(set(steps))
        assert steps[-1] <= found[-1].total
    assert stages["optimise"][-1].step == stages["optimise"][-1].total == 12
    numbers = [x for p in stages["optimise"] for x in (p.energy, p.error)]
    assert np.isfinite(np.array(numbers, float)).all()  # None becomes NaN
    assert stages["reference"][0].energy == pytest.approx(-0.499278, abs=1e-6)  # cc-pVDZ


def test_results_are_those_of_the_stages(
    computed: tuple[ferminet_core.Run, list[ferminet_core.Progress]],
) -> None:
    run, _ = computed
    assert run.state == "done"
    inference, optimise = run.dataset("inference"), run.dataset("optimise")
    conditions = Conditions(run.spec.stage_seed("bootstrap"), 1, True, True, 0)
    expected = figures({name: inference[name].to_numpy() for name in SERIES}, conditions)
    assert (run.energy, run.error) == (expected["energy_Eh"], expected["error_Eh"])
    assert len(run.series()) == len(run.series("optimise")) == 12
    assert run.verdict
    assert np.array_equal(run.wavefunction().walkers, optimise["walkers"])
    with pytest.raises(ferminet_core.InputError, match="no stage 'conventional'"):
        run.dataset("conventional")


def test_the_stages_run_in_the_precision_of_the_settings(
    computed: tuple[ferminet_core.Run, list[ferminet_core.Progress]],
) -> None:
    run, _ = computed
    assert run.spec.config.runtime.precision == "float32"
    with jax.enable_x64(False):
        assert Pretrain(run.spec, run.dataset("reference")).dtype == np.float32
    weights = [v for k, v in run.dataset("optimise").items() if str(k).startswith("params.")]
    assert {v.dtype for v in weights} == {np.dtype(np.float32)}
    assert jax.config.read("jax_enable_x64")


def test_one_stage_alone() -> None:
    molecule = ferminet_core.molecule(["H 0 0 0"], spin=1)
    run = ferminet_core.run(molecule, ferminet_core.configuration("smoke"), until="reference")
    assert run.state == "waiting"
    # cc-pVDZ, to the six digits of the number.
    assert run.dataset("reference").attrs["e_hf"] == pytest.approx(-0.499278, abs=1e-6)
    with pytest.raises(ferminet_core.InputError, match="no stage 'inference'"):
        _ = run.energy
    with pytest.raises(ferminet_core.InputError, match="no stage 'optimize'; did you mean"):
        ferminet_core.run(molecule, ferminet_core.configuration("smoke"), until="optimize")

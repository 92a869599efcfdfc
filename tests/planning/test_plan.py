"""The price of a scan: rooflines, messages, sums over runs, and what the command prints."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr
import yaml
from helpers.paths import ROOT
from typer.testing import CliRunner

from benchmarks.cases import CASES
from ferminet_core.cli import plan_tables
from ferminet_core.cli.commands import app
from ferminet_core.errors import InputError
from ferminet_core.inputs.scan import Scan, load_scan
from ferminet_core.planning import alternatives, calibration, machines, plan
from ferminet_core.planning.kernels import Kernel
from ferminet_core.planning.machines import GPUS, Layout, Machine, Rates
from ferminet_core.stages.base import Series, Step

SYSTEM = """
units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {R: [1.4, 2.0, 3.0]}
preset: small
"""
# Round numbers, by which results can be told by hand.
RATES = Rates(
    product=1e9,
    gram=5e8,
    inverse=1e8,
    sweep=4e9,
    memory=1e9,
    row=1e-9,
    function=1e-9,
    pair_function=4e-9,
    normal=1e-8,
    launch=1e-6,
)
MACHINE = Machine("a machine", "cpu", RATES, 1e9, 1e9, 1e8, 1e-5, "made up")


def scan(tmp_path: Path, text: str = SYSTEM, **settings: Any) -> Scan:
    path = tmp_path / "h2.yaml"
    path.write_text(text)
    return load_scan(path, overrides=settings)


# --- machines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (Kernel("product", flops=1e6, moved=1e5), 1e-3),  # by its arithmetic
        (Kernel("product", flops=1e4, moved=1e6), 1e-3),  # by its traffic, 4 MB
        (Kernel("gram", flops=1e6), 2e-3),
        (Kernel("sweep", moved=1e6), 1e-3),
        (Kernel("sweep", moved=1e7), 4e-2),  # 40 MB do not fit into the cache
        (Kernel("sweep", moved=1e3, functions=1e5, pair_functions=1e5), 5e-4),
        (Kernel("normals", moved=1e4, flops=1e9), 1e-4),
        (Kernel("inverse", flops=1e6, moved=1e6), 1e-2 + 1e-3),
    ],
)
def test_a_kernel_takes_what_it_waits_for(kernel: Kernel, expected: float) -> None:
    assert machines.kernel_seconds(RATES, kernel, 4) == pytest.approx(expected + 1e-6)


def test_double_precision_takes_twice_as_long() -> None:
    for kernel in (Kernel("product", 1e6, 1e3), Kernel("sweep", 0.0, 1e6, 1e5)):
        single, double = (machines.kernel_seconds(RATES, kernel, size) - 1e-6 for size in (4, 8))
        assert double == pytest.approx(2 * single)


@pytest.mark.parametrize(
    ("layout", "ms"), [(Layout(1, 8), 0.18), (Layout(8, 8), 0.89), (Layout(64, 8), 1.02)]
)
def test_messages_take_what_the_documents_say(layout: Layout, ms: float) -> None:
    """The table of docs/clusters.md for N2 by KFAC, to its digits."""
    run = CASES["N2"].spec(**{"mcmc.walkers": 4096})
    sizes = plan.messages(run, "optimise", GPUS["h100"], layout)
    assert sum(sizes) / 2**20 == pytest.approx(15.7, abs=0.05)
    took = machines.collective_seconds(GPUS["h100"], layout, sizes)
    assert 1e3 * took == pytest.approx(ms, abs=0.005)
    assert machines.collective_seconds(GPUS["h100"], Layout(1, 1), sizes) == 0.0


# --- plans ----------------------------------------------------------------------------------------


def test_a_stage_is_the_sum_of_its_parts() -> None:
    run = CASES["LiH"].spec(**{"optimise.iterations": 1000, "mcmc.burn_in": 0})
    found = plan.stage_plan(run, "optimise", MACHINE, Layout(2, 2))
    parts = sum(part.seconds for part in found.parts.values())
    assert found.step_seconds == pytest.approx(parts + found.messages_seconds)
    assert found.seconds == pytest.approx(1000 * found.step_seconds)
    assert found.device_hours == pytest.approx(4 * found.seconds / 3600)
    burnt = CASES["LiH"].spec(**{"optimise.iterations": 1000, "mcmc.burn_in": 200})
    more = plan.stage_plan(burnt, "optimise", MACHINE, Layout(2, 2)).seconds - found.seconds
    # Twenty sweeps of ten moves, each as in an iteration.
    assert more == pytest.approx(20 * found.parts["sampling"].seconds)


def test_twice_the_devices_halve_what_walkers_take() -> None:
    run = CASES["N2"].spec()
    one, two = (plan.stage_plan(run, "optimise", MACHINE, Layout(1, n)) for n in (1, 2))
    assert one.parts["local energy"].seconds == pytest.approx(2 * two.parts["local energy"].seconds)
    # The devices share KFAC's factors.
    assert one.parts["inverses"].seconds == pytest.approx(2 * two.parts["inverses"].seconds)
    assert (one.messages_seconds, two.messages_seconds > 0) == (0.0, True)
    gpu = [plan.stage_plan(run, "optimise", GPUS["a100"], Layout(1, n)) for n in (1, 2)]
    assert gpu[0].parts["inverses"].seconds == pytest.approx(2 * gpu[1].parts["inverses"].seconds)


def test_a_stage_by_what_it_reached() -> None:
    """Seconds are operations divided by the measured flop/s."""
    reached = {"pretrain": 1e9, "optimise": 2e9, "inference": 4e9}
    machine = MACHINE._replace(rates=reached)
    run = CASES["LiH"].spec()
    found = plan.run_plan(run, machine, Layout(1, 1))
    for name, stage in found.stages.items():
        for part, work in stage.parts.items():
            assert work.seconds == pytest.approx(work.flops / reached[name]), part


def test_warm_starts_cost_a_share(tmp_path: Path) -> None:
    """One anchor in full; the others without pretraining, and a quarter of the updates."""
    cold = scan(tmp_path)
    warm = scan(tmp_path, SYSTEM + "warm_start: {anchors: [r_2], share: 0.25}\n")
    full, less = (plan.scan_plan(s.runs, MACHINE, per_node=1, nodes=1) for s in (cold, warm))
    assert less.node_hours("pretrain") == pytest.approx(full.node_hours("pretrain") / 3)
    assert less.node_hours("inference") == pytest.approx(full.node_hours("inference"))
    step = full.runs[0].stages["optimise"].step_seconds
    saved = full.node_hours("optimise") - less.node_hours("optimise")
    iterations = cold.runs[0].config.optimise.iterations
    assert 3600 * saved == pytest.approx(2 * 0.75 * iterations * step)
    assert less.costliest.spec.run_id == "r_2"


def test_a_stage_on_one_device_takes_its_share_of_the_node(tmp_path: Path) -> None:
    runs = scan(tmp_path).runs
    one, four = (plan.scan_plan(runs, GPUS["h100"], per_node=n, nodes=1) for n in (1, 4))
    assert four.node_hours("inference") == pytest.approx(one.node_hours("inference") / 4)


SHARED = SYSTEM + "sharing: scan\noverrides: {optimise.iterations: 100, sharing.walkers: 32}\n"


def planned(tmp_path: Path, text: str, machine: Machine = MACHINE) -> plan.ScanPlan:
    found = scan(tmp_path, text)
    return plan.scan_plan(found.runs, machine, per_node=1, nodes=1, groups=found.groups)


def test_a_group_is_priced_once_and_its_runs_by_what_is_left(tmp_path: Path) -> None:
    found = planned(tmp_path, SHARED)
    (group,) = found.groups
    assert list(found.by_stage) == [*plan.OF_GROUPS, *plan.OF_RUNS]
    assert group.walkers == 3 * 32
    assert group.optimisation.iterations == 100
    assert found.node_hours("pretrain") == found.node_hours("optimise") == 0.0
    assert found.node_hours("inference") > 0
    assert found.costliest is group
    independent = planned(tmp_path, SYSTEM + "overrides: {optimise.optimiser: spring}\n")
    assert found.node_hours("inference") == pytest.approx(independent.node_hours("inference"))
    # Walkers of three geometries, an eighth of those of a run each.
    moves = [p.optimisation.parts["local energy"].flops for p in (group, independent.runs[0])]
    assert moves[0] == pytest.approx(3 / 8 * moves[1], rel=0.05)


def test_an_update_of_some_geometries_costs_what_they_cost(tmp_path: Path) -> None:
    """Rows for two of three: the walkers of all are equilibrated and kept, two are moved."""
    full, part = (
        planned(tmp_path, text).groups[0]
        for text in (SHARED, SHARED.replace("{optimise", "{sharing.rows: 95, optimise"))
    )
    assert (full.moved, part.moved) == (96, 64)
    assert part.walkers == 96
    for name in ("sampling", "local energy", "gradient"):
        flops = [one.optimisation.parts[name].flops for one in (full, part)]
        assert flops[1] == pytest.approx(2 / 3 * flops[0])
    burnt = [
        one.optimisation.seconds - one.optimisation.iterations * one.optimisation.step_seconds
        for one in (full, part)
    ]
    assert burnt[0] == pytest.approx(burnt[1])
    assert part.stages["joint_pretrain"] == full.stages["joint_pretrain"]._replace(
        memory=part.stages["joint_pretrain"].memory
    )


def test_iterations_of_its_own_cost_a_run_of_a_group_what_they_cost_any(tmp_path: Path) -> None:
    finished = planned(tmp_path, SHARED.replace("sharing: scan", "sharing: {finish: 20}"))
    alone = planned(tmp_path, SYSTEM + "overrides: {optimise.optimiser: spring}\n").runs[0]
    for run in finished.runs:
        assert run.stages["pretrain"].seconds == 0.0
        assert run.optimisation.iterations == 20
        assert run.optimisation.step_seconds == pytest.approx(alone.optimisation.step_seconds)


def test_a_gpu_starts_a_kernel_for_all_geometries(tmp_path: Path) -> None:
    """Small kernels wait for their start, so three geometries take hardly longer than one."""
    quick = GPUS["a100"]
    (group,) = planned(tmp_path, SHARED, quick).groups
    on_cpu = quick._replace(platform="cpu")
    (one_by_one,) = planned(tmp_path, SHARED, on_cpu).groups
    took = [g.optimisation.parts["sampling"].seconds for g in (group, one_by_one)]
    assert took[1] > 2.5 * took[0]


def test_the_other_ways_are_those_of_a_scan_that_does_not_share(tmp_path: Path) -> None:
    shared = planned(tmp_path, SHARED)
    more = "overrides: {optimise.optimiser: spring, optimise.iterations: 100}\n"
    independent = planned(tmp_path, SYSTEM + more)
    warm = planned(tmp_path, SYSTEM + more + "warm_start: neighbours\n")
    found = {way.name: way for way in alternatives.ways(shared)}
    for name, other in (
        (alternatives.SHARED, shared),
        (alternatives.INDEPENDENT, independent),
        (alternatives.WARM, warm),
    ):
        stages = set(other.by_stage) - {"inference"}
        seconds = 3600 * sum(map(other.node_hours, stages))
        assert found[name].seconds == pytest.approx(seconds)
    counts = [found[name].updates for name in found]
    # Walkers of all geometries; of one in full and two with a fifth of the iterations.
    assert counts == [3 * 32 * 100, 3 * 256 * 100, 256 * (100 + 20 + 20)]
    assert alternatives.ways(independent) == []


def test_walkers_of_a_group_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    found = scan(tmp_path, SHARED)
    with pytest.raises(InputError, match=r"shared has sharing.walkers 32; allowed: multiples of 6"):
        plan.scan_plan(found.runs, MACHINE, per_node=3, nodes=2, groups=found.groups)
    # The runs, which take no iterations, set no condition.
    text = SHARED.replace("sharing.walkers: 32", "sharing.walkers: 96")
    system = scan(tmp_path, text)
    plan.scan_plan(system.runs, MACHINE, per_node=3, nodes=2, groups=system.groups)


def test_nodes_are_added_while_they_pay() -> None:
    day = 86400.0
    perfect = {n: 8.0 / n for n in (1, 2, 4, 8)}
    assert plan.suggested_nodes(perfect, int(day / 8)) == 1  # just a day
    assert plan.suggested_nodes(perfect, int(day / 2)) == 4
    assert plan.suggested_nodes(perfect, int(10 * day)) == 8  # all there are
    lame = {1: 8.0, 2: 5.0, 4: 4.0}  # 80 and 50 %
    assert plan.suggested_nodes(lame, int(10 * day)) == 2


def test_walkers_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        plan.scan_plan(scan(tmp_path).runs, MACHINE, per_node=3, nodes=2)
    assert str(caught.value) == (
        "--nodes, --devices-per-node: found 2 and 3, but r_1.4 has mcmc.walkers 256; allowed: "
        "multiples of 6 on 6 devices (try 258)"
    )


@pytest.mark.parametrize(
    ("system", "devices", "line"),
    [
        (
            "n2",
            24,
            "r_1.815 has mcmc.walkers 256; allowed: multiples of 24 on 24 devices (try 264)",
        ),
        ("n2_shared", 48, "shared has sharing.walkers 64; allowed: multiples of 48 on 48 devices"),
    ],
)
def test_check_refuses_walkers_that_devices_cannot_share(
    system: str, devices: int, line: str
) -> None:
    words = ["check", f"systems/{system}.yaml", "--devices"]
    found = CliRunner().invoke(app, [*words, str(devices)])
    assert isinstance(found.exception, InputError)
    assert str(found.exception).startswith(f"--devices: found {devices}, but {line}")
    assert CliRunner().invoke(app, [*words, "32"]).exit_code == 0


def profile_keys() -> set[str]:
    """Resources that the profiles use."""
    found = set()
    for path in (ROOT / "cluster_profiles").glob("*/config.yaml"):
        profile = yaml.safe_load(path.read_text())
        found |= set(profile.get("default-resources", {}))
        for resources in profile.get("set-resources", {}).values():
            found |= set(resources)
    return found


@pytest.mark.parametrize(("machine", "nodes"), [(GPUS["h100"], 2), (MACHINE, 1)])
def test_the_block_for_a_profile(tmp_path: Path, machine: Machine, nodes: int) -> None:
    found = plan.scan_plan(scan(tmp_path).runs, machine, per_node=4, nodes=nodes)
    block = yaml.safe_load(plan_tables.resources_yaml(found))["set-resources"]
    assert set(block) == {"pretrain", "optimise", "inference"}
    assert set().union(*block.values()) <= profile_keys()
    optimise = block["optimise"]
    assert (optimise["nodes"], optimise["tasks"]) == (nodes, 4 * nodes)
    longest = max(run.stages["optimise"].seconds for run in found.runs)
    assert 60 * optimise["runtime"] >= min(1.5 * longest, 86400)
    assert plan.tries(found, "optimise") == np.ceil(longest / (60 * optimise["runtime"]))
    # As the profile for GPUs writes it, quotes inside of quotes.
    assert optimise.get("gres") == ("'gpu:4'" if machine.platform == "gpu" else None)


# --- the command ----------------------------------------------------------------------------------


def run_plan(*words: str) -> str:
    done = CliRunner().invoke(app, ["plan", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize(
    ("system", "preset", "parameters"),
    [("h2", "small", 33448), ("n2", "gpu", 766960), ("n2", "paper", 766960)],
)
def test_the_command_prints_totals(system: str, preset: str, parameters: int) -> None:
    words = (f"systems/{system}.yaml", "--preset", preset, "--device", "a100")
    text = run_plan(*words)
    data = json.loads(run_plan(*words, "--json"))
    assert f"{parameters} parameters" in text
    assert "never measured" in text
    whole = sum(data["node_hours"].values())
    lines = text.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("total ")] == [f"{whole:.3g}"]
    block = yaml.safe_load("\n".join(lines[lines.index("set-resources:") :]))
    assert block["set-resources"] == data["set-resources"]
    assert {run["parameters"] for run in data["runs"].values()} == {parameters}
    # The plan is the sum of its runs.
    seconds = [
        stage["seconds"] * stage["devices"]
        for run in data["runs"].values()
        for stage in run["stages"].values()
    ]
    assert whole == pytest.approx(sum(seconds) / 3600 / data["devices_per_node"])


def test_the_command_compares_a_shared_scan_with_others(tmp_path: Path) -> None:
    path = tmp_path / "h2.yaml"
    path.write_text(SHARED)
    text = run_plan(str(path), "--device", "a100")
    data = json.loads(run_plan(str(path), "--device", "a100", "--json"))
    assert "\ngroup shared of 3 geometries, the costliest: H2" in text
    rows = [line.split()[0] for line in text.splitlines() if line]
    (group,) = data["groups"].values()
    parts = group["stages"]["joint_optimise"]["parts"]
    assert rows.count("joint_optimise") == len(parts) + 1  # and the row of the stage
    cheapest = min(data["ways"].values(), key=lambda way: way["seconds"])
    (advice,) = [line for line in text.splitlines() if line.startswith("The cheapest is ")]
    start = f"The cheapest is {cheapest['name']}: {cheapest['updates']:.3g} walker-updates and "
    assert advice.startswith(f"{start}{cheapest['seconds']:.3g} processor seconds, against ")
    stages = [
        stage["seconds"] * stage["devices"]
        for part in ("groups", "runs")
        for one in data[part].values()
        for stage in one["stages"].values()
    ]
    assert sum(data["node_hours"].values()) == pytest.approx(sum(stages) / 3600)
    assert set(data["set-resources"]) == {*plan.OF_GROUPS, *plan.OF_RUNS}


def test_what_does_not_fit_is_said() -> None:
    settings = {"mcmc.walkers": 2**22}
    run = load_scan(ROOT / "systems/n2.yaml", preset="paper", overrides=settings).runs[0]
    found = plan.scan_plan([run], GPUS["a100"], per_node=1, nodes=1)
    warnings = list(plan_tables._warnings(found))
    assert any("optimise needs" in line and "74.5 GiB" in line for line in warnings)
    assert any(line.startswith("warning: optimise takes") for line in warnings)


def test_an_unknown_device_is_one_clear_line() -> None:
    with pytest.raises(InputError) as caught:
        run_plan("systems/h2.yaml", "--device", "h10")
    assert str(caught.value) == (
        "--device: found 'h10'; did you mean 'h100'? allowed: a100, cpu, h100, h200, measure"
    )


# --- calibration ----------------------------------------------------------------------------------


class Clockwork:
    """A toy stage of which every block takes so long as its iterations are many."""

    name, chunk, total = "optimise", 1, 100

    def __init__(self) -> None:
        self.now = 0.0

    def initial(self) -> int:
        return 0

    def place(self, state: int) -> int:
        return state

    def steps(self, state: int) -> Iterator[Step]:
        self.now += 60.0  # compiling
        for step in itertools.accumulate([1, 2, 8, 8, 8, 8]):
            self.now += 0.5 * (step - state)
            state = step
            yield Step(step, state, {})

    def result(self, state: int, series: Series) -> xr.Dataset:
        return xr.Dataset()


def test_iterations_are_timed_without_their_compilation() -> None:
    stage = Clockwork()
    assert calibration._iteration_seconds(stage, lambda: stage.now) == pytest.approx(0.5)


def test_a_step_is_timed_as_many_times_as_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(t) for t in range(100))
    monkeypatch.setattr("ferminet_core.planning.calibration.time.process_time", lambda: next(clock))
    monkeypatch.setattr(calibration, "SECONDS", 2.0)
    # Each call takes one tick of this clock, and makes the step eight times.
    assert calibration._time(lambda x: x + 1.0, np.zeros(2), 8) == pytest.approx(1 / 8)


def test_the_stages_of_a_group_are_timed_as_those_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a second for an iteration, in place of minutes of compilation."""
    monkeypatch.setattr(calibration, "_iteration_seconds", lambda stage, clock: 1.0)
    monkeypatch.setattr(calibration, "_stages_of_run", lambda run: ())
    settings = {"sharing.walkers": 8, "mcmc.walkers": 8, "runtime.precision": "float64"}
    found = scan(tmp_path, SHARED.replace("small", "smoke"), **settings)
    machine = calibration.stages_machine(found.runs[0], found.groups[0])
    assert set(machine.rates) == set(plan.OF_GROUPS)
    assert "on 3 geometries with" in machine.origin
    layout = Layout(1, jax.device_count())
    parts = plan.stage_plan(found.groups[0], "joint_optimise", machine, layout).parts
    assert sum(part.seconds for part in parts.values()) == pytest.approx(1.0)

"""The optimisation stage with every optimiser, on one and two devices, in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from helpers.molecules import with_pseudopotentials
from helpers.optimisers import OTHER_OPTIMISERS
from jax.sharding import Mesh

from ferminet_core.chemistry import hartree_fock
from ferminet_core.errors import BrokenRunError
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.start_settings import ReferenceConfig
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.parallel.mesh import REPLICATED, SPLIT, per_device
from ferminet_core.stages import datasets
from ferminet_core.stages.base import run as run_stage
from ferminet_core.stages.optimise import Inputs, Optimise, State
from ferminet_core.stages.pretrain import Pretrain
from ferminet_core.stages.warm_start import WarmStart
from ferminet_core.vmc import mcmc
from ferminet_core.vmc.hamiltonian import Nuclei, potential_energy
from ferminet_core.vmc.optimisers.protocol import Sample
from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.envelopes import LEAST_DECAY

MOLECULE = Molecule(symbols=("H", "H"), positions=((0, 0, 0), (0, 0, 3.0)), charge=0, spin=0)
MOLECULE_SHORT = Molecule(symbols=("H", "H"), positions=((0, 0, 0), (0, 0, 1.4)), charge=0, spin=0)
LITHIUM = Molecule(symbols=("Li",), positions=((0, 0, 0),), charge=0, spin=1)
STEPS = 5  # two inversions of period 3


def spec_of(**optimise: Any) -> RunSpec:
    config = Config.model_validate(
        {
            "network": {
                "layers": 2,
                "one_electron_width": 8,
                "two_electron_width": 4,
                "determinants": 2,
                "jastrow": True,
            },
            "mcmc": {"walkers": 32, "burn_in": 20},
            "pretrain": {"min_iterations": 0, "max_iterations": 20, "check_every": 20},
            "optimise": {"iterations": STEPS, "learning_rate": 0.01, **optimise},
            "runtime": {"block": STEPS, "precision": "float64"},
        }
    )
    return RunSpec(scan="s", run_id="r", geometry="r", molecule=MOLECULE, config=config)


@pytest.fixture(scope="module")
def pretrained() -> xr.Dataset:
    stage = Pretrain(spec_of(), hartree_fock.solve(MOLECULE, Config().reference))
    return stage.result(*run_stage(stage))


def run(
    spec: RunSpec, pretrained: xr.Dataset, devices: int, monkeypatch: pytest.MonkeyPatch
) -> State:
    mesh = Mesh(jax.devices()[:devices], (AXIS,))
    monkeypatch.setattr("ferminet_core.stages.optimise.walker_mesh", lambda _: mesh)
    state, series = run_stage(Optimise(spec, pretrained))
    assert int(state.step) == len(series["energy_Eh"]) == STEPS
    assert int(state.rollbacks) == 0
    return state


@pytest.mark.parametrize(
    ("attributes", "strength"),
    [
        ({"s2_excess": 1.0}, 0.1),
        ({"s2_excess": 0.06}, 0.1),
        ({"s2_excess": 0.04}, 0.0),  # unrestricted solutions of open shells, no worse than allowed
        ({"s2_excess": -1e-12}, 0.0),
        ({"spin_broken": 1}, 0.1),  # by the version before
        ({"spin_broken": 0}, 0.0),
    ],
)
@pytest.mark.parametrize("molecule", [MOLECULE, LITHIUM])
def test_the_penalty_acts_where_the_reference_mixes_spins(
    attributes: dict[str, float], strength: float, molecule: Molecule
) -> None:
    spec = spec_of(optimiser="adam").model_copy(update={"molecule": molecule})
    stage = Optimise(spec, xr.Dataset(attrs=attributes))
    assert float(stage.inputs.penalty) == strength


@pytest.mark.parametrize("molecule", [MOLECULE, MOLECULE_SHORT, LITHIUM])
def test_starts_tell_the_spin_of_their_reference(molecule: Molecule) -> None:
    """After pretraining, and after a warm start from another geometry."""
    spec = spec_of(optimiser="adam").model_copy(update={"molecule": molecule})
    reference = hartree_fock.solve(molecule, spec.config.reference)
    half = molecule.spin / 2
    excess = reference.attrs["s2"] - half * (half + 1)
    assert (excess > 0.5) is (molecule is MOLECULE)  # half singlet, half triplet
    pretrain = Pretrain(spec, reference)
    pretrained = pretrain.result(pretrain.initial(), {})
    optimise = Optimise(spec, pretrained)
    neighbour = optimise.result(optimise.initial(), {})
    warm = WarmStart(spec, reference, neighbour.assign_attrs(spec=spec.model_dump_json()))
    for start in (pretrained, warm.result(warm.initial(), {})):
        assert start.attrs["s2_excess"] == excess


def measure_of(spin_penalty: float) -> tuple[Any, Inputs]:
    """The compiled measurement of an iteration of the lithium atom, and its inputs."""
    spec = spec_of(optimiser="adam", spin_penalty=spin_penalty)
    spec = spec.model_copy(update={"molecule": LITHIUM})
    stage = Optimise(spec, xr.Dataset(attrs={"s2_excess": 1.0}))
    params = networks.init(jax.random.key(0), spec.config.network, stage.spins, 1, jnp.float64)
    start = mcmc.walkers(jax.random.normal(jax.random.key(1), (32, 3, 3)))
    specs = (REPLICATED, SPLIT, REPLICATED, REPLICATED)
    split: Any = SPLIT
    everywhere: Any = REPLICATED
    outputs = (Sample(split, everywhere, split), REPLICATED)
    measure = per_device(stage._measure, stage.mesh, specs, outputs)
    key = jax.random.key(2)
    return lambda inputs: measure(params, start, inputs, key), stage.inputs


def test_a_penalty_without_strength_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compiled in, since one executable serves a scan, and passed over."""

    def potential(
        params: Any, electrons: jax.Array, nuclei: Nuclei, spins: Any, chunk: int
    ) -> jax.Array:
        return potential_energy(electrons, nuclei)  # compiled in no time

    monkeypatch.setattr("ferminet_core.stages.optimise.local_energy", potential)
    plain, inputs = measure_of(0.0)
    sample, energy = plain(inputs)
    measure, inputs = measure_of(0.1)
    passed_over, same_energy = measure(inputs._replace(penalty=jnp.zeros_like(inputs.penalty)))
    np.testing.assert_array_equal(passed_over.deviation, sample.deviation)
    penalised, energy_alone = measure(inputs)
    assert float(jnp.max(jnp.abs(penalised.deviation - sample.deviation))) > 1e-3
    # The energy that is recorded is that of H.
    assert same_energy == energy_alone == energy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimiser", "kind"),
    [
        ("kfac", "ferminet"),
        ("kfac", "psiformer"),
        ("spring", "pseudopotential"),
        *(pytest.param(*p.values, "ferminet", marks=p.marks) for p in OTHER_OPTIMISERS),
    ],
)
def test_one_and_two_devices_take_the_same_steps(
    optimiser: str, kind: str, pretrained: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"inverse_period": 3, "clip_centre": "median"} if optimiser == "kfac" else {}
    spec = spec_of(optimiser=optimiser, **more)
    if kind == "pseudopotential":
        molecule = with_pseudopotentials(("B", "H"), ((0.0, 0.0, 0.0), (0.0, 0.0, 2.4)))
        spec = spec.model_copy(update={"molecule": molecule})
        settings = ReferenceConfig(basis="ccecp-cc-pvdz")
        stage = Pretrain(spec, hartree_fock.solve(molecule, settings))
        pretrained = stage.result(stage.initial(), {})
    elif kind != "ferminet":
        network = spec.config.network.model_copy(update={"kind": kind})
        spec = spec.model_copy(
            update={"config": spec.config.model_copy(update={"network": network})}
        )
        stage = Pretrain(spec, hartree_fock.solve(MOLECULE, Config().reference))
        pretrained = stage.result(stage.initial(), {})
    one, two = (run(spec, pretrained, n, monkeypatch) for n in (1, 2))
    # Order of summation in float64, 32 terms of order one: 1e-15. A damping of 1e-3 under
    # curvatures of up to 100 (32 walkers, whose scores have norms of some units) raises it by 1e5,
    # and Adam's least denominator, 1e-8, by 1e8. Five steps of 0.01 leave 5e-12, with Adam 5e-9;
    # twice that. A mean over one device's 16 walkers would differ by about 1 / sqrt(16) of a step,
    # 2e-3.
    rounding = 1e-8 if optimiser == "adam" else 1e-11
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rounding)
    for leaf in jax.tree.leaves(two.params):
        # Declared replicated: the devices must hold the very same numbers.
        first, second = (np.asarray(s.data) for s in leaf.addressable_shards)
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_updates_that_are_no_number_end_the_run(
    pretrained: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = Mesh(jax.devices()[:1], (AXIS,))
    monkeypatch.setattr("ferminet_core.stages.optimise.walker_mesh", lambda _: mesh)
    broken = pretrained.copy(deep=True)
    broken["params.determinants.w"][:] = jnp.nan
    rate = 0.01 * 0.5**2
    with pytest.raises(BrokenRunError, match=f"not finite, and 2 rollbacks .* rate of {rate:g} "):
        run_stage(Optimise(spec_of(max_rollbacks=2), broken))


def test_a_checkpoint_of_an_older_version_continues(pretrained: xr.Dataset) -> None:
    """It had no delay, first rate and norms of steps, and SPRING's state was its step alone."""
    spec = spec_of(optimiser="spring", delay=7.0)
    stage = Optimise(spec, pretrained)
    state = stage.initial()
    phi = jnp.arange(state.optimiser.phi.size, dtype=state.optimiser.phi.dtype)
    state = state._replace(optimiser=state.optimiser._replace(phi=phi))
    leaves = datasets.state_leaves(state)
    newer = ("first_rate", "delay", "optimiser")
    older = {name: leaf for name, leaf in leaves.items() if not name.startswith(newer)}
    older["optimiser"] = leaves["optimiser.phi"]
    # The settings of today have another delay: an extension keeps that of the start.
    template = Optimise(spec_of(optimiser="spring", iterations=50), pretrained).initial()
    found = datasets.restore_state(datasets.completed(older, spec), template)
    for name, leaf in datasets.state_leaves(found).items():
        np.testing.assert_array_equal(leaf, leaves[name])


def test_a_series_that_an_older_version_lacks_begins_later() -> None:
    series = {"energy_Eh": np.arange(4.0), "damping": np.array([1.0, 2.0])}
    ds = datasets.network_dataset({}, np.zeros((2, 1, 3)), 0.1, series)
    np.testing.assert_array_equal(ds["damping"], [np.nan, np.nan, 1.0, 2.0])
    np.testing.assert_array_equal(ds["energy_Eh"], series["energy_Eh"])


@pytest.mark.slow
def test_a_broken_walker_and_a_small_exponent_cost_no_rollback(
    pretrained: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walker that no move repairs, and an envelope that would let the others leave."""
    mesh = Mesh(jax.devices()[:1], (AXIS,))
    monkeypatch.setattr("ferminet_core.stages.optimise.walker_mesh", lambda _: mesh)
    wide = pretrained.copy(deep=True)
    wide["params.envelope.0.sigma"][0, 0, 0] = 0.01
    stage = Optimise(spec_of(optimiser="adam"), wide)
    state = stage.initial()
    lost = state.walkers._replace(electrons=state.walkers.electrons.at[3].set(jnp.nan))
    begun = state._replace(walkers=lost, step=jnp.asarray(1, jnp.int32))  # after the burn-in
    last, stats = [(step.state, step.stats) for step in stage.steps(stage.place(begun))][-1]
    assert int(last.rollbacks) == 0
    assert (stats["n_nonfinite"] == 1).all()
    assert np.isfinite(stats["update_norm"]).all()
    sigmas = [np.abs(envelope["sigma"]).min() for envelope in last.params["envelope"]]
    assert min(sigmas) >= LEAST_DECAY

"""Operations, memory and volumes against the modules themselves and XLA's own counts."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.molecules import with_pseudopotentials
from jax.interpreters import partial_eval
from jax.sharding import Mesh

from benchmarks.cases import CASES, Case
from ferminet_core.inputs.config import (
    OPTIMISER_DEFAULTS,
    Config,
    NetworkConfig,
    OptimiseConfig,
)
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.overrides import presets, resolve
from ferminet_core.parallel import collectives
from ferminet_core.parallel.mesh import REPLICATED, per_device
from ferminet_core.planning import (
    cost,
    kernels,
    network_sizes,
    network_work,
    optimiser_costs,
)
from ferminet_core.planning.kernels import Kernel, Load, Work
from ferminet_core.stages.optimise import Stats
from ferminet_core.vmc import mcmc
from ferminet_core.vmc.energy import energy_gradient
from ferminet_core.vmc.hamiltonian import Nuclei, local_energy
from ferminet_core.vmc.optimisers import kfac, spring
from ferminet_core.vmc.optimisers.choice import OPTIMISERS
from ferminet_core.vmc.parity_penalty import Parity, added_energy
from ferminet_core.vmc.passes import even_passes
from ferminet_core.wavefunction import adaptation, derivatives, determinants, networks

MIB = 2**20
PSIFORMER = {"network.kind": "psiformer"}
WALKERS = 64  # enough that what does not grow with them, sums over parameters, is little

MOLECULES = {
    "LiH": CASES["LiH"].molecule,
    "N2": CASES["N2"].molecule,
    "N": Molecule.make(("N",), ((0.0, 0.0, 0.0),), spin=3),
    "H": Molecule.make(("H",), ((0.0, 0.0, 0.0),), spin=1),  # one spin alone
    "H4": Molecule.make(
        ("H",) * 4, tuple((x, y, 0.0) for x in (-1.0, 1.0) for y in (-2.0, 2.0)), spin=0
    ),
}


def shapes(config: NetworkConfig, molecule: Molecule, dtype: Any = jnp.float32) -> Any:
    """The parameter tree of `networks.init` without its numbers."""
    spins, n_nuclei = molecule.electrons, len(molecule.symbols)
    init = functools.partial(
        networks.init, config=config, spins=spins, n_nuclei=n_nuclei, dtype=dtype
    )
    return jax.eval_shape(init, jax.random.key(0))


def n_numbers(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("molecule", MOLECULES.values(), ids=list(MOLECULES))
@pytest.mark.parametrize("preset", list(presets()))
@pytest.mark.parametrize("form", ["dense", "block"])
@pytest.mark.parametrize("envelope", ["isotropic", "diagonal", "anisotropic"])
def test_parameters_are_those_of_the_network(
    molecule: Molecule, preset: str, form: str, envelope: str
) -> None:
    settings = {"network.determinant_form": form, "network.envelope": envelope}
    config = resolve(preset, settings, str).network
    found = network_sizes.network(config, molecule)
    assert found.parameters == n_numbers(shapes(config, molecule))


@pytest.mark.parametrize("kind", networks.NETWORKS)
def test_parameters_follow_biases_and_cusps(kind: str) -> None:
    """Each differs from the others in one way; the counts must differ and be right."""
    counts = set()
    plain = {"network.kind": kind, "network.jastrow": False}
    for key in ("bias", "orbital_bias", "jastrow"):
        config = resolve("small", {**plain, f"network.{key}": key != "bias"}, str).network
        found = network_sizes.network(config, MOLECULES["LiH"]).parameters
        assert found == n_numbers(shapes(config, MOLECULES["LiH"]))
        counts.add(found)
    assert len(counts) == 3


@pytest.mark.parametrize(
    ("preset", "kind"),
    [("small", "ferminet"), ("pfau2020", "ferminet"), ("small", "psiformer")],
)
def test_curvature_numbers_are_those_of_kfac(preset: str, kind: str) -> None:
    # The lengths of cusps are scalars, which are not counted here.
    settings = {"network.kind": kind, "network.jastrow": False}
    config, molecule = resolve(preset, settings, str), MOLECULES["LiH"]
    params = shapes(config.network, molecule)
    log_psi = functools.partial(kfac.curvature_function, spins=molecule.electrons)
    pre = kfac.preconditioner(config.optimise, log_psi)
    nuclei = jnp.asarray(molecule.positions, jnp.float32)
    electrons = jnp.zeros((2, molecule.n_electrons, 3), jnp.float32)

    def init(params: Any) -> Any:
        return pre.init((params, (nuclei, electrons)), jax.random.PRNGKey(0))

    # All else that the state holds are scalars: counters and the weights of averages.
    state = [x for x in jax.tree.leaves(jax.eval_shape(init, params)) if x.ndim]
    assert network_sizes.network(config.network, molecule).curvature == n_numbers(state)


# --- operations -----------------------------------------------------------------------------------


def products(jaxpr: Any) -> Iterator[float]:
    """Floating-point operations of every matrix product of a traced function."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (left, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            contracted = functools.reduce(lambda n, axis: n * shape[axis], left, 1)
            yield 2.0 * equation.outvars[0].aval.size * contracted
        if equation.primitive.name == "custom_linear_solve":  # and what its derivatives would take
            yield from products(equation.params["jaxprs"].solve.jaxpr)
            continue
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from products(inner)


def arguments(
    case: Case, walkers: int = WALKERS, dtype: Any = jnp.float32
) -> tuple[Any, Any, Nuclei]:
    """Parameters, electrons and nuclei of a case, without numbers."""
    molecule = case.molecule
    n_nuclei = len(molecule.symbols)

    def array(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    params = shapes(case.spec().config.network, molecule, dtype)
    nuclei = Nuclei(array(n_nuclei, 3), array(n_nuclei))
    return params, array(walkers, molecule.n_electrons, 3), nuclei


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One device, outside of `shard_map`."""
    monkeypatch.setattr(collectives, "mean", lambda tree: tree)


@pytest.fixture
def straight(monkeypatch: pytest.MonkeyPatch, alone: None) -> None:
    """Unrolled loops, and no matrix treated a second time.

    XLA counts only one pass of a loop. It counts the second treatment for all matrices.
    """
    scan = jax.lax.scan
    monkeypatch.setattr(jax.lax, "scan", lambda *a, **k: scan(*a, **{**k, "unroll": True}))
    for module in (derivatives, determinants):
        monkeypatch.setattr(module, "mend", lambda found, good, compute, inputs: found)


def functions_of(case: Case) -> dict[str, Callable[..., Any]]:
    """The parts of an iteration, each a function of `arguments`."""
    spins = case.molecule.electrons

    def forward(params: Any, electrons: jax.Array, nuclei: Nuclei) -> Any:
        return networks.apply(params, electrons, nuclei.positions, spins)

    def sampling(params: Any, electrons: jax.Array, nuclei: Nuclei) -> Any:
        log_psi = networks.log_psi(params, nuclei.positions, spins)
        kernel = mcmc.make_kernel(log_psi, nuclei, spins, 1)
        width = jnp.asarray(0.1, jnp.float32)
        return kernel(jax.random.key(0), mcmc.walkers(electrons), width)

    def energies(params: Any, electrons: jax.Array, nuclei: Nuclei) -> Any:
        return local_energy(params, electrons, nuclei, spins)

    def gradient(params: Any, electrons: jax.Array, nuclei: Nuclei) -> Any:
        deviation = jnp.ones(electrons.shape[0], electrons.dtype)
        return energy_gradient(params, electrons, nuclei, spins, deviation)

    return {
        "forward": forward,
        "sampling": sampling,
        "local energy": energies,
        "gradient": gradient,
    }


def counted(config: NetworkConfig, molecule: Molecule) -> dict[str, Work]:
    net = network_sizes.network(config, molecule)
    return {
        "forward": network_work.forward(net, WALKERS),
        "sampling": network_work.moves(net, WALKERS, 1),
        "local energy": network_work.local_energy(net, WALKERS, WALKERS),
        "gradient": network_work.gradient(net, WALKERS),
    }


@pytest.mark.usefixtures("straight")
@pytest.mark.parametrize("part", ["forward", "sampling", "local energy", "gradient"])
@pytest.mark.parametrize("name", list(CASES))
def test_operations_are_those_that_xla_counts(name: str, part: str) -> None:
    """XLA counts here the operations of the program, before it drops or repeats any.

    Products are exact. Elementwise operations are counted by hand, to a tenth; they are 1 to 20 %
    of the whole.
    """
    case = CASES[name]
    lowered = jax.jit(functions_of(case)[part]).lower(*arguments(case))
    analysis: Any = lowered.cost_analysis()
    found = counted(case.spec().config.network, case.molecule)[part]
    assert kernels.flops(found) == pytest.approx(analysis["flops"], rel=0.02)
    if part in ("forward", "local energy"):
        # Square roots of distances are taken twice, and a few logarithms are not counted.
        wanted = analysis["transcendentals"]
        assert kernels.functions(found) == pytest.approx(wanted, rel=0.1)


@pytest.mark.usefixtures("straight")
@pytest.mark.parametrize("part", ["forward", "local energy", "gradient"])
def test_operations_of_psiformer_are_those_that_xla_counts(part: str) -> None:
    """As above. Products are exact but in folx's forward Laplacian, to a hundredth."""
    case = CASES["LiH"]
    config = case.spec(**PSIFORMER).config.network
    _, electrons, nuclei = arguments(case)
    params = shapes(config, case.molecule)
    function, found = functions_of(case)[part], counted(config, case.molecule)[part]
    analysis: Any = jax.jit(function).lower(params, electrons, nuclei).cost_analysis()
    assert kernels.flops(found) == pytest.approx(analysis["flops"], rel=0.02)
    traced = jax.make_jaxpr(function)(params, electrons, nuclei)
    multiplied = sum(kernel.flops for kernel in found if kernel.kind in ("product", "gram"))
    exact = 1e-2 if part == "local energy" else 1e-9
    assert multiplied == pytest.approx(sum(products(traced.jaxpr)), rel=exact)


@pytest.mark.usefixtures("straight")
@pytest.mark.parametrize("part", ["local energy", "gradient"])
def test_other_forms_of_the_wavefunction_are_counted_as_well(part: str) -> None:
    """As above; blocks of determinants and envelopes with matrices, as in the paper."""
    settings = {"network.determinant_form": "block", "network.envelope": "anisotropic"}
    case = CASES["LiH"]
    config = case.spec(**settings).config.network
    _, electrons, nuclei = arguments(case)
    params = shapes(config, case.molecule)
    analysis: Any = jax.jit(functions_of(case)[part]).lower(params, electrons, nuclei)
    found = counted(config, case.molecule)[part]
    assert kernels.flops(found) == pytest.approx(analysis.cost_analysis()["flops"], rel=0.02)


@pytest.mark.usefixtures("straight")
@pytest.mark.parametrize("form", ["dense", "block"])
@pytest.mark.parametrize("part", ["forward", "gradient"])
@pytest.mark.parametrize("name", ["LiH", "N2"])
def test_products_are_those_of_the_network(name: str, part: str, form: str) -> None:
    """Every matrix product, there and back, to the last operation."""
    case = CASES[name]
    config = case.spec(**{"network.determinant_form": form}).config.network
    _, electrons, nuclei = arguments(case)
    params = shapes(config, case.molecule)
    traced = jax.make_jaxpr(functions_of(case)[part])(params, electrons, nuclei)
    work = counted(config, case.molecule)[part]
    found = sum(kernel.flops for kernel in work if kernel.kind in ("product", "gram"))
    assert found == sum(products(traced.jaxpr))


@pytest.mark.usefixtures("straight")
@pytest.mark.parametrize("name", ["LiH", "N2"])
def test_moved_electrons_of_pseudopotentials_are_counted(name: str) -> None:
    """XLA counts the compiled program, which has the pairs of unmoved walkers once.

    Moved pairs are counted as in a whole walker where the means over pairs are concerned.
    """
    case, points = CASES[name], 6
    params, electrons, nuclei = arguments(case)

    def ratios(params: Any, electrons: jax.Array, nuclei: Nuclei, places: jax.Array) -> Any:
        found = networks.ratios(params, electrons, nuclei.positions, case.molecule.electrons)
        walkers = jnp.arange(WALKERS)
        return found(walkers, walkers % electrons.shape[1], places)

    places = jax.ShapeDtypeStruct((WALKERS, points, 3), jnp.float32)
    compiled = jax.jit(ratios).lower(params, electrons, nuclei, places).compile()
    analysis: Any = compiled.cost_analysis()
    net = network_sizes.network(case.spec().config.network, case.molecule)
    work = network_work.moved(net._replace(moved=points), WALKERS)
    assert kernels.flops(work) == pytest.approx(analysis["flops"], rel=0.1)
    assert network_work.moved(net, WALKERS) == []


def test_pseudopotentials_make_local_energies_dearer() -> None:
    chlorine = with_pseudopotentials(("Cl", "H"), ((0.0, 0.0, 0.0), (0.0, 0.0, 2.4)))
    config = resolve("small", {}, str)
    nets = [network_sizes.network(config.network, chlorine, points=n) for n in (0, 6, 12)]
    # H's potential is local. Seven electrons, of which the share counts.
    assert [net.moved for net in nets] == [0.0, 6 * 0.75 * 7, 12 * 0.75 * 7]
    costs = [kernels.flops(network_work.local_energy(net, 64, 16)) for net in nets]
    assert costs[1] - costs[0] > 0.4 * (costs[2] - costs[0]) > 0


@pytest.mark.usefixtures("straight")
def test_products_of_kfacs_pass_are_those_of_the_network() -> None:
    """Every matrix product that the factors and the gradient need, to the last operation.

    kfac-jax writes the forward pass up to the orbitals twice, of which XLA keeps one, and the
    weights' gradients of every walker, which nothing uses.
    """
    case = CASES["LiH"]
    config, spins = case.spec().config, case.molecule.electrons
    params, electrons, nuclei = arguments(case, WALKERS, jnp.float64)
    log_psi = functools.partial(kfac.curvature_function, spins=spins)
    pre = kfac.preconditioner(config.optimise, log_psi)

    def init(params: Any, nuclei: Nuclei, electrons: jax.Array) -> Any:
        return pre.init((params, (nuclei.positions, electrons)), jax.random.PRNGKey(0))

    def update(params: Any, nuclei: Nuclei, electrons: jax.Array, state: Any) -> Any:
        deviation = jnp.ones(electrons.shape[0], electrons.dtype)
        return kfac.sweep(pre, state, params, (nuclei.positions, electrons), deviation)

    state = jax.eval_shape(init, params, nuclei, electrons)
    traced = jax.make_jaxpr(update)(params, nuclei, electrons, state).jaxpr
    used, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    net = network_sizes.network(config.network, case.molecule)
    work = optimiser_costs.curvature(net, WALKERS) + network_work.forward(net, WALKERS)
    found = sum(kernel.flops for kernel in work if kernel.kind in ("product", "gram"))
    orbitals = sum(2 * WALKERS * o.rows * o.inputs * o.outputs for o in net.orbitals)
    assert found - orbitals == sum(products(used))


@pytest.mark.usefixtures("straight")
def test_the_parity_penalty_is_what_xla_leaves() -> None:
    """Compiled, which merges the evaluations at the walkers that the program repeats.

    Fused elementwise operations are a few per cent of the whole.
    """
    molecule = MOLECULES["H4"]
    config, spins = CASES["LiH"].spec().config, molecule.electrons
    turn, mirror = (
        ((-1.0, 0, 0), (0, -1.0, 0), (0, 0, 1.0)),
        ((-1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)),
    )
    kept = tuple(Parity(matrix, 1) for matrix in (turn, mirror))

    def array(shape: tuple[int, ...]) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    params, nuclei = shapes(config.network, molecule), Nuclei(array((4, 3)), array((4,)))

    def penalty(params: Any, electrons: jax.Array, nuclei: Nuclei) -> Any:
        psi = networks.signed_log(params, nuclei.positions, spins)
        return added_energy(psi, electrons, nuclei, kept)

    net = network_sizes.network(config.network, molecule)
    lowered = jax.jit(penalty).lower(params, array((WALKERS, 4, 3)), nuclei)
    compiled: Any = lowered.compile()
    wanted = compiled.cost_analysis()["flops"]
    assert net.parities == 3
    found = cost.optimise_parts(net._replace(parities=2), config, Load(WALKERS, 1))
    assert kernels.flops(found["parity penalty"]) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize(
    ("name", "count"),
    # Nothing to permute; one pair; a rectangle, of which three operations permute the nuclei.
    [("H", 0), ("N", 0), ("LiH", 0), ("N2", 1), ("H4", 3)],
)
def test_parities_are_those_that_equal_nuclei_allow(name: str, count: int) -> None:
    config = CASES["LiH"].spec().config
    net = network_sizes.network(config.network, MOLECULES[name])
    assert net.parities == count
    parts = cost.optimise_parts(net, config, Load(64, 1))
    assert ("parity penalty" in parts) == (count > 0)


def test_operations_grow_with_walkers_alone() -> None:
    """What is not proportional to them, averages and inverses, is the same for any number."""
    config = CASES["N2"].spec().config
    net = network_sizes.network(config.network, MOLECULES["N2"])
    for make in (cost.pretrain_parts, cost.optimise_parts, cost.inference_parts):
        one, two, three = (make(net, config, Load(w, 16)) for w in (64, 128, 192))
        for part in one:
            few, some, many = (kernels.flops(parts[part]) for parts in (one, two, three))
            assert many - some == pytest.approx(some - few)
            if part in ("sampling", "local energy", "parity penalty", "total spin"):
                assert some == pytest.approx(2 * few)
            if part in ("inverses", "update"):
                assert some == few


def test_chunks_do_not_change_the_work_but_their_number() -> None:
    net = network_sizes.network(CASES["LiH"].spec().config.network, MOLECULES["LiH"])
    whole, parted = network_work.local_energy(net, 64, 64), network_work.local_energy(net, 64, 16)
    assert kernels.flops(parted) == pytest.approx(kernels.flops(whole))
    assert sum(k.launches for k in parted) == 4 * sum(k.launches for k in whole)
    # Five passes of 14, since all are of one size.
    assert kernels.flops(network_work.local_energy(net, 67, 16)) == pytest.approx(
        70 / 64 * kernels.flops(whole)
    )


@pytest.mark.parametrize(
    ("walkers", "chunk", "passes"),
    [
        (128, 85, (2, 64)),
        (128, 128, (1, 128)),
        (128, 500, (1, 128)),
        (7, 3, (3, 3)),
        (5, 1, (5, 1)),
    ],
)
def test_passes_are_even(walkers: int, chunk: int, passes: tuple[int, int]) -> None:
    assert even_passes(walkers, chunk) == passes


def test_settings_change_the_work_as_they_say() -> None:
    case = CASES["LiH"]
    load = Load(256, 85)
    net = network_sizes.network(case.spec().config.network, case.molecule)

    def parts(**settings: Any) -> dict[str, Work]:
        return cost.optimise_parts(net, case.spec(**settings).config, load)

    plain = parts()
    often, seldom = (parts(**{"optimise.inverse_period": period}) for period in (2, 10))
    assert kernels.flops(often["inverses"]) == pytest.approx(5 * kernels.flops(seldom["inverses"]))
    # Solving takes less than inverting, but inverses serve several updates.
    assert kernels.flops(seldom["inverses"]) < kernels.flops(plain["inverses"])
    assert kernels.flops(plain["inverses"]) < 2 * kernels.flops(often["inverses"])
    # A start and ten moves, or twenty.
    twice = parts(**{"mcmc.steps": 20})
    sampled = [sum(k.flops for k in p["sampling"] if k.kind != "normals") for p in (plain, twice)]
    assert sampled[1] / sampled[0] == pytest.approx(21 / 11, rel=1e-3)
    assert "curvature" not in parts(**{"optimise.optimiser": "adam"})
    spring = parts(**{"optimise.optimiser": "spring"})
    # The matrix of all walkers' gradients times itself: 5/8 of 2 N^2 P. The other products, with
    # few vectors, are a tenth.
    gram = 5 / 8 * 2 * 256**2 * net.parameters
    assert gram < kernels.flops(spring["update"]) < 1.15 * gram


def test_the_total_spin_costs_as_many_exchanges_as_pairs() -> None:
    case = CASES["N2"]
    config = case.spec().config
    net = network_sizes.network(config.network, case.molecule)
    spin = cost.inference_parts(net, config, Load(64, 1))["total spin"]
    assert kernels.flops(spin) == pytest.approx(
        (1 + 7 * 7) / 10 * kernels.flops(network_work.forward(net, 64))
    )
    atom = network_sizes.network(config.network, MOLECULES["H"])
    assert kernels.flops(cost.inference_parts(atom, config, Load(64, 1))["total spin"]) == 0


# --- memory and volumes ---------------------------------------------------------------------------


@pytest.mark.usefixtures("alone")
def test_memory_is_what_xla_plans_for() -> None:
    """The arrays that stay for the way back, within a factor of 1.5: XLA reuses what it can."""
    case, w = CASES["LiH"], 256
    gradient = functions_of(case)["gradient"]
    wanted: Any = jax.jit(gradient).lower(*arguments(case, w)).compile().memory_analysis()
    config = case.spec().config
    net = network_sizes.network(config.network, case.molecule)
    few, many = (cost.peak_memory(net, config, Load(n, 1)) for n in (w, 2 * w))
    size = wanted.temp_size_in_bytes
    assert size / 1.5 < many - few < 1.5 * size


def test_checkpoints_and_samples_are_as_the_readme_says() -> None:
    """0.7 and 12.5 MiB, 2 and 380 MiB; checkpoints were compressed by a tenth."""
    for name, preset, checkpoint, samples in (
        ("LiH", "small", 0.7, 2.0),
        ("N2", "paper", 12.5, 380.0),
    ):
        config = resolve(preset, {}, str)
        net = network_sizes.network(config.network, MOLECULES[name])
        assert cost.checkpoint_bytes(net, config, 0) / MIB == pytest.approx(checkpoint, rel=0.15)
        assert cost.sample_bytes(net, config) / MIB == pytest.approx(samples, rel=0.05)


def test_the_state_holds_what_the_optimiser_keeps() -> None:
    net = network_sizes.network(CASES["LiH"].spec().config.network, MOLECULES["LiH"])

    def numbers(**settings: Any) -> int:
        config: Config = CASES["LiH"].spec(**settings).config
        return cost.optimiser_numbers(net, config)

    assert numbers(**{"optimise.optimiser": "adam"}) == 2 * net.parameters
    assert numbers(**{"optimise.optimiser": "spring"}) == net.parameters
    assert numbers() == net.curvature
    # Inverses that serve several steps are kept next to the factors.
    assert numbers(**{"optimise.inverse_period": 2}) > numbers() + net.curvature - net.diagonal - 1


def test_every_network_of_the_settings_has_its_work() -> None:
    assert set(network_work.STREAMS) == set(networks.NETWORKS)


def test_every_optimiser_of_the_settings_has_its_defaults_its_cost_and_its_object() -> None:
    names = set(get_args(OptimiseConfig.model_fields["optimiser"].annotation))
    assert set(optimiser_costs.COSTS) == set(OPTIMISERS) == set(OPTIMISER_DEFAULTS) == names
    # Without a rate of its own an optimiser would take KFAC's.
    assert all("learning_rate" in defaults for defaults in OPTIMISER_DEFAULTS.values())


def test_kernels_add_up() -> None:
    kernel = Kernel("sweep", 1.0, 2.0, 3.0, 4.0)
    assert kernel.times(3) == Kernel("sweep", 3.0, 6.0, 9.0, 12.0, 3.0)
    work = kernels.repeat([kernel, kernels.product(2, 3, 5)], 2)
    assert (kernels.flops(work), kernels.moved_numbers(work)) == (
        2 * (1 + 60),
        2 * (2 + 6 + 15 + 10),
    )
    assert kernels.functions(work) == 14


def test_the_series_of_an_optimisation_are_all_counted() -> None:
    assert len(Stats._fields) == cost.SERIES


# --- groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize(
    ("kind", "envelope"),
    [("ferminet", "isotropic"), ("ferminet", "anisotropic"), ("psiformer", "isotropic")],
)
def test_parameters_of_a_group_are_those_of_its_wavefunction(
    components: int, kind: str, envelope: str
) -> None:
    settings = {"network.kind": kind, "network.envelope": envelope}
    config = resolve("small", settings, str).network
    for molecule in MOLECULES.values():
        params = shapes(config, molecule)
        theta = jax.eval_shape(functools.partial(adaptation.start, components=components), params)
        found = network_sizes.network(config, molecule, components)
        assert found.parameters == n_numbers(theta)


def test_the_numbers_of_coordinates_are_those_of_the_adaptation() -> None:
    """Geometries that differ in all ways have as many components as there can be."""
    assert network_sizes.MOST_COMPONENTS == adaptation.MOST_COMPONENTS
    random = np.random.default_rng(0)
    for geometries, nuclei in ((2, 2), (4, 3), (9, 4), (3, 1)):
        positions = random.uniform(0.0, 5.0, (geometries, nuclei, 3))
        features = adaptation.pair_features(positions).shape[-1]
        assert features == network_sizes.FEATURES_OF_PAIR * nuclei * (nuclei - 1) // 2
        found = adaptation.coordinates(positions).axes.shape[1]
        assert found == network_sizes.most_components(geometries, nuclei)


def natural_step(geometries: int, walkers: int, params: Any) -> Any:
    """SPRING's update of all walkers, traced on one device."""
    size = n_numbers(params)

    def update(rows: jax.Array, deviation: jax.Array, phi: jax.Array, tree: Any) -> Any:
        state = spring.State(phi, jnp.zeros(spring.NORMS))
        weights = jnp.full((geometries,), 1.0 / geometries)
        config = OptimiseConfig(optimiser="spring")
        return spring.natural_step(
            config, state, tree, rows, deviation, weights, jnp.asarray(0.1)
        ).step

    mesh = Mesh(jax.devices()[:1], (collectives.AXIS,))
    call = per_device(update, mesh, (REPLICATED,) * 4, REPLICATED)
    shape = jax.ShapeDtypeStruct
    arrays = (
        shape((geometries, walkers, size), jnp.float32),
        shape((geometries, walkers), jnp.float32),
        shape((size,), jnp.float32),
    )
    return jax.make_jaxpr(call)(*arrays, params)


@pytest.mark.parametrize(("geometries", "walkers"), [(1, 256), (6, 64), (3, 20)])
def test_the_products_of_spring_are_counted(geometries: int, walkers: int) -> None:
    """Every product but inner ones; a loop is traced once, however often it runs."""
    params = shapes(CASES["LiH"].spec().config.network, CASES["LiH"].molecule)
    assert optimiser_costs.CORRECTIONS == 1
    rows = geometries * walkers
    work = optimiser_costs.spring_update(n_numbers(params), rows, 1)
    found = sum(kernel.flops for kernel in work if kernel.kind == "product")
    traced = natural_step(geometries, walkers, params)
    assert found == pytest.approx(sum(products(traced.jaxpr)), rel=1e-5)
    gram = kernels.flops(optimiser_costs.symmetric_product(rows, n_numbers(params)))
    whole = 2.0 * rows**2 * n_numbers(params)
    # Four blocks of 64 and more rows; 60 rows are a block.
    assert gram / whole == pytest.approx(5 / 8 if rows >= 256 else 1.0)


@pytest.mark.usefixtures("straight")
def test_rows_of_a_group_are_counted_through_the_adaptation() -> None:
    """What XLA counts beyond the rows of one run: two copies of all rows, to a third."""
    case, components = CASES["LiH"], 3
    config, spins = case.spec().config, case.molecule.electrons
    params, electrons, nuclei = arguments(case)
    theta = jax.eval_shape(functools.partial(adaptation.start, components=components), params)
    z = jax.ShapeDtypeStruct((components,), jnp.float32)

    def rows(tree: Any, electrons: jax.Array, nuclei: Nuclei, z: jax.Array | None) -> jax.Array:
        def log_psi(tree: Any, walker: jax.Array) -> jax.Array:
            own = tree if z is None else adaptation.adapt(tree, z)
            return networks.apply(own, walker, nuclei.positions, spins)[1]

        return jax.vmap(jax.grad(log_psi), in_axes=(None, 0))(tree, electrons)

    def flops(tree: Any, z: Any) -> float:
        lowered: Any = jax.jit(rows).lower(tree, electrons, nuclei, z)
        return lowered.cost_analysis()["flops"]

    net = network_sizes.network(config.network, case.molecule, components)
    found = kernels.flops(network_work.adapted(net, WALKERS))
    assert found == pytest.approx(flops(theta, z) - flops(params, None), rel=1 / 3)


def test_a_group_costs_what_its_geometries_cost() -> None:
    """Each part but the update is that of one geometry, as often as there are geometries."""
    settings = {"optimise.optimiser": "spring", "optimise.momentum": 0.9}
    case = CASES["LiH"]
    config = case.spec(**settings).config
    net = network_sizes.network(config.network, case.molecule)
    for make in (cost.pretrain_parts, cost.optimise_parts):
        one, six = (make(net, config, Load(64, 16, geometries=g)) for g in (1, 6))
        at_once = make(net, config, Load(64, 16, geometries=6, at_once=True))
        for part in set(one) - {"update"}:
            assert kernels.flops(six[part]) == pytest.approx(6 * kernels.flops(one[part]))
            assert kernels.flops(at_once[part]) == pytest.approx(kernels.flops(six[part]))
            counts = [sum(k.launches for k in parts[part]) for parts in (one, six, at_once)]
            assert counts == pytest.approx([counts[0], 6 * counts[0], counts[0]])
    rows = {g: cost.peak_memory(net, config, Load(64, 16, geometries=g)) for g in (1, 6)}
    # The rows of six geometries, thrice, and the square matrix; walkers besides.
    more = 4 * 3 * (5 * 64 * net.parameters + (36 - 1) * 64**2)
    assert rows[6] - rows[1] == pytest.approx(more, rel=0.01)

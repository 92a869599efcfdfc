"""What every network must have: symmetry, derivatives, cusps and finiteness.

A network joins by its entry in `networks.NETWORKS`.
"""

import itertools
from collections.abc import Iterator
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from helpers.oracles import duplicate_orbitals, psi, psi_derivatives
from helpers.small_networks import KINDS, SIMPLEST, random_params, simplest_network, small

from ferminet_core.inputs.config import NETWORK_DEFAULTS, NetworkConfig, OptimiseConfig
from ferminet_core.parallel import platform
from ferminet_core.stages import parameters
from ferminet_core.vmc.hamiltonian import Nuclei, local_energy
from ferminet_core.vmc.optimisers import kfac
from ferminet_core.wavefunction import adaptation, ansatz, networks
from ferminet_core.wavefunction.networks import Params, Spins

NUCLEI = jnp.asarray([[0.0, 0.0, 0.0], [0.0, 0.3, 1.4]])


@pytest.fixture(autouse=True)
def also_the_simplest() -> Iterator[None]:
    with simplest_network():
        yield


def registered(kind: str) -> bool:
    """Whether KFAC knows the network's layers."""
    return kind != SIMPLEST and "optimise.optimiser" not in NETWORK_DEFAULTS[kind]


def value(params: Params, walkers: jax.Array, spins: Spins, nuclei: jax.Array = NUCLEI) -> Any:
    return jax.jit(networks.apply, static_argnums=3)(params, walkers, nuclei, spins)


def test_the_networks_are_those_of_the_settings() -> None:
    named = set(get_args(NetworkConfig.model_fields["kind"].annotation))
    assert set(networks.NETWORKS) - {SIMPLEST} == set(NETWORK_DEFAULTS) == named


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("spins", "form"), [((3, 2), "dense"), ((2, 2), "block"), ((2, 0), "dense")]
)
def test_every_exchange_of_equal_spins_changes_the_sign(kind: str, spins: Spins, form: str) -> None:
    params = random_params(small(kind, determinant_form=form, jastrow=True), spins)
    walkers = jax.random.normal(jax.random.key(2), (5, sum(spins), 3))
    sign, log = value(params, walkers, spins)
    n = sum(spins)
    for i, j in itertools.combinations(range(n), 2):
        order = np.arange(n)
        order[[i, j]] = order[[j, i]]
        new_sign, new_log = value(params, walkers[:, order], spins)
        if (i < spins[0]) == (j < spins[0]):
            np.testing.assert_array_equal(new_sign, -sign)
            np.testing.assert_allclose(new_log, log, rtol=1e-10)  # float64 rounding
        else:
            # Electrons of different spins are not alike.
            assert np.all(np.abs(new_log - log) > 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_walkers_may_have_any_leading_axes(kind: str) -> None:
    spins = (2, 1)
    params = random_params(small(kind, jastrow=True), spins)
    walkers = jax.random.normal(jax.random.key(2), (2, 3, 3, 3))
    sign, log = value(params, walkers, spins)
    for i, j in np.ndindex(2, 3):
        one = value(params, walkers[i, j], spins)
        assert one[0] == sign[i, j]
        np.testing.assert_allclose(one[1], log[i, j], rtol=1e-12)  # float64 rounding
        exact = psi(params, walkers[i, j], NUCLEI, spins)
        np.testing.assert_allclose(one[0] * jnp.exp(one[1]), exact, rtol=1e-11)


def critical(spins: Spins) -> jax.Array:
    """Walkers anywhere, far away, and with an electron close to a nucleus or another electron."""
    n = sum(spins)
    step = 1e-4 * jnp.asarray([0.48, 0.6, 0.64])
    anywhere = jax.random.normal(jax.random.key(2), (3, n, 3))
    one = anywhere[0]
    found = [*anywhere[:2], 4 * anywhere[2], one.at[0].set(NUCLEI[1] + step)]
    if n > 1:
        found.append(one.at[n - 1].set(one[0] + step))
    return jnp.stack(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("spins", "on_cpu"),
    [
        ((2, 1), True),
        ((1, 0), True),
        # Some ten seconds of compilation each.
        pytest.param((2, 1), False, marks=pytest.mark.slow),
        pytest.param((2, 0), True, marks=pytest.mark.slow),
    ],
)
def test_gradient_and_laplacian_are_those_of_the_hessian(
    kind: str, spins: Spins, on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the forms for CPUs and for GPUs, with a singular determinant and without."""
    monkeypatch.setattr(platform, "on_cpu", lambda: on_cpu)
    params = random_params(small(kind, jastrow=True), spins)
    walkers = critical(spins)
    oracle = jax.jit(jax.vmap(psi_derivatives, (None, 0, None, None)), static_argnums=3)
    forward = jax.jit(lambda p, x: networks.log_psi_derivatives(p, x, NUCLEI, spins))
    for tree in [params, duplicate_orbitals(params, 3, 1)] if sum(spins) > 1 else [params]:
        found, exact = forward(tree, walkers), oracle(tree, walkers, NUCLEI, spins)
        np.testing.assert_array_equal(found.sign, jnp.sign(exact[0]))
        # float64 rounding through ten operations in a row
        rtol = 1e-9
        np.testing.assert_allclose(found.log, jnp.log(jnp.abs(exact[0])), rtol=rtol, atol=rtol)
        for i in range(len(walkers)):
            scale = float(jnp.abs(exact[1][i]).max())
            np.testing.assert_allclose(found.gradient[i], exact[1][i], rtol=rtol, atol=rtol * scale)
            np.testing.assert_allclose(
                found.laplacian_ratio[i], exact[2][i], rtol=rtol, atol=rtol * scale**2
            )


@pytest.mark.parametrize("kind", KINDS)
def test_finite_on_a_nucleus_and_where_opposite_spins_coincide(kind: str) -> None:
    spins = (1, 1)
    config = small(kind, jastrow=True)
    params = networks.init(jax.random.key(0), config, spins, 2, jnp.float32)
    single = NUCLEI.astype(jnp.float32)
    electrons = jnp.stack([single[1], single[1]])
    sign, log = value(params, electrons, spins, single)
    assert (sign.dtype, log.dtype) == (jnp.float32, jnp.float32)
    assert abs(float(sign)) == 1
    assert np.isfinite(float(log))
    found = jax.jit(lambda x: networks.log_psi_derivatives(params, x, single, spins))(
        electrons[None]
    )
    slopes = jax.jit(jax.grad(lambda p, x: networks.apply(p, x, single, spins)[1], (0, 1)))
    for x in jax.tree.leaves([found, slopes(params, electrons)]):
        assert x.dtype == jnp.float32
        assert np.isfinite(x).all()


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_double_precision_rounded(kind: str) -> None:
    spins = (2, 1)
    params = random_params(small(kind, jastrow=True), spins)
    low = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    walkers = jax.random.normal(jax.random.key(2), (16, 3, 3)).astype(jnp.float32)
    charges = jnp.asarray([3.0, 1.0])

    def energies(p: Params, dtype: Any) -> jax.Array:
        nuclei = Nuclei(NUCLEI.astype(dtype), charges.astype(dtype))
        found = jax.jit(lambda x: local_energy(p, x, nuclei, spins, 8))(walkers.astype(dtype))
        assert found.dtype == dtype
        return found

    rounded = jax.tree.map(lambda x: x.astype(jnp.float64), low)
    # Rounding of float32, 6e-8, relative to the terms that cancel: some hundred hartree.
    np.testing.assert_allclose(
        energies(low, jnp.float32), energies(rounded, jnp.float64), rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("pair", "slope"), [((0, 1), 0.25), ((0, 2), 0.5)])
def test_the_jastrow_factor_has_katos_cusps(kind: str, pair: tuple[int, int], slope: float) -> None:
    # Kato (1957): d log psi / d r_ij at r_ij = 0 is 1/2 for unlike and 1/4 for like spins.
    spins = (2, 1)
    params = random_params(small(kind, jastrow=True), spins)
    params["jastrow"] = {"parallel": jnp.asarray(0.7), "antiparallel": jnp.asarray(1.3)}
    without = {key: x for key, x in params.items() if key != "jastrow"}
    far = jnp.asarray([[0.5, 0, 0], [3.0, 0, 0], [0, 3.0, 0]])

    def log(p: Params, r: float) -> jax.Array:
        # From both sides, so that what is smooth at contact, such as the other pairs, drops out.
        steps = r * jnp.asarray([[0.0, 0.6, 0.8], [0.0, -0.6, -0.8]])
        walkers = jnp.stack([far.at[pair[1]].set(far[pair[0]] + step) for step in steps])
        return jnp.mean(value(p, walkers, spins)[1])

    near, at = (log(params, r) - log(without, r) for r in (2e-4, 1e-4))
    # The slope differs from that at contact by 3 r / a, 4e-4 at most.
    assert float(near - at) / 1e-4 == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_geometry_is_an_argument(kind: str) -> None:
    """One compiled function serves all geometries, and nothing knows where the origin is."""
    spins = (1, 1)
    params = random_params(small(kind, jastrow=True), spins)
    walkers = jax.random.normal(jax.random.key(2), (4, 2, 3))
    traced = []

    def log_psi(x: jax.Array, nuclei: jax.Array) -> jax.Array:
        traced.append(nuclei)
        return networks.apply(params, x, nuclei, spins)[1]

    compiled = jax.jit(log_psi)
    here = compiled(walkers, NUCLEI)
    shift = jnp.asarray([0.3, -1.0, 2.0])
    np.testing.assert_allclose(compiled(walkers + shift, NUCLEI + shift), here, rtol=1e-10)
    assert np.all(np.abs(compiled(walkers, 1.3 * NUCLEI) - here) > 1e-4)
    assert len(traced) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_say_whose_they_are_after_storage(kind: str) -> None:
    params = networks.init(jax.random.key(0), small(kind, jastrow=True), (2, 1), 2, jnp.float64)
    found = parameters.from_variables(xr.Dataset(parameters.to_variables(params)))
    same = jax.tree.map(np.array_equal, found, params)  # fails for trees of another form
    assert all(jax.tree.leaves(same))
    assert networks.of(found) is networks.NETWORKS[kind]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if registered(kind)])
def test_layers_as_kfac_reads_them_give_the_same_function(kind: str) -> None:
    spins = (2, 2)
    params = random_params(small(kind, envelope="anisotropic", orbital_bias=True), spins)
    walkers = jax.random.normal(jax.random.key(8), (4, 4, 3))
    plain = networks.apply(params, walkers, NUCLEI, spins)
    read = networks.apply(params, walkers, NUCLEI, spins, kfac.REGISTERED)
    np.testing.assert_allclose(plain[1], read[1], rtol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if registered(kind)])
@pytest.mark.parametrize("bias", [True, False])
def test_every_parameter_has_its_block_in_kfac(kind: str, bias: bool) -> None:
    spins = (2, 1)
    config = small(kind, jastrow=True, bias=bias, orbital_bias=bias)
    params = random_params(config, spins)
    walkers = jax.random.normal(jax.random.key(1), (4, 3, 3))
    pre = kfac.preconditioner(
        OptimiseConfig(), lambda p, batch: kfac.curvature_function(p, batch, spins)
    )
    kfac.empty_statistics(pre, params, NUCLEI, walkers)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    blocks = kfac.blocks(pre, params)
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        dense = name.endswith((".w", ".b")) and not name.startswith("determinants")
        assert (blocks[name] != "Scale") == dense, (name, leaf.shape)


def test_kfac_names_the_parameters_that_it_cannot_see() -> None:
    spins = (2, 1)
    params = random_params(small(SIMPLEST), spins)
    walkers = jax.random.normal(jax.random.key(1), (4, 3, 3))
    pre = kfac.preconditioner(
        OptimiseConfig(), lambda p, batch: kfac.curvature_function(p, batch, spins)
    )
    with pytest.raises(RuntimeError, match=r"mixing\.w"):
        kfac.empty_statistics(pre, params, NUCLEI, walkers)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_reach_the_layers_of_a_shared_wavefunction(kind: str) -> None:
    spins = (2, 1)
    params = random_params(small(kind, jastrow=True), spins)
    theta = adaptation.start(params, 2)
    walkers = jax.random.normal(jax.random.key(1), (4, 3, 3))

    def log(theta: Params) -> jax.Array:
        return jnp.sum(value(adaptation.adapt(theta, jnp.ones(2)), walkers, spins)[1])

    same = value(params, walkers, spins)[1]
    np.testing.assert_allclose(log(theta), jnp.sum(same), rtol=1e-12)  # heads start at zero
    slopes = jax.jit(jax.grad(log))(theta)["heads"]
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        assert np.any(slope != 0), path


def test_spin_up_alone_has_no_empty_blocks() -> None:
    for kind in KINDS:
        params = networks.init(jax.random.key(0), small(kind), (3, 0), 1, jnp.float64)
        assert len(params["orbitals"]) == 1
    assert ansatz.spin_slices((3, 0)) == [slice(0, 3)]

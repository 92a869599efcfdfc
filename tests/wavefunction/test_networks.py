"""The wavefunction's symmetry, limits and finiteness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.oracles import psi, shaken, small_network

from ferminet_core.parallel import platform
from ferminet_core.vmc.hamiltonian import Nuclei, local_energy
from ferminet_core.vmc.optimisers.kfac import REGISTERED
from ferminet_core.wavefunction import ansatz, networks

NUCLEI = jnp.asarray([[0.0, 0.0, 0.0], [0.0, 0.3, 1.4]])


@pytest.mark.parametrize("form", ["dense", "block"])
@pytest.mark.parametrize("spins", [(3, 2), (2, 0), (1, 1)])
def test_every_exchange_of_equal_spins_changes_the_sign(form: str, spins: tuple[int, int]) -> None:
    config = small_network(determinant_form=form, jastrow=True, orbital_bias=True)
    params = shaken(
        networks.init(jax.random.key(0), config, spins, 2, jnp.float64), jax.random.key(1)
    )
    walkers = jax.random.normal(jax.random.key(2), (5, sum(spins), 3))
    sign, log = networks.apply(params, walkers, NUCLEI, spins)
    n = sum(spins)
    same = [(i, j) for i in range(n) for j in range(i) if (i < spins[0]) == (j < spins[0])]
    for i, j in same:
        order = np.arange(n)
        order[[i, j]] = order[[j, i]]
        new_sign, new_log = networks.apply(params, walkers[:, order], NUCLEI, spins)
        np.testing.assert_array_equal(new_sign, -sign)
        np.testing.assert_allclose(new_log, log, rtol=1e-10)  # float64 rounding


@pytest.mark.parametrize("form", ["dense", "block"])
@pytest.mark.parametrize("envelope", ["isotropic", "diagonal", "anisotropic"])
def test_value_is_the_sum_of_leibniz_determinants(form: str, envelope: str) -> None:
    spins = (2, 1)
    config = small_network(determinant_form=form, envelope=envelope, jastrow=True, bias=False)
    params = shaken(
        networks.init(jax.random.key(3), config, spins, 2, jnp.float64), jax.random.key(4)
    )
    electrons = jax.random.normal(jax.random.key(5), (3, 3))
    sign, log = networks.apply(params, electrons, NUCLEI, spins)
    np.testing.assert_allclose(
        sign * jnp.exp(log), psi(params, electrons, NUCLEI, spins), rtol=1e-11
    )


def test_the_form_for_gpus_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    config, spins = small_network(jastrow=True, orbital_bias=True), (2, 1)
    params = shaken(
        networks.init(jax.random.key(3), config, spins, 2, jnp.float64), jax.random.key(4)
    )
    walkers = jax.random.normal(jax.random.key(5), (4, 3, 3))
    nuclei = Nuclei(NUCLEI, jnp.asarray([3.0, 1.0]))

    def found() -> list[jax.Array]:
        # New functions: jit would remember the form of those that it has seen.
        log = jax.jit(lambda p: networks.apply(p, walkers, NUCLEI, spins)[1])
        slope = jax.jit(jax.grad(lambda p: jnp.sum(networks.apply(p, walkers, NUCLEI, spins)[1])))
        energies = jax.jit(lambda p: local_energy(p, walkers, nuclei, spins))
        return [log(params), *jax.tree.leaves(slope(params)), energies(params)]

    expected = found()
    monkeypatch.setattr(platform, "on_cpu", lambda: False)
    for one, two in zip(expected, found(), strict=True):
        # float64 rounding through ten operations in a row
        np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-11)


def test_layers_as_kfac_reads_them_give_the_same_function() -> None:
    spins = (2, 2)
    config = small_network(envelope="anisotropic", orbital_bias=True)
    params = shaken(
        networks.init(jax.random.key(6), config, spins, 2, jnp.float64), jax.random.key(7)
    )
    walkers = jax.random.normal(jax.random.key(8), (4, 4, 3))
    plain = networks.apply(params, walkers, NUCLEI, spins)
    registered = networks.apply(params, walkers, NUCLEI, spins, REGISTERED)
    np.testing.assert_allclose(plain[1], registered[1], rtol=1e-12)


def test_finite_on_a_nucleus_and_where_opposite_spins_coincide() -> None:
    spins = (1, 1)
    params = networks.init(jax.random.key(0), small_network(jastrow=True), spins, 2, jnp.float32)
    electrons = jnp.stack([NUCLEI[1], NUCLEI[1]]).astype(jnp.float32)
    single = NUCLEI.astype(jnp.float32)
    sign, log = networks.apply(params, electrons, single, spins)
    log_psi = jax.jit(lambda x: networks.apply(params, x, single, spins)[1])
    gradient = jax.grad(log_psi)(electrons)
    assert abs(float(sign)) == 1
    assert np.isfinite(float(log))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("pair", "slope"), [((0, 1), 0.25), ((0, 2), 0.5)])
def test_electron_cusps_of_the_jastrow(pair: tuple[int, int], slope: float) -> None:
    # Kato (1957): d log psi / d r_ij at r_ij = 0 is 1/2 for unlike and 1/4 for like spins.
    spins = (2, 1)
    params = {"parallel": jnp.asarray(0.7), "antiparallel": jnp.asarray(1.3)}

    def value(r: jax.Array) -> jax.Array:
        far = jnp.asarray([[0.0, 0, 0], [50.0, 0, 0], [0, 50.0, 0]])
        electrons = far.at[pair[1]].set(far[pair[0]] + jnp.asarray([0, 0, 1.0]) * r)
        r_ee = jnp.linalg.norm(electrons[:, None] - electrons + 1e-30, axis=-1)
        return ansatz.jastrow(params, r_ee, spins)

    # 1e-5 bohr from contact the slope differs by 2 r / a = 3e-5 of itself.
    assert float(jax.grad(value)(1e-5)) == pytest.approx(slope, rel=1e-4)


def test_spin_up_alone_has_no_empty_blocks() -> None:
    params = networks.init(jax.random.key(0), small_network(), (3, 0), 1, jnp.float64)
    assert len(params["orbitals"]) == 1
    assert params["layers"][0]["one"]["w"].shape[0] == 4 * 2 + 4

"""FermiNet's own; `test_networks` has what it shares with all networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.oracles import psi, shaken, small_network

from ferminet_core.parallel import platform
from ferminet_core.vmc.hamiltonian import Nuclei, local_energy
from ferminet_core.wavefunction import networks

NUCLEI = jnp.asarray([[0.0, 0.0, 0.0], [0.0, 0.3, 1.4]])


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


def test_spin_up_alone_has_no_empty_blocks() -> None:
    params = networks.init(jax.random.key(0), small_network(), (3, 0), 1, jnp.float64)
    assert len(params["orbitals"]) == 1
    assert params["layers"][0]["one"]["w"].shape[0] == 4 * 2 + 4

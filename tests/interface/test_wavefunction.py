"""The wavefunction as an object, against slow versions of what it computes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.molecules import diatomic
from helpers.oracles import psi_derivatives, shaken

import ferminet_core
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.stages import datasets
from ferminet_core.vmc.hamiltonian import potential_energy
from ferminet_core.wavefunction import networks

SIZES = {"layers": 1, "one_electron_width": 4, "two_electron_width": 2, "determinants": 2}
WALKERS = 6


def made(precision: str = "float64") -> tuple[ferminet_core.Wavefunction, Any]:
    """The wavefunction of LiH+ in a random network, and its parameters."""
    config = ferminet_core.configuration(
        "smoke", network=SIZES, mcmc={"walkers": WALKERS}, runtime={"precision": precision}
    )
    molecule = diatomic("Li", "H", 3.0, charge=1, spin=1)
    spec = RunSpec(scan="test", run_id="lih", geometry="lih", molecule=molecule, config=config)
    dtype = jnp.dtype(precision)
    first = networks.init(jax.random.key(0), config.network, molecule.electrons, 2, dtype)
    params = shaken(first, jax.random.key(1))
    electrons = jax.random.normal(jax.random.key(2), (WALKERS, molecule.n_electrons, 3), dtype)
    found = datasets.network_dataset(params, electrons, 0.3, {})
    return ferminet_core.Wavefunction(spec, found), params


def test_local_energy_and_psi_are_those_of_the_oracle() -> None:
    psi, params = made()
    molecule = psi.spec.molecule
    nuclei = datasets.nuclei(molecule, Config(), jnp.float64)
    derivatives = jax.jit(psi_derivatives, static_argnums=3)
    for electrons in psi.walkers:
        value, _, laplacian = derivatives(
            params, jnp.asarray(electrons), nuclei.positions, molecule.electrons
        )
        sign, log = psi.sign_log_psi(electrons)
        # Double precision; the sum over permutations cancels a few digits.
        np.testing.assert_allclose(sign * np.exp(log), value, rtol=1e-9)
        energy = -0.5 * laplacian + potential_energy(jnp.asarray(electrons), nuclei)
        np.testing.assert_allclose(psi.local_energy(electrons), energy, rtol=1e-9)


def test_electrons_of_one_spin_are_antisymmetric() -> None:
    psi, _ = made()
    assert psi.spec.molecule.electrons == (2, 1)
    sign, log = psi.sign_log_psi(psi.walkers)
    exchanged_sign, exchanged_log = psi.sign_log_psi(psi.walkers[:, [1, 0, 2]])
    assert np.array_equal(exchanged_sign, -sign)
    np.testing.assert_allclose(exchanged_log, log, rtol=1e-9)  # rounding in double precision


def test_shapes_follow_those_of_the_electrons() -> None:
    psi, _ = made()
    stacked = psi.walkers.reshape(2, 3, 3, 3)
    assert psi.log_psi(stacked).shape == (2, 3)
    # Other shapes are compiled apart and round otherwise, by a few units in the sixteenth digit.
    energies = psi.local_energy(psi.walkers).reshape(2, 3)
    np.testing.assert_allclose(psi.local_energy(stacked), energies, rtol=1e-12)
    with pytest.raises(ferminet_core.InputError, match=r"found shape \(6, 3\), allowed: \(..., 3"):
        psi.log_psi(np.zeros((6, 3, 2))[..., 0])
    with pytest.raises(ferminet_core.InputError, match="start: found shape"):
        psi.sample(start=psi.walkers[0])


def test_samples_follow_from_the_seed_and_the_start() -> None:
    psi, _ = made()
    first, again, other = (psi.sample(moves=20, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert first.shape == psi.walkers.shape
    assert np.all(np.any(first != psi.walkers, axis=(1, 2)))  # 20 moves at a small width
    assert not np.array_equal(first, other)
    assert not np.array_equal(psi.sample(moves=20, start=other), first)


def test_the_precision_of_the_caller_stays() -> None:
    assert jax.config.read("jax_enable_x64")
    psi, _ = made("float32")
    found = psi.sample(moves=2), psi.log_psi(psi.walkers), psi.local_energy(psi.walkers)
    assert {x.dtype for x in found} == {np.dtype(np.float32)}
    assert jnp.zeros(1).dtype == np.float64

"""Kinetic energies against brute-force Hessians of the explicit wavefunction, in both forms."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.oracles import duplicate_orbitals, psi_derivatives, shaken, small_network

from ferminet_core.vmc.hamiltonian import Nuclei, local_energy
from ferminet_core.wavefunction import forward_laplacian, networks, stacked_laplacian
from ferminet_core.wavefunction.derivatives import LogPsi

NUCLEI = jnp.asarray([[0.0, 0.0, 0.0], [0.0, 0.3, 1.4]])
SPINS = (2, 1)


# On CPUs, and on GPUs.
FORMS = (forward_laplacian.log_psi_derivatives, stacked_laplacian.log_psi_derivatives)


@functools.partial(jax.jit, static_argnums=3)
def forward(
    params: networks.Params, electrons: jax.Array, nuclei: jax.Array, spins: tuple[int, int]
) -> list[LogPsi]:
    """Of one walker, by both forms."""
    found = [form(params, electrons[None], nuclei, spins) for form in FORMS]
    return jax.tree.map(lambda x: x[0], found)


oracle = jax.jit(psi_derivatives, static_argnums=3)


def network(spins: tuple[int, int] = SPINS, **changes: object) -> networks.Params:
    config = small_network(**changes)
    start = networks.init(jax.random.key(0), config, spins, 2, jnp.float64)
    return shaken(start, jax.random.key(1))


def agree(
    params: networks.Params, electrons: jax.Array, spins: tuple[int, int], rtol: float
) -> None:
    value, gradient, laplacian = oracle(params, electrons, NUCLEI, spins)
    scale = float(jnp.abs(gradient).max())
    for found in forward(params, electrons, NUCLEI, spins):
        assert found.sign == jnp.sign(value)
        np.testing.assert_allclose(found.log, jnp.log(jnp.abs(value)), rtol=rtol, atol=rtol)
        np.testing.assert_allclose(found.gradient, gradient, rtol=rtol, atol=rtol * scale)
        # Relative to |grad|^2 too: it is the size of the terms that cancel in the Laplacian.
        np.testing.assert_allclose(
            found.laplacian_ratio, laplacian, rtol=rtol, atol=rtol * scale**2
        )


@pytest.mark.parametrize(
    ("envelope", "form"),
    [
        ("isotropic", "dense"),
        ("diagonal", "dense"),
        ("anisotropic", "block"),
        *(
            pytest.param(envelope, form, marks=pytest.mark.campaign)
            for envelope, form in (
                ("isotropic", "block"),
                ("diagonal", "block"),
                ("anisotropic", "dense"),
            )
        ),
    ],
)
def test_every_envelope_and_determinant(envelope: str, form: str) -> None:
    params = network(envelope=envelope, determinant_form=form, jastrow=True)
    electrons = jax.random.normal(jax.random.key(2), (3, 3))
    agree(params, electrons, SPINS, rtol=1e-9)  # float64 rounding through ten operations in a row


@pytest.mark.parametrize("singular", [1, 2])
@pytest.mark.parametrize("form", ["dense", "block"])
@pytest.mark.parametrize(
    "envelope",
    [
        "isotropic",
        *(pytest.param(e, marks=pytest.mark.campaign) for e in ("diagonal", "anisotropic")),
    ],
)
def test_some_determinants_are_singular(envelope: str, form: str, singular: int) -> None:
    params = network(envelope=envelope, determinant_form=form)
    params = duplicate_orbitals(params, 3, singular)
    electrons = jax.random.normal(jax.random.key(2), (3, 3))
    agree(params, electrons, SPINS, rtol=1e-9)


def test_scaled_inputs() -> None:
    # Width 8 = 4 inputs of each of two nuclei: the first layer's residual connection is tested too.
    params = network(inputs="log", jastrow=True)
    electrons = 2 * jax.random.normal(jax.random.key(9), (3, 3))
    agree(params, electrons, SPINS, rtol=1e-9)


@pytest.mark.parametrize(("spins", "layers"), [((1, 0), 1), ((3, 0), 3), ((2, 2), 3)])
def test_spins_and_depths(spins: tuple[int, int], layers: int) -> None:
    # Width 8 = 4 inputs of each of two nuclei: the first layer has a residual connection too.
    params = network(spins, layers=layers, orbital_bias=True, bias=layers == 3)
    electrons = jax.random.normal(jax.random.key(3), (sum(spins), 3))
    agree(params, electrons, spins, rtol=1e-9)


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("where", ["nucleus", "unlike spins", "like spins"])
@pytest.mark.parametrize("inputs", ["plain", "log"])
def test_near_coalescence(inputs: str, where: str, distance: float) -> None:
    params = network(jastrow=True, inputs=inputs)
    electrons = jax.random.normal(jax.random.key(4), (3, 3))
    step = distance * jnp.asarray([0.48, 0.6, 0.64])
    moved, onto = {
        "nucleus": (0, NUCLEI[1]),
        "unlike spins": (2, electrons[0]),
        "like spins": (1, electrons[0]),
    }[where]
    electrons = electrons.at[moved].set(onto + step)
    # psi itself falls with the distance between like spins, so relative rounding grows as 1/r.
    loss = 1.0 / distance if where == "like spins" else 1.0
    agree(params, electrons, SPINS, rtol=1e-9 + 1e-14 * loss)
    # float32: compare at the positions as float32 rounds them. The 1/r terms cancel no digits of
    # each other, so the error is rounding (6e-8) relative to them, through some ten operations.
    single = electrons.astype(jnp.float32)
    rounded = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    double = jnp.asarray(single, jnp.float64)
    _, gradient, laplacian = oracle(params, double, NUCLEI, SPINS)
    scale = max(float(jnp.abs(laplacian)), float(jnp.abs(gradient).max() ** 2), 1 / distance)
    tolerance = 1e-3 if where == "like spins" else 1e-4
    for low in forward(rounded, single, NUCLEI, SPINS):
        assert np.isfinite(low.laplacian_ratio)
        if where == "like spins" and distance < 1e-3:
            continue  # psi itself is lost in rounding: like spins this close are 1e-5 of its size
        assert float(low.laplacian_ratio) == pytest.approx(float(laplacian), abs=tolerance * scale)


@pytest.mark.parametrize("inputs", ["plain", "log"])
def test_exactly_on_a_nucleus_the_kinetic_energy_is_finite(inputs: str) -> None:
    params = network(inputs=inputs)
    electrons = jax.random.normal(jax.random.key(5), (3, 3)).at[0].set(NUCLEI[0])
    for found in forward(params, electrons, NUCLEI, SPINS):
        assert np.isfinite(found.laplacian_ratio)
        assert np.isfinite(found.gradient).all()


@pytest.mark.parametrize("charge", [1.0, 2.0, 7.0])
def test_hydrogen_like_ion_has_a_constant_local_energy(charge: float) -> None:
    # psi = exp(-Z r): all weights zero, orbital bias one, envelope exponent Z; E = -Z^2 / 2.
    config = small_network(determinants=1, orbital_bias=True)
    params = networks.init(jax.random.key(0), config, (1, 0), 1, jnp.float64)
    params = jax.tree.map(jnp.zeros_like, params)
    params["orbitals"][0]["b"] = jnp.ones(1)
    params["envelope"][0] = {
        "pi": jnp.ones((1, 1, 1)),
        "sigma": jnp.full((1, 1, 1), charge),
    }
    params["determinants"]["w"] = jnp.ones(1)
    nuclei = Nuclei(jnp.zeros((1, 3)), jnp.asarray([charge]))
    electrons = jax.random.normal(jax.random.key(6), (200, 1, 3)) / charge
    energies = local_energy(params, electrons, nuclei, (1, 0), chunk=64)
    # float64 rounding of Z/r, which reaches 1e3 Z^2 close to the nucleus.
    np.testing.assert_allclose(energies, -(charge**2) / 2, rtol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_singular", [1, 6])
def test_singular_matrices_among_others(n_singular: int, form: Callable[..., LogPsi]) -> None:
    """Walkers with like electrons almost at one place, few and many in a chunk of regular ones."""
    params = network()
    electrons = jax.random.normal(jax.random.key(8), (16, 3, 3))
    close = electrons[:n_singular, 0] + jnp.asarray([0.0, 0.0, 1e-9])
    electrons = electrons.at[:n_singular, 1].set(close)
    found = jax.jit(form, static_argnums=3)(params, electrons, NUCLEI, SPINS)
    for i in (0, n_singular - 1, n_singular, 15):
        value, gradient, laplacian = oracle(params, electrons[i], NUCLEI, SPINS)
        # psi is 1e-9 of its terms where it is close to its node: so many digits of float64 are lost
        # by the oracle itself.
        rtol = 1e-5 if i < n_singular else 1e-9
        np.testing.assert_allclose(found.log[i], jnp.log(jnp.abs(value)), rtol=rtol)
        scale = float(jnp.abs(gradient).max())
        np.testing.assert_allclose(found.gradient[i], gradient, rtol=rtol, atol=rtol * scale)
        np.testing.assert_allclose(
            found.laplacian_ratio[i], laplacian, rtol=rtol, atol=rtol * scale**2
        )


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_chunks_do_not_change_local_energies(chunk: int | None) -> None:
    params = network()
    electrons = jax.random.normal(jax.random.key(7), (7, 3, 3))
    nuclei = Nuclei(NUCLEI, jnp.asarray([3.0, 1.0]))
    found = local_energy(params, electrons, nuclei, SPINS, chunk)
    one_by_one = [-0.5 * forward(params, x, NUCLEI, SPINS)[0].laplacian_ratio for x in electrons]
    r = np.asarray(electrons)
    potential = [
        -sum(3 / np.linalg.norm(e - NUCLEI[0]) + 1 / np.linalg.norm(e - NUCLEI[1]) for e in x)
        + sum(1 / np.linalg.norm(x[i] - x[j]) for i in range(3) for j in range(i))
        + 3 / np.linalg.norm(NUCLEI[0] - NUCLEI[1])
        for x in r
    ]
    np.testing.assert_allclose(found, np.add(one_by_one, potential), rtol=1e-10)

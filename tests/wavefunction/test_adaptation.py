"""Parameters that depend on the nuclei: their bounds, their coordinates, what they leave alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.oracles import psi_derivatives, small_network

from ferminet_core.vmc.hamiltonian import Nuclei, local_energy, potential_energy
from ferminet_core.wavefunction import adaptation, networks

SPINS = (2, 1)
BONDS = np.array([2.0, 2.5, 3.0, 4.0, 6.0])


def nuclei(bonds: Any) -> np.ndarray:
    """(..., 2, 3), bohr."""
    bonds = np.asarray(bonds, float)
    positions = np.zeros((*bonds.shape, 2, 3))
    positions[..., 1, 2] = bonds
    return positions


def theta_of(components: int, size: float, **network: Any) -> networks.Params:
    """Shared parameters, and heads that are random numbers of this size."""
    config = small_network(orbital_bias=True, **network)
    params = networks.init(jax.random.key(0), config, SPINS, 2, jnp.float64)
    theta = adaptation.start(params, components)
    leaves, tree = jax.tree.flatten(theta["heads"])
    keys = jax.random.split(jax.random.key(1), max(len(leaves), 1))
    drawn = [size * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=False)]
    return {**theta, "heads": jax.tree.unflatten(tree, drawn)}


@pytest.mark.parametrize("components", [0, 3])
@pytest.mark.parametrize("envelope", ["isotropic", "anisotropic"])
@pytest.mark.parametrize("bias", [False, True])
def test_heads_of_zero_change_no_bit(components: int, envelope: str, bias: bool) -> None:
    theta = theta_of(components, 0.0, envelope=envelope, bias=bias)
    found = adaptation.adapt(theta, jnp.linspace(-2.0, 1.5, components))
    jax.tree.map(np.testing.assert_array_equal, found, theta["shared"])


def test_every_head_acts() -> None:
    theta, z = theta_of(2, 0.1), jnp.asarray([0.7, -1.2])
    plain = adaptation.adapt(theta_of(2, 0.0), z)
    found = adaptation.adapt(theta, z)
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), found, plain)
    # A two-electron layer's weights have no head: its biases have.
    for layer in same["layers"]:
        if "two" in layer:
            assert layer["two"].pop("w")
    for orbital in same["orbitals"]:
        assert orbital.pop("w")
    assert not any(jax.tree.leaves(same))


def test_the_local_energy_is_that_of_the_adapted_wavefunction() -> None:
    """Against the Hessian of psi by automatic differentiation."""
    theta = theta_of(2, 0.1, layers=1)
    params = adaptation.adapt(theta, jnp.asarray([0.7, -1.2]))
    at = Nuclei(jnp.asarray(nuclei(2.0)), jnp.asarray([2.0, 1.0]))
    electrons = jax.random.normal(jax.random.key(5), (4, 3, 3))
    found = jax.jit(lambda x: local_energy(params, x, at, SPINS, 4))(electrons)
    laplacian = jax.jit(lambda x: psi_derivatives(params, x, at.positions, SPINS)[2])
    expected = [-0.5 * laplacian(x) + potential_energy(x[None], at)[0] for x in electrons]
    # Double precision: 1e-16 times the largest terms of the Laplacian, 1e3, with some margin for
    # the cancellations in the determinants of a random network.
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_exponents_stay_in_their_bounds_far_outside_of_the_grid(size: float) -> None:
    theta = theta_of(2, size)
    for z in ([0.0, 0.0], [50.0, -80.0], [-1e4, 1e4]):
        found = adaptation.adapt(theta, jnp.asarray(z))
        pairs = zip(found["envelope"], theta["shared"]["envelope"], strict=True)
        for adapted, shared in pairs:
            ratio = np.asarray(adapted["sigma"] / shared["sigma"])
            # A factor of 3, and the rounding of exp.
            assert ratio.min() >= (1 - 1e-12) / 3.0
            assert ratio.max() <= 3.0 * (1 + 1e-12)


def test_coordinates_have_unit_size_over_the_group() -> None:
    z = adaptation.coordinates(nuclei(BONDS))(nuclei(BONDS))
    assert z.shape == (5, 3)  # the fourth would vary by 2e-4 of the first
    # Rounding of features of order one, over spreads of at least 1e-3 of the largest.
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-11)
    assert np.mean(np.sum(z**2, axis=1)) == pytest.approx(1.0, rel=1e-11)


def test_coordinates_belong_to_the_distances() -> None:
    found = adaptation.coordinates(nuclei(BONDS))
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    moved = nuclei(BONDS) @ turn.T + np.array([1.0, -2.0, 3.0])
    # As above.
    np.testing.assert_allclose(found(moved), found(nuclei(BONDS)), atol=1e-11)


def test_near_geometries_have_near_coordinates() -> None:
    found = adaptation.coordinates(nuclei(BONDS))
    grid = np.linspace(2.0, 6.0, 401)
    slopes = np.abs(np.diff(found(nuclei(grid)), axis=0)) / 0.01
    # Components of unit size that oscillate as quadratics and cubics do between points that are
    # half a bohr apart at least.
    assert slopes.max() < 5.0


def test_coordinates_tend_to_a_constant_as_bonds_break() -> None:
    found = adaptation.coordinates(nuclei(BONDS))
    far = found(nuclei([1e3, 1e6]))
    # 1 / (1 + R) changes by 1e-3. The least spread that counts, 5e-4 here, is that of five points.
    assert np.abs(far[0] - far[1]).max() < 1e-3 * np.sqrt(5) / 5e-4
    assert np.isfinite(found(nuclei([1e-3, 1e9]))).all()


def test_equal_geometries_have_no_coordinate() -> None:
    assert adaptation.coordinates(nuclei([1.4, 1.4]))(nuclei([1.4])).shape == (1, 0)
    assert adaptation.coordinates(nuclei([1.4]))(nuclei([1.4])).shape == (1, 0)
    one_atom = np.zeros((3, 1, 3))
    assert adaptation.coordinates(one_atom)(one_atom).shape == (3, 0)

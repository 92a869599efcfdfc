"""Total spin of wavefunctions with known spin, and the dipole of known charges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferminet_core.inputs.observable_table import OBSERVABLES
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.vmc.observables import dipole, spin_moment, total_spin
from ferminet_core.vmc.observables.evaluate import evaluate_all

NUCLEI = Nuclei(jnp.asarray([[0.0, 0, 1.0], [0, 0, -1.0]]), jnp.ones(2))


def on_a(x: jax.Array) -> jax.Array:
    return jnp.exp(-jnp.linalg.norm(x - jnp.asarray([0.0, 0, 1.0]), axis=-1))


def on_b(x: jax.Array) -> jax.Array:
    return jnp.exp(-jnp.linalg.norm(x + jnp.asarray([0.0, 0, 1.0]), axis=-1))


def signed_log(value: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.sign(value), jnp.log(jnp.abs(value))


@pytest.mark.parametrize(("parity", "expected"), [(1, 0.0), (-1, 2.0)])
def test_singlet_and_triplet_of_two_electrons(parity: int, expected: float) -> None:
    def psi(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        first, second = x[:, 0], x[:, 1]
        return signed_log(on_a(first) * on_b(second) + parity * on_b(first) * on_a(second))

    electrons = jax.random.normal(jax.random.key(0), (20, 2, 3))
    # Eigenfunctions: the estimator is exact at every walker, to rounding.
    np.testing.assert_allclose(
        total_spin.evaluate(psi, electrons, NUCLEI, (1, 1)), expected, atol=1e-11
    )


@pytest.mark.parametrize(("spins", "expected"), [((1, 0), 0.75), ((3, 0), 3.75), ((2, 1), 0.75)])
def test_highest_spins_and_a_doublet_determinant(spins: tuple[int, int], expected: float) -> None:
    # Restricted open shell: spin-down orbitals lie in the space of the spin-up ones.
    basis = [on_a, on_b, lambda x: x[..., 0] * on_a(x)]

    def determinant(x: jax.Array) -> jax.Array:
        n = x.shape[-2]
        if n == 0:
            return jnp.ones(x.shape[0])
        return jnp.linalg.det(jnp.stack([f(x) for f in basis[:n]], axis=-1))

    def psi(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return signed_log(determinant(x[:, : spins[0]]) * determinant(x[:, spins[0] :]))

    electrons = jax.random.normal(jax.random.key(1), (20, sum(spins), 3))
    # Rounding of ratios of determinants, which reach a hundred.
    np.testing.assert_allclose(
        total_spin.evaluate(psi, electrons, NUCLEI, spins), expected, atol=1e-9
    )


def test_dipole_of_charges_at_known_places() -> None:
    nuclei = Nuclei(jnp.asarray([[0.0, 0, 0], [0, 0, 3.0]]), jnp.asarray([3.0, 1.0]))
    electrons = jnp.asarray([[[0.0, 0, 0], [0, 0, 0], [0, 1.0, 0], [0, 0, 3.0]]])

    def psi(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return signed_log(on_a(x).prod(-1))

    found = dipole.evaluate(psi, electrons, nuclei, (2, 2))
    np.testing.assert_allclose(found, [[0, -1.0, 0.0]], atol=1e-12)
    # Up: twice the origin; down: (0, 1, 0) and (0, 0, 3).
    found = spin_moment.evaluate(psi, electrons, nuclei, (2, 2))
    np.testing.assert_allclose(found, [[0, -1.0, -3.0]], atol=1e-12)
    found = spin_moment.evaluate(psi, electrons, nuclei, (3, 1))
    np.testing.assert_allclose(found, [[0, 1.0, -3.0]], atol=1e-12)


def test_every_observable_of_the_table_has_its_components() -> None:
    def psi(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return signed_log(on_a(x[:, 0]) * on_b(x[:, 1]))

    electrons = jax.random.normal(jax.random.key(4), (5, 2, 3))
    found = evaluate_all(psi, electrons, NUCLEI, (1, 1))
    assert list(found) == [o.name for o in OBSERVABLES]
    for observable in OBSERVABLES:
        axes = (len(observable.axis),) if observable.axis else ()
        assert found[observable.name].shape == (5, *axes)
        assert len(observable.figures) == found[observable.name].size // 5
        assert len(observable.dims) == found[observable.name].ndim

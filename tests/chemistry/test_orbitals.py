"""Atomic and molecular orbitals against PySCF's own evaluation."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from pyscf import gto
from pyscf.gto.mole import cart2sph

from ferminet_core.chemistry.gaussian_basis import build_mole, shell_variables
from ferminet_core.chemistry.hartree_fock import solve
from ferminet_core.chemistry.orbitals import (
    Basis,
    Determinants,
    Shells,
    angular_matrix,
    atomic_orbitals,
    hf_wavefunction,
    log_abs_hf,
    occupied_orbitals,
)
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.start_settings import ReferenceConfig

# float64 sums of some ten primitives, relative to the largest orbital value.
ROUNDING = 1e-13


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def mole(atoms: str, basis: str, cartesian: bool) -> gto.Mole:
    return gto.M(
        atom=atoms, basis=basis, cart=cartesian, unit="Bohr", spin=None, verbose=0, parse_arg=False
    )


def basis_of(molecule: gto.Mole, cartesian: bool) -> Basis:
    variables = {name: xr.Variable(*item) for name, item in shell_variables(molecule).items()}
    return Basis.from_dataset(xr.Dataset(variables, attrs={"cartesian": int(cartesian)}))


def some_points(molecule: gto.Mole, seed: int = 3) -> np.ndarray:
    """Points about the molecule, the nuclei themselves first."""
    spread = 2.0 * np.random.default_rng(seed).normal(size=(40, 3))
    return np.concatenate([molecule.atom_coords(), spread])


def derivative_name(cartesian: bool, order: int) -> str:
    return f"GTOval_{'cart' if cartesian else 'sph'}_deriv{order}"


CASES = [
    ("H 0 0 -0.7; H 0 0 0.7", "sto-3g"),
    ("N 0 0 -1; N 0 0 1", "cc-pvdz"),
    ("C 0.1 0.2 -1; O 0 0 1", "6-31g*"),
    ("N 0 0 -1; H 0 1.5 -2; N 0 0 1", "cc-pvtz"),  # equal elements apart from each other: reordered
    ("Li 0 0 0; He 1 2 3", "cc-pvqz"),  # up to g
    ("Fe 0 0 0", "def2-tzvp"),
]


@pytest.mark.parametrize("cartesian", [False, True], ids=["spherical", "cartesian"])
@pytest.mark.parametrize(("atoms", "basis"), CASES)
def test_values_and_gradients_are_pyscf_s(atoms: str, basis: str, cartesian: bool) -> None:
    molecule = mole(atoms, basis, cartesian)
    ours, points = basis_of(molecule, cartesian), some_points(molecule)
    nuclei = molecule.atom_coords()
    value, *gradient = molecule.eval_gto(derivative_name(cartesian, 1), points)

    found = atomic_orbitals(ours, points, nuclei)
    assert found.shape == (len(points), ours.n_orbitals)
    np.testing.assert_allclose(found, value, rtol=0, atol=ROUNDING * np.abs(value).max())

    jacobian = jax.vmap(jax.jacfwd(lambda r: atomic_orbitals(ours, r, nuclei)))(points)
    expected = np.moveaxis(np.asarray(gradient), 0, -1)
    np.testing.assert_allclose(jacobian, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


def test_second_derivatives_at_a_nucleus_are_pyscf_s() -> None:
    molecule = mole("N 0 0 -1; N 0 0 1", "cc-pvtz", False)
    ours, nuclei = basis_of(molecule, False), molecule.atom_coords()
    xx, xy, xz, yy, yz, zz = molecule.eval_gto(derivative_name(False, 2), nuclei)[4:]
    expected = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], axis=-1)
    hessian = jax.vmap(jax.hessian(lambda r: atomic_orbitals(ours, r, nuclei)))(nuclei)
    np.testing.assert_allclose(
        hessian.reshape(expected.shape), expected, rtol=0, atol=ROUNDING * np.abs(expected).max()
    )


@pytest.mark.parametrize("momentum", range(7))
def test_solid_harmonics_are_pyscf_s(momentum: int) -> None:
    # Order and phase of every component, at momenta that no usual basis reaches too.
    np.testing.assert_allclose(angular_matrix(momentum, False), cart2sph(momentum), atol=1e-13)


def test_leading_axes_and_the_dtype_of_the_positions_are_kept() -> None:
    molecule = mole("Li 0 0 0; H 0 0 3", "cc-pvdz", False)
    ours, nuclei = basis_of(molecule, False), molecule.atom_coords()
    points = some_points(molecule)[:24].reshape(2, 3, 4, 3)
    exact = atomic_orbitals(ours, points, nuclei)
    single = atomic_orbitals(ours, points.astype(np.float32), nuclei)
    assert exact.shape == (2, 3, 4, 19)
    assert single.dtype == jnp.float32
    # float32 rounding (6e-8) of the exponent a r^2, at most some 10 where the value still counts.
    np.testing.assert_allclose(single, exact, rtol=0, atol=1e-5)


def test_a_scan_shares_one_executable() -> None:
    traces = []

    @jax.jit
    def evaluate(basis: Basis, points: jax.Array, nuclei: jax.Array) -> jax.Array:
        traces.append(1)
        return atomic_orbitals(basis, points, nuclei)

    for distance in (1.0, 2.5):
        molecule = mole(f"N 0 0 0; N 0 0 {distance}", "cc-pvdz", False)
        points, nuclei = some_points(molecule), molecule.atom_coords()
        found = evaluate(basis_of(molecule, False), points, nuclei)
        value = molecule.eval_gto("GTOval", points)
        np.testing.assert_allclose(found, value, atol=ROUNDING * np.abs(value).max())
    assert len(traces) == 1


def stretched_hydrogen() -> tuple[Molecule, xr.Dataset]:
    molecule = Molecule(symbols=("H", "H"), positions=((0.0, 0.0, -2.5), (0.0, 0.0, 2.5)))
    return molecule, solve(molecule, ReferenceConfig(basis="sto-3g"))


@pytest.mark.parametrize(
    ("symbol", "spin"), [("Li", 1), ("N", 3), ("H", 1)], ids=["Li", "N", "H without down"]
)
def test_molecular_orbitals_are_pyscf_s(symbol: str, spin: int) -> None:
    molecule = Molecule(symbols=(symbol,), positions=((0.1, -0.2, 0.3),), spin=spin)
    dataset = solve(molecule, ReferenceConfig(basis="cc-pvdz"))
    reference = Determinants.from_dataset(dataset)
    electrons = np.random.default_rng(1).normal(size=(5, molecule.n_electrons, 3))
    nuclei = np.asarray(molecule.positions)
    ao = build_mole(molecule, "cc-pvdz").eval_gto("GTOval", electrons.reshape(-1, 3))
    ao = ao.reshape(5, molecule.n_electrons, -1)

    up, down = occupied_orbitals(reference, electrons, nuclei)
    n_up, n_down = molecule.n_up, molecule.n_down
    assert up.shape == (5, 1, n_up, n_up)
    assert down.shape == (5, 1, n_down, n_down)
    np.testing.assert_allclose(up[:, 0], ao[:, :n_up] @ reference.mo_up[0], atol=1e-12)
    np.testing.assert_allclose(down[:, 0], ao[:, n_up:] @ reference.mo_down[0], atol=1e-12)

    sign, log = hf_wavefunction(reference, electrons, nuclei)
    product = np.linalg.det(up[:, 0]) * np.linalg.det(down[:, 0])  # numpy: det of 0 x 0 is 1
    np.testing.assert_allclose(sign * np.exp(log), product, rtol=1e-10)
    np.testing.assert_allclose(log_abs_hf(reference, electrons, nuclei), log, rtol=1e-12)


def test_two_determinants_add_their_densities() -> None:
    molecule, dataset = stretched_hydrogen()
    reference = Determinants.from_dataset(dataset)
    assert reference.mo_up.shape == (2, 2, 1)
    electrons = 3.0 * np.random.default_rng(2).normal(size=(6, 2, 3))
    nuclei = np.asarray(molecule.positions)
    up, down = occupied_orbitals(reference, electrons, nuclei)
    density = np.sum((np.linalg.det(up) * np.linalg.det(down)) ** 2, axis=-1)
    found = log_abs_hf(reference, electrons, nuclei)
    np.testing.assert_allclose(found, 0.5 * np.log(density), rtol=1e-10)
    # Either spin pattern is as likely; one determinant alone holds one of them only.
    swapped = electrons[:, ::-1]
    np.testing.assert_allclose(log_abs_hf(reference, swapped, nuclei), found, rtol=1e-8)
    one_sided = hf_wavefunction(reference, nuclei, nuclei)[1]
    other = hf_wavefunction(reference, nuclei[::-1], nuclei)[1]
    assert one_sided > other + 3.0


def test_densities_are_weighted_by_squared_coefficients() -> None:
    molecule, dataset = stretched_hydrogen()
    weighted = dataset.assign(coefficient=("determinant", [1.0, -0.5]))
    electrons = 3.0 * np.random.default_rng(2).normal(size=(6, 2, 3))
    nuclei = np.asarray(molecule.positions)
    up, down = occupied_orbitals(Determinants.from_dataset(dataset), electrons, nuclei)
    squares = (np.linalg.det(up) * np.linalg.det(down)) ** 2
    found = log_abs_hf(Determinants.from_dataset(weighted), electrons, nuclei)
    np.testing.assert_allclose(found, 0.5 * np.log(squares @ [1.0, 0.25]), rtol=1e-10)


def test_same_spin_exchange_changes_the_sign_alone() -> None:
    molecule = Molecule(symbols=("N",), positions=((0.0, 0.0, 0.0),), spin=3)
    reference = Determinants.from_dataset(solve(molecule, ReferenceConfig(basis="cc-pvdz")))
    electrons = np.random.default_rng(4).normal(size=(7, 3))
    nuclei = np.zeros((1, 3))
    sign, log = hf_wavefunction(reference, electrons, nuclei)
    for i, j in ((0, 1), (2, 4), (5, 6)):
        exchanged = electrons.copy()
        exchanged[[i, j]] = exchanged[[j, i]]
        other_sign, other_log = hf_wavefunction(reference, exchanged, nuclei)
        assert other_sign == -sign
        np.testing.assert_allclose(other_log, log, rtol=1e-10)


def test_log_density_stays_finite_where_determinants_underflow_in_float32() -> None:
    molecule, dataset = stretched_hydrogen()
    reference = Determinants.from_dataset(dataset)
    electrons = np.asarray([[0.0, 9.0, -2.5], [0.0, 9.0, 2.5]])
    nuclei = np.asarray(molecule.positions)
    exact = log_abs_hf(reference, electrons, nuclei)
    single = log_abs_hf(reference, electrons.astype(np.float32), nuclei)
    assert exact < -25.0  # the density, its square, is below 1e-21
    # Exponents of some 14 with float32 rounding.
    np.testing.assert_allclose(single, exact, atol=1e-4)


def test_shells_know_their_components() -> None:
    molecule = mole("Ne 0 0 0", "cc-pvtz", True)
    variables = {name: xr.Variable(*item) for name, item in shell_variables(molecule).items()}
    shells = Shells.from_dataset(xr.Dataset(variables, attrs={"cartesian": 1}))
    total = sum(shells.components(shell) for shell in range(len(shells.centre)))
    assert total == molecule.nao


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_electrons", [1, 2, 4, 14])
def test_compiled_orbitals_are_the_same(n_electrons: int, dtype: str) -> None:
    # LiH in double precision came out wrong by 0.8 once XLA had fused the elements' orbitals.
    molecule = Molecule(
        symbols=("Li", "H"), positions=((0.0, 0.0, 0.0), (0.0, 0.0, 3.0)), charge=0, spin=0
    )
    basis = basis_of(build_mole(molecule, "cc-pvdz"), cartesian=False)
    points = jax.random.normal(jax.random.key(0), (64, n_electrons, 3), dtype)
    nuclei = jnp.asarray(molecule.positions, dtype)
    plain = atomic_orbitals(basis, points, nuclei)
    compiled = jax.jit(lambda x: atomic_orbitals(basis, x, nuclei))(points)
    # Rounding of exponents of up to ten, and of orbitals of up to three.
    np.testing.assert_allclose(compiled, plain, atol=100 * float(np.finfo(dtype).eps))

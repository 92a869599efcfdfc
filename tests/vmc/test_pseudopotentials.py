"""Pseudopotentials in the local energy, against closed forms, a radial solver and PySCF."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from helpers.molecules import with_pseudopotentials
from helpers.oracles import small_network
from pyscf import dft, gto, scf
from scipy.special import eval_legendre, sph_harm_y

from ferminet_core.chemistry.gaussian_basis import in_pyscf
from ferminet_core.inputs.config import POINTS, Config, PseudopotentialConfig
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.stages import datasets
from ferminet_core.vmc import pseudopotentials as pp
from ferminet_core.vmc.hamiltonian import Nuclei, local_energy, potential_energy
from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.moved_electron import full_ratios

N2 = with_pseudopotentials(("N", "N"), ((0.3, 0.1, -1.0), (-0.2, 0.0, 1.0)))
LITHIUM = with_pseudopotentials(("Li",), ((0.0, 0.0, 0.0),), spin=1)


def nuclei_of(molecule: Molecule, quadrature: str = "icosahedron") -> Nuclei:
    section = PseudopotentialConfig.model_validate({"quadrature": quadrature})
    config = Config(pseudopotential=section)
    return datasets.nuclei(molecule, config, jnp.float64)


def potentials_of(molecule: Molecule, quadrature: str = "icosahedron") -> pp.Potentials:
    found = nuclei_of(molecule, quadrature).potentials
    assert found is not None
    return found


# --- quadrature and rotations -----------------------------------------------------------------


@pytest.mark.parametrize(("name", "degree"), [("octahedron", 3), ("icosahedron", 5)])
def test_a_quadrature_is_exact_up_to_its_degree_and_no_further(name: str, degree: int) -> None:
    points = pp.QUADRATURES[name]
    assert len(points) == POINTS[name]
    theta, phi = np.arccos(points[:, 2]), np.arctan2(points[:, 1], points[:, 0])

    def mean(momentum: int) -> float:
        orders = range(-momentum, momentum + 1)
        return max(float(abs(np.mean(sph_harm_y(momentum, m, theta, phi)))) for m in orders)

    assert mean(0) == pytest.approx(1 / math.sqrt(4 * math.pi), rel=1e-14)
    # Rounding of at most 12 harmonics of order 1.
    assert all(mean(momentum) < 1e-14 for momentum in range(1, degree + 1))
    assert mean(degree + 1) > 0.1


def test_all_rotations_are_equally_likely_and_follow_from_the_walker() -> None:
    # Walkers in neighbouring cells of one coordinate.
    start = jnp.ones((20_000, 2, 3), jnp.float32)
    electrons = start.at[:, 1, 2].add(pp.CELL * jnp.arange(20_000, dtype=jnp.float32))
    found = np.asarray(pp.rotations(electrons), float)
    # In single precision.
    np.testing.assert_allclose(
        found @ found.transpose(0, 2, 1), np.tile(np.eye(3), (20_000, 1, 1)), atol=3e-6
    )
    np.testing.assert_allclose(np.linalg.det(found), 1.0, atol=3e-6)
    # Of Haar's measure <R> = 0, <R_ij R_kl> = d_ik d_jl / 3, <R_ij^4> = 1/5: 5 sigma of means whose
    # terms have a standard deviation of at most sqrt(1/3).
    limit = 5 / math.sqrt(3 * len(found))
    assert np.abs(found.mean(axis=0)).max() < limit
    squares = np.einsum("wij,wkl->ijkl", found, found) / len(found)
    expected = np.einsum("ik,jl->ijkl", np.eye(3), np.eye(3)) / 3
    assert np.abs(squares - expected).max() < limit
    assert np.abs(np.mean(found**4, axis=0) - 0.2).max() < limit
    # Of neighbours they are independent, and of one walker always the same.
    products = np.einsum("wij,wkl->ijkl", found[:-1], found[1:]) / len(found)
    assert np.abs(products).max() < limit
    np.testing.assert_array_equal(pp.rotations(electrons[5:9]), found[5:9].astype(np.float32))
    # Nor does the rounding of a sum in another order turn it.
    rounded = electrons[5:9] * (1 + jnp.finfo(jnp.float32).eps)
    np.testing.assert_array_equal(pp.rotations(rounded), found[5:9].astype(np.float32))


def test_walkers_that_differ_in_signs_have_different_rotations() -> None:
    x = jax.random.normal(jax.random.key(0), (1, 2, 3), jnp.float32)
    signs = jnp.asarray(list(itertools.product((1.0, -1.0), repeat=6)), jnp.float32)
    found = pp.rotations(x * signs.reshape(-1, 2, 3))
    distance = jnp.linalg.norm(found[:, None] - found, axis=(-2, -1)) + jnp.eye(64)
    assert float(distance.min()) > 1e-3


def test_legendre_s_polynomials() -> None:
    cosine = np.linspace(-1, 1, 7)
    expected = [(2 * n + 1) * eval_legendre(n, cosine) for n in range(5)]
    found = pp.legendre(jnp.asarray(cosine), 5)
    np.testing.assert_allclose(found, np.stack(expected, axis=-1), atol=1e-14)


# --- the part that is not local ---------------------------------------------------------------


def test_each_momentum_has_its_own_potential() -> None:
    """psi = sum_l f_l(r) P_l about a nucleus gives sum_l U_l f_l P_l, for s, p and d at once."""
    silver = with_pseudopotentials(("Ag",), ((0.1, -0.2, 0.3),), spin=1)
    potentials = potentials_of(silver)
    place = jnp.asarray(silver.positions)
    axis = jnp.asarray([0.6, 0.0, 0.8])
    decays = np.array([0.7, 1.1, 0.9])

    def parts(x: jax.Array) -> jax.Array:  # (..., 3) -> (..., l)
        v = x - place[0]
        r = jnp.linalg.norm(v, axis=-1)
        cosine = v @ axis / r
        polynomials = [jnp.ones_like(r), cosine, 1.5 * cosine**2 - 0.5]
        return jnp.stack(
            [p * jnp.exp(-a * r**2) for p, a in zip(polynomials, decays, strict=True)], axis=-1
        )

    def psi(electrons: jax.Array) -> tuple[jax.Array, jax.Array]:
        value = jnp.prod(jnp.sum(parts(electrons), axis=-1), axis=-1)
        return jnp.sign(value), jnp.log(jnp.abs(value))

    # Near and far, so that some do not count: 64 walkers of two electrons.
    electrons = place[0] + 2.0 * jax.random.normal(jax.random.key(1), (64, 2, 3))

    @jax.jit
    def energies(own: pp.Potentials, x: jax.Array) -> jax.Array:
        return pp.semilocal_energy(own, x, place, full_ratios(psi, x))

    found = energies(potentials, electrons)
    r = jnp.linalg.norm(electrons[:, :, None] - place, axis=-1)
    values = pp.radial(potentials, r)[:, :, 0, 1:]
    ratio = parts(electrons) / jnp.sum(parts(electrons), axis=-1, keepdims=True)
    # P_2 times a d function has degree 4, and the quadrature is exact up to 5.
    expected = jnp.sum(values * ratio, axis=(1, 2))
    left_out = pp.LEAST_POTENTIAL * jnp.sum(jnp.abs(ratio), axis=(1, 2))
    assert bool(jnp.all(jnp.abs(found - expected) <= 1e-10 + left_out))
    share = np.mean(np.abs(np.asarray(values)) @ [1, 3, 5] > pp.LEAST_POTENTIAL)
    assert 0.2 < share < 0.8
    # An octahedron is not exact here, but so is its mean over rotations: of walkers turned about
    # psi's axis, to which psi and its energy are the same. 5 sigma of that mean.
    one = jnp.asarray([0.5, 0.4, 0.6])
    along = (one @ axis) * axis
    angle = 2.0 * jnp.pi * jnp.arange(4000)[:, None, None] / 4000
    around = jnp.cos(angle) * (one - along) + jnp.sin(angle) * jnp.cross(axis, one)
    copies = place + along + around
    six = energies(potentials_of(silver, "octahedron"), copies)
    twelve = energies(potentials, copies[:1])
    spread = float(jnp.std(six))
    assert spread > 1e-3
    assert abs(float(jnp.mean(six) - twelve[0])) < 5 * spread / math.sqrt(4000)


@pytest.mark.parametrize(
    "changes",
    [{}, {"inputs": "log", "jastrow": True, "determinant_form": "block"}, {"layers": 1}],
)
@pytest.mark.parametrize("spins", [(3, 2), (2, 0)])
def test_ratios_of_the_network(changes: dict[str, object], spins: tuple[int, int]) -> None:
    config = small_network(**changes)
    nuclei = jnp.asarray(N2.positions)
    params = networks.init(jax.random.key(0), config, spins, 2, jnp.float64)
    electrons = jax.random.normal(jax.random.key(1), (4, sum(spins), 3), jnp.float64)
    walker, electron = (jnp.asarray(x) for x in zip(*np.ndindex(4, sum(spins)), strict=True))
    places = jax.random.normal(jax.random.key(2), (len(walker), 6, 3), jnp.float64)
    fast = jax.jit(lambda *x: networks.ratios(params, electrons, nuclei, spins)(*x))(
        walker, electron, places
    )
    psi = networks.signed_log(params, nuclei, spins)
    slow = jax.jit(lambda *x: full_ratios(psi, electrons)(*x))(walker, electron, places)
    assert fast.shape == (len(walker), 6)
    assert len(np.unique(np.sign(slow))) == 2
    # Rounding, times the condition of the determinants.
    np.testing.assert_allclose(fast, slow, rtol=1e-9)


def slow_semilocal(
    molecule: Molecule, nuclei: Nuclei, params: networks.Params, electrons: jax.Array
) -> np.ndarray:
    """Every electron and nucleus in a loop, and every moved walker in full."""
    p = nuclei.potentials
    assert p is not None
    turns, x = np.asarray(pp.rotations(electrons)), np.asarray(electrons)
    terms = []  # walker, moved walker, weight
    for w, i, a in np.ndindex(*x.shape[:2], len(nuclei.positions)):
        place = np.asarray(nuclei.positions[a])
        vector = x[w, i] - place
        r = np.linalg.norm(vector)
        u = np.asarray(pp.radial(p, jnp.full(len(nuclei.positions), r))[a, 1:])
        for q in np.asarray(p.directions) @ turns[w]:
            moved = x[w].copy()
            moved[i] = place + r * q
            angular = [(2 * n + 1) * eval_legendre(n, q @ vector / r) for n in range(len(u))]
            terms.append((w, moved, u @ angular / len(p.directions)))
    walker, moved, weight = (np.array(part) for part in zip(*terms, strict=True))
    psi = jax.jit(networks.signed_log(params, nuclei.positions, molecule.electrons))
    (sign, log), (new_sign, new_log) = psi(electrons), psi(jnp.asarray(moved))
    ratio = np.asarray(sign)[walker] * new_sign * np.exp(new_log - np.asarray(log)[walker])
    return np.bincount(walker, weight * ratio)


def test_local_energies_in_passes() -> None:
    molecule = with_pseudopotentials(("Be", "B"), ((0.3, 0.1, -1.0), (-0.2, 0.0, 1.5)), spin=1)
    nuclei, spins = nuclei_of(molecule, "octahedron"), molecule.electrons
    params = networks.init(jax.random.key(0), small_network(layers=1), spins, 2, jnp.float64)
    electrons = 0.8 * jax.random.normal(jax.random.key(1), (5, sum(spins), 3), jnp.float64)
    energies = jax.jit(local_energy, static_argnums=(3, 4))
    plain = energies(params, electrons, nuclei._replace(potentials=None), spins, None)
    p = nuclei.potentials
    assert p is not None
    r = jnp.linalg.norm(electrons[:, :, None] - nuclei.positions, axis=-1)
    semilocal = slow_semilocal(molecule, nuclei, params, electrons)
    expected = plain + pp.local_part(p, r) + semilocal
    assert np.abs(semilocal).max() > 0.1
    # Three passes, of which the last is filled up. Each of ten electrons and nuclei that does not
    # count adds less than this times a ratio.
    found = energies(params, electrons, nuclei, spins, 2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=10 * pp.LEAST_POTENTIAL)


def test_hydrogen_s_potential_is_local() -> None:
    h = with_pseudopotentials(("H",), ((0.0, 0.0, 0.0),), spin=1)
    potentials = potentials_of(h)
    assert (h.charges, potentials.power.shape[:2]) == ((1.0,), (1, 1))

    def none(walker: jax.Array, electron: jax.Array, places: jax.Array) -> jax.Array:
        raise AssertionError("nothing to evaluate")

    electrons = jnp.ones((3, 1, 3))
    np.testing.assert_array_equal(
        pp.semilocal_energy(potentials, electrons, jnp.zeros((1, 3)), none), 0.0
    )


# --- one electron -------------------------------------------------------------------------------


def lowest_level(molecule: Molecule, momentum: int) -> float:
    """Lowest energy of one electron about a pseudo-atom, hartree, by finite differences of r R."""
    step = 2.5e-3
    r = step * np.arange(1, 20_000)
    parts = np.asarray(pp.radial(potentials_of(molecule), jnp.asarray(r)[:, None]))[:, 0]
    potential = parts[:, 0] - molecule.charges[0] / r + momentum * (momentum + 1) / (2.0 * r**2)
    if momentum + 1 < parts.shape[1]:
        potential = potential + parts[:, momentum + 1]
    side = np.full(len(r) - 1, -0.5 / step**2)
    levels = scipy.linalg.eigh_tridiagonal(
        potential + 1.0 / step**2, side, eigvals_only=True, select="i", select_range=(0, 0)
    )
    return float(levels[0])


@pytest.mark.parametrize("symbol", ["Li", "Na", "K"])
def test_one_electron_levels_against_a_radial_solver_and_pyscf(symbol: str) -> None:
    """Levels s and p, of which the potentials have different parts."""
    atom = with_pseudopotentials((symbol,), ((0.0, 0.0, 0.0),), spin=1)
    exponents = np.geomspace(1e-3, 3e2, 40)
    basis = [[momentum, [a, 1.0]] for momentum in (0, 1) for a in exponents]
    mole = gto.M(
        atom=f"{symbol} 0 0 0",
        basis={symbol: basis},
        ecp={symbol: in_pyscf(atom.pseudopotentials[0])},
        charge=int(atom.charges[0]) - 1,
        spin=1,
        verbose=0,
        parse_arg=False,
    )
    h, s = scf.hf.get_hcore(mole), mole.intor("int1e_ovlp")
    values, vectors = np.linalg.eigh(s)
    kept = vectors[:, values > 1e-10] / np.sqrt(values[values > 1e-10])
    levels = np.linalg.eigvalsh(kept.T @ h @ kept)
    # Second order in the step: 1e-6 of the energy, and 1e-4 with the sharpest potential, K's.
    ours = [lowest_level(atom, momentum) for momentum in (0, 1)]
    assert all(np.abs(levels / energy - 1.0).min() < 1e-4 for energy in ours)
    assert levels[0] == pytest.approx(min(ours), rel=1e-4)


def test_the_gradient_of_the_energy_is_that_of_finite_differences() -> None:
    """E(p) of one electron by quadrature over space, and 2 <(E_L - E) d log psi / dp>."""
    nuclei = nuclei_of(LITHIUM)
    params = networks.init(jax.random.key(3), small_network(), (1, 0), 1, jnp.float64)
    mole = gto.M(atom="Li 0 0 0", basis="sto-3g", spin=1, verbose=0, parse_arg=False)
    grid = dft.Grids(mole)
    grid.atom_grid, grid.prune = (100, 590), None
    grid.build()
    near = np.linalg.norm(grid.coords, axis=1) < 25.0
    points, weights = jnp.asarray(grid.coords[near][:, None]), jnp.asarray(grid.weights[near])

    def energies(p: networks.Params) -> tuple[jax.Array, jax.Array, jax.Array]:
        log = networks.apply(p, points, nuclei.positions, (1, 0))[1]
        density = weights * jnp.exp(2.0 * (log - jnp.max(log)))
        local = local_energy(p, points, nuclei, (1, 0), 1024)
        density = density / jnp.sum(density)
        return density, local, jnp.sum(density * local)

    energies = jax.jit(energies)
    density, local, mean = energies(params)

    def weighted(p: networks.Params) -> jax.Array:
        log = networks.apply(p, points, nuclei.positions, (1, 0))[1]
        return 2.0 * jnp.sum(density * (local - mean) * log)

    gradient = jax.jit(jax.grad(weighted))(params)
    keys = iter(jax.random.split(jax.random.key(4), 100))
    direction = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape, x.dtype), params)
    expected = sum(
        jnp.sum(g * d)
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    step = 1e-4

    def at(t: float) -> float:
        moved = jax.tree.map(lambda x, d: x + t * d, params, direction)
        return float(energies(moved)[2])

    found = (at(step) - at(-step)) / (2.0 * step)
    assert abs(found) > 1e-2
    # The grid integrates the noise of the quadrature and the edge at the nucleus to below that.
    assert found == pytest.approx(float(expected), rel=1e-3)


def test_without_pseudopotentials_nothing_changes() -> None:
    """The same numbers, and no further arguments of the compiled function."""
    helium = Molecule(symbols=("He",), positions=((0.0, 0.0, 0.0),))
    nuclei = datasets.nuclei(helium, Config(), jnp.float64)
    assert nuclei.potentials is None
    assert len(jax.tree.leaves(nuclei)) == 2
    electrons = jnp.asarray([[[0.0, 0, 1.0], [0, 0, -1.0]]])
    assert float(potential_energy(electrons, nuclei)[0]) == pytest.approx(-4.0 + 0.5)

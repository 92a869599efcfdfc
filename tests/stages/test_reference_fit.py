"""Misfit, scatter and energy of a network relative to the Hartree-Fock orbitals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.molecules import with_pseudopotentials

from ferminet_core.chemistry import hartree_fock, orbitals
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.start_settings import ReferenceConfig
from ferminet_core.parallel.mesh import REPLICATED, SPLIT, per_device, walker_mesh
from ferminet_core.stages import datasets, reference_fit
from ferminet_core.stages.reference_fit import (
    SURFACE_DENSITY,
    Reading,
    Samples,
    misfit,
    read,
    target_matrices,
)
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.vmc.pseudopotentials import radial as radial_parts
from ferminet_core.wavefunction import ansatz, networks
from ferminet_core.wavefunction.moved_electron import Ratios, full_ratios

STRETCHED = Molecule(symbols=("H", "H"), positions=((0, 0, 0), (0, 0, 4.0)), charge=0, spin=0)
LITHIUM = Molecule(symbols=("Li",), positions=((0, 0, 0),), charge=0, spin=1)
HYDROGEN = Molecule(symbols=("H",), positions=((0, 0, 0),), charge=0, spin=1)
PSEUDO_LITHIUM = with_pseudopotentials(("Li",), ((0, 0, 0),), spin=1)


def determinants(molecule: Molecule) -> tuple[orbitals.Determinants, float]:
    basis = "ccecp-cc-pvdz" if molecule.pseudopotentials else "cc-pvdz"
    solved = hartree_fock.solve(molecule, ReferenceConfig(basis=basis))
    return orbitals.Determinants.from_dataset(solved), float(solved.attrs["e_hf"])


def nuclei(molecule: Molecule) -> Nuclei:
    return datasets.nuclei(molecule, Config(), jnp.float64)


@pytest.mark.parametrize("form", ["dense", "block"])
@pytest.mark.parametrize("molecule", [STRETCHED, LITHIUM])
def test_targets_are_the_reference_s_determinants(form: str, molecule: Molecule) -> None:
    reference, _ = determinants(molecule)
    positions = jnp.asarray(molecule.positions)
    spins = molecule.electrons
    electrons = jax.random.normal(jax.random.key(0), (5, sum(spins), 3))
    blocks = target_matrices(reference, electrons, positions, spins, 4, form)
    found = jnp.linalg.slogdet(ansatz.assemble(blocks))[1]
    up, down = orbitals.occupied_orbitals(reference, electrons, positions)
    each = jnp.linalg.slogdet(up)[1] + jnp.linalg.slogdet(down)[1]
    # Determinants 0, 1, 2, 3 of the network take determinants 0, 1, 0, 1 of a broken reference.
    expected = each[:, np.arange(4) % each.shape[1]]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert each.shape[1] == (2 if molecule is STRETCHED else 1)


def test_misfit_counts_every_electron_the_same() -> None:
    rng = np.random.default_rng(0)
    targets = [jnp.asarray(rng.normal(size=(7, 2, 3, 5))) for _ in range(2)]
    found = [t + 0.1 * jnp.asarray(rng.normal(size=t.shape)) for t in targets]
    assert float(misfit(targets, targets)[0]) == 0.0
    # As a core's orbitals to those of the valence shell, by walker and electron.
    scales = [jnp.asarray(rng.uniform(10, 1000, size=(7, 1, 3, 1))) for _ in range(2)]
    scaled = [[s * x for s, x in zip(scales, xs, strict=True)] for xs in (found, targets)]
    # The floor of 1e-3 adds its share to squared norms of 1 and more.
    np.testing.assert_allclose(misfit(*scaled), misfit(found, targets), rtol=1e-2)
    assert misfit(*scaled)[1] == pytest.approx(2 * 7 * 2 * 3, rel=1e-4)
    # Outside of the molecule the network's density counts, in units of the floor.
    nothing = [jnp.zeros_like(t) for t in targets]
    expected = sum(float(jnp.sum(t**2)) for t in targets) / SURFACE_DENSITY
    np.testing.assert_allclose(misfit(targets, nothing)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("molecule", [STRETCHED, LITHIUM])
def test_derivatives_of_the_target(molecule: Molecule) -> None:
    reference, _ = determinants(molecule)
    positions = jnp.asarray(molecule.positions)
    weights = jnp.asarray([0.7, -1.3])[: reference.mo_up.shape[0]]
    n = sum(molecule.electrons)
    electrons = jax.random.normal(jax.random.key(1), (4, n, 3))

    def value(x: jax.Array) -> jax.Array:
        up, down = orbitals.occupied_orbitals(reference, x.reshape(n, 3), positions)
        return jnp.sum(weights * jnp.linalg.det(up) * jnp.linalg.det(down))

    @jax.jit
    @jax.vmap
    def expected(x: jax.Array) -> tuple[jax.Array, ...]:
        psi, slope = jax.value_and_grad(value)(x)
        return psi, slope / psi, jnp.trace(jax.hessian(value)(x)) / psi

    found = jax.jit(reference_fit._target)(reference, weights, electrons, positions)
    psi, slope, laplacian = expected(electrons.reshape(4, -1))
    np.testing.assert_allclose(found.sign * jnp.exp(found.log), psi, rtol=1e-9)
    np.testing.assert_allclose(found.gradient.reshape(4, -1), slope, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.laplacian, laplacian, rtol=1e-7)


def radial(reference: orbitals.Determinants, r: np.ndarray, exponent: float) -> np.ndarray:
    """The reference's 1s orbital times exp(-exponent r^2)."""
    points = jnp.asarray(np.stack([0 * r, 0 * r, r], axis=-1))
    orbital = orbitals.occupied_orbitals(reference, points[:, None], jnp.zeros((1, 3)))[0]
    return np.asarray(orbital[:, 0, 0, 0]) * np.exp(-exponent * r**2)


def drawn(rng: np.random.Generator, r: np.ndarray, u: np.ndarray, size: int) -> np.ndarray:
    """Independent electrons (size, 1, 3) of the density u^2."""
    share = np.cumsum((r * u) ** 2)
    distance = np.interp(rng.random(size), share / share[-1], r)
    direction = rng.normal(size=(size, 3))
    return (distance[:, None] * direction / np.linalg.norm(direction, axis=1)[:, None])[:, None]


def energy(r: np.ndarray, u: np.ndarray, potential: np.ndarray) -> float:
    """Of an electron in a potential with the orbital u(r), by quadrature."""
    slope = np.gradient(u, r)
    value = np.trapezoid(0.5 * (r * slope) ** 2 + potential * (r * u) ** 2, r)
    return float(value / np.trapezoid((r * u) ** 2, r))


@pytest.mark.parametrize("atom", [HYDROGEN, PSEUDO_LITHIUM], ids=["H", "Li with ccECP"])
def test_energy_above_the_reference(monkeypatch: pytest.MonkeyPatch, atom: Molecule) -> None:
    """An atom with one electron, whose orbital is the reference's, or off by a known factor."""
    reference, e_hf = determinants(atom)

    def orbital(
        params: networks.Params, electrons: jax.Array, *rest: object, **more: object
    ) -> list[jax.Array]:
        values = orbitals.occupied_orbitals(reference, electrons, jnp.zeros((1, 3)))[0]
        squares = jnp.sum(electrons**2, axis=-1)[..., None, :, None]
        # Neither sign nor size matters.
        return [-3.0 * values * jnp.exp(-params["exponent"] * squares)]

    def ratios(params: networks.Params, electrons: jax.Array, *rest: object) -> Ratios:
        def psi(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            value = orbital(params, x)[0][..., 0, 0, 0]
            return jnp.sign(value), jnp.log(jnp.abs(value))

        return full_ratios(psi, electrons)

    monkeypatch.setattr(networks, "ratios", ratios)
    monkeypatch.setattr(networks, "orbitals", orbital)
    monkeypatch.setattr(reference_fit, "CLIP", 1e6)  # the clipped energy is not the true one
    sweeps, walkers = 8, 500
    sample = per_device(
        lambda params, x: reference_fit.samples(
            params, reference, x, nuclei(atom), (1, 0), jnp.asarray(e_hf)
        ),
        walker_mesh(2 * sweeps * walkers),
        (REPLICATED, SPLIT),
        SPLIT,
    )
    rng = np.random.default_rng(2)
    r = np.linspace(1e-4, 15, 20_001)
    exact = radial(reference, r, 0.0)

    def reading(exponent: float) -> Reading:
        both = [drawn(rng, r, u, sweeps * walkers) for u in (exact, radial(reference, r, exponent))]
        params = {"determinants": {"w": jnp.ones(1)}, "exponent": jnp.asarray(exponent)}
        found = [np.asarray(x) for x in sample(params, jnp.asarray(np.concatenate(both)))]
        halves = [x.reshape(2, sweeps, walkers) for x in found]
        return read(*(Samples(*(x[i] for x in halves)) for i in range(2)))

    # Up to rounding of the logs.
    np.testing.assert_allclose(reading(0.0), 0.0, atol=1e-12)

    exponent = 0.05
    found = reading(exponent)
    potential = -1.0 / r
    if (own := nuclei(atom).potentials) is not None:
        # Of an s orbital: U and U_0.
        potential += np.asarray(radial_parts(own, jnp.asarray(r)[:, None]))[:, 0, :2].sum(axis=-1)
    truth = energy(r, radial(reference, r, exponent), potential) - energy(r, exact, potential)
    assert 0.005 < truth < 0.05
    assert abs(found.excess - truth) < 4 * found.error
    assert found.error < 0.2 * truth  # a term left out would show
    # log psi / psi_T = -exponent r^2; 4000 samples give a standard deviation to a few per cent.
    weight = (r * exact) ** 2 / np.sum((r * exact) ** 2)
    mean = np.sum(weight * r**2)
    spread = exponent * np.sqrt(np.sum(weight * r**4) - mean**2)
    assert found.scatter == pytest.approx(spread, rel=0.1)


def test_a_small_determinant_counts_little() -> None:
    """Of a spin-broken reference: the other spin pattern's determinant at a stretched bond."""
    targets = jnp.asarray([1.0, 0.03]).reshape(2, 1, 1)
    whole, _ = misfit([targets.at[0].multiply(1.1)], [targets])
    part, _ = misfit([targets.at[1].multiply(1.1)], [targets])
    np.testing.assert_allclose(part, 0.03**2 * whole, rtol=1e-6)


def test_clipping_takes_a_stray_walker_s_weight() -> None:
    rng = np.random.default_rng(3)

    def half() -> Samples:
        zero = jnp.zeros((10, 100))
        numerator = jnp.asarray(0.01 * rng.normal(size=zero.shape))
        return Samples(zero, zero, numerator, zero + 1.0, zero, zero)

    reference, network = half(), half()
    calm = read(reference, network)
    assert calm.error == pytest.approx(0.01 / np.sqrt(2000), rel=0.2)  # of 200 walkers' spread
    numerator = network.numerator.at[3, 5].set(100.0)
    stray = read(reference, network._replace(numerator=numerator))
    assert abs(stray.excess - calm.excess) < calm.error

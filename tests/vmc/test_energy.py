"""Clipping over devices, and the energy gradient against finite differences."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.oracles import shaken, small_network
from jax.sharding import Mesh

from ferminet_core.inputs.config import OptimiseConfig
from ferminet_core.parallel.collectives import AXIS
from ferminet_core.parallel.mesh import REPLICATED, SPLIT, per_device
from ferminet_core.vmc.energy import clip_energies, energy_gradient, without_broken
from ferminet_core.vmc.hamiltonian import Nuclei, local_energy
from ferminet_core.vmc.optimisers.choice import OPTIMISERS, make_optimiser
from ferminet_core.vmc.optimisers.protocol import Sample, Update
from ferminet_core.wavefunction import networks

ENERGIES = jnp.asarray([-1.0, -1.2, -0.9, -1.1, 30.0, -1.05, jnp.nan, -0.95])


def clipped(energies: jax.Array, devices: int, multiple: float, centre: Any) -> tuple:
    mesh = Mesh(jax.devices()[:devices], (AXIS,))
    function = partial(clip_energies, multiple=multiple, centre=centre)
    return per_device(function, mesh, (SPLIT,), (SPLIT, REPLICATED))(energies)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("centre", ["mean", "median"])
def test_clipping_against_numpy(devices: int, centre: str) -> None:
    deviation, info = clipped(ENERGIES, devices, 1.5, centre)
    values = np.asarray(ENERGIES)
    finite = values[np.isfinite(values)]
    middle = finite.mean() if centre == "mean" else np.median(finite)
    window = 1.5 * np.abs(finite - middle).mean()
    expected = np.clip(values, middle - window, middle + window)
    expected = np.nan_to_num(expected - np.nanmean(expected))
    np.testing.assert_allclose(deviation, expected, rtol=1e-12)
    assert (info.n_nonfinite, info.n_outliers) == (1, 1)
    np.testing.assert_allclose(info.energy, finite.mean(), rtol=1e-12)
    np.testing.assert_allclose(info.variance, finite.var(), rtol=1e-12)
    np.testing.assert_allclose(info.error, finite.std() / np.sqrt(7), rtol=1e-12)


def test_devices_agree_on_the_window() -> None:
    one, two = (clipped(ENERGIES, n, 5.0, "median") for n in (1, 2))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-12)  # order of summation


def test_energy_gradient_against_finite_differences_with_reweighting() -> None:
    # On fixed samples of |psi|^2 the energy of changed parameters is a weighted mean:
    # E(p') = sum w E_L(p') / sum w with w = |psi(p')/psi(p)|^2. Its derivative at p' = p is
    # mean((E_L - E) 2 dlog) + mean(dE_L). The last term vanishes only in expectation, so the
    # finite difference keeps E_L at p.
    spins, nuclei = (1, 1), Nuclei(jnp.asarray([[0.0, 0, 0], [0, 0, 1.4]]), jnp.ones(2))
    params = shaken(
        networks.init(jax.random.key(0), small_network(), spins, 2, jnp.float64), jax.random.key(1)
    )
    electrons = jax.random.normal(jax.random.key(2), (64, 2, 3))
    energies = local_energy(params, electrons, nuclei, spins)
    direction = shaken(jax.tree.map(jnp.zeros_like, params), jax.random.key(3), 1.0)

    def reweighted(step: float) -> jax.Array:
        moved = jax.tree.map(lambda p, d: p + step * d, params, direction)
        log = networks.apply(moved, electrons, nuclei.positions, spins)[1]
        old = networks.apply(params, electrons, nuclei.positions, spins)[1]
        weight = jnp.exp(2 * (log - old))
        return jnp.sum(weight * energies) / jnp.sum(weight)

    def difference(step: float) -> jax.Array:
        return (reweighted(step) - reweighted(-step)) / (2 * step)

    # Of two central differences the errors of second order cancel.
    step = 1e-5
    narrow, wide = difference(step), difference(2 * step)
    expected = (4 * narrow - wide) / 3
    second_order = float(abs(narrow / expected - 1))
    assert second_order < 1e-5
    mesh = Mesh(jax.devices()[:2], (AXIS,))

    def gradient(walkers: jax.Array, e_l: jax.Array) -> networks.Params:
        deviation, _ = clip_energies(e_l, 0.0, "mean")
        return energy_gradient(params, walkers, nuclei, spins, deviation)

    half = per_device(gradient, mesh, (SPLIT, SPLIT), REPLICATED)(electrons, energies)
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), half, direction)
    found = 2 * sum(jax.tree.leaves(products))
    # The error of fourth order is about the square of the second one's, 1e-10. Rounding is less:
    # eps / step = 2e-11, times energies of up to 800 hartree over a derivative of 3e4.
    assert float(found) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(
    "optimiser",
    # KFAC's gradient is from the same function as Adam's.
    [pytest.param(x, marks=pytest.mark.campaign if x == "kfac" else ()) for x in OPTIMISERS],
)
def test_walkers_on_a_node_leave_the_gradient_of_the_others(optimiser: str) -> None:
    """psi = 0: two like spins at one place. All walkers of the first of two devices are such."""
    spins, nuclei = (2, 0), Nuclei(jnp.asarray([[0.0, 0, 0], [0, 0, 1.4]]), jnp.ones(2))
    config = small_network(layers=1, determinants=1)
    params = shaken(
        networks.init(jax.random.key(0), config, spins, 2, jnp.float64), jax.random.key(1)
    )
    electrons = jax.random.normal(jax.random.key(2), (8, 2, 3))
    broken = jnp.asarray([0, 1, 2, 3, 6])
    electrons = electrons.at[broken, 1].set(electrons[broken, 0])
    good = np.asarray([4, 5, 7])
    _, log = networks.apply(params, electrons, nuclei.positions, spins)
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(log)), good)
    method = make_optimiser(OptimiseConfig.model_validate({"optimiser": optimiser}), spins, 4)
    start = method.init(params, electrons[:4], nuclei)

    def update(walkers: jax.Array) -> tuple[Update, jax.Array]:
        energies = local_energy(params, walkers, nuclei, spins)
        deviation, info = clip_energies(energies, 0.0, "mean")
        sample = Sample(without_broken(walkers, energies), nuclei, deviation)
        return method.update(start, params, sample, jnp.asarray(0.1)), info.n_nonfinite

    mesh = Mesh(jax.devices()[:2], (AXIS,))
    found, lost = per_device(update, mesh, (SPLIT,), REPLICATED)(electrons)
    assert lost == 5
    energies = local_energy(params, electrons[good], nuclei, spins)

    def weighted(p: networks.Params) -> jax.Array:
        log = networks.apply(p, electrons[good], nuclei.positions, spins)[1]
        return jnp.sum((energies - energies.mean()) * log) / 8

    expected = jax.grad(weighted)(params)
    # Rounding of float64 in sums of eight terms that cancel in part.
    for a, b in zip(jax.tree.leaves(found.gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * float(jnp.abs(b).max() + 1))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found.step))
    assert any(np.any(x != 0) for x in jax.tree.leaves(found.step))


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_broken_walkers_take_the_first_good_place_of_all_devices(devices: int) -> None:
    electrons = jax.random.normal(jax.random.key(0), (8, 2, 3))
    energies = jnp.zeros(8).at[jnp.asarray([0, 1, 2, 5])].set(jnp.nan)
    mesh = Mesh(jax.devices()[:devices], (AXIS,))
    found = per_device(without_broken, mesh, (SPLIT, SPLIT), SPLIT)(electrons, energies)
    expected = np.asarray(electrons)[[3, 3, 3, 3, 4, 3, 6, 7]]
    np.testing.assert_array_equal(found, expected)

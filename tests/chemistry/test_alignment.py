"""Aligned references: the same determinants, and orbitals that continue each other."""

import functools
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import xarray as xr
from helpers.molecules import atom, diatomic

from ferminet_core.chemistry import orbitals
from ferminet_core.chemistry.alignment import align, align_scan
from ferminet_core.chemistry.hartree_fock import solve
from ferminet_core.chemistry.orbitals import Determinants, occupied_orbitals
from ferminet_core.chemistry.start_walkers import orthogonal_orbitals
from ferminet_core.errors import ArtefactError
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.start_settings import ReferenceConfig

# Orthonormal orbitals of n electrons, rotated: n products of rounding 2e-16 in each of n columns,
# 1e-14 for seven electrons; the determinant of their overlap adds as much again.
ROUNDING = 1e-12


@functools.cache
def reference(first: str, second: str, distance: float, spin: int = 0) -> xr.Dataset:
    return solve(diatomic(first, second, distance, spin=spin), ReferenceConfig(basis="sto-3g"))


def same_determinant(one: np.ndarray, other: np.ndarray) -> float:
    """|<one|other>| of determinants of orthonormal orbitals (ao, n)."""
    return float(abs(np.linalg.det(one.T @ other)))


def distance(one: xr.Dataset, other: xr.Dataset) -> float:
    """The largest difference of a coefficient over orthogonal AOs."""
    return max(
        float(np.abs(orthogonal_orbitals(one, s) - orthogonal_orbitals(other, s)).max())
        for s in ("up", "down")
    )


def scrambled(dataset: xr.Dataset, turns: Sequence[np.ndarray]) -> xr.Dataset:
    """The same reference with its up and down orbitals rotated."""
    for name, turn in zip(("mo_up", "mo_down"), turns, strict=True):
        dataset = dataset.assign({name: (dataset[name].dims, dataset[name].to_numpy() @ turn)})
    return dataset


def sum_of_determinants(dataset: xr.Dataset, electrons: np.ndarray) -> np.ndarray:
    up, down = occupied_orbitals(
        Determinants.from_dataset(dataset), electrons, dataset["nuclei"].to_numpy()
    )
    products = np.linalg.det(np.asarray(up)) * np.linalg.det(np.asarray(down))
    return products @ orbitals.coefficients(dataset)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (("N", "N", 2.068), ("N", "N", 2.0)),
        (("N", "N", 5.0), ("N", "N", 5.5)),  # both broken spin patterns
        (("N", "H", 4.0, 2), ("N", "H", 4.5, 2)),  # all patterns of a triplet
    ],
    ids=["closed shell", "spin-broken", "family"],
)
def test_the_sum_of_determinants_stays_the_same(here: tuple, there: tuple) -> None:
    before, neighbour = reference(*here), reference(*there)
    after = align(before, neighbour)
    for spin in ("up", "down"):
        pairs = [orthogonal_orbitals(dataset, spin) for dataset in (before, after)]
        for one, other in zip(*pairs, strict=True):
            assert same_determinant(one, other) == pytest.approx(1.0, abs=ROUNDING)
    count = before.sizes["orbital_up"] + before.sizes["orbital_down"]
    electrons = np.random.default_rng(0).normal(size=(5, count, 3))
    sums = [sum_of_determinants(dataset, electrons) for dataset in (before, after)]
    # Determinants of 7 x 7 matrices with a condition of 1e3 or so lose three digits.
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-10)


def test_the_neighbourhood_is_continuous() -> None:
    # The orbitals of N2 change by less than one per bohr.
    here, there = reference("N", "N", 2.068), reference("N", "N", 2.078)
    assert distance(align(there, here), here) < 0.01
    # However they were ordered, signed and mixed before.
    rng = np.random.default_rng(3)
    turns = [np.linalg.qr(rng.normal(size=(7, 7)))[0] for _ in range(2)]
    jumping = scrambled(there, turns)
    assert distance(jumping, here) > 0.5
    assert distance(align(jumping, here), align(there, here)) < ROUNDING


def test_a_rotated_pi_pair_and_a_swapped_order_are_undone() -> None:
    here = reference("N", "N", 2.068)
    labels = np.abs(orthogonal_orbitals(here, "up")[0])
    pi = np.flatnonzero(
        [column.max() > 0.7 - 1e-6 and np.sum(column > 1e-6) == 2 for column in labels.T]
    )
    assert len(pi) == 2
    turn = np.eye(7)
    c, s = np.cos(0.7), np.sin(0.7)
    turn[np.ix_(pi, pi)] = [[c, -s], [s, c]]
    order = np.eye(7)[[1, 0, *range(2, 7)]] * np.array([1, -1, 1, 1, -1, 1, 1])
    found = align(scrambled(here, (turn, order)), here)
    assert distance(found, here) < ROUNDING
    # Three signs change: exchange and two orbitals.
    assert found["coefficient"].values == pytest.approx([-1.0])


def test_spin_patterns_keep_their_places() -> None:
    here, there = reference("H", "H", 6.0), reference("H", "H", 6.5)
    swapped = there.isel(determinant=[1, 0])
    assert distance(swapped, here) > 0.5
    for found in (align(swapped, here), align(there, here)):
        assert distance(found, here) < 0.01
        np.testing.assert_array_equal(found["coefficient"], [1.0, 1.0])


def test_a_single_determinant_starts_both_patterns() -> None:
    single, broken = reference("H", "H", 1.4), reference("H", "H", 6.0)
    assert align(broken, single).sizes["determinant"] == 2
    assert align(single, broken).sizes["determinant"] == 1


def test_a_scan_is_aligned_outwards() -> None:
    lengths = [1.8, 1.9, 2.0, 2.1]  # UHF is lower from 2.2 on
    names = [f"r_{length}" for length in lengths]
    rng = np.random.default_rng(1)
    turns = [[np.linalg.qr(rng.normal(size=(7, 7)))[0] for _ in range(2)] for _ in lengths]
    references = {
        name: scrambled(reference("N", "N", length), turn)
        for name, length, turn in zip(names, lengths, turns, strict=True)
    }
    molecules = {
        name: diatomic("N", "N", length) for name, length in zip(names, lengths, strict=True)
    }
    found = align_scan(references, molecules, ["r_1.9"])
    assert list(found) == names
    assert found["r_1.9"] is references["r_1.9"]
    for one, other in itertools.pairwise(names):
        assert distance(found[one], found[other]) < 0.1  # less than one per bohr, over 0.1 bohr


def test_other_electrons_are_refused() -> None:
    ion = Molecule(symbols=("N", "N"), positions=((0, 0, -1.0), (0, 0, 1.0)), charge=1, spin=1)
    for other in (ion, atom("N", spin=3)):
        with pytest.raises(ArtefactError, match="references to align"):
            align(solve(other, ReferenceConfig(basis="sto-3g")), reference("N", "N", 2.068))

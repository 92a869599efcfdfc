"""Hartree-Fock orbitals in JAX: atomic orbitals, molecular orbitals, and their determinants.

An atomic orbital (AO) is a contracted Gaussian times a real solid harmonic or a monomial, about its
nucleus:

    chi(r) = A_lm(d) sum_p c_p exp(-a_p |d|^2),    d = r - R_centre.

Order and normalisation are those of PySCF, so its orbital coefficients are used unchanged. The
basis is split into a static, hashable part (the shells of each nucleus) and arrays (exponents,
contraction coefficients). The nuclei are an argument, so one compiled function serves every
geometry of a scan.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax
from jax.typing import ArrayLike

from ferminet_core.wavefunction.determinants import signed_log

# TF32 or bfloat16 products would spoil the orbitals, which are cheap compared with a network.
_PRECISION = lax.Precision.HIGHEST


@functools.cache
def monomials(momentum: int) -> tuple[tuple[int, int, int], ...]:
    """Powers (i, j, k) of x^i y^j z^k of degree l, in PySCF's order: xx, xy, xz, yy, yz, zz."""
    return tuple(
        (i, j, momentum - i - j)
        for i in range(momentum, -1, -1)
        for j in range(momentum - i, -1, -1)
    )


def _solid_harmonic(momentum: int, m: int) -> dict[tuple[int, int, int], float]:
    """Monomial coefficients of the real solid harmonic S_lm, orthonormal on the unit sphere.

    Helgaker, Jorgensen and Olsen, Molecular Electronic-Structure Theory (2000), equations 6.4.47 to
    6.4.49.
    """
    absolute = abs(m)
    factorials = math.factorial(momentum + absolute) * math.factorial(momentum - absolute)
    norm = math.sqrt(2.0 * factorials / (2.0 if m == 0 else 1.0))
    norm *= math.sqrt((2 * momentum + 1) / (4.0 * math.pi))
    norm /= 2.0**absolute * math.factorial(momentum)
    odd = int(m < 0)  # the sum over v runs over v = v_m, v_m + 1, ... with v_m = 1/2 for m < 0
    terms: dict[tuple[int, int, int], float] = {}
    for t in range((momentum - absolute) // 2 + 1):
        for u in range(t + 1):
            for twice_v in range(odd, absolute + 1, 2):
                coefficient = (
                    (-1.0) ** (t + (twice_v - odd) // 2)
                    * 0.25**t
                    * math.comb(momentum, t)
                    * math.comb(momentum - t, absolute + t)
                    * math.comb(t, u)
                    * math.comb(absolute, twice_v)
                )
                powers = (
                    2 * t + absolute - 2 * u - twice_v,
                    2 * u + twice_v,
                    momentum - 2 * t - absolute,
                )
                terms[powers] = terms.get(powers, 0.0) + norm * coefficient
    return terms


@functools.cache
def angular_matrix(momentum: int, cartesian: bool) -> np.ndarray:
    """Angular parts of one shell over `monomials(momentum)`: (monomial, component), float64.

    Spherical components run over m = -l ... l (p shells: x, y, z); Cartesian ones over the
    monomials. As in PySCF, s and p carry the norm of the spherical harmonic in both cases and
    Cartesian d, f, ... carry none.
    """
    powers = monomials(momentum)
    if cartesian and momentum >= 2:
        return np.eye(len(powers))
    orders = [1, -1, 0] if momentum == 1 else list(range(-momentum, momentum + 1))
    matrix = np.zeros((len(powers), len(orders)))
    for column, m in enumerate(orders):
        for power, coefficient in _solid_harmonic(momentum, m).items():
            matrix[powers.index(power), column] = coefficient
    return matrix


class Shells(NamedTuple):
    """Contracted shells of a molecule in AO order, as the reference dataset stores them."""

    centre: np.ndarray  # (shell,) index of the nucleus
    momentum: np.ndarray  # (shell,) l
    primitive_shell: np.ndarray  # (primitive,) the shell a primitive belongs to
    exponent: np.ndarray  # (primitive,) bohr^-2
    coefficient: np.ndarray  # (primitive,) normalised
    cartesian: bool

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset) -> "Shells":
        """Read the shells from a reference dataset (`hartree_fock.solve`)."""
        return cls(
            centre=dataset["shell_centre"].to_numpy(),
            momentum=dataset["shell_momentum"].to_numpy(),
            primitive_shell=dataset["primitive_shell"].to_numpy(),
            exponent=dataset["primitive_exponent"].to_numpy(),
            coefficient=dataset["primitive_coefficient"].to_numpy(),
            cartesian=bool(dataset.attrs["cartesian"]),
        )

    def components(self, shell: int) -> int:
        """Number of AOs in a shell."""
        return angular_matrix(int(self.momentum[shell]), self.cartesian).shape[1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AtomGroup:
    """Nuclei with the same shells; `contraction` is (primitive, AO of one of these atoms)."""

    exponents: Any
    contraction: Any
    centres: tuple[int, ...] = field(metadata={"static": True})
    momenta: tuple[int, ...] = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Basis:
    """Gaussian basis as a pytree: numbers are leaves, the shell structure is static."""

    groups: tuple[AtomGroup, ...]
    order: tuple[int, ...] = field(metadata={"static": True})  # AOs by group -> AOs by shell
    cartesian: bool = field(metadata={"static": True})

    @property
    def n_orbitals(self) -> int:
        """Number of atomic orbitals."""
        return len(self.order)

    @classmethod
    def from_shells(cls, shells: Shells) -> "Basis":
        """Group the nuclei with equal shells, so that atoms of one element share arrays."""
        sizes = [shells.components(shell) for shell in range(len(shells.centre))]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        members: dict[tuple[Any, ...], list[int]] = {}
        own = {int(c): np.flatnonzero(shells.centre == c) for c in np.unique(shells.centre)}
        for centre, indices in own.items():
            key = tuple(_shell_key(shells, int(shell)) for shell in indices)
            members.setdefault(key, []).append(centre)
        groups, places = [], []
        for key, centres in members.items():
            groups.append(_atom_group(key, tuple(centres), shells.cartesian))
            for centre in centres:
                places += [np.arange(offsets[s], offsets[s] + sizes[s]) for s in own[centre]]
        order = np.argsort(np.concatenate(places))
        return cls(tuple(groups), tuple(int(place) for place in order), shells.cartesian)

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset) -> "Basis":
        """Read the basis from a reference dataset (`hartree_fock.solve`)."""
        return cls.from_shells(Shells.from_dataset(dataset))


def _shell_key(shells: Shells, shell: int) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    own = shells.primitive_shell == shell
    return (
        int(shells.momentum[shell]),
        tuple(shells.exponent[own].tolist()),
        tuple(shells.coefficient[own].tolist()),
    )


def _atom_group(
    key: Sequence[tuple[int, tuple[float, ...], tuple[float, ...]]],
    centres: tuple[int, ...],
    cartesian: bool,
) -> AtomGroup:
    # Shells share primitives (general contractions), so each distinct exponent appears once.
    exponents = sorted({exponent for _, values, _ in key for exponent in values}, reverse=True)
    row = {exponent: index for index, exponent in enumerate(exponents)}
    columns = []
    for momentum, values, coefficients in key:
        column = np.zeros(len(exponents))
        for exponent, coefficient in zip(values, coefficients, strict=True):
            column[row[exponent]] += coefficient
        columns += [column] * angular_matrix(momentum, cartesian).shape[1]
    return AtomGroup(
        exponents=np.asarray(exponents),
        contraction=np.stack(columns, axis=1),
        centres=centres,
        momenta=tuple(momentum for momentum, _, _ in key),
    )


def _angular(momenta: tuple[int, ...], cartesian: bool, d: jax.Array) -> jax.Array:
    """Angular factors of an atom's AOs at displacements d (..., 3): (..., AO)."""
    present = sorted(set(momenta))
    rows = {
        power: index
        for index, power in enumerate(
            power for momentum in present for power in monomials(momentum)
        )
    }
    blocks = []
    for momentum in momenta:
        matrix = angular_matrix(momentum, cartesian)
        block = np.zeros((len(rows), matrix.shape[1]))
        block[[rows[power] for power in monomials(momentum)]] = matrix
        blocks.append(block)
    # Powers by repeated products, so that derivatives stay finite at d = 0.
    powers = [jnp.ones_like(d)]
    for _ in range(max(present)):
        powers.append(powers[-1] * d)
    values = [powers[i][..., 0] * powers[j][..., 1] * powers[k][..., 2] for i, j, k in rows]
    parts = jnp.asarray(np.concatenate(blocks, axis=1), dtype=d.dtype)
    return jnp.matmul(jnp.stack(values, axis=-1), parts, precision=_PRECISION)


def atomic_orbitals(basis: Basis, positions: ArrayLike, nuclei: ArrayLike) -> jax.Array:
    """Atomic orbitals at some points, in PySCF's order and normalisation.

    Args:
        basis: The basis of the molecule.
        positions: (..., 3), bohr; its dtype is that of the result.
        nuclei: (M, 3), bohr.

    Returns:
        (..., n_ao), bohr^(-3/2); values and derivatives are finite everywhere, on the nuclei too.
    """
    positions = jnp.asarray(positions)
    dtype = positions.dtype
    nuclei = jnp.asarray(nuclei, dtype=dtype)
    values = []
    start = 0
    for group in basis.groups:
        d = positions[..., None, :] - nuclei[np.asarray(group.centres)]
        exponents = jnp.asarray(group.exponents, dtype=dtype)
        gaussians = jnp.exp(-jnp.sum(d * d, axis=-1, keepdims=True) * exponents)
        contraction = jnp.asarray(group.contraction, dtype=dtype)
        radial = jnp.matmul(gaussians, contraction, precision=_PRECISION)
        orbitals = radial * _angular(group.momenta, basis.cartesian, d)
        flat = orbitals.reshape(*positions.shape[:-1], -1)
        # A product with zeros and ones puts the columns in place. On CPUs, XLA (jaxlib 0.9.1) fuses
        # a concatenation with the operations before it and gets columns wrong
        # (`test_compiled_orbitals_are_the_same`).
        own = np.arange(start, start + flat.shape[-1])
        select = jnp.asarray(own[:, None] == np.asarray(basis.order), dtype=dtype)
        values.append(jnp.matmul(flat, select, precision=_PRECISION))
        start += flat.shape[-1]
    return functools.reduce(jnp.add, values)


def half_power(overlap: np.ndarray) -> np.ndarray:
    """The square root (ao, ao) of an overlap matrix (ao, ao)."""
    values, vectors = np.linalg.eigh(overlap)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


class Determinants(NamedTuple):
    """Hartree-Fock determinants as a pytree: orbitals of the D determinants over one basis.

    coefficients: of the sum of determinants that represents the state; their scale is free
    """

    basis: Basis
    mo_up: Any  # (D, n_ao, n_up)
    mo_down: Any  # (D, n_ao, n_down)
    coefficients: Any  # (D,)

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset) -> "Determinants":
        """Read the determinants from the dataset of `hartree_fock.solve`."""
        return cls(
            basis=Basis.from_dataset(dataset),
            mo_up=dataset["mo_up"].transpose("determinant", "ao", "orbital_up").to_numpy(),
            mo_down=dataset["mo_down"].transpose("determinant", "ao", "orbital_down").to_numpy(),
            coefficients=coefficients(dataset),
        )


def coefficients(dataset: xr.Dataset) -> np.ndarray:
    """Coefficients (determinant,) in the state that the dataset of `hartree_fock.solve` stands for.

    A reference of one determinant, or of a spin-broken one and its image, stores none.
    """
    if "coefficient" in dataset:
        return dataset["coefficient"].to_numpy()
    return np.ones(dataset.sizes["determinant"])


def occupied_orbitals(
    reference: Determinants, electrons: ArrayLike, nuclei: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Occupied orbitals of each determinant at the electrons of each spin.

    Args:
        reference: The determinants.
        electrons: (..., n_up + n_down, 3), bohr, spin-up electrons first.
        nuclei: (M, 3), bohr.

    Returns:
        Matrices over [electron, orbital]: up (..., D, n_up, n_up) and down (..., D, n_down,
        n_down).
    """
    ao = atomic_orbitals(reference.basis, electrons, nuclei)
    n_up = reference.mo_up.shape[-1]
    up, down = (
        jnp.einsum("...ea,dao->...deo", part, jnp.asarray(mo, ao.dtype), precision=_PRECISION)
        for part, mo in (
            (ao[..., :n_up, :], reference.mo_up),
            (ao[..., n_up:, :], reference.mo_down),
        )
    )
    return up, down


def _signed_log(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sign and log of (..., n, n) determinants; 1 and 0 without electrons."""
    if matrix.shape[-1] == 0:
        shape, dtype = matrix.shape[:-2], matrix.dtype
        return jnp.ones(shape, dtype), jnp.zeros(shape, dtype)
    return signed_log(matrix)


def log_abs_hf(reference: Determinants, electrons: ArrayLike, nuclei: ArrayLike) -> jax.Array:
    """log sqrt(sum_D c_D^2 det_up^2 det_down^2), with unnormalised determinants.

    Twice this is the log density from which pretraining samples. It is the sum of squares, not of
    determinants, so that no node of a projected wavefunction keeps walkers from passing between
    the spin patterns of the references.

    Args:
        reference: The determinants.
        electrons: (..., n, 3), bohr, spin-up electrons first.
        nuclei: (M, 3), bohr.

    Returns:
        (...,); -inf where every determinant vanishes.
    """
    up, down = occupied_orbitals(reference, electrons, nuclei)
    logs = _signed_log(up)[1] + _signed_log(down)[1]
    if logs.shape[-1] == 1:
        return logs[..., 0]
    logs = logs + jnp.log(jnp.abs(jnp.asarray(reference.coefficients, logs.dtype)))
    return 0.5 * jax.nn.logsumexp(2.0 * logs, axis=-1)


def hf_wavefunction(
    reference: Determinants, electrons: ArrayLike, nuclei: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Sign and log|det_up det_down| of the first determinant: the Hartree-Fock wavefunction.

    Its variational energy is E_HF, which tests samplers, Hamiltonians and error bars.

    Args:
        reference: The determinants.
        electrons: (..., n, 3), bohr, spin-up electrons first.
        nuclei: (M, 3), bohr.

    Returns:
        sign (...,), log (...,).
    """
    first = Determinants(
        reference.basis, reference.mo_up[:1], reference.mo_down[:1], reference.coefficients[:1]
    )
    up, down = occupied_orbitals(first, electrons, nuclei)
    sign_up, log_up = _signed_log(up)
    sign_down, log_down = _signed_log(down)
    return (sign_up * sign_down)[..., 0], (log_up + log_down)[..., 0]

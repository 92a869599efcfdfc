"""The exact energy of the hydrogen molecule's cation, to test against."""

import numpy as np
import scipy.linalg
from numpy.polynomial import laguerre, legendre


def cation_energy(bond: float) -> float:
    """Energy of H2+ in its ground state, hartree, at a bond length in bohr, to 1e-10 or better.

    The Schroedinger equation separates in x = (r_a + r_b) / R and y = (r_a - r_b) / R, with the
    volume element R^3 / 8 (x^2 - y^2). The basis exp(-a (x - 1)) L_i(2a (x - 1)) P_j(y), with even
    j, converges exponentially, and Gauss's rules integrate its products exactly.
    """
    n_x, n_y, decay = 12, 6, 0.5 + 0.5 * bond
    nodes, x_weights = laguerre.laggauss(n_x + 2)
    x = 1.0 + nodes / (2.0 * decay)
    x_weights = x_weights / (2.0 * decay)
    y, y_weights = legendre.leggauss(2 * n_y + 2)
    # The exponential is in the weights: values are those of polynomials.
    polynomials = [laguerre.Laguerre.basis(i) for i in range(n_x)]
    f = np.array([p(nodes) for p in polynomials])
    df = np.array([2.0 * decay * p.deriv()(nodes) - decay * p(nodes) for p in polynomials])
    g = np.array([legendre.Legendre.basis(2 * j)(y) for j in range(n_y)])
    dg = np.array([legendre.Legendre.basis(2 * j).deriv()(y) for j in range(n_y)])

    def along_x(one: np.ndarray, factor: np.ndarray) -> np.ndarray:
        return np.asarray((one * x_weights * factor) @ one.T)

    def along_y(one: np.ndarray, factor: np.ndarray) -> np.ndarray:
        return np.asarray((one * y_weights * factor) @ one.T)

    unit_x, unit_y = along_x(f, x**0), along_y(g, y**0)
    overlap = np.kron(along_x(f, x**2), unit_y) - np.kron(unit_x, along_y(g, y**2))
    kinetic = np.kron(along_x(df, x**2 - 1.0), unit_y) + np.kron(unit_x, along_y(dg, 1.0 - y**2))
    attraction = np.kron(along_x(f, x), unit_y)
    hamiltonian = bond / 4.0 * kinetic - bond**2 / 2.0 * attraction
    lowest = scipy.linalg.eigh(
        hamiltonian, bond**3 / 8.0 * overlap, eigvals_only=True, subset_by_index=[0, 0]
    )
    return float(lowest[0]) + 1.0 / bond

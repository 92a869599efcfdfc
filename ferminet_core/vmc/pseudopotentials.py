"""Pseudopotentials in the local energy.

An electron at the distance r of a nucleus with a pseudopotential has, besides -Z_eff / r, the
energy U(r) + sum_l U_l(r) P_l, where P_l projects on the angular momentum l about that nucleus.
U and U_l are sums of c r^(n - 2) exp(-a r^2). With V = sum_l U_l P_l, the other electrons fixed,

    (V psi) / psi = sum_l (2 l + 1) U_l(r) mean_q P_l(cos(q, r)) psi(R + r q) / psi,

a mean over directions q on the unit sphere, P_l being Legendre's polynomials. It is taken over the
corners of an octahedron or an icosahedron, randomly rotated (L. Mitas, E. L. Shirley and D. M.
Ceperley 1991, doi:10.1063/1.460849; S. Fahy, X. W. Wang and S. G. Louie 1990,
doi:10.1103/PhysRevB.42.3503). The mean over all rotations is exact for any set of directions: fewer
of them add noise to the energy, and no bias.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ferminet_core.inputs.molecule import Molecule, Pseudopotential
from ferminet_core.wavefunction.moved_electron import Ratios

# hartree. An electron where sum_l (2 l + 1) |U_l| is less is left out. The parts fall as
# exp(-a r^2), a being 1 to 30 bohr^-2, so that what is beyond adds up to some 1e-6 hartree for each
# nucleus (U_l times the density there, over the tenth of a bohr in which U_l vanishes).
LEAST_POTENTIAL = 1e-5
# bohr; below the length of any move, and above the rounding of a coordinate.
CELL = 2.0**-12
# Moved electrons that are evaluated at once, each with its 6 or 12 places: they fill a GPU.
MOST_AT_ONCE = 1024

_GOLDEN = (1.0 + math.sqrt(5.0)) / 2.0
_OCTAHEDRON = [sign * row for row in np.eye(3) for sign in (1.0, -1.0)]
_ICOSAHEDRON = [
    np.roll([0.0, a, b * _GOLDEN], turn) / math.hypot(1.0, _GOLDEN)
    for turn in range(3)
    for a in (1.0, -1.0)
    for b in (1.0, -1.0)
]
# Directions (point, 3) of equal weight, by the name in the settings.
QUADRATURES = {"octahedron": np.array(_OCTAHEDRON), "icosahedron": np.array(_ICOSAHEDRON)}


class Potentials(NamedTuple):
    """The pseudopotentials of a molecule as arrays; nuclei without one have zero coefficients.

    power: (nucleus, part, term), n - 2; exponent: bohr^-2; coefficient: hartree bohr^(2 - n), all
    of one shape. The first part is U, then come U_0, U_1, ...
    directions: (point, 3), of the quadrature
    """

    power: jax.Array
    exponent: jax.Array
    coefficient: jax.Array
    directions: jax.Array


def potentials(molecule: Molecule, quadrature: str, dtype: jnp.dtype) -> Potentials | None:
    """The pseudopotentials of a molecule; None if it has none.

    Args:
        molecule: Nuclei and pseudopotentials.
        quadrature: Name of one of `QUADRATURES`.
        dtype: Of the numbers.
    """
    if not molecule.pseudopotentials:
        return None
    by_symbol = {potential.symbol: potential for potential in molecule.pseudopotentials}
    numbers = _padded([by_symbol.get(symbol) for symbol in molecule.symbols])
    arrays = [jnp.asarray(x, dtype) for x in (*numbers, QUADRATURES[quadrature])]
    return Potentials(*arrays)


def _padded(found: Sequence[Pseudopotential | None]) -> np.ndarray:
    """n - 2, a and c (3, nucleus, part, term), with c = 0 where a nucleus has fewer terms."""
    parts = [(p.local, *p.channels) if p else () for p in found]
    widest = max(len(terms) for own in parts for terms in own)
    numbers = np.zeros((3, len(parts), max(map(len, parts)), max(widest, 1)))
    for nucleus, own in enumerate(parts):
        for part, terms in enumerate(own):
            for place, term in enumerate(terms):
                row = (term.power - 2, term.exponent, term.coefficient)
                numbers[:, nucleus, part, place] = row
    return numbers


def radial(p: Potentials, distance: jax.Array) -> jax.Array:
    """U, U_0, U_1, ... (..., nucleus, part), hartree, at distances (..., nucleus), bohr."""
    r = jnp.maximum(distance, jnp.finfo(distance.dtype).tiny)[..., None, None]
    return jnp.sum(p.coefficient * jnp.exp(p.power * jnp.log(r) - p.exponent * r**2), axis=-1)


def local_part(p: Potentials, distance: jax.Array) -> jax.Array:
    """The sum of U (...), hartree, over electrons and nuclei (..., electron, nucleus), bohr."""
    first = p._replace(
        power=p.power[:, :1], exponent=p.exponent[:, :1], coefficient=p.coefficient[:, :1]
    )
    return jnp.sum(radial(first, distance), axis=(-3, -2, -1))


def legendre(cosine: jax.Array, count: int) -> jax.Array:
    """(2 l + 1) P_l of cosines (...) for l = 0, ..., count - 1: (..., l)."""
    found = [jnp.ones_like(cosine), cosine]
    for n in range(1, count - 1):
        found.append(((2 * n + 1) * cosine * found[n] - n * found[n - 1]) / (n + 1))
    return jnp.stack([(2 * n + 1) * found[n] for n in range(count)], axis=-1)


def rotations(electrons: jax.Array) -> jax.Array:
    """A random rotation (walker, 3, 3) for each walker, equally likely to be any.

    Its random numbers follow from the walker's own coordinates, rounded to `CELL`. So the local
    energy stays a function of its arguments: it is the same however walkers are spread over devices
    and passes and after a resume, and no key has to reach all the places that evaluate it. Sums in
    another order do not turn the walker, unless a coordinate lies at the edge of a cell. The last
    bits of a rounded coordinate are as good as random, and the generator makes independent numbers
    of neighbouring seeds.

    Args:
        electrons: (walker, electron, 3), bohr
    """
    cells = jnp.round(electrons / CELL).astype(jnp.int32)
    bits = jax.lax.bitcast_convert_type(cells, jnp.uint32).reshape(electrons.shape[0], -1)
    # Two hashes of 32 bits, sums with random odd factors. The shift lets two signs that both change
    # not cancel.
    factors = jax.random.bits(jax.random.key(0), (2, bits.shape[1]), jnp.uint32) | 1
    mixed = bits ^ (bits >> 15)
    words = jnp.sum(mixed[:, None] * factors, axis=-1, dtype=jnp.uint32)

    def rotation(word: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(word, impl="threefry2x32")
        q = jax.random.normal(key, (4,), electrons.dtype)
        a, b, c, d = q / jnp.linalg.norm(q)
        rows = (
            (a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)),
            (2 * (b * c + a * d), a * a - b * b + c * c - d * d, 2 * (c * d - a * b)),
            (2 * (b * d - a * c), 2 * (c * d + a * b), a * a - b * b - c * c + d * d),
        )
        return jnp.stack([jnp.stack(row) for row in rows])

    return jax.vmap(rotation)(words)


def semilocal_energy(
    p: Potentials, electrons: jax.Array, nuclei: jax.Array, ratios: Ratios
) -> jax.Array:
    """(V psi) / psi (walker,), hartree, of all electrons and nuclei.

    Only electrons near enough to a nucleus count (`LEAST_POTENTIAL`). They are numbered, and as
    many of them as there are walkers, but at most `MOST_AT_ONCE`, are evaluated at once, until none
    is left.

    Args:
        p: The pseudopotentials.
        electrons: (walker, electron, 3), bohr
        nuclei: (nucleus, 3), bohr
        ratios: of the wavefunction at these electrons
    """
    n_walkers, n_electrons = electrons.shape[:2]
    channels = p.coefficient.shape[1] - 1
    if channels == 0:
        return jnp.zeros(n_walkers, electrons.dtype)
    vectors = electrons[:, :, None] - nuclei  # (walker, electron, nucleus, 3)
    distance = jnp.linalg.norm(vectors, axis=-1)
    values = radial(p, distance)[..., 1:]
    weights = 2.0 * np.arange(channels) + 1.0
    active = (jnp.sum(weights * jnp.abs(values), axis=-1) > LEAST_POTENTIAL).ravel()
    turned = p.directions @ rotations(electrons)

    size, block = active.size, min(n_walkers, MOST_AT_ONCE)
    # The numbers of those that count, then `size`, which is none.
    order = jnp.flatnonzero(active, size=-(-size // block) * block, fill_value=size)
    shape = (n_walkers, n_electrons, nuclei.shape[0])

    def evaluate(i: jax.Array, found: jax.Array) -> jax.Array:
        own = jax.lax.dynamic_slice(order, (i * block,), (block,))
        # Those that are none are evaluated as the last one, and dropped.
        walker, electron, nucleus = jnp.unravel_index(jnp.minimum(own, size - 1), shape)
        r, direction = distance[walker, electron, nucleus], turned[walker]
        cosine = jnp.einsum("bqx,bx->bq", direction, vectors[walker, electron, nucleus])
        polynomials = legendre(cosine / r[:, None], channels)
        u = polynomials @ values[walker, electron, nucleus][..., None]  # (own, point, 1)
        places = nuclei[nucleus][:, None] + r[:, None, None] * direction
        ratio = ratios(walker, electron, places)
        return found.at[own].set(jnp.mean(u[..., 0] * ratio, axis=-1), mode="drop")

    count = jnp.sum(active)
    passes = (count + block - 1) // block
    energies = jax.lax.fori_loop(0, passes, evaluate, jnp.zeros(size, electrons.dtype))
    return jnp.sum(energies.reshape(n_walkers, -1), axis=-1)

"""Metropolis sampling of |psi|^2.

Two kinds of moves alternate: Gaussian moves of all electrons, shorter near the nuclei, and moves of
one or two electrons from atom to atom. `make_kernel` closes over what is fixed, the wavefunction
and the geometry, and returns a kernel: (key, walkers, width) -> (walkers, info).

Random numbers belong to walkers. The key of a walker's move is the kernel's key folded with the
number of the move and the number of the walker over all devices. The samples therefore do not
depend on how many devices hold the walkers.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction.networks import Spins

LogPsi = Callable[[jax.Array], jax.Array]  # electrons (walker, electron, 3) -> log|psi| (walker,)

# Relative change of the width per unit of excess acceptance and iteration. The noise of the
# measured acceptance, 0.03 with 256 walkers, then moves the width by well under one per cent.
ADAPTATION_GAIN = 0.2
# Widths settled at 0.3 for two electrons and at 0.08 for fourteen. So far away from the configured
# width, the acceptance no longer depends on it.
WIDTH_RANGE = 1000.0

RELOCATION_PERIOD = 10  # one move in ten goes from atom to atom, which costs Gaussian moves little


class Walkers(NamedTuple):
    """electrons: (walker, electron, 3), bohr; number: (walker,), counted over all devices."""

    electrons: jax.Array
    number: jax.Array


class Relocation(NamedTuple):
    """Moves from atom to atom, arrays (walker,).

    exchange: whether the electrons `up` and `down` exchange their places. Otherwise the electron
    `which` is carried to the nucleus that comes `turn` after its own; with 0 it stays.
    """

    exchange: jax.Array
    up: jax.Array
    down: jax.Array
    which: jax.Array
    turn: jax.Array


class Info(NamedTuple):
    """accepted: (walker,), fraction of this walker's Gaussian moves that were accepted."""

    accepted: jax.Array


Kernel = Callable[[jax.Array, Walkers, jax.Array], tuple[Walkers, Info]]


def walkers(electrons: jax.Array) -> Walkers:
    """Number the walkers (walker, electron, 3)."""
    return Walkers(electrons, jnp.arange(electrons.shape[0], dtype=jnp.int32))


def _walker_randoms(key: jax.Array, w: Walkers) -> tuple[jax.Array, jax.Array]:
    """A Gaussian step (walker, electron, 3) and the log of a uniform number (walker,).

    Each walker has its own stream of random numbers.
    """

    def draw(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        step_key, accept_key = jax.random.split(jax.random.fold_in(key, number))
        step = jax.random.normal(step_key, w.electrons.shape[1:], w.electrons.dtype)
        uniform = jax.random.uniform(
            accept_key, (), w.electrons.dtype, minval=jnp.finfo(w.electrons.dtype).tiny
        )
        return step, jnp.log(uniform)

    return jax.vmap(draw)(w.number)


def _squares(electrons: jax.Array, nuclei: Nuclei) -> list[jax.Array]:
    """Squared distances (...) of electrons (..., 3) from each nucleus.

    Sums and minima over a few terms are written out here: a GPU then needs no kernel for them.
    """
    x = [electrons[..., None, a] - nuclei.positions[:, a] for a in range(3)]
    squares = x[0] ** 2 + x[1] ** 2 + x[2] ** 2
    return [squares[..., m] for m in range(nuclei.positions.shape[0])]


def _nearest(electrons: jax.Array, nuclei: Nuclei) -> jax.Array:
    """The nucleus nearest to each electron (..., 3): its number (...)."""
    first, *others = _squares(electrons, nuclei)
    least, number = first, jnp.zeros(first.shape, int)
    for m, square in enumerate(others, start=1):
        number = jnp.where(square < least, m, number)
        least = jnp.minimum(square, least)
    return number


def length(electrons: jax.Array, nuclei: Nuclei) -> jax.Array:
    """The length (..., electron), bohr, over which |psi|^2 changes at each electron.

    It is the distance to the nearest nucleus, and the radius 1/Z of the 1s shell inside that shell:

        l(r) = min_m sqrt(|r - R_m|^2 + 1 / Z_m^2)
    """
    squares = _squares(electrons, nuclei)
    inside = [s + 1.0 / z**2 for s, z in zip(squares, nuclei.charges, strict=True)]
    return jnp.sqrt(functools.reduce(jnp.minimum, inside))


def log_proposal_ratio(step: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
    """log q(r | r') - log q(r' | r) of steps r' - r = width * l(r) * step of single electrons.

    Args:
        step: (walker, electron, 3), in units of the width at the start
        before: l(r), (walker, electron), bohr
        after: l(r'), (walker, electron), bohr

    Returns:
        (walker, electron); that of all electrons is their sum.
    """
    ratio = before / after
    squares = jnp.sum(step**2, axis=-1)
    return 3.0 * jnp.log(ratio) + 0.5 * squares * (1.0 - ratio**2)


def _draw_relocation(key: jax.Array, number: jax.Array, spins: Spins, nuclei: int) -> Relocation:
    """One stream per walker, as in `_walker_randoms`."""

    def draw(number: jax.Array) -> Relocation:
        uniform = jax.random.uniform(jax.random.fold_in(key, number), (5,))
        ranges = jnp.asarray([spins[0], max(spins[1], 1), sum(spins), nuclei - 1])
        up, down, which, turn = jnp.minimum(uniform[1:] * ranges, ranges - 1).astype(int)
        half = uniform[0] < 0.5
        if min(spins) > 0:
            return Relocation(half, up, spins[0] + down, which, 1 + turn)
        # No pair of opposite spins exists. Half of the proposals leave the walker in place. If all
        # of them carried an electron, symmetry would accept nearly all, and all walkers
        # would change atoms at the same time.
        return Relocation(jnp.asarray(False), up, up, which, jnp.where(half, 0, 1 + turn))

    return jax.vmap(draw)(number)


def _draw_call(
    key: jax.Array, number: jax.Array, spins: Spins, nuclei: int, moves: int
) -> tuple[Relocation | None, jax.Array | int]:
    """The relocations of a call of so many moves, (relocation, walker), and their phase.

    Move i is a relocation where i + phase + 1 is a multiple of the period. An atom has none. They
    are drawn before the loop: each of its moves would draw again, and use one draw in ten.
    """
    if nuclei < 2:
        return None, 0

    count = -(-moves // RELOCATION_PERIOD)
    numbers = jnp.asarray([*range(moves + 1, moves + 1 + count), 2 * moves + 1])
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers)
    phase = (jax.random.bits(keys[-1]) % RELOCATION_PERIOD).astype(int)
    drawn = jax.vmap(lambda own: _draw_relocation(own, number, spins, nuclei))(keys[:-1])
    return drawn, phase


def _relocate(
    electrons: jax.Array, drawn: Relocation, nuclei: Nuclei
) -> tuple[jax.Array, jax.Array]:
    """The proposals of relocations (walker, electron, 3), and the log ratios that they bring.

    A relocation is proposed as often as its reverse, so |psi'|^2 / |psi|^2 alone decides. Walkers
    thus pass between spin patterns, and between neutral atoms and ions, across bonds too long for a
    Gaussian step. An electron that arrives nearer to a third nucleus than to its target could not
    return, which would break detailed balance: its log ratio (walker, electron) is -inf, and that
    of all others 0.
    """
    index = jnp.arange(electrons.shape[1])
    d = Relocation(*(x[:, None] for x in drawn))
    order = jnp.where(index == d.up, d.down, jnp.where(index == d.down, d.up, index))
    exchanged = jnp.take_along_axis(electrons, order[..., None], axis=1)
    home = _nearest(electrons, nuclei)
    target = (home + d.turn) % nuclei.positions.shape[0]
    moved = electrons + (nuclei.positions[target] - nuclei.positions[home])
    carried = ~d.exchange & (index == d.which)
    lost = carried & (_nearest(moved, nuclei) != target)
    proposal = jnp.where(carried[..., None], moved, electrons)
    proposal = jnp.where(d.exchange[..., None], exchanged, proposal)
    return proposal, jnp.where(lost, -jnp.inf, 0.0)


def _propose(
    electrons: jax.Array, step: jax.Array, width: jax.Array, nuclei: Nuclei
) -> tuple[jax.Array, jax.Array]:
    """Gaussian proposals, and `log_proposal_ratio` of them; see `make_kernel`."""
    before = length(electrons, nuclei)
    proposal = electrons + width * before[..., None] * step
    return proposal, log_proposal_ratio(step, before, length(proposal, nuclei))


def _block(moves: int) -> int:
    """Moves whose random numbers are drawn at once: a divisor of their number.

    A GPU spends longer on launching the kernels that draw than on drawing; all numbers of a long
    call would fill its memory. A single move may be followed by another (`make_kernel`).
    """
    return 2 if moves == 1 else max(n for n in range(1, 11) if moves % n == 0)


def make_kernel(log_psi: LogPsi, nuclei: Nuclei, spins: Spins, moves: int) -> Kernel:
    """A kernel of `moves` Metropolis moves (Metropolis et al. 1953) in the density |psi|^2.

    A move proposes new places for all electrons at once. In molecules one move in ten is one of one
    or two electrons from atom to atom instead (`_relocate`). Which move of a call is the first of
    these is drawn for each call, so that they occur in calls of a few moves too.

    Each electron is proposed r + width * l(r) * normal, so that the 1s shells of heavy atoms do not
    hold up all others (position-dependent steps: Umrigar, doi:10.1103/PhysRevLett.71.408). Since l
    depends on r, detailed balance needs the ratio of the proposals' densities next to
    |psi'|^2 / |psi|^2 (Hastings, doi:10.1093/biomet/57.1.97). A proposal whose density is not a
    number is rejected. A walker whose own density vanishes (log = -inf) accepts the first proposal
    with a finite one.

    Args:
        log_psi: electrons (walker, electron, 3), bohr -> log|psi| (walker,)
        nuclei: from which `length` and the targets of relocations are taken
        spins: numbers of up and down electrons, up first
        moves: number of moves. A call with a single move that goes from atom to atom adds a
            Gaussian one, so that every call measures the acceptance.

    Returns:
        kernel(key, walkers, width) -> (walkers, info). The key differs from call to call. The width
        is the standard deviation of a coordinate's step in units of `length`; it is an argument
        because it is adapted between calls.
    """

    def kernel(key: jax.Array, state: Walkers, width: jax.Array) -> tuple[Walkers, Info]:
        drawn, phase = _draw_call(key, state.number, spins, nuclei.positions.shape[0], moves)
        relocations = (moves + phase) // RELOCATION_PERIOD if drawn is not None else 0

        def move(i: jax.Array, carry: Any, step: jax.Array, log_uniform: jax.Array) -> Any:
            electrons, log, accepted = carry
            proposal, bias = _propose(electrons, step, width, nuclei)
            gaussian = jnp.asarray(True)
            if drawn is not None:
                gaussian = (i + phase + 1) % RELOCATION_PERIOD != 0
                own = jax.tree.map(lambda x: x[i // RELOCATION_PERIOD], drawn)
                relocated = _relocate(electrons, own, nuclei)
                proposal = jnp.where(gaussian, proposal, relocated[0])
                bias = jnp.where(gaussian, bias, relocated[1])
            new = 2.0 * log_psi(proposal)
            # A NaN on either side compares false. A walker at a NaN is freed by any finite
            # proposal.
            take = (log_uniform < new - log + jnp.sum(bias, axis=-1)) | (
                jnp.isfinite(new) & ~jnp.isfinite(log)
            )
            electrons = jnp.where(take[:, None, None], proposal, electrons)
            return electrons, jnp.where(take, new, log), accepted + (take & gaussian)

        def block_of_moves(k: jax.Array | int, carry: Any) -> Any:
            first = k * block
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(block))
            steps, log_uniforms = jax.vmap(lambda own: _walker_randoms(own, state))(keys)
            return jax.lax.fori_loop(
                0, made, lambda i, c: move(first + i, c, steps[i], log_uniforms[i]), carry
            )

        block = _block(moves)
        made = 1 + relocations if moves == 1 else block
        log = 2.0 * log_psi(state.electrons)
        start = (state.electrons, log, jnp.zeros(state.number.shape, state.electrons.dtype))
        blocks = max(1, moves // block)
        if blocks == 1:
            electrons, _, accepted = block_of_moves(0, start)
        else:
            electrons, _, accepted = jax.lax.fori_loop(0, blocks, block_of_moves, start)
        return Walkers(electrons, state.number), Info(accepted / (made * blocks - relocations))

    return kernel


def adapt_width(width: jax.Array, pmove: jax.Array, target: float) -> jax.Array:
    """A larger width after too many acceptances, a smaller one after too few.

    Not for use while measuring: an adapted width spoils detailed balance.
    """
    return width * jnp.exp(ADAPTATION_GAIN * (pmove - target))


def frozen(accepted: jax.Array, window_ends: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Update the accepted moves of each walker (walker,).

    Returns:
        The accepted moves, set to zero where a window ends; and 1.0 for each walker that accepted
        none in a window that ends, else 0.0.
    """
    stuck = jnp.where(window_ends & (accepted == 0), 1.0, 0.0).astype(accepted.dtype)
    return jnp.where(window_ends, jnp.zeros_like(accepted), accepted), stuck


def width_notes(widths: np.ndarray, start: float) -> tuple[str, ...]:
    """A line if the last of the widths is far from any that a molecule needs."""
    width = float(widths[-1])
    if start / WIDTH_RANGE < width < start * WIDTH_RANGE:
        return ()
    way = "collapsed" if width < start else "grown"
    return (f"the MCMC width has {way} to {width:.3g} (mcmc.width is {start:g})",)

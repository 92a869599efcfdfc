"""Metropolis sampling of |psi|^2 with all-electron Gaussian moves, shorter near the nuclei, and
with moves of one or two electrons from atom to atom.

A kernel maps (key, state) to (state, info). Random numbers belong to walkers: the key of a walker's
move is the stage's key folded with the move's number and the walker's number over all devices, so
the samples do not depend on how many devices hold them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction.networks import Spins

LogDensity = Callable[[jax.Array], jax.Array]

# Relative change of the width per unit of excess acceptance and iteration; small enough that noise
# of the measured acceptance (0.03 with 256 walkers) moves the width by well under one per cent.
ADAPTATION_GAIN = 0.2
# Widths settled at 0.3 for two electrons and at 0.08 for fourteen; so far away from the configured
# one, acceptance no longer depends on it.
WIDTH_RANGE = 1000.0

RELOCATION_PERIOD = 10  # seldom enough to cost the Gaussian moves little


class Walkers(NamedTuple):
    """electrons: (walker, electron, 3), bohr; number: (walker,), counted over all
    devices."""

    electrons: jax.Array
    number: jax.Array


class Relocation(NamedTuple):
    """What moves from atom to atom, (walker,) each. exchange: whether the electrons `up` and `down`
    exchange their places, or else the electron `which` is carried to the nucleus that comes `turn`
    after its own."""

    exchange: jax.Array
    up: jax.Array
    down: jax.Array
    which: jax.Array
    turn: jax.Array


class Info(NamedTuple):
    """accepted: (walker,), fraction of this walker's Gaussian moves that were accepted."""

    accepted: jax.Array


def walkers(electrons: jax.Array) -> Walkers:
    """Number the walkers (walker, electron, 3)."""
    return Walkers(electrons, jnp.arange(electrons.shape[0], dtype=jnp.int32))


def _walker_randoms(key: jax.Array, w: Walkers) -> tuple[jax.Array, jax.Array]:
    """A Gaussian step (walker, electron, 3) and log of a uniform number (walker,), one stream per
    walker."""

    def draw(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        step_key, accept_key = jax.random.split(jax.random.fold_in(key, number))
        step = jax.random.normal(step_key, w.electrons.shape[1:], w.electrons.dtype)
        uniform = jax.random.uniform(
            accept_key, (), w.electrons.dtype, minval=jnp.finfo(w.electrons.dtype).tiny
        )
        return step, jnp.log(uniform)

    return jax.vmap(draw)(w.number)


def length(electrons: jax.Array, nuclei: Nuclei) -> jax.Array:
    """The scale (..., electron), bohr, on which |psi|^2 changes where an electron is: its distance
    to the nearest nucleus, but in the 1s shell the shell's radius 1/Z.

        l(r) = min_m sqrt(|r - R_m|^2 + 1 / Z_m^2)
    """
    squares = jnp.sum((electrons[..., None, :] - nuclei.positions) ** 2, axis=-1)
    return jnp.sqrt(jnp.min(squares + 1.0 / nuclei.charges**2, axis=-1))


def log_proposal_ratio(step: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
    """log q(r | r') - log q(r' | r) (walker,) of steps r' - r = width * l(r) * step.

    Args:
        step: (walker, electron, 3), in units of the width at the start
        before, after: l(r) and l(r') (walker, electron)
    """
    ratio = before / after
    squares = jnp.sum(step**2, axis=-1)
    return jnp.sum(3.0 * jnp.log(ratio) + 0.5 * squares * (1.0 - ratio**2), axis=-1)


def _draw_relocation(key: jax.Array, number: jax.Array, spins: Spins, nuclei: int) -> Relocation:
    """One stream per walker, as in `_walker_randoms`."""

    def draw(number: jax.Array) -> Relocation:
        uniform = jax.random.uniform(jax.random.fold_in(key, number), (5,))
        ranges = jnp.asarray([spins[0], max(spins[1], 1), sum(spins), nuclei - 1])
        up, down, which, turn = jnp.minimum(uniform[1:] * ranges, ranges - 1).astype(int)
        exchange = (uniform[0] < 0.5) & (min(spins) > 0)
        return Relocation(exchange, up, spins[0] + down, which, 1 + turn)

    return jax.vmap(draw)(number)


def _relocate(
    electrons: jax.Array, drawn: Relocation, nuclei: Nuclei
) -> tuple[jax.Array, jax.Array]:
    """The proposal (walker, electron, 3) of a relocation, and which of them have a way back
    (walker,).

    Each is proposed as often as its reverse, so that |psi'|^2 / |psi|^2 alone decides. Walkers so
    pass between spin patterns, and between neutral atoms and ions, where bonds are so long that no
    Gaussian step spans them. An electron that would arrive nearer to a third nucleus than to the
    one it is carried to would not come back from there, which would break detailed balance.
    """

    def nearest(x: jax.Array) -> jax.Array:
        return jnp.argmin(jnp.sum((x - nuclei.positions) ** 2, axis=-1))

    def propose(electrons: jax.Array, d: Relocation) -> tuple[jax.Array, jax.Array]:
        index = jnp.arange(electrons.shape[0])
        order = jnp.where(index == d.up, d.down, jnp.where(index == d.down, d.up, index))
        exchanged = electrons[order]
        home = nearest(electrons[d.which])
        target = (home + d.turn) % nuclei.positions.shape[0]
        moved = electrons[d.which] + nuclei.positions[target] - nuclei.positions[home]
        carried = jnp.where((index == d.which)[:, None], moved, electrons)
        returns = nearest(moved) == target
        return jnp.where(d.exchange, exchanged, carried), d.exchange | returns

    return jax.vmap(propose)(electrons, drawn)


def sample(
    key: jax.Array,
    state: Walkers,
    log_density: LogDensity,
    nuclei: Nuclei,
    spins: Spins,
    width: jax.Array,
    moves: int,
) -> tuple[Walkers, Info]:
    """`moves` Metropolis moves (Metropolis et al. 1953) of all electrons at once; of molecules
    every tenth is one of one or two electrons from atom to atom instead (`_relocate`).

    Each electron is proposed r + width * l(r) * normal, so that the 1s shells of heavy atoms do not
    hold up all others (position-dependent steps: Umrigar, doi:10.1103/PhysRevLett.71.408). Since l
    depends on r, detailed balance needs the ratio of the proposals' densities beside
    |psi'|^2 / |psi|^2 (Hastings, doi:10.1093/biomet/57.1.97). A proposal whose density is not a
    number is rejected; a walker whose own density vanishes (log = -inf) accepts the first proposal
    with a finite one.

    Args:
        key: of this call; differs from call to call
        state: walkers
        log_density: electrons (walker, electron, 3) -> log|psi|^2 (walker,)
        nuclei: which `length` is taken from
        spins: numbers of up and down electrons, up first
        width: standard deviation of a coordinate's step in units of `length`
        moves: number of moves
    """
    n_nuclei = nuclei.positions.shape[0]
    relocations = moves // RELOCATION_PERIOD if n_nuclei > 1 else 0

    def draw(i: jax.Array) -> Relocation:
        own_key = jax.random.fold_in(key, moves + i)
        return _draw_relocation(own_key, state.number, spins, n_nuclei)

    # Before the loop: every move of it would draw anew, and use one in ten.
    drawn = jax.vmap(draw)(jnp.arange(relocations)) if relocations else None

    def move(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        electrons, log, accepted = carry
        step, log_uniform = _walker_randoms(
            jax.random.fold_in(key, i), Walkers(electrons, state.number)
        )
        before = length(electrons, nuclei)
        proposal = electrons + width * before[..., None] * step
        bias = log_proposal_ratio(step, before, length(proposal, nuclei))
        gaussian = jnp.asarray(True)
        if drawn is not None:
            gaussian = (i + 1) % RELOCATION_PERIOD != 0
            own = jax.tree.map(lambda x: x[i // RELOCATION_PERIOD], drawn)
            relocated, returns = _relocate(electrons, own, nuclei)
            proposal = jnp.where(gaussian, proposal, relocated)
            bias = jnp.where(gaussian, bias, jnp.where(returns, 0.0, -jnp.inf))
        new = log_density(proposal)
        # A NaN on either side compares false; a walker that holds one is freed by any finite
        # proposal.
        take = (log_uniform < new - log + bias) | (jnp.isfinite(new) & ~jnp.isfinite(log))
        electrons = jnp.where(take[:, None, None], proposal, electrons)
        return electrons, jnp.where(take, new, log), accepted + (take & gaussian)

    start = (
        state.electrons,
        log_density(state.electrons),
        jnp.zeros(state.number.shape, state.electrons.dtype),
    )
    electrons, _, accepted = jax.lax.fori_loop(0, moves, move, start)
    return Walkers(electrons, state.number), Info(accepted / (moves - relocations))


def adapt_width(width: jax.Array, pmove: jax.Array, target: float) -> jax.Array:
    """A wider step after too many acceptances, a narrower one after too few (outside
    measurements)."""
    return width * jnp.exp(ADAPTATION_GAIN * (pmove - target))


def frozen(accepted: jax.Array, window_ends: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Accepted moves of each walker (walker,), set to zero where a window ends, and 1.0 for each
    walker that accepted none in it (0.0 inside a window)."""
    stuck = jnp.where(window_ends & (accepted == 0), 1.0, 0.0).astype(accepted.dtype)
    return jnp.where(window_ends, jnp.zeros_like(accepted), accepted), stuck


def width_notes(widths: np.ndarray, start: float) -> tuple[str, ...]:
    """A line where the last of the widths is far from any that a molecule needs."""
    width = float(widths[-1])
    if start / WIDTH_RANGE < width < start * WIDTH_RANGE:
        return ()
    way = "collapsed" if width < start else "grown"
    return (f"the MCMC width has {way} to {width:.3g} (mcmc.width is {start:g})",)

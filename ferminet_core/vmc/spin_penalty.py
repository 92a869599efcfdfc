"""A penalty on spins above the wanted one.

States of different total spin come close in energy where a bond is stretched. The energy alone
therefore lets a wavefunction drift into a mixture of them, or keep the mixture that an unrestricted
reference starts from. With S_z = M, the operator

    S_- S_+ = S^2 - M (M + 1) = sum_{b down} (1 - sum_{a up} P_ab)

has the eigenvalues S (S + 1) - M (M + 1): 0 for S = M, and more for every higher spin. P_ab
exchanges the places of two electrons. The operator commutes with H: the penalty moves no
eigenstate, it only chooses among them.
"""

import jax
import jax.numpy as jnp

from ferminet_core.parallel import platform
from ferminet_core.vmc.mcmc import Walkers
from ferminet_core.vmc.observables.total_spin import exchange
from ferminet_core.wavefunction.networks import SignedLog, Spins

# Walkers of one evaluation of psi on a GPU: enough to fill it, and few enough for its memory. A CPU
# evaluates one exchange at a time, in its caches.
TOGETHER = 2**15

_STREAM = 2**31 - 1  # apart from the numbers of the moves, which share the iteration's key


def acts(spins: Spins) -> bool:
    """Whether spins other than S = M exist: there are electrons of both spins."""
    return min(spins) > 0


def draw_down(key: jax.Array, number: jax.Array, spins: Spins) -> jax.Array:
    """The index (walker,) of a spin-down electron of each walker.

    Each walker has its own stream, as for its moves: the draw does not depend on the devices.

    Args:
        key: of the iteration
        number: (walker,), of `mcmc.Walkers`
        spins: (n_up, n_down), n_down > 0
    """
    own = jax.random.fold_in(key, _STREAM)

    def draw(number: jax.Array) -> jax.Array:
        return jax.random.randint(jax.random.fold_in(own, number), (), 0, spins[1], jnp.int32)

    return spins[0] + jax.vmap(draw)(number)


def raised(psi: SignedLog, electrons: jax.Array, spins: Spins, down: jax.Array) -> jax.Array:
    """n_down (1 - sum_a psi(r_a <-> r_b) / psi), (walker,), with b the electron `down`.

    Its mean over all spin-down electrons is (S_- S_+ psi) / psi.

    Args:
        psi: electrons (walker, electron, 3) -> sign and log|psi|
        electrons: (walker, electron, 3), bohr, spin up first
        spins: (n_up, n_down)
        down: (walker,), index of a spin-down electron of each walker
    """
    walkers = electrons.shape[0]

    def exchanged(up: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The last one exchanges the electron with itself.
        with_itself = up == spins[0]
        return psi(exchange(electrons, jnp.where(with_itself, down, up), down))

    batch = None if platform.on_cpu() else max(1, TOGETHER // walkers)
    sign, log = jax.lax.map(exchanged, jnp.arange(spins[0] + 1), batch_size=batch)
    ratios = sign[-1] * sign[:-1] * jnp.exp(log[:-1] - log[-1])
    return spins[1] * (1.0 - jnp.sum(ratios, axis=0))


def added_energy(
    psi: SignedLog, walkers: Walkers, spins: Spins, strength: jax.Array, key: jax.Array
) -> jax.Array:
    """Hartree to add to each local energy, (walker,): an estimate of strength (S_- S_+ psi) / psi.

    One spin-down electron is drawn for each walker. All of them would take n_down times as many
    evaluations of psi, for a variance that is small next to that of the local energy.

    Args:
        psi: as for `raised`
        walkers: electrons (walker, electron, 3), bohr, spin up first, and their numbers
        spins: (n_up, n_down), n_down > 0
        strength: hartree, a scalar; 0 adds 0, and psi is not evaluated
        key: of the iteration
    """

    def penalty() -> jax.Array:
        down = draw_down(key, walkers.number, spins)
        return strength * raised(psi, walkers.electrons, spins, down)

    # One executable serves all runs of a scan, and most of them have no penalty.
    return jax.lax.cond(strength > 0, penalty, lambda: jnp.zeros_like(walkers.electrons[:, 0, 0]))

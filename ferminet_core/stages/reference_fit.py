"""How close a network is to the Hartree-Fock orbitals that it is fitted to.

Three numbers of growing cost and meaning. The misfit compares orbitals. The scatter of
log|psi / psi_T| compares determinants. The energy of psi above that of psi_T says what the
difference costs. psi is the network without its Jastrow factor, and psi_T is psi with the targets
in place of its orbitals: the Hartree-Fock determinant, or for a spin-broken reference a sum of two.

Local energies alone do not resolve that energy. Their noise comes from the cores, and with a
thousand samples it is hundreds of millihartree in neon. With delta = psi - c psi_T the energy is

    E[psi] - E[psi_T] = (<delta|H - E_T|delta> + 2 c <(H - E_T) psi_T|delta>) / <psi|psi>,

where psi_T's own expectation value has dropped out, and E_T with it in the second term. The first
term, with the kinetic energy as |grad delta|^2 / 2, is of second order in delta. The second is of
first order. It vanishes for an eigenfunction psi_T, and its noise falls with delta.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ferminet_core.chemistry import orbitals
from ferminet_core.parallel import collectives
from ferminet_core.vmc.hamiltonian import Nuclei, potential_energy
from ferminet_core.vmc.pseudopotentials import semilocal_energy
from ferminet_core.wavefunction import ansatz, networks
from ferminet_core.wavefunction.determinants import log_sum_determinants
from ferminet_core.wavefunction.moved_electron import Ratios, full_ratios
from ferminet_core.wavefunction.networks import Params, Spins

# Bohr^-3, added to the squared norm of a target's row, which is the reference's density of that
# spin at the electron. The surface of a molecule is usually drawn at this density (Bader et al., J.
# Am. Chem. Soc. 109, 7968, 1987). Farther out, relative errors of the vanishing targets mean
# nothing, but density that the network puts there does.
SURFACE_DENSITY = 1e-3

CLIP = 5.0  # half-width of the window of contributions to the energy, in mean absolute deviations
_RATIO_PASSES = 10  # for the ratio of two norms; one is enough for equal wavefunctions


def target_matrices(
    reference: orbitals.Determinants,
    electrons: jax.Array,
    nuclei: jax.Array,
    spins: Spins,
    n_determinants: int,
    form: str,
) -> list[jax.Array]:
    """The targets of the network's orbitals, shaped like `networks.orbitals`.

    Determinant k takes determinant k mod D of the reference. Rows of dense determinants hold zeros
    for the orbitals of the other spin.
    """
    up, down = orbitals.occupied_orbitals(reference, electrons, nuclei)
    targets, start = [], 0
    for block, n in zip((up, down), spins, strict=True):
        if n == 0:
            continue
        order = np.arange(n_determinants) % block.shape[-3]
        target = block[..., order, :, :]
        if form == "dense":
            pad = [(0, 0)] * (target.ndim - 1) + [(start, sum(spins) - start - n)]
            target = jnp.pad(target, pad)
        targets.append(target)
        start += n
    return targets


def misfit(found: list[jax.Array], targets: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Sums over all rows of |difference|^2 and of |target|^2, each relative to the target's row.

    A row holds the orbitals of one determinant at one electron. Dividing it by a number changes
    the determinant by a factor only, so what counts is the difference relative to the row. Without
    the division nearly all of the sum would come from the cores, where orbitals are large. The two
    determinants of a spin-broken reference share a row's size: where one of them is small, it
    matters little how well it is fitted.

    Args:
        found: of each spin (..., determinant, electron, orbital), bohr^(-3/2)
        targets: like `found`

    Returns:
        The two sums; the root of their ratio is the relative misfit.
    """
    difference, size = jnp.zeros(()), jnp.zeros(())
    for f, t in zip(found, targets, strict=True):
        density = jnp.mean(jnp.sum(t**2, axis=-1, keepdims=True), axis=-3, keepdims=True)
        difference += jnp.sum((f - t) ** 2 / (density + SURFACE_DENSITY))
        size += jnp.sum(t**2 / (density + SURFACE_DENSITY))
    return difference, size


class Samples(NamedTuple):
    """What the walkers of both densities tell about psi and psi_T; arrays (..., walker).

    log_ratio: log|psi / psi_T|
    log_scale: log of s, the larger of |psi| and c |psi_T|
    numerator: of the energy above psi_T's, hartree, and denominator: psi^2; both divided by s^2
    log_reference, log_network: logs of the roots of the densities that the walkers follow
    """

    log_ratio: jax.Array
    log_scale: jax.Array
    numerator: jax.Array
    denominator: jax.Array
    log_reference: jax.Array
    log_network: jax.Array


class Reading(NamedTuple):
    """How far psi is from psi_T.

    excess: energy of psi above that of psi_T, clipped, hartree; error: its standard error
    scatter: standard deviation of log|psi / psi_T| over the walkers of the reference
    """

    excess: float
    error: float
    scatter: float


class _Target(NamedTuple):
    """psi_T (walker,) as sign and log; gradient (walker, electron, 3) and Laplacian over psi_T."""

    sign: jax.Array
    log: jax.Array
    gradient: jax.Array
    laplacian: jax.Array


def _target(
    reference: orbitals.Determinants, weights: jax.Array, electrons: jax.Array, nuclei: jax.Array
) -> _Target:
    """sum_d w_d det_up det_down with derivatives.

    A row of a determinant depends on one electron. Moving all electrons along an axis thus gives
    the derivatives of all rows at once.
    """

    def rows(x: jax.Array) -> tuple[jax.Array, ...]:
        found = orbitals.occupied_orbitals(reference, x, nuclei)
        return tuple(block for block in found if block.shape[-1])

    def along(axis: jax.Array) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        direction = jnp.zeros_like(electrons).at[..., axis].set(1.0)

        def slope(x: jax.Array) -> tuple[jax.Array, ...]:
            return jax.jvp(rows, (x,), (direction,))[1]

        return jax.jvp(slope, (electrons,), (direction,))

    first, second = jax.lax.map(along, jnp.arange(3))
    sign, log = jnp.ones(()), jnp.zeros(())
    gradients, laplacian = [], jnp.zeros(())
    for block, slope, curve in zip(rows(electrons), first, second, strict=True):
        found = jnp.linalg.slogdet(block)
        sign, log = sign * found.sign, log + found.logabsdet
        inverse = jnp.linalg.inv(block)
        gradients.append(jnp.einsum("xwdij,wdji->wdix", slope, inverse))
        laplacian += jnp.einsum("xwdij,wdji->wd", curve, inverse)
    gradient = jnp.concatenate(gradients, axis=-2)
    top = jnp.max(log, axis=-1, keepdims=True)
    parts = weights * sign * jnp.exp(log - top)
    total = jnp.sum(parts, axis=-1)
    share = parts / total[:, None]
    # The other determinant of a stretched bond may vanish, and has no inverse then.
    absent = share == 0
    gradient = jnp.where(absent[..., None, None], 0.0, share[..., None, None] * gradient)
    laplacian = jnp.where(absent, 0.0, share * laplacian)
    return _Target(
        jnp.sign(total),
        top[:, 0] + jnp.log(jnp.abs(total)),
        jnp.sum(gradient, axis=1),
        jnp.sum(laplacian, axis=1),
    )


def samples(
    params: Params,
    reference: orbitals.Determinants,
    electrons: jax.Array,
    nuclei: Nuclei,
    spins: Spins,
    e_hf: jax.Array,
) -> Samples:
    """Compare psi with psi_T at the walkers; call inside `shard_map` over them.

    Args:
        params: from `networks.init`
        reference: the determinants
        electrons: (walker on this device, electron, 3), bohr; as many of the reference's density
            as of the network's
        nuclei: positions and charges
        spins: (n_up, n_down)
        e_hf: E_T, hartree; near enough for two determinants, as it multiplies delta^2 only
    """
    positions = nuclei.positions
    factors = params["determinants"]["w"]
    n_reference = reference.mo_up.shape[0]
    weights = jnp.zeros(n_reference, factors.dtype)
    weights = weights.at[np.arange(factors.size) % n_reference].add(factors)

    def log_network(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        matrices = ansatz.assemble(networks.orbitals(params, x, positions, spins))
        sign, log = log_sum_determinants(matrices, factors)
        return jnp.sum(log), (sign, log)

    slope, (sign, log) = jax.grad(log_network, has_aux=True)(electrons)
    target = _target(reference, weights, electrons, positions)
    log_ratio = log - target.log
    # c has the ratio's mean size and its usual sign.
    shift, parity = collectives.mean((jnp.mean(log_ratio), jnp.mean(sign * target.sign)))
    log_target = target.log + shift
    log_scale = jnp.maximum(log, log_target)
    psi = sign * jnp.exp(log - log_scale)
    psi_t = jnp.sign(parity) * target.sign * jnp.exp(log_target - log_scale)
    delta = psi - psi_t
    gradient = psi[:, None, None] * slope - psi_t[:, None, None] * target.gradient
    potential = potential_energy(electrons, nuclei) - e_hf
    first_order = 2.0 * delta * psi_t * (potential - 0.5 * target.laplacian)
    second_order = 0.5 * jnp.sum(gradient**2, axis=(-2, -1)) + potential * delta**2
    numerator = second_order + first_order
    if nuclei.potentials is not None:
        # delta V delta + 2 delta V psi_T, V being the part that is not local.
        ratios = _ratios(params, reference, weights, electrons, positions, spins)
        own, other = (
            semilocal_energy(nuclei.potentials, electrons, positions, each) for each in ratios
        )
        numerator = numerator + delta * (psi * own + psi_t * other)
    return Samples(
        log_ratio,
        log_scale,
        numerator,
        psi**2,
        orbitals.log_abs_hf(reference, electrons, positions),
        networks.log_psi(params, positions, spins)(electrons),
    )


def _ratios(
    params: Params,
    reference: orbitals.Determinants,
    weights: jax.Array,
    electrons: jax.Array,
    positions: jax.Array,
    spins: Spins,
) -> tuple[Ratios, Ratios]:
    """Ratios of psi and of psi_T at the walkers."""

    def psi_t(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        sign, log = jnp.ones(()), jnp.zeros(())
        for block in orbitals.occupied_orbitals(reference, x, positions):
            if block.shape[-1]:
                found = jnp.linalg.slogdet(block)
                sign, log = sign * found.sign, log + found.logabsdet
        total, sign = jax.nn.logsumexp(log, axis=-1, b=weights * sign, return_sign=True)
        return sign, total

    without = {name: part for name, part in params.items() if name != "jastrow"}
    network = networks.ratios(without, electrons, positions, spins)
    return network, full_ratios(psi_t, electrons)


def read(reference: Samples, network: Samples) -> Reading:
    """The reading from samples (sweep, walker) of each density.

    Both sets serve as one sample of the average of the two densities. Where one wavefunction has a
    node, the other's walkers keep the weights finite. Contributions are clipped as local energies
    are in the optimisation: a walker in a thousand, with an electron far outside of the molecule,
    would otherwise contribute most of the error. The excess is that of all but these.

    Sweeps of one walker depend on each other, so the error is that of independent walkers.

    Args:
        reference: at walkers of the reference's density
        network: at as many walkers of the network's density
    """
    scatter = float(np.std(np.asarray(reference.log_ratio, np.float64)))
    both = [np.stack(pair).astype(np.float64) for pair in zip(reference, network, strict=True)]
    _, log_scale, numerator, denominator, log_reference, log_network = both
    # log of the network's density over the reference's, not normalised.
    gap = 2.0 * (log_network - log_reference)
    middle = np.median(gap)
    ratio = np.exp(gap - middle)
    norm = 1.0
    for _ in range(_RATIO_PASSES):
        # Bennett's ratio of the norms, as both densities are sampled.
        norm *= np.mean(ratio[0] / (ratio[0] + norm)) / np.mean(norm / (ratio[1] + norm))
    weight = np.exp(2.0 * (log_scale - log_reference) - middle) / (norm + ratio)
    share = weight * denominator / np.mean(weight * denominator)
    energy = weight * numerator / np.mean(weight * denominator)
    centre = np.median(energy)
    window = CLIP * np.mean(np.abs(energy - centre))
    energy = np.clip(energy, centre - window, centre + window)
    excess = np.mean(energy)
    residual = np.mean(energy - excess * share, axis=1)  # (density, walker)
    variance = np.mean(np.var(residual, axis=1, ddof=1)) / residual.size
    return Reading(float(excess), float(np.sqrt(variance)), scatter)

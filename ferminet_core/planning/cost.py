"""The cost of a run, counted from its settings: operations, memory traffic, memory and volumes.

A part of an iteration is a list of kernels (module `kernels`): matrix products, and sweeps over
arrays between them. Each kernel has its number of floating-point operations and of numbers moved.

The counts leave out what is small compared with a network: the Hartree-Fock orbitals of the
pretraining, sums over walkers, and matrices near a node, which are computed a second time
(`determinants.mend`). They also leave out the spin penalty, `n_up + 1` evaluations of the network
in an iteration, which acts at few geometries: only Hartree-Fock tells at which. The same holds for
the parity penalty, but it takes few evaluations and is counted wherever equal nuclei allow it.
"""

import math

from ferminet_core.inputs.config import CHECK_SWEEPS, RECORDS_PER_CALL, Config
from ferminet_core.planning.kernels import Load, Work, repeat, sweep
from ferminet_core.planning.network_sizes import Network
from ferminet_core.planning.network_work import forward, gradient, local_energy, moves
from ferminet_core.planning.optimiser_costs import COSTS
from ferminet_core.vmc.passes import ITEMSIZE, even_passes

# --- stages: the work of one iteration or record, by part -----------------------------------------


def pretrain_parts(net: Network, config: Config, load: Load) -> dict[str, Work]:
    """An iteration of the pretraining, with its share of a test of the criterion."""
    half, steps = load.walkers / 2, config.pretrain.steps
    check = moves(net, half, steps) + gradient(net, load.walkers)
    return {
        "sampling": moves(net, half, steps),
        "gradient": gradient(net, load.walkers),
        "update": [sweep(10 * net.parameters, 12 * net.parameters)],
        "criterion": repeat(check, CHECK_SWEEPS / config.pretrain.check_every),
    }


def optimise_parts(net: Network, config: Config, load: Load) -> dict[str, Work]:
    """An iteration of the optimisation, with the parity penalty where it may act."""
    w, choice = load.walkers, config.optimise
    parts = {
        "sampling": moves(net, w, config.mcmc.steps),
        "local energy": local_energy(net, w, load.chunk),
    }
    if net.parities:
        # At the walkers and at their images; XLA merges the evaluations at the walkers.
        parts["parity penalty"] = repeat(forward(net, w), 1 + net.parities)
    parts |= COSTS[choice.optimiser].parts(net, choice, load)
    return parts


def burn_in(net: Network, config: Config, load: Load) -> Work:
    """Moves before the first iteration of the optimisation."""
    sweeps = math.ceil(config.mcmc.burn_in / config.mcmc.steps)
    return repeat(moves(net, load.walkers, config.mcmc.steps), sweeps)


def inference_parts(net: Network, config: Config, load: Load) -> dict[str, Work]:
    """A record of the inference, with its share of the total spin, measured once a call."""
    w = load.walkers
    exchanges = 1 + math.prod(net.spins) if len(net.spins) == 2 else 0
    return {
        "sampling": moves(net, w, config.inference.thin),
        "local energy": local_energy(net, w, load.chunk),
        "total spin": repeat(forward(net, w), exchanges / RECORDS_PER_CALL),
    }


# --- memory and volumes ---------------------------------------------------------------------------


def optimiser_numbers(net: Network, config: Config) -> int:
    """Numbers of the optimiser's state."""
    choice = config.optimise
    return COSTS[choice.optimiser].state_numbers(net, choice)


def peak_memory(net: Network, config: Config, load: Load) -> float:
    """Bytes that a device needs in the optimisation, at most.

    These hold the state twice, since the state before a block is kept; the larger of the arrays
    that the backward pass of the gradient needs and those of a pass of the local energy; and the
    arrays from which the optimiser makes its step.
    """
    n, w, s = net.electrons, load.walkers, len(net.spins)
    state = net.parameters + optimiser_numbers(net, config) + w * (3 * n + 2)
    streams = sum(
        n * (d.one_in + s * d.two_in + d.one.outputs) + n * n * d.two_in for d in net.layers
    )
    matrices = net.determinants * n * n
    # Streams and their gradients; envelopes of each nucleus and their slopes.
    backward = w * (1.5 * streams + 4 * matrices + 2 * net.nuclei * net.orbital_values)
    _, size = even_passes(math.ceil(w), load.chunk)
    widest = max(d.one.outputs + d.one_in + s * d.two_in for d in net.layers)
    chunk = size * 3 * n * (2.5 * n * widest + 2 * matrices)
    step = COSTS[config.optimise.optimiser].step_numbers(net, config.optimise, load)
    return ITEMSIZE[config.runtime.precision] * (2 * state + max(backward, chunk) + step)


SERIES = 13  # numbers that the optimisation records in an iteration (`optimise.Stats`)


def checkpoint_bytes(net: Network, config: Config, iterations: int) -> int:
    """A checkpoint of the optimisation after some iterations, before compression."""
    numbers = net.parameters + optimiser_numbers(net, config)
    walkers = config.mcmc.walkers * 3 * net.electrons
    series = SERIES * iterations
    itemsize = ITEMSIZE[config.runtime.precision]
    # Each walker also has its number and its accepted moves, 4 bytes each.
    return itemsize * (numbers + walkers + series) + 8 * config.mcmc.walkers


def sample_bytes(net: Network, config: Config) -> int:
    """Bytes of `inference.zarr.zip` before compression.

    It holds the local energies in double precision, and the walkers of every
    `inference.keep_every` records in single precision.
    """
    measured, walkers = config.inference.samples, config.mcmc.walkers
    kept = math.ceil(measured / config.inference.keep_every)
    return 8 * walkers * measured + 12 * walkers * net.electrons * kept

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
from ferminet_core.planning.network_work import (
    STREAMS,
    adapted,
    forward,
    gradient,
    local_energy,
    moves,
)
from ferminet_core.planning.optimiser_costs import COSTS
from ferminet_core.vmc.passes import ITEMSIZE, even_passes

# --- stages: the work of one iteration or record, by part -----------------------------------------


def pretrain_parts(net: Network, config: Config, load: Load) -> dict[str, Work]:
    """An iteration of the pretraining of a run or a group, with its share of a criterion's test."""
    half, steps = load.walkers / 2, config.pretrain.steps
    check = moves(net, half, steps) + gradient(net, load.walkers)
    return {
        "sampling": load.of_all(moves(net, half, steps)),
        "gradient": load.of_all(gradient(net, load.walkers) + adapted(net, 1)),
        "update": [sweep(10 * net.parameters, 12 * net.parameters)],
        "criterion": load.of_all(repeat(check, CHECK_SWEEPS / config.pretrain.check_every)),
    }


def optimise_parts(net: Network, config: Config, load: Load) -> dict[str, Work]:
    """An iteration of the optimisation of a run or a group.

    The parity penalty counts where it may act.
    """
    w, choice = load.walkers, config.optimise
    parts = {
        "sampling": load.of_all(moves(net, w, config.mcmc.steps)),
        "local energy": load.of_all(local_energy(net, w, load.chunk)),
    }
    if net.parities:
        # At the walkers and at their images; XLA merges the evaluations at the walkers.
        evaluations = repeat(forward(net, w), 1 + net.parities)
        parts["parity penalty"] = load.of_all(evaluations)
    parts |= COSTS[choice.optimiser].parts(net, choice, load)
    return parts


def burn_in(net: Network, config: Config, load: Load) -> Work:
    """Moves before the first iteration of the optimisation."""
    sweeps = math.ceil(config.mcmc.burn_in / config.mcmc.steps)
    return load.whole.of_all(repeat(moves(net, load.walkers, config.mcmc.steps), sweeps))


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
    """Bytes that a device needs in the optimisation of a run or a group, at most.

    These hold the state twice, since the state before a block is kept; the larger of the arrays
    that the backward pass of the gradient needs and those of a pass of the local energy; and the
    arrays from which the optimiser makes its step.
    """
    n = net.electrons
    at_once = load.geometries if load.at_once else 1
    w = at_once * load.walkers
    state = net.parameters + optimiser_numbers(net, config) + load.whole.own * (3 * n + 2)
    streams = STREAMS[net.kind].stream_numbers(net)
    matrices = net.determinants * n * n
    # Streams and their gradients; envelopes of each nucleus and their slopes.
    backward = w * (1.5 * streams + 4 * matrices + 2 * net.nuclei * net.orbital_values)
    _, size = even_passes(math.ceil(load.walkers), load.chunk)
    widest = STREAMS[net.kind].widest(net)
    chunk = at_once * size * 3 * n * (2.5 * n * widest + 2 * matrices)
    step = COSTS[config.optimise.optimiser].step_numbers(net, config.optimise, load)
    return ITEMSIZE[config.runtime.precision] * (2 * state + max(backward, chunk) + step)


SERIES = 13  # numbers that the optimisation records in an iteration (`optimise.Stats`)


def checkpoint_bytes(net: Network, config: Config, iterations: int, members: int = 0) -> int:
    """A checkpoint of the optimisation after some iterations, before compression.

    Args:
        net: sizes of the network
        config: settings of the run or the group
        iterations: done
        members: of a group; 0 for a run
    """
    numbers = net.parameters + optimiser_numbers(net, config)
    walkers = members * config.sharing.walkers or config.mcmc.walkers
    series = max(members, 1) * SERIES * iterations
    itemsize = ITEMSIZE[config.runtime.precision]
    # Each walker also has its number and its accepted moves, 4 bytes each.
    return itemsize * (numbers + walkers * 3 * net.electrons + series) + 8 * walkers


def sample_bytes(net: Network, config: Config) -> int:
    """Bytes of `inference.zarr.zip` before compression.

    It holds the local energies in double precision, and the walkers of every
    `inference.keep_every` records in single precision.
    """
    measured, walkers = config.inference.samples, config.mcmc.walkers
    kept = math.ceil(measured / config.inference.keep_every)
    return 8 * walkers * measured + 12 * walkers * net.electrons * kept

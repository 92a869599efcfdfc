"""What a run costs, counted from its settings: operations, memory traffic, memory and volumes.

A part of an iteration is a list of kernels: the matrix products that the modules make, and the
sweeps over arrays between them. Each says how many floating-point operations it makes and how many
numbers it moves. The model of the traffic: a product reads its factors and writes its result once;
what stands between two products is a few sweeps, each of which reads and writes its arrays once.
Elementwise operations and sweeps are counted by hand from the modules; tests hold the counts beside
XLA's. How long a kernel takes is the machine's matter (module `machines`).

Left out as small beside a network: the Hartree-Fock orbitals of the pretraining, sums over walkers,
and matrices near a node, which are treated a second time (`determinants.mend`).
"""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

from ferminet_core.inputs.config import CHECK_SWEEPS, RECORDS_PER_CALL, Config
from ferminet_core.planning.network_sizes import Network
from ferminet_core.vmc.passes import ITEMSIZE, even_passes

# product: x W; gram: x^T y, a sum over walkers; inverse: LU decomposition and what follows;
# normals: Gaussian random numbers; sweep: number by number
Kind = Literal["product", "gram", "inverse", "normals", "sweep"]


class Kernel(NamedTuple):
    """One compiled operation, or `launches` equal ones.

    flops: additions, multiplications, comparisons, selections; moved: numbers read and written
    functions: exponentials, logarithms, roots, hyperbolic tangents over (walker, electron, width)
    pair_functions: the same over more axes, as for pairs or envelopes, where compilers do worse
    """

    kind: Kind
    flops: float = 0.0
    moved: float = 0.0
    functions: float = 0.0
    pair_functions: float = 0.0
    launches: float = 1.0

    def times(self, count: float) -> "Kernel":
        """So many of them in a row."""
        return Kernel(self.kind, *(count * x for x in self[1:]))


Work = list[Kernel]


def repeat(work: Work, count: float) -> Work:
    """Work that is done `count` times."""
    return [kernel.times(count) for kernel in work]


def product(rows: float, inputs: float, outputs: float, batch: float = 1.0) -> Kernel:
    """(rows, inputs) times (inputs, outputs), for a batch of matrices in one call."""
    moved = rows * inputs + inputs * outputs + rows * outputs
    return Kernel("product", 2 * batch * rows * inputs * outputs, batch * moved)


def gram(rows: float, inputs: float, outputs: float) -> Kernel:
    """x^T y of (rows, inputs) and (rows, outputs): a sum over all rows."""
    return product(rows, inputs, outputs)._replace(kind="gram")


def inverse(n: int) -> Kernel:
    """Of an (n, n) matrix: 2/3 n^3 for the LU decomposition, n^3 for each of two triangular systems
    with n right sides."""
    return Kernel("inverse", 8 / 3 * n**3, 4.0 * n * n)


def sweep(moved: float, flops: float = 0.0, functions: float = 0.0, pairs: float = 0.0) -> Kernel:
    """One pass over arrays."""
    return Kernel("sweep", flops, moved, functions, pairs)


# --- the parts of an iteration, for w walkers of one device ---------------------------------------


def _envelopes(net: Network, w: float) -> Kernel:
    """Exponentials of every electron on every nucleus for every orbital (module `envelopes`)."""
    values = w * net.orbital_values
    terms = net.nuclei * values
    if net.sigma == 1:  # sigma r, its size, the sign, the weight, the sum
        return sweep(3 * values, 5 * terms, pairs=terms)
    # The norm of Sigma r besides.
    return sweep(3 * values, (9 + 2 * net.sigma) * terms, pairs=2 * terms)


def _determinants(net: Network, w: float) -> Work:
    """Elimination in matrices of all electrons, a step for each (`determinants.signed_log`)."""
    matrices = w * net.determinants
    # A step on m columns looks for a pivot, takes its row out and subtracts it from the others.
    return [
        sweep(matrices * 5 * m * m, matrices * (5 * m * m + 6 * m))
        for m in range(2, net.electrons + 1)
    ]


def forward(net: Network, w: float, kept: bool = False) -> Work:
    """log|psi| of w walkers (`networks.apply`).

    Args:
        kept: whether all layers' outputs are written, for a way back through the network; without,
            the last one of the pairs is only averaged
    """
    n, s, m = net.electrons, len(net.spins), net.nuclei
    distances = n * m + n * n
    work = [sweep(8 * w * distances, 12 * w * distances, w * distances)]
    for layer in net.layers:
        one, two, out = layer.one_in, layer.two_in, layer.one.outputs
        inputs = one + s * two
        means = w * (n * one + n * n * two)
        work += [sweep(means, means), sweep(2 * w * n * inputs)]
        work.append(product(w * n, inputs, out))
        # The weights are taken apart by what they are applied to.
        work += [sweep(2 * layer.one.inputs * out), product(w, s * one, out)]
        work.append(sweep(3 * w * n * out, 3 * w * n * out, w * n * out))
        if pair := layer.two:
            numbers = w * pair.rows * pair.outputs
            work.append(product(w * pair.rows, pair.inputs, pair.outputs))
            if kept or layer is not net.layers[-2]:
                work.append(sweep(3 * numbers, 2 * numbers, pairs=numbers))
            else:
                work.append(sweep(3 * numbers, 2 * numbers, numbers))
    for o in net.orbitals:
        work += [sweep(2 * w * o.rows * o.inputs), product(w * o.rows, o.inputs, o.outputs)]
    return [*work, _envelopes(net, w), *_determinants(net, w)]


def moves(net: Network, w: float, steps: int) -> Work:
    """Metropolis moves of all electrons (`mcmc.sample`); the start is evaluated besides."""
    numbers = w * 3 * net.electrons
    step = [Kernel("normals", flops=150 * numbers, moved=numbers), sweep(6 * numbers, 4 * numbers)]
    return repeat(forward(net, w), steps + 1) + repeat(step, steps)


def _jet_tanh(numbers: float, jacobian: float, previous: bool) -> Work:
    """tanh of value, Jacobian and Laplacian, with the residual connection where there is one."""
    squares = sweep(jacobian + 3 * numbers, 2 * jacobian + 6 * numbers)
    chain = sweep((2 + previous) * jacobian, (1 + previous) * jacobian)
    return [squares, chain]


def _inverse_steps(net: Network, w: float) -> Work:
    """Gauss-Jordan inverses of the determinants' matrices (`determinants.invert`)."""
    n = net.electrons
    numbers = w * net.determinants * n * n
    around = sweep(12 * numbers, 20 * numbers)
    return [sweep(8 * numbers, 12 * numbers).times(n)._replace(launches=8.0 * n), around]


def _jet_layers(net: Network, w: float) -> Work:
    """The streams with their derivatives (`forward_laplacian._streams`)."""
    n, s = net.electrons, len(net.spins)
    directions = 3 * n
    distances = n * net.nuclei + n * n
    work = [sweep(24 * w * distances, 30 * w * distances, w * distances)]
    for index, layer in enumerate(net.layers):
        one, two, out = layer.one_in, layer.two_in, layer.one.outputs
        numbers, jacobian = w * n * out, w * directions * n * out
        work.append(sweep(2 * layer.one.inputs * out))
        # Means of the pairs: values and Laplacians, own derivatives, and those of the others.
        pairs = w * n * n * two
        work += [sweep(10 * pairs, 2 * pairs), product(5 * pairs / n, n, s)]
        means_of_pairs = w * directions * n * s * two
        if index == 0:
            work += [sweep(2 * means_of_pairs, means_of_pairs)]
            work += [product(w * n * rows, s * two, out) for rows in (directions, 2)]
            work += [product(w * n * 5, one, out), product(w * n * 3, one, out)]
            work += [sweep(3 * jacobian, 4 * jacobian)]
        else:
            inputs = one + s * two
            work += [sweep(2 * w * directions * n * inputs, means_of_pairs)]
            work += [sweep(w * directions * (n + s) * one, w * directions * n * one)]
            work += [product(w * n * rows, inputs, out) for rows in (directions, 2)]
            work += [product(w * rows, s * one, out) for rows in (directions, 2)]
            work += [sweep(2 * jacobian, 2 * jacobian)]
        work += _jet_tanh(numbers, jacobian, index > 0)
        work.append(sweep(numbers, numbers, numbers))
        if pair := layer.two:
            numbers = w * pair.rows * pair.outputs
            work += [product(w * pair.rows * rows, pair.inputs, pair.outputs) for rows in (3, 2)]
            work += _jet_tanh(numbers, 3 * numbers, pair.inputs == pair.outputs)
            work.append(sweep(numbers, numbers, pairs=numbers))
    return work


def _jet_determinants(net: Network, w: float) -> Work:
    """Orbitals, envelopes and determinants with their derivatives."""
    n, directions = net.electrons, 3 * net.electrons
    work = []
    for o in net.orbitals:
        rows = w * directions * o.rows
        work += [sweep(2 * rows * o.inputs)]
        work += [product(k * w * o.rows, o.inputs, o.outputs) for k in (directions, 2)]
    terms = w * net.nuclei * net.orbital_values
    work.append(sweep(12 * terms, 30 * terms, pairs=terms))
    found = w * directions * net.orbital_values
    jacobian = w * net.determinants * n * n * directions
    # times the envelope, into place; M^-1 dM; its trace; the trace of its square
    work += [sweep(found + jacobian, 3 * found), sweep(4 * jacobian)]
    work += _inverse_steps(net, w)
    work.append(product(n, n, n * directions, batch=w * net.determinants))
    return [*work, sweep(3 * jacobian, jacobian), sweep(2 * jacobian, 2 * jacobian)]


def local_energy(net: Network, w: float, chunk: int) -> Work:
    """Local energies of w walkers by the forward Laplacian, at most `chunk` at a time."""
    passes, size = even_passes(math.ceil(w), chunk)
    return repeat(_jet_layers(net, size) + _jet_determinants(net, size), passes)


def _backward(net: Network, w: float, weights: bool = True) -> Work:
    """Back through the network from log|psi| to the parameters, or to the layers' outputs alone."""
    n, s = net.electrons, len(net.spins)
    values = w * net.orbital_values
    terms = net.nuclei * values
    work = _inverse_steps(net, w)
    if weights:  # put together from the parts that the weights were taken into
        work.append(sweep(4 * net.parameters, net.parameters))
    work += [sweep(6 * values, 6 * values)]
    work += [sweep(8 * terms, (8 + 2 * net.sigma) * terms, pairs=terms)]
    for o in net.orbitals:
        work.append(product(w * o.rows, o.outputs, o.inputs))
        if weights:
            work.append(gram(w * o.rows, o.inputs, o.outputs))
    for index, layer in reversed(list(enumerate(net.layers))):
        one, two, out = layer.one_in, layer.two_in, layer.one.outputs
        inputs = one + s * two
        work.append(sweep(4 * w * n * out, 4 * w * n * out))
        if index > 0:
            work.append(product(w * n, out, inputs))
            work.append(sweep(2 * w * n * inputs + 3 * w * n * n * two, w * n * n * two))
        if weights:
            work.append(gram(w * n, inputs, out))
        work += [product(w, out, s * one)] if index > 0 else []
        work += [gram(w, s * one, out)] if weights else []
        if pair := layer.two:
            numbers = w * pair.rows * pair.outputs
            work.append(sweep(4 * numbers, 4 * numbers))
            if index > 0:
                work.append(product(w * pair.rows, pair.outputs, pair.inputs))
            if weights:
                work.append(gram(w * pair.rows, pair.inputs, pair.outputs))
    return work


def gradient(net: Network, w: float) -> Work:
    """The energy's gradient, the average over devices left out (`optimise.energy_gradient`)."""
    return forward(net, w, kept=True) + _backward(net, w)


def curvature(net: Network, w: float) -> Work:
    """KFAC's factors from w walkers, and their running averages (`kfac.update_curvature`)."""
    work = forward(net, w, kept=True) + _backward(net, w, weights=False)
    n, s = net.electrons, len(net.spins)
    for layer in net.layers:
        # The means of a walker are shared by its electrons (`kfac.OneElectron`).
        shared, own = s * layer.one_in, layer.one_in + s * layer.two_in + layer.one.bias
        work += [sweep(w * (n + 1) * own, w * n * own), sweep(2 * (shared + own) ** 2)]
        work += [gram(w * n, own, own), gram(w, own, shared), gram(w, shared, shared)]
        work.append(gram(w * n, layer.one.outputs, layer.one.outputs))
    for d in [*(layer.two for layer in net.layers if layer.two), *net.orbitals]:
        rows, inputs = w * d.rows, d.inputs + d.bias
        work += [sweep(2 * rows * inputs)] if d.bias else []
        work += [gram(rows, inputs, inputs), gram(rows, d.outputs, d.outputs)]
    # Envelopes and widths: the gradients of single walkers, squared.
    terms = w * net.nuclei * net.orbital_values * (1 + net.sigma)
    work.append(sweep(2 * terms, 3 * terms))
    # Averages over time; the vector in which they travel between devices, there and back.
    return [*work, sweep(12 * net.curvature, 4 * net.curvature)]


def _factors(net: Network) -> list[tuple[int, int]]:
    """Of each of KFAC's factors its size and the number of right sides that a gradient gives it."""
    pairs = [(d.inputs + d.bias, d.outputs) for d in net.dense]
    return [sizes for pair in pairs for sizes in (pair, pair[::-1])]


def solves(net: Network) -> Work:
    """The gradient divided by KFAC's factors (`kfac.times_inverse`): n^3/3 for a Cholesky
    decomposition, 2 n^2 for each right side."""
    return [
        Kernel("inverse", n**3 / 3 + 2 * n**2 * sides, 2.0 * n * (n + sides))
        for n, sides in _factors(net)
    ]


def inverses(net: Network) -> Work:
    """Inverses of KFAC's factors by LU decomposition."""
    return [inverse(n) for n, _ in _factors(net)]


def preconditioned(net: Network) -> Work:
    """The gradient times the inverses."""
    return [product(n, n, sides) for n, sides in _factors(net)]


def spring_update(net: Network, walkers: int, devices: int) -> Work:
    """SPRING's system of all walkers, each device with its part of the parameters
    (`spring.update`)."""
    own, n = net.parameters / devices, walkers
    return [
        sweep(4 * n * own, 4 * n * own),
        product(n, own, n),
        Kernel("inverse", n**3 / 3, 1.0 * n * n),
        product(n, own, 3),
    ]


# --- stages: the work of one iteration or record, by part -----------------------------------------


class Load(NamedTuple):
    """What one device does: its share of the walkers, in chunks, beside other devices."""

    walkers: int
    chunk: int
    devices: int = 1

    @property
    def total(self) -> int:
        """Walkers of all devices."""
        return self.walkers * self.devices


def pretrain_parts(net: Network, config: Config, load: Load) -> dict[str, Work]:
    """An iteration of the pretraining, the look at its criterion shared out over iterations."""
    half, steps = load.walkers / 2, config.pretrain.steps
    check = moves(net, half, steps) + local_energy(net, half, load.chunk)
    return {
        "sampling": moves(net, half, steps),
        "gradient": gradient(net, load.walkers),
        "update": [sweep(10 * net.parameters, 12 * net.parameters)],
        "criterion": repeat(check, CHECK_SWEEPS / config.pretrain.check_every),
    }


def optimise_parts(net: Network, config: Config, load: Load) -> dict[str, Work]:
    """An iteration of the optimisation."""
    w, choice = load.walkers, config.optimise
    parts = {
        "sampling": moves(net, w, config.mcmc.steps),
        "local energy": local_energy(net, w, load.chunk),
    }
    if len(set(net.spins)) == 1 and len(net.spins) == 2 and choice.singlet_penalty > 0:
        parts["spin flip"] = repeat(forward(net, w), 2)
    parts["gradient"] = gradient(net, w)
    if choice.optimiser == "kfac":
        parts["curvature"] = curvature(net, w)
        parts["update"] = [sweep(12 * net.parameters, 8 * net.parameters)]
        if choice.inverse_period == 1:
            parts["inverses"] = solves(net)
        else:
            parts["inverses"] = repeat(inverses(net), 1 / choice.inverse_period)
            parts["update"] = preconditioned(net) + parts["update"]
    elif choice.optimiser == "adam":
        parts["update"] = [sweep(10 * net.parameters, 12 * net.parameters)]
    else:
        # The gradient of each walker is kept.
        parts["gradient"].append(sweep(3 * w * net.parameters, w * net.parameters))
        parts["update"] = spring_update(net, load.total, load.devices)
    return parts


def burn_in(net: Network, config: Config, load: Load) -> Work:
    """Moves before the first iteration of the optimisation."""
    sweeps = math.ceil(config.mcmc.burn_in / config.mcmc.steps)
    return repeat(moves(net, load.walkers, config.mcmc.steps), sweeps)


def inference_parts(net: Network, config: Config, load: Load) -> dict[str, Work]:
    """A record of the inference, the total spin shared out over the records of a call."""
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
    if choice.optimiser == "adam":
        return 2 * net.parameters
    if choice.optimiser == "spring":
        return net.parameters
    cached = sum(d.factors for d in net.dense) if choice.inverse_period > 1 else 0
    return net.curvature + cached


def peak_memory(net: Network, config: Config, load: Load) -> float:
    """Bytes that a device needs in the optimisation, at most.

    The state twice, since the one before a block is kept; then either the arrays that the gradient
    needs on its way back, or those of a chunk of the local energy; and what makes the step.
    """
    n, w, s = net.electrons, load.walkers, len(net.spins)
    state = net.parameters + optimiser_numbers(net, config) + w * (3 * n + 2)
    streams = sum(
        n * (d.one_in + s * d.two_in + d.one.outputs) + n * n * d.two_in for d in net.layers
    )
    matrices = net.determinants * n * n
    # Streams and what comes back along them; envelopes of each nucleus and their slopes.
    backward = w * (1.5 * streams + 4 * matrices + 2 * net.nuclei * net.orbital_values)
    _, size = even_passes(math.ceil(w), load.chunk)
    widest = max(d.one.outputs + d.one_in + s * d.two_in for d in net.layers)
    chunk = size * 3 * n * (2.5 * n * widest + 2 * matrices)
    step: float = 2 * optimiser_numbers(net, config)
    if config.optimise.optimiser == "spring":
        step = 3 * w * net.parameters + 3 * load.total**2
    return ITEMSIZE[config.runtime.precision] * (2 * state + max(backward, chunk) + step)


SERIES = 11  # numbers that the optimisation records of an iteration (`optimise.Stats`)


def checkpoint_bytes(net: Network, config: Config, iterations: int) -> int:
    """A checkpoint of the optimisation after some iterations, before compression."""
    numbers = net.parameters + optimiser_numbers(net, config)
    walkers = config.mcmc.walkers * 3 * net.electrons
    series = SERIES * iterations
    itemsize = ITEMSIZE[config.runtime.precision]
    # Beside each walker its number and its accepted moves, 4 bytes each.
    return itemsize * (numbers + walkers + series) + 8 * config.mcmc.walkers


def sample_bytes(net: Network, config: Config) -> int:
    """`inference.zarr.zip` before compression: local energies in double precision, and every
    `inference.keep_every` records the walkers in single precision."""
    measured, walkers = config.inference.samples, config.mcmc.walkers
    kept = math.ceil(measured / config.inference.keep_every)
    return 8 * walkers * measured + 12 * walkers * net.electrons * kept


# --- sums -----------------------------------------------------------------------------------------


def flops(work: Iterable[Kernel]) -> float:
    """Floating-point operations; exponentials and their like are counted apart, as XLA does."""
    return sum(kernel.flops for kernel in work)


def moved_numbers(work: Iterable[Kernel]) -> float:
    """Numbers read and written."""
    return sum(kernel.moved for kernel in work)


def functions(work: Iterable[Kernel]) -> float:
    """Exponentials, logarithms, roots and hyperbolic tangents."""
    return sum(kernel.functions + kernel.pair_functions for kernel in work)

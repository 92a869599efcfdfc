"""The work of a network: log|psi|, moves, local energies and gradients of w walkers.

Matrix products are those that the modules make. Elementwise operations and sweeps are counted by
hand from the modules; tests compare the counts with XLA's.
"""

import math

from ferminet_core.planning.kernels import Kernel, Work, gram, product, repeat, sweep
from ferminet_core.planning.network_sizes import Network
from ferminet_core.vmc.passes import even_passes


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
        net: sizes of the network
        w: walkers
        kept: whether the outputs of all layers are written for a backward pass; otherwise the last
            output of the pairs is only averaged
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
        # The weights are split by the inputs that they apply to.
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
    """Metropolis moves of all electrons (`mcmc.make_kernel`); the start is evaluated as well."""
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
    work = repeat(_jet_layers(net, size) + _jet_determinants(net, size), passes)
    return work + moved(net, w)


def moved(net: Network, w: float) -> Work:
    """The part of pseudopotentials that is not local (`moved_electron.network_ratios`)."""
    if not net.moved:
        return []
    # Of the pairs, those of the moved electron with all others and back.
    layers = [
        layer._replace(two=layer.two and layer.two._replace(rows=2 * net.electrons))
        for layer in net.layers
    ]
    return forward(net, w) + forward(net._replace(layers=tuple(layers)), w * net.moved)


def backward(net: Network, w: float, weights: bool = True) -> Work:
    """The backward pass from log|psi| to the parameters, or to the layers' outputs only."""
    n, s = net.electrons, len(net.spins)
    values = w * net.orbital_values
    terms = net.nuclei * values
    work = _inverse_steps(net, w)
    if weights:  # joined from the parts into which the weights were split
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
    """The gradient of the energy without its average over devices (`energy.energy_gradient`)."""
    return forward(net, w, kept=True) + backward(net, w)


def adapted(net: Network, gradients: float) -> Work:
    """A group's parameters at one geometry, and gradients with respect to them taken back.

    See `adaptation.adapt`. Nothing for a network without heads.
    """
    if not net.components:
        return []
    heads = net.components * net.head
    shared = net.parameters - heads
    weights = sum(layer.one.inputs * layer.one.outputs for layer in net.layers)
    forth = sweep(2 * shared + heads, weights + 2 * heads)
    # A weight's gradient times the scale, and times the weight for the scale's own gradient.
    back = sweep(2 * shared + weights + heads, 3 * weights + heads)
    return [forth, back.times(gradients)]

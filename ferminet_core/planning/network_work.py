"""The work of a network: log|psi|, moves, local energies and gradients of w walkers.

Matrix products are those that the modules make. Elementwise operations and sweeps are counted by
hand from the modules; tests compare the counts with XLA's.
"""

import math
from collections.abc import Mapping
from typing import Protocol

from ferminet_core.planning import ferminet_work, psiformer_work
from ferminet_core.planning.kernels import Kernel, Work, gram, product, repeat, sweep
from ferminet_core.planning.network_sizes import Network
from ferminet_core.vmc.passes import even_passes


class Streams(Protocol):
    """The work of one network up to its orbitals."""

    def forward(self, net: Network, w: float, kept: bool) -> Work:
        """The last layer's stream of w walkers; `kept` for a backward pass."""
        ...

    def jets(self, net: Network, w: float) -> Work:
        """The last layer's stream with its derivatives."""
        ...

    def backward(self, net: Network, w: float) -> Work:
        """The backward pass, to the parameters or to the layers' outputs only."""
        ...

    def curvature(self, net: Network, w: float) -> Work:
        """KFAC's factors of the layers."""
        ...

    def moved(self, net: Network) -> Network:
        """What has to be evaluated after one electron of a known walker has moved."""
        ...

    def stream_numbers(self, net: Network) -> float:
        """Numbers of a walker's streams that the backward pass reads."""
        ...

    def widest(self, net: Network) -> int:
        """Numbers of an electron, at most, that a layer of the forward Laplacian holds."""
        ...


# By `network.kind`.
STREAMS: Mapping[str, Streams] = {"ferminet": ferminet_work, "psiformer": psiformer_work}


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
    distances = net.electrons * net.nuclei + net.electrons**2
    work = [sweep(8 * w * distances, 12 * w * distances, w * distances)]
    work += STREAMS[net.kind].forward(net, w, kept)
    for o in net.orbitals:
        work += [sweep(2 * w * o.rows * o.inputs), product(w * o.rows, o.inputs, o.outputs)]
    return [*work, _envelopes(net, w), *_determinants(net, w)]


def moves(net: Network, w: float, steps: int) -> Work:
    """Metropolis moves of all electrons (`mcmc.make_kernel`); the start is evaluated as well."""
    numbers = w * 3 * net.electrons
    step = [Kernel("normals", flops=150 * numbers, moved=numbers), sweep(6 * numbers, 4 * numbers)]
    return repeat(forward(net, w), steps + 1) + repeat(step, steps)


def _inverse_steps(net: Network, w: float) -> Work:
    """Gauss-Jordan inverses of the determinants' matrices (`determinants.invert`)."""
    n = net.electrons
    numbers = w * net.determinants * n * n
    around = sweep(12 * numbers, 20 * numbers)
    return [sweep(8 * numbers, 12 * numbers).times(n)._replace(launches=8.0 * n), around]


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
    work = repeat(STREAMS[net.kind].jets(net, size) + _jet_determinants(net, size), passes)
    return work + moved(net, w)


def moved(net: Network, w: float) -> Work:
    """The part of pseudopotentials that is not local (`networks.ratios`)."""
    if not net.moved:
        return []
    return forward(net, w) + forward(STREAMS[net.kind].moved(net), w * net.moved)


def backward(net: Network, w: float) -> Work:
    """The backward pass from log|psi| to the parameters."""
    values = w * net.orbital_values
    terms = net.nuclei * values
    work = _inverse_steps(net, w)
    # Joined from the parts into which the weights were split.
    work += [sweep(4 * net.parameters, net.parameters), sweep(6 * values, 6 * values)]
    work += [sweep(8 * terms, (8 + 2 * net.sigma) * terms, pairs=terms)]
    for o in net.orbitals:
        work.append(product(w * o.rows, o.outputs, o.inputs))
        work.append(gram(w * o.rows, o.inputs, o.outputs))
    work += STREAMS[net.kind].backward(net, w)
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

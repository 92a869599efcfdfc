"""The work of Psiformer's stream. What follows it is in `network_work`."""

from typing import cast

from ferminet_core.planning.kernels import Work, factors, gram, product, sweep
from ferminet_core.planning.network_sizes import AttentionLayer, Dense, Network


def _layers_of(net: Network) -> tuple[AttentionLayer, ...]:
    return cast(tuple[AttentionLayer, ...], net.layers)


def _dense_of(net: Network) -> list[Dense]:
    """All dense maps but those to the orbitals, in order."""
    return net.dense[: -len(net.orbitals)]


def _pairs(net: Network, layer: AttentionLayer, w: float) -> float:
    """Pairs of electrons, for each head."""
    return w * layer.heads * net.electrons**2


def _attended(net: Network, layer: AttentionLayer, batch: float) -> Work:
    """The products of queries with keys and of their weights with values, or their like."""
    n, size = net.electrons, layer.one.inputs // layer.heads
    batch = batch * layer.heads
    return [product(n, size, n, batch=batch), product(n, n, size, batch=batch)]


def forward(net: Network, w: float, kept: bool) -> Work:
    """The stream of w walkers (`psiformer.stream`)."""
    del kept
    work = [sweep(2 * w * d.rows * d.inputs) for d in _dense_of(net)]
    work += [product(w * d.rows, d.inputs, d.outputs) for d in _dense_of(net)]
    for layer in _layers_of(net):
        pairs, numbers = _pairs(net, layer, w), w * layer.one.rows * layer.one.outputs
        work += _attended(net, layer, w)
        work.append(sweep(3 * pairs, 6 * pairs, pairs=pairs))
        work.append(sweep(5 * numbers, 3 * numbers, numbers))
    return work


def jets(net: Network, w: float) -> Work:
    """The stream with its derivatives, by folx (`generic_laplacian`): value, 3 n rows, Laplacian.

    A product of two streams has two terms in each derivative, and the Laplacian 3 n more. Functions
    and their derivatives are counted once: XLA merges those that folx repeats.
    """
    n, directions = net.electrons, 3 * net.electrons
    rows = directions + 2
    work: Work = []
    for d in _dense_of(net):
        work += [sweep(2 * w * rows * d.rows * d.inputs)]
        work += [product(w * d.rows * r, d.inputs, d.outputs) for r in (directions, 2)]
    for layer in _layers_of(net):
        pairs, numbers = _pairs(net, layer, w), w * n * layer.one.outputs
        work += _attended(net, layer, (3 * directions + 3) * w)
        # The softmax, and tanh with the residual connections.
        work.append(sweep(12 * rows * pairs, 16 * rows * pairs, pairs=pairs))
        work.append(sweep(8 * rows * numbers, 6 * rows * numbers, numbers))
    return work


def backward(net: Network, w: float) -> Work:
    """The backward pass through the stream to the parameters."""
    work: Work = []
    for d in _dense_of(net):
        work += [sweep(2 * w * d.rows * d.outputs)]
        work += [product(w * d.rows, d.outputs, d.inputs)] if d is not net.embedding else []
        work.append(gram(w * d.rows, d.inputs, d.outputs))
    for layer in _layers_of(net):
        pairs, numbers = _pairs(net, layer, w), w * layer.one.rows * layer.one.outputs
        work += 2 * _attended(net, layer, w)
        work.append(sweep(6 * pairs, 8 * pairs))
        work.append(sweep(8 * numbers, 8 * numbers))
    return work


def curvature(net: Network, w: float) -> Work:
    """KFAC's factors of the layers from the inputs and gradients of w walkers."""
    return [k for d in _dense_of(net) for k in factors(w * d.rows, d.inputs, d.outputs, d.bias)]


def moved(net: Network) -> Network:
    """All of it: every electron attends to the moved one."""
    return net


def stream_numbers(net: Network) -> float:
    """Numbers of a walker's stream that the backward pass reads."""
    dense = sum(d.rows * (d.inputs + d.outputs) for d in _dense_of(net))
    return dense + sum(2 * _pairs(net, layer, 1) for layer in _layers_of(net))


def widest(net: Network) -> int:
    """Numbers of an electron, at most, that a layer of the forward Laplacian holds."""
    return max(5 * layer.one.outputs + 2 * layer.heads * net.electrons for layer in _layers_of(net))

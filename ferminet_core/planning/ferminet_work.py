"""The work of FermiNet's streams. What follows them is in `network_work`."""

from typing import cast

from ferminet_core.planning.kernels import Work, factors, gram, product, sweep
from ferminet_core.planning.network_sizes import Layer, Network


def layers_of(net: Network) -> tuple[Layer, ...]:
    """The layers of a FermiNet."""
    return cast(tuple[Layer, ...], net.layers)


def forward(net: Network, w: float, kept: bool) -> Work:
    """The streams of w walkers (`ferminet.streams`).

    Args:
        net: sizes of the network
        w: walkers
        kept: whether the outputs of all layers are written for a backward pass; otherwise the last
            output of the pairs is only averaged
    """
    n, s = net.electrons, len(net.spins)
    layers, work = layers_of(net), []
    for layer in layers:
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
            if kept or layer is not layers[-2]:
                work.append(sweep(3 * numbers, 2 * numbers, pairs=numbers))
            else:
                work.append(sweep(3 * numbers, 2 * numbers, numbers))
    return work


def _jet_tanh(numbers: float, jacobian: float, previous: bool) -> Work:
    """tanh of value, Jacobian and Laplacian, with the residual connection where there is one."""
    squares = sweep(jacobian + 3 * numbers, 2 * jacobian + 6 * numbers)
    chain = sweep((2 + previous) * jacobian, (1 + previous) * jacobian)
    return [squares, chain]


def jets(net: Network, w: float) -> Work:
    """The streams with their derivatives (`forward_laplacian._streams`)."""
    n, s = net.electrons, len(net.spins)
    directions = 3 * n
    distances = n * net.nuclei + n * n
    work = [sweep(24 * w * distances, 30 * w * distances, w * distances)]
    for index, layer in enumerate(layers_of(net)):
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


def backward(net: Network, w: float) -> Work:
    """The backward pass through the streams to the parameters."""
    n, s = net.electrons, len(net.spins)
    work = []
    for index, layer in reversed(list(enumerate(layers_of(net)))):
        one, two, out = layer.one_in, layer.two_in, layer.one.outputs
        inputs = one + s * two
        work.append(sweep(4 * w * n * out, 4 * w * n * out))
        if index > 0:
            work.append(product(w * n, out, inputs))
            work.append(sweep(2 * w * n * inputs + 3 * w * n * n * two, w * n * n * two))
        work += [gram(w * n, inputs, out), gram(w, s * one, out)]
        work += [product(w, out, s * one)] if index > 0 else []
        if pair := layer.two:
            numbers = w * pair.rows * pair.outputs
            work.append(sweep(4 * numbers, 4 * numbers))
            if index > 0:
                work.append(product(w * pair.rows, pair.outputs, pair.inputs))
            work.append(gram(w * pair.rows, pair.inputs, pair.outputs))
    return work


def curvature(net: Network, w: float) -> Work:
    """KFAC's factors of the layers from the inputs and gradients of w walkers."""
    n, s = net.electrons, len(net.spins)
    work = []
    for layer in layers_of(net):
        # The means of a walker are shared by its electrons (`kfac.OneElectron`).
        shared, own = s * layer.one_in, layer.one_in + s * layer.two_in + layer.one.bias
        work += [sweep(w * (n + 1) * own, w * n * own), sweep(2 * (shared + own) ** 2)]
        work += [gram(w * n, own, own), gram(w, own, shared), gram(w, shared, shared)]
        out = layer.one.outputs
        work += [gram(w * n, out, out), sweep(w * n * out, w * n * out)]
        work += [gram(w * n, 1, out)] if layer.one.bias else []
        if layer.two:
            rows, inputs, outputs, bias = layer.two
            work += factors(w * rows, inputs, outputs, bias)
    return work


def moved(net: Network) -> Network:
    """Of the pairs, those of the moved electron with all others and back (`ferminet_moves`)."""
    layers = tuple(
        layer._replace(two=layer.two and layer.two._replace(rows=2 * net.electrons))
        for layer in layers_of(net)
    )
    return net._replace(layers=layers)


def stream_numbers(net: Network) -> float:
    """Numbers of a walker's streams that the backward pass reads."""
    n, s = net.electrons, len(net.spins)
    return sum(
        n * (d.one_in + s * d.two_in + d.one.outputs) + n * n * d.two_in for d in layers_of(net)
    )


def widest(net: Network) -> int:
    """Numbers of an electron, at most, that a layer of the forward Laplacian holds."""
    s = len(net.spins)
    return max(d.one.outputs + d.one_in + s * d.two_in for d in layers_of(net))

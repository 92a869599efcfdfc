"""The work, memory and messages of each optimiser, by its name in the settings.

`vmc.optimisers` holds the optimisers themselves. Their costs are declared here because the plan of
a scan must not load JAX.
"""

from collections.abc import Mapping
from typing import Protocol

from ferminet_core.inputs.config import OptimiseConfig
from ferminet_core.planning.kernels import (
    Kernel,
    Load,
    Work,
    factors,
    inverse,
    product,
    repeat,
    sweep,
)
from ferminet_core.planning.network_sizes import Network
from ferminet_core.planning.network_work import STREAMS, adapted, gradient


class OptimiserCost(Protocol):
    """The costs of one optimiser."""

    def parts(self, net: Network, config: OptimiseConfig, load: Load) -> dict[str, Work]:
        """The work of an update by part: the gradient and all that turns it into a step."""
        ...

    def state_numbers(self, net: Network, config: OptimiseConfig) -> int:
        """Numbers of its state."""
        ...

    def step_numbers(self, net: Network, config: OptimiseConfig, load: Load) -> int:
        """Numbers that a device holds besides the state while it makes a step."""
        ...

    def messages(self, net: Network, load: Load) -> list[float]:
        """Numbers of each of its messages between devices, as averages over devices.

        Numbers that are exchanged or gathered count half: they pass each link once, those of an
        average twice.
        """
        ...


# --- Adam -----------------------------------------------------------------------------------------


class AdamCost:
    """Averages of the gradient and of its squares."""

    def parts(self, net: Network, config: OptimiseConfig, load: Load) -> dict[str, Work]:
        """The gradient, and one sweep."""
        del config
        update = [sweep(10 * net.parameters, 12 * net.parameters)]
        return {"gradient": gradient(net, load.walkers), "update": update}

    def state_numbers(self, net: Network, config: OptimiseConfig) -> int:
        """Two averages."""
        del config
        return 2 * net.parameters

    def step_numbers(self, net: Network, config: OptimiseConfig, load: Load) -> int:
        """The next averages, and what they are made from."""
        del load
        return 2 * self.state_numbers(net, config)

    def messages(self, net: Network, load: Load) -> list[float]:
        """The gradient."""
        del load
        return [net.parameters]


# --- KFAC -----------------------------------------------------------------------------------------


def curvature(net: Network, w: float) -> Work:
    """The gradient and KFAC's factors from w walkers, and their running averages (`kfac.sweep`)."""
    work = gradient(net, w) + STREAMS[net.kind].curvature(net, w)
    for d in net.orbitals:
        work += factors(w * d.rows, d.inputs, d.outputs, d.bias)
    # Envelopes and widths: single walkers' gradients, their squares and their weighted sum.
    terms = w * net.nuclei * net.orbital_values * (1 + net.sigma)
    work.append(sweep(2 * terms, 5 * terms))
    # Running averages, and the vector in which they travel between devices and back.
    return [*work, sweep(12 * net.curvature, 4 * net.curvature)]


def _factors(net: Network) -> list[tuple[int, int]]:
    """Sizes of KFAC's factors, each with the number of right-hand sides that a gradient gives."""
    pairs = [(d.inputs + d.bias, d.outputs) for d in net.dense]
    return [sizes for pair in pairs for sizes in (pair, pair[::-1])]


def solves(net: Network) -> Work:
    """The gradient divided by KFAC's factors (`kfac_solves`).

    A Cholesky decomposition takes n^3/3 operations, and each right-hand side 2 n^2.
    """
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


class KfacCost:
    """Factors of the curvature, and systems of equations with them."""

    def parts(self, net: Network, config: OptimiseConfig, load: Load) -> dict[str, Work]:
        """Curvature and inverses; these are shared out over the updates they serve."""
        parts = {
            "curvature": curvature(net, load.walkers),
            "update": [sweep(12 * net.parameters, 8 * net.parameters)],
        }
        if config.inverse_period == 1:
            parts["inverses"] = solves(net)
        else:
            parts["inverses"] = repeat(inverses(net), 1 / config.inverse_period)
            parts["update"] = preconditioned(net) + parts["update"]
        return parts

    def state_numbers(self, net: Network, config: OptimiseConfig) -> int:
        """The factors, and their inverses where these serve several updates."""
        cached = sum(d.factors for d in net.dense) if config.inverse_period > 1 else 0
        return net.curvature + cached

    def step_numbers(self, net: Network, config: OptimiseConfig, load: Load) -> int:
        """The next factors, and what they are made from."""
        del load
        return 2 * self.state_numbers(net, config)

    def messages(self, net: Network, load: Load) -> list[float]:
        """All factors with the gradient, and the step, whose layers the devices share."""
        del load
        return [net.curvature + net.parameters, net.parameters]


# --- SPRING ---------------------------------------------------------------------------------------

# Blocks of the Gram matrix, of `vmc.optimisers.spring`, which loads JAX.
BLOCKS, LEAST_ROWS = 4, 64
# Iterations of the conjugate gradients, of at most eight: one was measured in 99 of 100 updates of
# small groups of H2 and LiH.
CORRECTIONS = 1


def symmetric_product(n: int, own: float) -> Work:
    """The blocks on and below the diagonal of a product of (n, own) with itself."""
    rows = max(LEAST_ROWS, -(-n // BLOCKS))
    sizes = [min(rows, n - start) for start in range(0, n, rows)]
    return [product(a, own, b) for i, a in enumerate(sizes) for b in sizes[: i + 1]]


def spring_update(numbers: int, walkers: int, devices: int) -> Work:
    """SPRING's system of all walkers of all geometries (`spring.natural_step`).

    Each device holds its part of the parameters.

    Args:
        numbers: of parameters
        walkers: rows of the matrix
        devices: that share the parameters
    """
    own, n = numbers / devices, walkers
    # O^T x and O y for two right-hand sides, and two triangular systems.
    solve = [product(2, n, own), product(n, own, 2), sweep(2 * n * n, 4 * n * n)]
    return [
        sweep(5 * n * own, 3 * n * own),  # exchanged and centred
        product(n, own, 1),
        *symmetric_product(n, own),
        Kernel("inverse", n**3 / 3, 1.0 * n * n),
        *repeat(solve, 1 + CORRECTIONS),
        product(3, n, own),
    ]


class SpringCost:
    """The gradients of single walkers, and a system of equations of their number."""

    def parts(self, net: Network, config: OptimiseConfig, load: Load) -> dict[str, Work]:
        """The gradients of all walkers, which are kept, and the system."""
        del config
        w = load.walkers
        kept = sweep(3 * w * net.parameters, w * net.parameters)
        return {
            "gradient": load.of_all([*gradient(net, w), *adapted(net, w), kept]),
            "update": spring_update(net.parameters, load.total, load.devices),
        }

    def state_numbers(self, net: Network, config: OptimiseConfig) -> int:
        """The last step."""
        del config
        return net.parameters

    def step_numbers(self, net: Network, config: OptimiseConfig, load: Load) -> int:
        """The gradients of a device's walkers, and the matrix of all walkers."""
        del config
        return 3 * load.own * net.parameters + 3 * load.total**2

    def messages(self, net: Network, load: Load) -> list[float]:
        """Gradients of its walkers, exchanged; matrix and products; three vectors, gathered."""
        products = [2 * load.total] * (2 + CORRECTIONS)
        gathered = 3 * net.parameters / 2
        return [load.own * net.parameters / 2, load.total**2, *products, gathered]


COSTS: Mapping[str, OptimiserCost] = {
    "kfac": KfacCost(),
    "adam": AdamCost(),
    "spring": SpringCost(),
}

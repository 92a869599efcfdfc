"""The unit of the cost model: compiled operations with their arithmetic and memory traffic.

The model of the traffic: a product reads its factors and writes its result once. Between two
products lie a few sweeps, each of which reads and writes its arrays once. How long a kernel takes
is a property of the machine (module `machines`).
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

# product: x W; gram: x^T y, a sum over walkers; inverse: LU decomposition and what follows;
# normals: Gaussian random numbers; sweep: number by number
Kind = Literal["product", "gram", "inverse", "normals", "sweep"]


class Kernel(NamedTuple):
    """One compiled operation, or `launches` equal ones.

    flops: additions, multiplications, comparisons, selections; moved: numbers read and written
    functions: exponentials, logarithms, roots, hyperbolic tangents over (walker, electron, width)
    pair_functions: the same over more axes, as for pairs or envelopes, which compile to slower code
    """

    kind: Kind
    flops: float = 0.0
    moved: float = 0.0
    functions: float = 0.0
    pair_functions: float = 0.0
    launches: float = 1.0

    def times(self, count: float) -> "Kernel":
        """`count` of them in a row."""
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


def factors(rows: float, inputs: int, outputs: int, bias: bool) -> Work:
    """KFAC's two factors of a dense map from its inputs and gradients at so many places.

    Also what the gradient of the energy takes besides the weights' part of it: gradients weighted
    by energies, and the biases' part.
    """
    joined = [sweep(2 * rows * (inputs + 1)), gram(rows, 1, outputs)] if bias else []
    found = [gram(rows, inputs + bias, inputs + bias), gram(rows, outputs, outputs)]
    return [*joined, *found, sweep(rows * outputs, rows * outputs)]


def inverse(n: int) -> Kernel:
    """The inverse of an (n, n) matrix.

    It takes 2/3 n^3 operations for the LU decomposition, and n^3 for each of two triangular systems
    with n right-hand sides.
    """
    return Kernel("inverse", 8 / 3 * n**3, 4.0 * n * n)


def sweep(moved: float, flops: float = 0.0, functions: float = 0.0, pairs: float = 0.0) -> Kernel:
    """One pass over arrays."""
    return Kernel("sweep", flops, moved, functions, pairs)


class Load(NamedTuple):
    """The load of one device.

    walkers: its share of the walkers of each geometry
    chunk: walkers per pass of the local energy
    devices: all that share walkers
    geometries: of a group that take part in an iteration; 1 for a run
    resting: geometries of the group that do not
    at_once: whether a kernel takes all geometries, and not one after the other
    """

    walkers: int
    chunk: int
    devices: int = 1
    geometries: int = 1
    resting: int = 0
    at_once: bool = False

    @property
    def own(self) -> int:
        """Its walkers that take part in an iteration."""
        return self.walkers * self.geometries

    @property
    def total(self) -> int:
        """Walkers on all devices that take part in an iteration."""
        return self.own * self.devices

    @property
    def whole(self) -> "Load":
        """The load of an iteration in which no geometry rests."""
        return self._replace(geometries=self.geometries + self.resting, resting=0)

    def of_all(self, work: Work) -> Work:
        """The work of all geometries that take part, from that of one.

        See `stages.group.over_geometries`.
        """
        every = repeat(work, self.geometries)
        if not self.at_once:
            return every
        pairs = zip(every, work, strict=True)
        return [many._replace(launches=one.launches) for many, one in pairs]


def flops(work: Iterable[Kernel]) -> float:
    """Floating-point operations without exponentials and the like, as XLA counts them."""
    return sum(kernel.flops for kernel in work)


def moved_numbers(work: Iterable[Kernel]) -> float:
    """Numbers read and written."""
    return sum(kernel.moved for kernel in work)


def functions(work: Iterable[Kernel]) -> float:
    """Exponentials, logarithms, roots and hyperbolic tangents."""
    return sum(kernel.functions + kernel.pair_functions for kernel in work)

"""The speed of a device, and the time it takes for kernels (module `kernels`): a roofline.

A kernel takes as long as its arithmetic or its memory traffic, whichever is longer (S. Williams,
A. Waterman, D. Patterson, Commun. ACM 52, 65, 2009, doi:10.1145/1498765.1498785), plus the time to
start it. Rates of GPUs are those of data sheets times assumed efficiencies. Module `calibration`
measures the rates of this machine.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from ferminet_core.planning.kernels import Kernel, Work
from ferminet_core.vmc.passes import ITEMSIZE

SINGLE = ITEMSIZE["float32"]
# Arrays beyond a core's share of the last cache travel to the memory and back.
CACHE_BYTES = 8 * 2**20


class Rates(NamedTuple):
    """The rates of the roofline.

    product, gram, inverse: flop/s in single precision of x W, x^T y, and of LU decompositions
    sweep: bytes/s of passes over arrays in the cache; memory: the same over large arrays
    row: seconds, besides the arithmetic, for each number that an inversion moves
    function, pair_function, normal: seconds for each number (see `kernels.Kernel`)
    launch: seconds to start a kernel
    """

    product: float
    gram: float
    inverse: float
    sweep: float
    memory: float
    row: float
    function: float
    pair_function: float
    normal: float
    launch: float


class Machine(NamedTuple):
    """A device and its links to others.

    rates: or the measured flop/s of each stage
    capacity: bytes of memory
    link, far_link: bytes/s to the devices of a node, and of another, each way; latency: seconds of
    a message from device to device
    origin: the source of the numbers
    """

    name: str
    platform: Literal["cpu", "gpu"]
    rates: Rates | Mapping[str, float]
    capacity: float
    link: float
    far_link: float
    latency: float
    origin: str


# Shares of a data sheet's peak: assumptions. Products of a few hundred columns fill a GPU less than
# those behind the peak, and no program reads and writes all the time.
PRODUCT_EFFICIENCY = 0.6
MEMORY_EFFICIENCY = 0.8
# LU decompositions of a few hundred rows go panel by panel with most of a GPU idle: an assumption.
INVERSE_EFFICIENCY = 0.02
# Seconds from the start of a kernel to that of the next, however small: an assumption.
GPU_LAUNCH = 5e-6
# Seconds of a message between GPUs (docs/clusters.md).
GPU_LATENCY = 5e-6
# Instructions of a function, and of a Gaussian random number (20 rounds of threefry, erfinv).
FUNCTION_FLOPS = 20.0
NORMAL_FLOPS = 200.0
# Between processes on CPUs: measured with gloo on one machine (docs/clusters.md).
CPU_LINK = 1e9
CPU_LATENCY = 1e-4


def _gpu(
    name: str, flops: float, memory: float, capacity: float, link: float, far_link: float
) -> Machine:
    """A GPU by the numbers of its data sheet.

    Args:
        name: the name in `GPUS`.
        flops: of float32 outside tensor cores: this package asks for full precision in products
            (`jax_setup.configure_jax`), and tensor cores would round their factors to TF32.
        memory: bytes/s that its memory moves.
        capacity: bytes of memory.
        link: bytes/s to the other GPUs of a node, each way.
        far_link: bytes/s to the GPUs of another node, each way.
    """
    rates = Rates(
        product=PRODUCT_EFFICIENCY * flops,
        gram=PRODUCT_EFFICIENCY * flops,
        inverse=INVERSE_EFFICIENCY * flops,
        sweep=MEMORY_EFFICIENCY * memory,
        memory=MEMORY_EFFICIENCY * memory,
        row=0.0,
        function=FUNCTION_FLOPS / flops,
        pair_function=FUNCTION_FLOPS / flops,
        normal=NORMAL_FLOPS / flops,
        launch=GPU_LAUNCH,
    )
    origin = "an estimate: data-sheet rates times assumed efficiencies, never measured"
    return Machine(name, "gpu", rates, capacity, link, far_link, GPU_LATENCY, origin)


# NVIDIA H100 Tensor Core GPU data sheet, SXM: 67 Tflop/s of FP32, 3.35 TB/s, 80 GB, NVLink 900 GB/s
# both ways together. NVIDIA H200 data sheet, SXM: the same with 4.8 TB/s and 141 GB. NVIDIA A100
# Tensor Core GPU data sheet, SXM 80 GB: 19.5 Tflop/s of FP32, 2039 GB/s, NVLink 600 GB/s. Between
# nodes 400 and 200 Gb/s InfiniBand (NDR, HDR), an adapter per GPU.
GPUS = {
    "h100": _gpu("h100", 67e12, 3.35e12, 80e9, 450e9, 50e9),
    "h200": _gpu("h200", 67e12, 4.8e12, 141e9, 450e9, 50e9),
    "a100": _gpu("a100", 19.5e12, 2.039e12, 80e9, 300e9, 25e9),
}


def kernel_seconds(rates: Rates, kernel: Kernel, itemsize: int) -> float:
    """Seconds of a kernel; double precision takes twice as long as single.

    Args:
        rates: of the device
        kernel: its operations and numbers
        itemsize: bytes of a number
    """
    scale = itemsize / SINGLE
    moved = kernel.moved * itemsize
    array = moved / max(kernel.launches, 1.0)
    traffic = moved / (rates.sweep if array < CACHE_BYTES else min(rates.sweep, rates.memory))
    start = kernel.launches * rates.launch
    match kernel.kind:
        case "product":
            return max(kernel.flops / rates.product * scale, traffic) + start
        case "gram":
            return max(kernel.flops / rates.gram * scale, traffic) + start
        case "inverse":
            return kernel.flops / rates.inverse * scale + kernel.moved * rates.row + start
        case "normals":
            return kernel.moved * rates.normal * scale + start
        case "sweep":
            called = kernel.functions * rates.function
            called += kernel.pair_functions * rates.pair_function
            return max(traffic, called * scale) + start


def seconds(rates: Rates, work: Work, itemsize: int) -> float:
    """Seconds that a device takes for some work."""
    return sum(kernel_seconds(rates, kernel, itemsize) for kernel in work)


class Layout(NamedTuple):
    """Devices of a stage: the number of nodes, and of devices on each."""

    nodes: int
    per_node: int

    @property
    def devices(self) -> int:
        """Of all nodes."""
        return self.nodes * self.per_node


def collective_seconds(machine: Machine, layout: Layout, messages: Iterable[float]) -> float:
    """Seconds of averages over all devices that travel round a ring.

    For each average 2 (N - 1) / N times its bytes pass through the slowest link, in 2 log2(N) steps
    that each wait for a message (docs/clusters.md).

    Args:
        machine: the device and its links
        layout: nodes, and devices on each
        messages: bytes of each average
    """
    n = layout.devices
    if n == 1:
        return 0.0
    link = machine.link if layout.nodes == 1 else machine.far_link
    return sum(
        2 * (n - 1) / n * size / link + 2 * math.log2(n) * machine.latency for size in messages
    )

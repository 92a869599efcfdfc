"""Rates of this machine for `machines`, measured right before they are used.

`cpu_machine` times the operations of any network (products, sums of squares, hyperbolic tangents)
on arrays whose sizes belong to no molecule. `stages_machine` compiles a run's own stages and times
a few iterations. On a CPU it takes processor time, on which other processes have little effect.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ferminet_core.chemistry import hartree_fock
from ferminet_core.inputs.run_spec import GroupSpec, RunSpec
from ferminet_core.planning import kernels
from ferminet_core.planning.machines import CPU_LATENCY, CPU_LINK, GPUS, SINGLE, Machine, Rates
from ferminet_core.planning.plan import PARTS, load_of, network_of
from ferminet_core.stages.base import Stage
from ferminet_core.stages.inference import Inference
from ferminet_core.stages.joint_optimise import JointOptimise
from ferminet_core.stages.joint_pretrain import JointPretrain
from ferminet_core.stages.optimise import Optimise
from ferminet_core.stages.pretrain import Pretrain
from ferminet_core.storage import provenance

SECONDS = 0.3  # of repetitions of each operation
# Walkers of a CPU's device while iterations are timed; more walkers take longer in proportion.
CPU_WALKERS = 64
# Members of a group that are timed; a stage reaches about the same flop/s with more.
MEMBERS = 4
BLOCKS = 4  # timed blocks of iterations, after one that compiles


def _time(step: Callable[[Any], Any], start: Any, count: int) -> float:
    """Processor seconds of a step from arrays to arrays of the same shapes.

    It is the median of compiled calls of `count` steps each, after a first call that allocates the
    memory.
    """
    call = jax.jit(lambda x: jax.lax.fori_loop(0, count, lambda _, y: step(y), x))
    jax.block_until_ready(call(start))
    found: list[float] = []
    while len(found) < 3 or sum(found) < SECONDS:
        began = time.process_time()
        jax.block_until_ready(call(start))
        found.append(time.process_time() - began)
    return statistics.median(found) / count


def _array(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape, jnp.float32)


def _product_rate() -> float:
    n = 2048
    w = _array(n, n) / n**0.5
    return 2 * n**3 / _time(lambda x: x @ w, _array(n, n), 1)


def _gram_rate() -> float:
    rows, width = 4096, 128
    x = _array(rows, width)

    def step(y: jax.Array) -> jax.Array:
        near = x * (1.0 + 1e-9 * y[0, 0])  # so that a step depends on the one before
        return jnp.einsum("ay,az->yz", near, near)

    return 2 * rows * width**2 / _time(step, jnp.zeros((width, width), jnp.float32), 10)


def _memory_rate() -> float:
    numbers = 2**25
    return 2 * numbers * SINGLE / _time(lambda y: 1.0001 * y + 1.0, _array(numbers), 4)


def _sweep_rate() -> float:
    """The sweeps of a chain rule: an array times one of fewer axes, and the sum of its squares."""

    def step(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        jacobian, slope = carry
        squares = jnp.sum(jacobian**2, axis=(1, 2))
        return jacobian * slope[:, None, None], 1.0 + 1e-9 * squares

    jacobian = _array(4, 3, 9, 9, 96)
    seconds = _time(step, (jacobian, jnp.ones((4, 9, 96), jnp.float32)), 100)
    return 3 * jacobian.size * SINGLE / seconds


def _function_seconds() -> float:
    """Seconds for each number of a sweep over (walker, electron, width) of a function."""
    x, shift = _array(64, 9, 96), _array(64, 1, 96)
    return _time(lambda x: 0.5 * x + jnp.tanh(x + shift), x, 100) / x.size


def _pair_function_seconds() -> float:
    """The same over more axes, as of pairs and envelopes.

    It is the mean of an odd number of electrons and of a power of two, which compiles to faster
    loops.
    """
    w, width, nuclei, determinants = 64, 24, 3, 6
    seconds, numbers = 0.0, 0
    for n in (8, 9):
        pairs, bias = _array(w, n, n, width), _array(width)

        def layer(x: jax.Array, n: int = n, bias: jax.Array = bias) -> jax.Array:
            return jnp.tanh(x.reshape(-1, width) + bias).reshape(w, n, n, width)

        r, sigma = jnp.abs(_array(w, n, nuclei)), jnp.abs(_array(nuclei, determinants, n))

        def envelope(y: jax.Array, r: jax.Array = r, sigma: jax.Array = sigma) -> jax.Array:
            near = r * (1.0 + 1e-9 * y[0, 0, 0, 0])
            return jnp.sum(sigma * jnp.exp(-near[..., None, None] * sigma), axis=-3)

        seconds += _time(layer, pairs, 20)
        seconds += _time(envelope, jnp.zeros((w, n, determinants, n), jnp.float32), 20)
        numbers += pairs.size + w * n * sigma.size
    return seconds / numbers


def _normal_seconds() -> float:
    """Seconds of a Gaussian random number, drawn as in `mcmc`."""
    walkers, electrons = 256, 9

    def step(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, i = carry
        key = jax.random.fold_in(jax.random.key(0), i)

        def draw(number: jax.Array) -> jax.Array:
            own, _ = jax.random.split(jax.random.fold_in(key, number))
            return jax.random.normal(own, (electrons, 3), jnp.float32)

        return 0.5 * x + jax.vmap(draw)(jnp.arange(walkers)), i + 1

    start = jnp.zeros((walkers, electrons, 3), jnp.float32)
    return _time(step, (start, jnp.asarray(0)), 50) / start.size


def _inverse_rates() -> tuple[float, float]:
    """Rates of an LU decomposition and its triangular systems, from two sizes.

    Returns:
        flop/s, and the additional seconds for each number moved.
    """

    def inversion(n: int) -> float:
        regular = 2 * jnp.eye(n, dtype=jnp.float32) + _array(n, n) / (4 * n**0.5)
        return _time(jnp.linalg.inv, regular, max(1, 4096 // n))

    few, many = 128, 512
    quick, slow = inversion(few), inversion(many)
    # t = a n^3 + b n^2, where a n^3 is at least half at the larger size, and b is not negative.
    slope = (slow / many**2 - quick / few**2) / (many - few)
    cubic = min(max(slope, 0.5 * slow / many**3), slow / many**3)
    kernel = kernels.inverse(many)
    return kernel.flops / (cubic * many**3), (slow - cubic * many**3) / kernel.moved


def _launch_seconds() -> float:
    """Seconds of a kernel that does next to nothing."""

    def step(x: jax.Array) -> jax.Array:
        return jnp.cumsum(x @ x, axis=0)[::-1] * 0.01

    return _time(step, _array(8, 8), 1000) / 3


def _cpu(name: str, rates: Rates | dict[str, float], origin: str) -> Machine:
    """One core of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        name=name,
        platform="cpu",
        rates=rates,
        capacity=memory / (os.cpu_count() or 1),
        link=CPU_LINK,
        far_link=CPU_LINK,
        latency=CPU_LATENCY,
        origin=origin,
    )


def cpu_machine() -> Machine:
    """One core of this machine; the measurement of its rates takes about ten seconds."""
    inverse, row = _inverse_rates()
    rates = Rates(
        product=_product_rate(),
        gram=_gram_rate(),
        inverse=inverse,
        sweep=_sweep_rate(),
        memory=_memory_rate(),
        row=row,
        function=_function_seconds(),
        pair_function=_pair_function_seconds(),
        normal=_normal_seconds(),
        launch=_launch_seconds(),
    )
    origin = "a prediction from rates of this machine, measured just now"
    return _cpu(f"a core of {provenance.cpu_name()}", rates, origin)


def _iteration_seconds(stage: Stage, clock: Callable[[], float]) -> float:
    """Seconds of an iteration: the median of a few blocks of the stage's own loop."""
    steps = stage.steps(stage.initial())
    last, began, found = next(steps).step, clock(), []
    for done in itertools.islice(steps, BLOCKS):
        now = clock()
        found.append((now - began) / (done.step - last))
        last, began = done.step, now
    return statistics.median(found)


def _stages_of_run(run: RunSpec) -> tuple[Stage, ...]:
    """The stages of a run, from a network that was not pretrained."""
    reference = hartree_fock.solve(run.molecule, run.config.reference)
    pretrain = Pretrain(run, reference)
    optimise = Optimise(run, pretrain.result(pretrain.initial(), {}))
    inference = Inference(run, optimise.result(optimise.initial(), {}), reference)
    return pretrain, optimise, inference


def _stages_of_group(group: GroupSpec) -> tuple[Stage, ...]:
    """The stages of a group, from a network that was not pretrained."""
    solve = hartree_fock.solve
    references = [solve(run.molecule, run.config.reference) for run in group.runs()]
    pretrain = JointPretrain(group, *references)
    return pretrain, JointOptimise(group, pretrain.result(pretrain.initial(), {}))


def stages_machine(run: RunSpec, group: GroupSpec | None = None) -> Machine:
    """This machine's devices by the measured flop/s of each stage of a run and of a group.

    The stages start from a network that was not pretrained. Each device has its share of the
    walkers, on a CPU `CPU_WALKERS` at most.
    """
    devices, platform = jax.device_count(), jax.default_backend()
    on_cpu = platform == "cpu"
    # In pretraining the walkers of a device form two halves.
    walkers, shared = (
        max(2, section.walkers // devices // 2 * 2)
        for section in (run.config.mcmc, run.config.sharing)
    )
    if on_cpu:
        walkers, shared = min(walkers, CPU_WALKERS), min(shared, CPU_WALKERS)
    # Enough for a few blocks; the criterion must not end them early.
    updates: dict[str, dict[str, Any]] = {
        "mcmc": {"walkers": walkers * devices, "burn_in": 0},
        "sharing": {"walkers": shared * devices},
        "pretrain": {"min_iterations": 1000, "max_iterations": 1000, "check_every": 1000},
        "optimise": {"iterations": 1000},
        "inference": {"samples": 1000},
    }
    config = run.config.model_copy(
        update={name: getattr(run.config, name).model_copy(update=u) for name, u in updates.items()}
    )
    run = run.model_copy(update={"config": config, "group": ""})
    clock = time.process_time if on_cpu else time.perf_counter
    stages: list[tuple[RunSpec, Stage]] = [(run, stage) for stage in _stages_of_run(run)]
    origin = f"measured just now on run {run.run_id} with {walkers} walkers on a device"
    if group:
        few = {"config": config, "members": group.members[:MEMBERS]}
        group = group.model_copy(update={**few, "molecule": group.members[0].molecule})
        stages += [(group, stage) for stage in _stages_of_group(group)]
        origin += f", and on {len(group.members)} geometries with {shared} walkers each"
    reached = {}
    for spec, stage in stages:
        load = load_of(spec, stage.name, platform, devices)
        parts = PARTS[stage.name](network_of(spec), config, load)
        parts.pop("criterion", None)
        flops = sum(kernels.flops(work) for work in parts.values())
        reached[stage.name] = flops / _iteration_seconds(stage, clock)
    if on_cpu:
        return _cpu(f"a core of {provenance.cpu_name()}", reached, origin)
    kind = jax.devices()[0].device_kind
    near = GPUS["a100" if "A100" in kind else "h100"]  # for links and capacity
    return near._replace(name=kind, rates=reached, origin=origin)

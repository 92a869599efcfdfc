"""Walkers over devices: one mesh axis over all devices of all ranks.

Parameters are replicated, walkers are split.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ferminet_core.errors import InputError
from ferminet_core.parallel import distributed
from ferminet_core.parallel.collectives import AXIS

REPLICATED = PartitionSpec()
SPLIT = PartitionSpec(AXIS)


def walker_mesh(n_walkers: int, groups: int = 1, setting: str = "mcmc.walkers") -> Mesh:
    """A mesh of all devices along the walkers' axis, for walkers in groups of equal size.

    Args:
        n_walkers: number of walkers.
        groups: number of their groups.
        setting: that gives their number, for the error line.

    Raises:
        InputError: `n_walkers` cannot be divided over the devices.
    """
    devices = jax.devices()
    unit = groups * len(devices)
    if n_walkers % unit:
        raise InputError(
            f"{setting}: found {n_walkers}; allowed: multiples of {unit} on {len(devices)} "
            f"devices (try {n_walkers + -n_walkers % unit})"
        )
    return Mesh(devices, (AXIS,))


def place(mesh: Mesh, tree: Any, specs: Any) -> Any:
    """Put the arrays of `tree` on the mesh; `specs` is a prefix tree of partition specs.

    Every rank passes the whole arrays, and keeps the parts of its own devices.
    """
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )
    return jax.tree.map(
        lambda sharding, part: jax.tree.map(lambda x: _put(x, sharding), part), shardings, tree
    )


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
        return x
    whole = np.asarray(x)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def fetch(tree: Any) -> Any:
    """The whole arrays of a tree on the host of every rank; other leaves unchanged.

    All ranks see the same numbers, so their decisions agree.
    """
    return jax.tree.map(_fetch, tree)


def _fetch(x: Any) -> Any:
    if not isinstance(x, jax.Array):
        return x
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    assert isinstance(x.sharding, NamedSharding)
    axis = x.sharding.spec.index(AXIS)
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[axis].start or 0)
    own = np.concatenate([np.moveaxis(np.asarray(shard.data), axis, 0) for shard in shards])
    # Ranks and their devices come in the same order on the mesh. In the memory's order of one
    # process: NumPy's sums follow that order, and so do their last bits.
    return np.ascontiguousarray(np.moveaxis(distributed.ranks().allgather(own), 0, axis))


def per_device(
    function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any
) -> jax.stages.Wrapped:
    """Compile `function`, written for the walkers of one device with collectives over `AXIS`.

    No argument is donated: a loop can go back to the state before a call.
    """
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped)


def compiled(function: jax.stages.Wrapped, *arguments: Any) -> jax.stages.Compiled:
    """Compile ahead for these arguments, and wait until every rank has done so.

    XLA's collectives on CPUs give up on a rank that comes half a minute after the first. One rank
    may need longer than that to compile, while another finds the executable in its cache.
    """
    found = function.lower(*arguments).compile()
    distributed.ranks().meet()
    return found


def iterate(
    iteration: Callable[[Any], tuple[Any, Any]], state: Any, count: jax.Array, size: int
) -> tuple[Any, Any]:
    """`count` iterations in a row; call inside a compiled function.

    The number is an argument. One executable therefore serves blocks of any length, and the results
    do not depend on the division of the iterations into blocks.

    Args:
        iteration: state -> state and a tree of numbers or arrays
        state: before the first
        count: number of iterations, at most `size`
        size: length of each returned series

    Returns:
        The last state and the tree of series (size, ...), whose first `count` entries are filled.
    """
    shapes = jax.eval_shape(lambda s: iteration(s)[1], state)
    series = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), shapes)

    def body(i: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, stats = iteration(carry[0])
        return state, jax.tree.map(lambda s, x: s.at[i].set(x), carry[1], stats)

    return jax.lax.fori_loop(0, count, body, (state, series))

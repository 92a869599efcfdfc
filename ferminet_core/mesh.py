"""Walkers over devices: one mesh axis, parameters replicated, walkers split."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ferminet_core.errors import InputError
from ferminet_core.loss import AXIS

REPLICATED = PartitionSpec()
SPLIT = PartitionSpec(AXIS)


def walker_mesh(n_walkers: int, groups: int = 1) -> Mesh:
    """A mesh of all devices along the walkers' axis, for walkers in groups of equal size.

    Raises:
        InputError: `n_walkers` cannot be divided over the devices.
    """
    devices = jax.devices()
    unit = groups * len(devices)
    if n_walkers % unit:
        raise InputError(
            f"mcmc.walkers: found {n_walkers}, allowed are multiples of {unit} on {len(devices)} "
            f"devices (try {n_walkers + -n_walkers % unit})"
        )
    return Mesh(devices, (AXIS,))


def place(mesh: Mesh, tree: Any, specs: Any) -> Any:
    """Put the arrays of `tree` on the mesh; `specs` is a prefix tree of partition specs."""
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )
    return jax.device_put(tree, shardings)


def per_device(
    function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any
) -> jax.stages.Wrapped:
    """Compile `function`, written for the walkers of one device with collectives over `AXIS`.

    No argument is donated: the state before a call outlives it, so that a loop can go back to it.
    """
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped)


def iterate(
    iteration: Callable[[Any], tuple[Any, Any]], state: Any, count: jax.Array, size: int
) -> tuple[Any, Any]:
    """`count` iterations in a row; call inside a compiled function.

    The number is an argument, so that one executable serves blocks of any length and the numbers
    do not depend on how the iterations are parted into blocks.

    Args:
        iteration: state -> state and a tree of scalars
        state: before the first
        count: how many, at most `size`
        size: entries of each series that is returned

    Returns:
        The last state and the tree of series (size,), whose first `count` entries are filled.
    """
    scalars = jax.eval_shape(lambda s: iteration(s)[1], state)
    series = jax.tree.map(lambda x: jnp.zeros((size,), x.dtype), scalars)

    def body(i: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, stats = iteration(carry[0])
        return state, jax.tree.map(lambda s, x: s.at[i].set(x), carry[1], stats)

    return jax.lax.fori_loop(0, count, body, (state, series))

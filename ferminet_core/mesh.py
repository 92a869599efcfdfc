"""Walkers over devices: one mesh axis, parameters replicated, walkers split."""

from collections.abc import Callable
from typing import Any

import jax
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
    function: Callable[..., Any],
    mesh: Mesh,
    in_specs: Any,
    out_specs: Any,
    donate: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Compile `function`, written for the walkers of one device with collectives over `AXIS`."""
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped, donate_argnums=donate)

"""Which form of a computation suits the devices.

A core of a CPU works best on small arrays that stay in its cache; a GPU on few large operations,
since it waits for the launch of each. Every choice between two such forms asks here.
"""

import jax


def on_cpu() -> bool:
    """Whether the devices of this process are cores of a CPU."""
    return jax.default_backend() == "cpu"

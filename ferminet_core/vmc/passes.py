"""Walkers per pass of the local energy."""

from ferminet_core.inputs.config import Config

# Bytes of Jacobians that one pass of the forward Laplacian may hold. On a CPU they should stay in a
# core's second-level cache; on an accelerator a pass should fill the device.
CHUNK_BYTES = {"cpu": 2**20, "gpu": 2**31, "tpu": 2**31}
ITEMSIZE = {"float32": 4, "float64": 8}


def even_passes(walkers: int, chunk: int) -> tuple[int, int]:
    """Number and size of passes over walkers, at most `chunk` in each.

    All passes have one size, and the empty places of the last are computed for nothing. With 85
    walkers per pass 128 walkers would cost as much as 170; with 64 they cost as much as 128.
    """
    passes = -(-walkers // min(chunk, walkers))
    return passes, -(-walkers // passes)


def chunk_size(config: Config, electrons: int, platform: str) -> int:
    """Walkers per pass of the local energy: the setting, else what fits `CHUNK_BYTES`."""
    if config.runtime.chunk is not None:
        return config.runtime.chunk
    widest = max(config.network.one_electron_width, config.network.determinants * electrons)
    budget = CHUNK_BYTES.get(platform, CHUNK_BYTES["gpu"])
    itemsize = ITEMSIZE[config.runtime.precision]
    return max(1, budget // (3 * electrons**2 * widest * itemsize))

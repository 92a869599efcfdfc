"""`python -m benchmarks <proof> ...`: see `benchmarks.proofs`."""

from ferminet_core.parallel import jax_setup


def main() -> None:
    """Take all cores, then import the modules that make thread pools."""
    # A power of two divides the walkers of every preset.
    cores = jax_setup.available_cores()
    jax_setup.prepare_process(1 << (cores.bit_length() - 1))
    jax_setup.configure_jax("float32")
    from benchmarks.proofs import app

    app(prog_name="python -m benchmarks")


if __name__ == "__main__":
    main()

"""From a system file to run specs; loads neither JAX nor PySCF."""

"""All observables of the table, evaluated on walkers."""

from collections.abc import Callable
from importlib import import_module

import jax

from ferminet_core.inputs.observable_table import OBSERVABLES
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction.networks import SignedLog, Spins

Evaluate = Callable[[SignedLog, jax.Array, Nuclei, Spins], jax.Array]

_EVALUATE: dict[str, Evaluate] = {
    observable.name: import_module(f"ferminet_core.vmc.observables.{observable.module}").evaluate
    for observable in OBSERVABLES
}


def evaluate_all(
    psi: SignedLog, electrons: jax.Array, nuclei: Nuclei, spins: Spins
) -> dict[str, jax.Array]:
    """The local estimators of all observables, {name: (walker,) or (walker, component)}.

    Args:
        psi: electrons (walker, electron, 3) -> sign and log|psi|
        electrons: (walker, electron, 3), bohr, spin up first
        nuclei: positions and charges
        spins: (n_up, n_down)
    """
    return {name: call(psi, electrons, nuclei, spins) for name, call in _EVALUATE.items()}

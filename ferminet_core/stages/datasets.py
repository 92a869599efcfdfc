"""Data passed between stages.

Parameters and walkers are datasets, the geometry is arrays, and the state of a loop is named
arrays.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from ferminet_core.analysis.estimates import SPIN_TOLERANCE
from ferminet_core.errors import ArtefactError, InputError
from ferminet_core.inputs.config import Config
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.parallel.mesh import fetch
from ferminet_core.stages import parameters
from ferminet_core.vmc import passes
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.vmc.optimisers import spring
from ferminet_core.vmc.parity_penalty import Parity
from ferminet_core.vmc.pseudopotentials import potentials
from ferminet_core.wavefunction import networks
from ferminet_core.wavefunction.networks import Params, Spins


def nuclei(molecule: Molecule, config: Config, dtype: Any) -> Nuclei:
    """The geometry as arrays, bohr; always from the spec, never from an artefact."""
    return Nuclei(
        jnp.asarray(molecule.positions, dtype),
        jnp.asarray(molecule.charges, dtype),
        potentials(molecule, config.pseudopotential.quadrature, dtype),
    )


def chunk_size(config: Config, spins: Spins) -> int:
    """Walkers per pass of the local energy on this process's devices."""
    return passes.chunk_size(config, sum(spins), jax.default_backend())


def parities(reference: xr.Dataset) -> dict[str, str]:
    """The attribute for an optimisation that has to keep the parity of its reference, if any."""
    return {name: str(x) for name, x in reference.attrs.items() if name == "parities"}


def stored_parities(pretrained: xr.Dataset) -> tuple[Parity, ...]:
    """The parities that an optimisation has to keep, from the attribute of `parities`."""
    stored = json.loads(pretrained.attrs.get("parities", "[]"))
    return tuple(Parity(tuple(map(tuple, matrix)), value) for matrix, value in stored)


def spin_excess(reference: xr.Dataset, molecule: Molecule) -> float:
    """<S^2> of a reference's determinant above the molecule's S(S + 1)."""
    half = 0.5 * molecule.spin
    return float(reference.attrs["s2"]) - half * (half + 1.0)


def spin_is_mixed(pretrained: xr.Dataset) -> bool:
    """Whether the reference behind a pretraining or a warm start mixes several spins.

    A smaller excess than the verdict allows needs no cure: every unrestricted solution of an open
    shell has some.
    """
    # Artefacts of older versions hold a mark instead, and only for singlets.
    old = float(pretrained.attrs.get("spin_broken", 0))
    return bool(pretrained.attrs.get("s2_excess", old) > SPIN_TOLERANCE)


def network_dataset(
    params: Params,
    electrons: jax.Array | np.ndarray,
    width: float,
    series: dict[str, np.ndarray],
    **attrs: Any,
) -> xr.Dataset:
    """Dataset of a stage that changes the network.

    Variables "params.<path>", walkers (walker, electron, xyz) in bohr, and every series over
    `step`.
    """
    variables: dict[str, Any] = dict(parameters.to_variables(params))
    variables["walkers"] = (
        ("walker", "electron", "xyz"),
        np.asarray(electrons, np.float32),
        {"units": "bohr"},
    )
    steps = max((len(values) for values in series.values()), default=0)
    for name, values in series.items():
        # A run that an older version began lacks the first part of a newer series.
        values = np.pad(
            np.asarray(values, np.float64), (steps - len(values), 0), constant_values=np.nan
        )
        units = {"Eh": "hartree", "Eh2": "hartree^2"}.get(name.rpartition("_")[2], "1")
        variables[name] = (("step",), values, {"units": units})
    return xr.Dataset(variables, attrs={"mcmc_width": width, **attrs})


def params(dataset: xr.Dataset, spec: RunSpec, dtype: Any) -> Params:
    """The parameter tree of a dataset made by `network_dataset`.

    Raises:
        InputError: parameters or walkers are not those of the run's network.
    """
    tree = jax.tree.map(lambda x: jnp.asarray(x, dtype), parameters.from_variables(dataset))
    init = functools.partial(
        networks.init,
        config=spec.config.network,
        spins=spec.molecule.electrons,
        n_nuclei=len(spec.molecule.symbols),
        dtype=dtype,
    )
    expected = jax.eval_shape(init, jax.random.key(0))
    found = jax.tree.map(jnp.shape, tree)
    if found != jax.tree.map(lambda x: x.shape, expected):
        raise InputError(
            f"{spec.run_id}: the {dataset.attrs.get('stage')} artefact holds another network than "
            "the spec's network section; make it again with this spec"
        )
    walkers = dataset.sizes["walker"]
    if walkers != spec.config.mcmc.walkers:
        raise InputError(
            f"{spec.run_id}: the {dataset.attrs.get('stage')} artefact holds {walkers} walkers, "
            f"mcmc.walkers is {spec.config.mcmc.walkers}; make it again with this spec"
        )
    return tree


def state_leaves(state: Any) -> dict[str, np.ndarray]:
    """Whole arrays of a state (any tree of arrays and numbers) by path; on all ranks at once."""
    return {name: np.asarray(leaf) for name, leaf in _named_leaves(fetch(state)).items()}


def _named_leaves(state: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name in found:
            raise RuntimeError(f"two parts of the state are called {name}")
        found[name] = leaf
    return found


def completed(leaves: Mapping[str, np.ndarray], origin: RunSpec) -> dict[str, np.ndarray]:
    """`state_leaves` of an older version's optimisation, with the parts that it did not have.

    Args:
        leaves: of any stage's state.
        origin: the spec that they were made from.
    """
    found = dict(leaves)
    if "rollbacks" not in found:  # not an optimisation
        return found
    config, dtype = origin.config.optimise, found["width"].dtype
    found.setdefault("first_rate", np.asarray(config.learning_rate, dtype))
    found.setdefault("delay", np.asarray(config.planned_delay(), dtype))
    if "optimiser" in found:  # SPRING's last step was its whole state
        phi = found.pop("optimiser")
        found |= {"optimiser.phi": phi, "optimiser.norms": np.zeros(spring.NORMS, phi.dtype)}
    return found


def restore_state(leaves: Mapping[str, np.ndarray], template: Any) -> Any:
    """The tree of `template` with the arrays of `state_leaves`.

    Raises:
        ArtefactError: other names, shapes or types than the template's.
    """
    expected = {
        name: (np.shape(leaf), np.dtype(getattr(leaf, "dtype", type(leaf))))
        for name, leaf in _named_leaves(template).items()
    }
    if missing := sorted(expected.keys() ^ leaves.keys()):
        raise ArtefactError(f"the state's parts differ: {', '.join(missing[:3])}")
    for name, (shape, dtype) in expected.items():
        found = leaves[name]
        if (found.shape, found.dtype) != (shape, dtype):
            raise ArtefactError(f"{name} is {found.dtype}{found.shape}, needed is {dtype}{shape}")
    return jax.tree.unflatten(jax.tree.structure(template), [leaves[name] for name in expected])

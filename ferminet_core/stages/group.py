"""What the joint stages of a group of geometries have in common."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from ferminet_core.errors import InputError
from ferminet_core.inputs.run_spec import GroupSpec
from ferminet_core.parallel import platform
from ferminet_core.stages import datasets, parameters
from ferminet_core.vmc.hamiltonian import Nuclei
from ferminet_core.wavefunction import adaptation, networks
from ferminet_core.wavefunction.adaptation import Coordinates
from ferminet_core.wavefunction.networks import Params


def over_geometries(function: Callable[[Any], Any], tree: Any) -> Any:
    """`function` of each geometry's part of a tree of arrays (geometry, ...), stacked.

    A GPU takes all geometries at once, which turns many small kernels into few. A core of a CPU
    takes one after the other, so that the arrays of one stay in its cache.
    """
    if platform.on_cpu():
        return jax.lax.map(function, tree)
    return jax.vmap(function)(tree)


def turns(key: jax.Array, step: jax.Array, geometries: int, count: int) -> jax.Array:
    """The places (count,) of the geometries that take part in an update.

    In ceil(geometries / count) updates each has its turn at least once, in random order. The order
    follows from the step, so a stopped loop continues with the same one.

    Args:
        key: of the group
        step: updates done, a scalar
        geometries: their number
        count: of those in an update
    """
    if count == geometries:
        return jnp.arange(geometries)
    updates = -(-geometries // count)
    order = jax.random.permutation(jax.random.fold_in(key, step // updates), geometries)
    places = step % updates * count + jnp.arange(count)
    return order[places % geometries]


def nuclei(spec: GroupSpec, dtype: Any) -> Nuclei:
    """The geometries of the members as arrays (geometry, ...), bohr."""
    members = [datasets.nuclei(m.molecule, spec.config, dtype) for m in spec.members]
    stacked: Nuclei = jax.tree.map(lambda *x: jnp.stack(x), *members)
    return stacked


def keys(spec: GroupSpec, stage: str) -> jax.Array:
    """Keys (geometry,) of the random numbers of a stage of one run, one for each member."""
    return jax.vmap(jax.random.key)(
        np.asarray([run.stage_seed(stage) for run in spec.runs()], np.uint32)
    )


def make_coordinates(spec: GroupSpec) -> Coordinates:
    """The coordinates of the members; without components if nothing depends on them."""
    found = adaptation.coordinates(
        np.asarray([member.molecule.positions for member in spec.members])
    )
    return found if spec.config.sharing.heads else found._replace(axes=found.axes[:, :0])


def dataset(
    theta: Params,
    coordinates: Coordinates,
    electrons: np.ndarray,
    widths: np.ndarray,
    series: Mapping[str, np.ndarray],
    per_geometry: Mapping[str, np.ndarray],
    **attrs: Any,
) -> xr.Dataset:
    """Dataset of a joint stage.

    Args:
        theta: of `adaptation.start`; variables "params.<path>".
        coordinates: variables `coordinate_centre` and `coordinate_axes`.
        electrons: `walkers`, (geometry, walker, electron, 3), bohr.
        widths: `mcmc_width`, (geometry,).
        series: (step,) or (step, geometry).
        per_geometry: (geometry,) each.
        **attrs: numbers and texts.
    """
    variables: dict[str, Any] = dict(parameters.to_variables(theta))
    variables["coordinate_centre"] = (("feature",), coordinates.centre)
    variables["coordinate_axes"] = (("feature", "component"), coordinates.axes)
    variables["walkers"] = (
        ("geometry", "walker", "electron", "xyz"),
        np.asarray(electrons, np.float32),
        {"units": "bohr"},
    )
    variables["mcmc_width"] = (("geometry",), np.asarray(widths, np.float64))
    for name, values in series.items():
        dims = ("step", "geometry")[: np.ndim(values)]
        units = {"Eh": "hartree", "Eh2": "hartree^2"}.get(name.rpartition("_")[2], "1")
        variables[name] = (dims, np.asarray(values, np.float64), {"units": units})
    for name, values in per_geometry.items():
        variables[name] = (("geometry",), values)
    return xr.Dataset(variables, attrs=attrs)


def stored_coordinates(found: xr.Dataset) -> Coordinates:
    """The coordinates in a dataset of a joint stage."""
    return Coordinates(found["coordinate_centre"].to_numpy(), found["coordinate_axes"].to_numpy())


def stored_theta(found: xr.Dataset, spec: GroupSpec, dtype: Any) -> Params:
    """The parameters in a dataset of a joint stage.

    Raises:
        InputError: They are not those of the group's network.
    """
    tree = jax.tree.map(lambda x: jnp.asarray(x, dtype), parameters.from_variables(found))
    molecule = spec.molecule

    def init(key: jax.Array) -> Params:
        network, spins = spec.config.network, molecule.electrons
        params = networks.init(key, network, spins, len(molecule.symbols), dtype)
        return adaptation.start(params, found.sizes["component"])

    expected = jax.tree.map(lambda x: x.shape, jax.eval_shape(init, jax.random.key(0)))
    if jax.tree.map(jnp.shape, tree) != expected:
        raise InputError(
            f"{spec.run_id}: the {found.attrs.get('stage')} artefact holds another network than "
            "the spec's network section; make it again with this spec"
        )
    return tree


def left_out(found: xr.Dataset) -> dict[str, str]:
    """The members that a joint optimisation went on without, {run id: reason}."""
    reasons: dict[str, str] = json.loads(str(found.attrs.get("left_out", "{}")))
    return reasons

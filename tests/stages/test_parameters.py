"""Parameter trees survive the way into a dataset and a file."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ferminet_core.errors import ArtefactError
from ferminet_core.stages import parameters
from ferminet_core.storage import artefacts


def test_parameter_trees_come_back_the_same(tmp_path: Path) -> None:
    tree = {
        "layers": [{"w": np.ones((2, 3), np.float32), "b": np.zeros(3)}, {"w": np.eye(2)}, {}],
        "envelope": {"pi": np.float32(2.0), "none": []},
        "steps": [[np.arange(3)], [np.arange(2, dtype=np.int32)]],
        # More than ten entries: "10" sorts before "2" as text.
        "many": [np.full(1, i) for i in range(12)],
    }
    variables = parameters.to_variables(tree)
    assert variables["params.layers.0.w"].shape == (2, 3)
    artefacts.save(xr.Dataset(variables), tmp_path / "a.zarr.zip")
    back = parameters.from_variables(artefacts.load(tmp_path / "a.zarr.zip"))

    def compare(a: object, b: object) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            assert a.keys() == b.keys()
            for key in a:
                compare(a[key], b[key])
        elif isinstance(a, list) and isinstance(b, list):
            assert len(a) == len(b)
            for one, other in zip(a, b, strict=True):
                compare(one, other)
        else:
            assert np.asarray(a).dtype == np.asarray(b).dtype
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

    compare(tree, back)


def test_several_trees_share_a_dataset_under_their_prefixes() -> None:
    trees = {"params": {"a": np.ones(2)}, "params_average": [np.zeros(3)]}
    variables: dict[str, xr.Variable] = {}
    for prefix, tree in trees.items():
        variables |= parameters.to_variables(tree, prefix)
    ds = xr.Dataset(variables)
    assert list(parameters.from_variables(ds)) == ["a"]
    assert len(parameters.from_variables(ds, "params_average")) == 1
    with pytest.raises(ArtefactError, match=r"no variables optimiser\.\*"):
        parameters.from_variables(ds, "optimiser")
    with pytest.raises(ArtefactError, match="whole list"):
        parameters.from_variables(xr.Dataset({"params.1": ("x", [1.0])}))


@pytest.mark.parametrize(
    ("tree", "kind"),
    [
        ({"a.b": np.ones(1)}, ValueError),
        ({"0": np.ones(1)}, ValueError),
        ({"a": (np.ones(1),)}, TypeError),
        ({"a": None}, TypeError),
        ({1: np.ones(1)}, TypeError),
    ],
)
def test_trees_that_would_not_come_back_are_refused(tree: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="params"):
        parameters.to_variables(tree)

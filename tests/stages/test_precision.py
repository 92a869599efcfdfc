"""Products of float32: each stage asks for full precision, which a GPU would otherwise not give."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import groups
from jax.extend import core

from ferminet_core.chemistry import hartree_fock
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.parallel import jax_setup
from ferminet_core.parallel.mesh import REPLICATED, SPLIT, per_device
from ferminet_core.stages.inference import Inference
from ferminet_core.stages.joint_optimise import JointOptimise
from ferminet_core.stages.joint_pretrain import JointPretrain
from ferminet_core.stages.optimise import Optimise
from ferminet_core.stages.pretrain import Pretrain

FULL = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)


def products(jaxpr: Any) -> Iterator[Any]:
    """The precision of every product in a program and in the functions that it calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr),
        ):
            if isinstance(inner, core.ClosedJaxpr):
                yield from products(inner.jaxpr)
            elif isinstance(inner, core.Jaxpr):
                yield from products(inner)


def traced(function: Any, mesh: Any, specs: Any, *arguments: Any) -> set[Any]:
    """The precisions of the products of a function on every device."""
    found = list(products(per_device(function, mesh, specs, REPLICATED).trace(*arguments).jaxpr))
    assert len(found) > 5
    return set(found)


def iteration(stage: Any) -> set[Any]:
    """The precisions of the products of an iteration of an optimisation."""
    state, specs = stage.initial(), (stage.specs, REPLICATED)
    return traced(stage._iteration, stage.mesh, specs, state, stage.inputs)


def test_every_product_of_a_run_by_kfac_and_of_its_inference_has_full_precision() -> None:
    config = groups.settings(optimise={"optimiser": "kfac", "iterations": 1})
    molecule = groups.hydrogen(1.4)
    spec = RunSpec(scan="s", run_id="r", geometry="r", molecule=molecule, config=config)
    reference = hartree_fock.solve(molecule, config.reference)
    with jax.default_matmul_precision(jax_setup.PRODUCTS):
        pretrain = Pretrain(spec, reference)
        optimise = Optimise(spec, pretrain.result(pretrain.initial(), {}))
        assert iteration(optimise) == {FULL}
        inference = Inference(spec, optimise.result(optimise.initial(), {}), reference)
        state = inference.initial()
        specs = (REPLICATED, SPLIT, *[REPLICATED] * 4)
        at = (inference.params, state.walkers, state.width, np.int32(0), *inference._fixed())
        assert traced(inference._record, inference.mesh, specs, *at) == {FULL}


def test_every_product_of_a_joint_iteration_by_spring_has_full_precision() -> None:
    group = groups.group_of([1.4, 2.0], groups.settings())
    with jax.default_matmul_precision(jax_setup.PRODUCTS):
        pretrain = JointPretrain(group, *groups.references_of(group))
        assert iteration(JointOptimise(group, pretrain.result(pretrain.initial(), {}))) == {FULL}


def test_a_product_without_a_policy_is_noticed() -> None:
    def function(x: jax.Array) -> jax.Array:
        return jax.lax.map(lambda row: row @ x, x)

    for precision, expected in ((jax_setup.PRODUCTS, FULL), ("default", None)):
        with jax.default_matmul_precision(precision):
            found = set(products(jax.jit(function).trace(jnp.ones((2, 2))).jaxpr))
        assert (found == {FULL}) == (expected == FULL)

"""The modules that the JAX templates are held to: their mathematics, and every transformation of JAX.

The equations are those of the compiler, word for word; derivatives and phases are compared with the reference, layer by
layer; whole networks learn under `jit`, `vmap`, `scan`, `checkpoint` and `shard_map` as they do without.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
from geometries import GEOMETRIES, ConvGeometry, Geometry
from handwritten import jax_networks as networks
from handwritten.jax import dense_feedback_alignment, feedback_alignment, weight_mirror
from jax import numpy as jnp

import ruledsl
from ruledsl.ir.equations import Equations
from ruledsl.verification.cases import BATCH, random_values, reference_layer
from ruledsl.verification.executor import reference_results
from ruledsl_jax import layouts, linear
from ruledsl_jax.executor import linear_map, tensor_from_jax, tensor_to_jax
from ruledsl_jax.randomness import named

MODULES = {
    "feedback_alignment": feedback_alignment,
    "weight_mirror": weight_mirror,
    "dense_feedback_alignment": dense_feedback_alignment,
}
ON_MESH = Path(__file__).parent / "jax_on_a_mesh.py"
rules = pytest.mark.parametrize("name", MODULES)
transformed = pytest.mark.long  # in the tests of the backend, each of these stands for modules of every kind
SOME = tuple(at for at in GEOMETRIES if str(at) in ("dense", "stride_leaves_a_rest", "groups", "everything"))
layers = pytest.mark.parametrize(
    ("name", "geometry", "dtype"),
    [(name, at, "float64") for name in MODULES for at in SOME]
    + [pytest.param("feedback_alignment", at, "float64", marks=pytest.mark.long) for at in GEOMETRIES if at not in SOME]
    + [(name, at, "float32") for name in MODULES for at in SOME[:2]],
    ids=str,
)
nets = pytest.mark.parametrize("build", [networks.mlp, networks.convnet], ids=["mlp", "convnet"])
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def same(found: Any, wanted: Any, tolerance: float = 1e-10) -> None:
    """Trees of equal structure whose leaves agree, relative to the largest entry."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max())))


class OnOneLayer:
    """Random values of a layer, in JAX's layout and in the reference's."""

    def __init__(self, name: str, geometry: Geometry, dtype: str) -> None:
        self.lowered: Equations = ruledsl.load(name).lowered
        self.geometry, self.dtype, self.conv = geometry, dtype, isinstance(geometry, ConvGeometry)
        self.layer = linear_map(geometry)
        values = random_values(self.lowered, reference_layer(geometry), np.random.default_rng(0))
        self.reference = {name: self._rounded(value) for name, value in values.items()}

    def _rounded(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._rounded(v) for v in value]
        return value.astype(self.dtype).astype("float64") if isinstance(value, np.ndarray) else value

    def activity(self, name: str) -> jax.Array:
        """x or delta, as JAX has it."""
        return jnp.asarray(layouts.activity_to_jax(self.reference[name]), self.dtype)

    def tensor(self, name: str) -> jax.Array:
        """W, b or B, as JAX has it."""
        space = ("post",) if name == "b" else ("pre", "post")
        return jnp.asarray(tensor_to_jax(self.geometry, space, self.reference[name]), self.dtype)

    def results(self, phase: str, **values: Any) -> dict[str, Any]:
        """What the reference says: `send`, `grad W by task`, `next B`."""
        return reference_results(self.lowered, phase, self.geometry, self.reference | values)


@rules
def test_what_is_emitted_is_what_was_written_by_hand(name: str) -> None:
    assert ruledsl.load(name).compile("jax").source == Path(str(MODULES[name].__file__)).read_text(encoding="utf-8")


@layers
def test_derivatives_are_what_the_rule_says(name: str, geometry: Geometry, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        at, module = OnOneLayer(name, geometry, dtype), MODULES[name]
        params = module.Params(at.tensor("W"), at.tensor("b"))
        x, delta = at.activity("x"), at.activity("delta")
        if name == "dense_feedback_alignment":
            D = [tensor_to_jax(geometry, ("post[k]", "pre"), M) for M in at.reference["D"]]
            delta_k = [jnp.asarray(layouts.activity_to_jax(v), dtype) for v in at.reference["delta_k"]]
            state = module.State(at.tensor("B"), tuple(jnp.asarray(M, dtype) for M in D))
            zeros = tuple(jnp.zeros_like(v) for v in (delta, *delta_k))
            results, pull = jax.vjp(partial(module.apply, at.layer), params, state, x, zeros)
            assert jax.tree.all(jax.tree.map(lambda zero: not np.any(zero), results[1]))
            gradients, _, sent, handed_on = jax.jit(pull)((delta, tuple(delta_k)))
            same(handed_on, (delta, *delta_k), 0.0)
            u = results[0]
        else:
            state = module.State(at.tensor("B"))
            u, pull = jax.vjp(partial(module.apply, at.layer), params, state, x)
            gradients, _, sent = jax.jit(pull)(delta)
        said = at.results("task")
        found = {
            "send": layouts.activity_from_jax(np.asarray(sent)),
            "grad W by task": tensor_from_jax(geometry, ("pre", "post"), np.asarray(gradients.W)),
            "grad b by task": np.asarray(gradients.b),
        }
        assert {leaf.dtype for leaf in jax.tree.leaves((u, gradients, sent))} == {jnp.dtype(dtype)}
        same(layouts.activity_from_jax(np.asarray(u)), at.reference["u"], TOLERANCE[dtype])
        same(found, said, TOLERANCE[dtype])


@pytest.mark.parametrize("geometry", SOME, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_mirror_phase_is_what_the_rule_says(dtype: str, geometry: Geometry) -> None:
    with jax.enable_x64(dtype == "float64"):
        at, key = OnOneLayer("weight_mirror", geometry, dtype), jax.random.key(3)
        params, state = weight_mirror.Params(at.tensor("W"), at.tensor("b")), weight_mirror.State(at.tensor("B"))
        x = weight_mirror.drive_x_mirror((BATCH, *at.layer.pre_shape), named(key, "x", "mirror"))
        said = at.results("mirror", x=layouts.activity_from_jax(np.asarray(x, "float64")), eta_B=0.3, decay_B=0.2)
        after = jax.jit(
            lambda eta_B: weight_mirror.mirror(at.layer, params, state, key, BATCH, eta_B=eta_B, decay_B=0.2)
        )(0.3)
        assert after.B.dtype == dtype
        same({"next B": layouts.kernel_from_jax(np.asarray(after.B))}, said, TOLERANCE[dtype])


@rules
def test_initial_values_have_the_declared_spread_and_their_own_randomness(name: str) -> None:
    layer = linear.Convolution(8, 16, (3, 3), (6, 6), padding=(1, 1))
    downstream = [linear.Dense(576, 40), layer]
    more = [downstream] if name == "dense_feedback_alignment" else []
    params, state = MODULES[name].init(layer, jax.random.key(0), *more)
    spread = {"weight_mirror": 2 / layer.fan_in}.get(name, 1 / layer.fan_out)
    assert state.B.shape == params.W.shape == (3, 3, 8, 16)
    np.testing.assert_allclose(np.std(state.B), np.sqrt(spread), rtol=0.1)
    np.testing.assert_allclose(np.std(params.W), np.sqrt(1 / layer.fan_in), rtol=0.1)
    assert abs(np.corrcoef(np.ravel(state.B), np.ravel(params.W))[0, 1]) < 0.1
    assert not np.any(params.b)
    if more:
        assert [M.shape for M in state.D] == [(40, 6, 6, 8), (6, 6, 16, 6, 6, 8)]
        np.testing.assert_allclose([np.std(M) for M in state.D], np.sqrt([2 / 40, 2 / 576]), rtol=0.05)


@rules
def test_weights_are_alike_for_every_rule_and_given_ones_stay(name: str) -> None:
    layer, key = linear.Dense(5, 3), jax.random.key(0)
    ours, theirs = MODULES[name].init(layer, key)[0], feedback_alignment.init(layer, key)[0]
    np.testing.assert_array_equal(ours.W, theirs.W)
    given = jnp.ones((5, 3), jnp.bfloat16)
    params, state = MODULES[name].init(layer, key, W=given)
    assert params.W is given and params.b is None and state.B.dtype == jnp.bfloat16


@rules
def test_a_layer_without_bias_has_no_gradient_for_it(name: str) -> None:
    with jax.enable_x64(True):
        net = networks.mlp(MODULES[name])
        params, state = net.init(jax.random.key(0))
        without = [p._replace(b=None) for p in params]
        found = jax.jit(jax.grad(net.loss))(without, state, *net.batch(1))
        wanted = jax.jit(jax.grad(net.loss))(params, state, *net.batch(1))
        same(found, [p._replace(b=None) for p in wanted])


@rules
def test_a_layer_that_sends_to_nobody_has_no_feedback(name: str) -> None:
    net = networks.mlp(MODULES[name])
    params, state = net.init(jax.random.key(0))
    assert not jax.tree.leaves(state[0])
    gradients, sent = jax.jit(jax.grad(net.loss, (0, 2)))(params, state, *net.batch(1))
    assert np.any(gradients[0].W)
    assert not np.any(sent)


@nets
@rules
def test_networks_learn_what_the_equations_say(name: str, build: Any) -> None:
    """Through a whole network: the forward pass, and then errors sent layer by layer by the functions `send`."""
    with jax.enable_x64(True):
        net = build(MODULES[name])
        params, state = net.init(jax.random.key(0))
        found, said = jax.jit(jax.grad(net.loss)), jax.jit(net.by_hand)
        same(found(params, state, *net.batch(1)), said(params, state, *net.batch(1)))


@transformed
@nets
@rules
def test_jit_and_checkpoint_change_nothing(name: str, build: Any) -> None:
    with jax.enable_x64(True):
        net = build(MODULES[name])
        params, state = net.init(jax.random.key(0))
        wanted = jax.grad(net.loss)(params, state, *net.batch(1))
        same(jax.jit(jax.grad(net.loss))(params, state, *net.batch(1)), wanted)
        same(jax.grad(jax.jit(net.loss))(params, state, *net.batch(1)), wanted)
        same(jax.jit(jax.grad(jax.checkpoint(net.loss)))(params, state, *net.batch(1)), wanted)
        same(jax.jit(jax.grad(partial(net.loss, remat=True)))(params, state, *net.batch(1)), wanted)


@transformed
@nets
@rules
def test_a_scan_over_steps_is_the_loop(name: str, build: Any) -> None:
    with jax.enable_x64(True):
        net = build(MODULES[name])
        batches = [net.batch(seed) for seed in range(3)]
        keys = jax.random.split(jax.random.key(1), 3)
        start = net.init(jax.random.key(0))

        @jax.jit
        def scanned(start: Any) -> Any:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
            return jax.lax.scan(lambda s, at: (net.step(*s, *at), None), start, (keys, stacked))[0]

        looped, step = start, jax.jit(net.step)
        for key, batch in zip(keys, batches, strict=True):
            looped = step(*looped, key, batch)
        same(scanned(start), looped)


@transformed
@nets
@rules
def test_a_population_is_its_members(name: str, build: Any) -> None:
    with jax.enable_x64(True):
        net = build(MODULES[name])
        keys, rates = jax.random.split(jax.random.key(0), 3), jnp.asarray([0.1, 0.2, 0.3])

        def learn(start: Any, key: Any, rate: Any) -> Any:
            return net.step(*start, key, net.batch(1), rate=rate)

        together = jax.jit(jax.vmap(learn))(jax.vmap(net.init)(keys), keys, rates)
        alone = jax.jit(learn)
        for i in range(3):
            single = alone(net.init(keys[i]), keys[i], rates[i])
            same(jax.tree.map(lambda leaf, i=i: leaf[i], together), single)


@rules
def test_gradients_of_single_examples(name: str) -> None:
    """`vmap` over examples inside `jit`: the pseudo-gradients of the batch are their sum."""
    with jax.enable_x64(True):
        net = networks.mlp(MODULES[name])
        params, state = net.init(jax.random.key(0))
        x, labels = net.batch(1)
        single = jax.jit(jax.vmap(jax.grad(net.loss), (None, None, 0, 0)))(params, state, x[:, None], labels[:, None])
        same(jax.tree.map(lambda g: g.mean(0), single), jax.jit(jax.grad(net.loss))(params, state, x, labels))


@rules
def test_no_product_is_computed_that_nobody_reads(name: str) -> None:
    """Three dense layers: three products forward, three kernel gradients, and one for each map that sends."""
    net = networks.mlp(MODULES[name])
    params, state = net.init(jax.random.key(0))
    compiled = jax.jit(jax.grad(net.loss)).lower(params, state, *net.batch(1)).as_text()
    assert compiled.count("dot_general") == 3 + 3 + len(jax.tree.leaves(state))


@rules
def test_nothing_is_kept_that_the_backward_pass_does_not_read(name: str) -> None:
    """Between the passes lives the input of each layer, of which u's slope is a mask, and the feedback maps."""
    layer = linear.Dense(7, 5)
    params, state = MODULES[name].init(layer, jax.random.key(0))
    x = jnp.ones((3, 7))
    more = ((jnp.zeros((3, 5)),),) if name == "dense_feedback_alignment" else ()
    _, pull = jax.vjp(lambda params, x: MODULES[name].apply(layer, params, state, x, *more), params, x)
    kept = sorted(leaf.shape for leaf in jax.tree.leaves(pull))
    assert kept == sorted([(3, 7), (7, 5)])


@transformed
def test_a_mesh_of_devices_learns_what_one_device_learns() -> None:
    """In a process of its own, since the number of devices is fixed when JAX starts."""
    tests, root = ON_MESH.parents[1], ON_MESH.parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tests, root, root / "backends")))}
    done = subprocess.run([sys.executable, ON_MESH], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the same on 4 devices\n"

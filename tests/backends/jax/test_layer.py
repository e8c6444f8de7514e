"""The derivative of a layer is what its rule says, under every transformation of JAX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
from backends.jax import handwritten
from geometries import BATCH, CONVS, GEOMETRIES, ConvGeometry, Geometry
from jax import numpy as jnp

from ruledsl.errors import UserError
from ruledsl.program import Program
from ruledsl.reference import maps
from ruledsl_jax import layouts, linear
from ruledsl_jax.initial import advanced, initialise, shape_of, slots
from ruledsl_jax.layer import layer

CLASSES = 4
DFA = "direct_feedback_alignment"
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
DENSE_LAYER = GEOMETRIES[0]
SOME = ("stride_leaves_a_rest", "depthwise", "everything")
DENSE = linear.Dense(5, CLASSES)
geometries = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
rules = pytest.mark.parametrize("name", handwritten.RULES)


def make(module: Any, geometry: Geometry) -> Any:
    arguments: dict[str, Any] = dict(geometry.arguments())
    return module.Conv2d(**arguments) if isinstance(geometry, ConvGeometry) else module.Dense(**arguments)


def normal(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def close(found: Any, wanted: Any, dtype: str) -> None:
    """Equal relative to the largest entry."""
    assert found.dtype == dtype
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE[dtype] * max(1.0, float(np.abs(wanted).max())))


def tensors_of(program: Program, linear_map: Any, dtype: Any = None) -> dict[str, jax.Array]:
    """Values for W, b and the rule's tensors, without the time that `initialise` spends on compiling."""
    shapes = {"W": linear_map.kernel_shape, "b": (linear_map.units_out,)}
    own = [t for t in program.tensors if t.kind != "forward"]
    shapes |= {t.name: shape_of(t, linear_map, CLASSES, program.rule) for t in own}
    return {name: normal(10 + seed, shape).astype(dtype) for seed, (name, shape) in enumerate(shapes.items())}


def pull(program: Program, linear_map: Any, params: Any, x: Any, delta: Any, e: Any = None, **more: Any) -> Any:
    """u, and the gradients of (params, x) for an error delta at u and e at the network's output."""
    f = layer(program, linear_map, classes=CLASSES, **more)
    result, pullback = jax.vjp(f, params, x)
    return result, pullback(delta if e is None else (delta, e))


def expected(name: str, reference: Any, native: dict[str, Any], x: Any, delta: Any, e: Any) -> dict[str, Any]:
    """What a rule says, in the reference's terms: u, `send`, and pseudo-gradients by tensor."""
    W, b, B = native["W"], native["b"], native.get("B")
    outer = reference.outer(delta, x)
    values = {
        "u": reference.apply(W, x) + reference.spread(b),
        "W": outer,
        "b": reference.sum_to_units(delta),
        "B": None if B is None else np.zeros_like(B),
    }
    match name:
        case "backprop":
            values["send"] = reference.adjoint(W, delta)
        case "usf_sn":
            scale = np.sqrt(np.sum(W**2)) / np.sqrt(np.sum(np.sign(W) ** 2))
            values["send"] = reference.adjoint(scale * np.sign(W), delta)
        case "direct_feedback_alignment":
            values["send"] = np.tensordot(e, B, 1)
        case "feedback_alignment":
            values["send"] = reference.adjoint(B, delta)
        case "kolen_pollack":
            values |= {"send": reference.adjoint(B, delta), "W": outer + 1e-4 * W, "B": outer + 1e-4 * B}
    return values


@geometries
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_equal_the_reference(geometry: Geometry, dtype: str) -> None:
    reference, here = make(maps, geometry), make(linear, geometry)
    conv = isinstance(geometry, ConvGeometry)
    with jax.enable_x64(dtype == "float64"):
        every = {name: tensors_of(program, here, dtype) for name, program in handwritten.RULES.items()}
        x, delta, e = normal(1, (BATCH, *here.pre_shape)), normal(2, (BATCH, *here.post_shape)), normal(3, (BATCH, 4))

        @jax.jit
        def run(every: Any, x: Any, delta: Any, e: Any) -> Any:
            return {
                name: pull(handwritten.RULES[name], here, params, x, delta, e if name == DFA else None)
                for name, params in every.items()
            }

        for name, (result, (gradients, sent)) in run(every, x, delta, e).items():
            tensors = handwritten.RULES[name].tensors
            arrays = {t.name: np.asarray(every[name][t.name], np.float64) for t in tensors}
            native = {t.name: layouts.tensor_from_jax(t.space, arrays[t.name], conv) for t in tensors}
            pre, post = (layouts.activity_from_jax(np.asarray(v, np.float64)) for v in (x, delta))
            said = expected(name, reference, native, pre, post, np.asarray(e, np.float64))
            found = {"u": result[0] if name == DFA else result, "send": sent}
            found = {key: layouts.activity_from_jax(np.asarray(value)) for key, value in found.items()}
            found |= {t.name: layouts.tensor_from_jax(t.space, np.asarray(gradients[t.name]), conv) for t in tensors}
            for key, value in found.items():
                close(value, said[key], dtype)


def test_gradients_are_the_same_without_jit() -> None:
    here = linear.Conv2d(4, 6, (3, 2), (2, 1), (1, 1), (1, 2), 2, (6, 7))
    x, delta, e = normal(1, (BATCH, *here.pre_shape)), normal(2, (BATCH, *here.post_shape)), normal(3, (BATCH, 4))
    for name, program in handwritten.RULES.items():
        params = initialise(program, here, jax.random.key(0), classes=CLASSES)

        def run(params: Any, x: Any, program: Any = program, name: str = name) -> Any:
            return pull(program, here, params, x, delta, e if name == DFA else None)

        pairs = zip(jax.tree.leaves(run(params, x)), jax.tree.leaves(jax.jit(run)(params, x)), strict=True)
        for eager, compiled in pairs:
            np.testing.assert_allclose(eager, compiled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("geometry", [DENSE_LAYER, *(conv for conv in CONVS if conv.name in SOME)], ids=str)
@pytest.mark.parametrize(("wide", "tolerance"), [(False, 1e-6), (True, 1e-12)], ids=["float32", "float64"])
def test_backprop_is_the_plain_gradient(geometry: Geometry, wide: bool, tolerance: float) -> None:
    here = make(linear, geometry)
    with jax.enable_x64(wide):
        params = tensors_of(handwritten.backprop, here)
        x = normal(1, (BATCH, *here.pre_shape))
        f = layer(handwritten.backprop, here)

        @jax.jit
        def both(params: Any, x: Any) -> Any:
            def taught(p: Any, x: Any) -> Any:
                return jnp.sum(jnp.tanh(f(p, x)))

            def plain(p: Any, x: Any) -> Any:
                return jnp.sum(jnp.tanh(here.apply(p["W"], x, p["b"])))

            return jax.grad(taught, (0, 1))(params, x), jax.grad(plain, (0, 1))(params, x)

        taught, plain = both(params, x)
        for a, b in zip(jax.tree.leaves(taught), jax.tree.leaves(plain), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(jnp.abs(b).max()))


@rules
def test_layers_work_under_vmap(name: str) -> None:
    """An ensemble: many sets of parameters at once equal one after the other."""
    program = handwritten.RULES[name]
    f = layer(program, DENSE, classes=CLASSES)

    def gradients(key: Any, x: Any) -> Any:
        params = initialise(program, DENSE, key, classes=CLASSES)

        def loss(params: Any, x: Any) -> Any:
            result = f(params, x)
            return jnp.sum(jnp.tanh(result[0] + result[1] if name == DFA else result))

        return jax.grad(loss, (0, 1))(params, x)

    keys, x = jax.random.split(jax.random.key(0), 3), normal(1, (3, BATCH, 5))
    stacked = jax.jit(jax.vmap(gradients))(keys, x)
    for k in range(3):
        single = gradients(keys[k], x[k])
        for a, b in zip(jax.tree.leaves(stacked), jax.tree.leaves(single), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-5, atol=1e-6)


def test_hidden_error_of_direct_feedback_comes_from_the_output() -> None:
    """Two layers: what reaches the first one's neurons is B @ e, whatever the second one's weights are."""
    hidden, output = linear.Dense(6, 5), linear.Dense(5, CLASSES)
    program = handwritten.direct_feedback_alignment
    first = initialise(program, hidden, jax.random.key(0), classes=CLASSES)
    second = initialise(program, output, jax.random.key(1), classes=CLASSES)
    x, target = normal(1, (BATCH, 6)), normal(2, (BATCH, CLASSES))

    def loss(first: Any, second: Any) -> Any:
        u, zero_1 = layer(program, hidden, classes=CLASSES)(first, x)
        logits, zero_2 = layer(program, output, classes=CLASSES)(second, jnp.tanh(u))
        return 0.5 * jnp.sum((logits + zero_1 + zero_2 - target) ** 2)

    found, _ = jax.jit(jax.grad(loss, (0, 1)))(first, second)
    u = x @ first["W"]
    e = jnp.tanh(u) @ second["W"] - target
    delta = (e @ second["B"]) * (1 - jnp.tanh(u) ** 2)
    np.testing.assert_allclose(found["W"], x.T @ delta, rtol=1e-4, atol=1e-5)


def test_direct_feedback_multiplies_with_no_transposed_weight() -> None:
    """In the compiled program of a step: two products forward, two kernels, one send; nothing through W."""
    hidden, output = linear.Dense(6, 5), linear.Dense(5, CLASSES)
    program = handwritten.direct_feedback_alignment
    first = initialise(program, hidden, jax.random.key(0), classes=CLASSES)
    second = initialise(program, output, jax.random.key(1), classes=CLASSES)

    def loss(params: Any, x: Any) -> Any:
        u, zero_1 = layer(program, hidden, classes=CLASSES)(params[0], x)
        logits, zero_2 = layer(program, output, classes=CLASSES)(params[1], jnp.tanh(u))
        return jnp.sum((logits + zero_1 + zero_2) ** 2)

    jaxpr = str(jax.make_jaxpr(jax.grad(loss))((first, second), normal(1, (BATCH, 6))))
    assert jaxpr.count("dot_general") == 5


def test_forgotten_zeros_are_an_error() -> None:
    params = initialise(handwritten.direct_feedback_alignment, DENSE, jax.random.key(0), classes=CLASSES)
    f = layer(handwritten.direct_feedback_alignment, DENSE, classes=CLASSES)
    with pytest.raises(UserError, match="zeros were not added"):
        jax.grad(lambda p: jnp.sum(f(p, normal(1, (BATCH, 5)))[0]))(params)


def test_a_layer_that_sends_to_nobody_does_not_learn_to_send() -> None:
    params = initialise(handwritten.kolen_pollack, DENSE, jax.random.key(0))
    f = layer(handwritten.kolen_pollack, DENSE)
    x = normal(1, (BATCH, 5))

    def loss(params: Any, x: Any) -> Any:
        return jnp.sum(jnp.tanh(f(params, x)))

    alone = jax.grad(loss)(params, x)
    feeding, _ = jax.grad(loss, (0, 1))(params, x)
    assert not np.any(alone["B"])
    assert np.any(feeding["B"])
    np.testing.assert_array_equal(alone["W"], feeding["W"])
    assert str(jax.make_jaxpr(jax.grad(loss))(params, x)).count("dot_general") == 2


def test_one_kernel_gradient_serves_both_weights_of_kolen_pollack() -> None:
    params = initialise(handwritten.kolen_pollack, DENSE, jax.random.key(0))
    f = layer(handwritten.kolen_pollack, DENSE)
    jaxpr = jax.make_jaxpr(jax.grad(lambda p, x: jnp.sum(jnp.tanh(f(p, x))), (0, 1)))(params, normal(1, (BATCH, 5)))
    assert str(jaxpr).count("dot_general") == 3


def test_parameters_are_bound_or_change_in_time() -> None:
    params = initialise(handwritten.kolen_pollack, DENSE, jax.random.key(0))
    x = normal(1, (BATCH, 5))

    def gradient(f: Any, **scalars: Any) -> Any:
        return jax.grad(lambda p: jnp.sum(f(p, x, **scalars)))(params)["W"]

    bound = gradient(layer(handwritten.kolen_pollack, DENSE, decay=0.5))
    told = jax.jit(lambda decay: gradient(layer(handwritten.kolen_pollack, DENSE), decay=decay))(0.5)
    default = gradient(layer(handwritten.kolen_pollack, DENSE))
    np.testing.assert_allclose(bound, told, rtol=1e-6)
    np.testing.assert_allclose(bound - default, (0.5 - 1e-4) * params["W"], rtol=1e-4, atol=1e-6)


def test_target_arrives_as_an_argument() -> None:
    program = handwritten.direct_target
    params = initialise(program, DENSE, jax.random.key(0), classes=3)
    x, target = normal(1, (BATCH, 5)), jax.nn.one_hot(jnp.arange(BATCH), 3)
    f = layer(program, DENSE)
    sent = jax.jit(jax.grad(lambda x, target: jnp.sum(f(params, x, target=target))))(x, target)
    np.testing.assert_allclose(sent, -target @ params["B"], rtol=1e-6)
    with pytest.raises(UserError, match="target"):
        f(params, x)


def test_activation_and_clock_are_supplied() -> None:
    params = initialise(handwritten.gated, DENSE, jax.random.key(0))
    x = normal(1, (BATCH, 5))
    f = layer(handwritten.gated, DENSE, phi=jnp.tanh)
    sent = jax.jit(jax.grad(lambda x, lr: jnp.sum(f(params, x, lr=lr, step=3))))(x, 0.5)
    np.testing.assert_allclose(sent, 0.5 * jnp.tanh(x @ params["W"]) @ params["W"].T, rtol=1e-5)
    with pytest.raises(UserError, match="lr"):
        f(params, x)
    with pytest.raises(UserError, match="phi"):
        layer(handwritten.gated, DENSE)


def test_misspelt_names_get_a_suggestion() -> None:
    with pytest.raises(UserError, match="decay"):
        layer(handwritten.kolen_pollack, DENSE, decy=0.1)
    params = initialise(handwritten.kolen_pollack, DENSE, jax.random.key(0))
    with pytest.raises(UserError, match="decay"):
        layer(handwritten.kolen_pollack, DENSE)(params, normal(1, (BATCH, 5)), decai=0.1)


def test_layer_without_bias_has_no_gradient_for_it() -> None:
    params = initialise(handwritten.backprop, DENSE, jax.random.key(0))
    x = normal(1, (BATCH, 5))
    f = layer(handwritten.backprop, DENSE)
    whole = jax.grad(lambda p: jnp.sum(jnp.tanh(f(p, x))))(params)
    for without in ({"W": params["W"]}, {"W": params["W"], "b": None}):
        found = jax.jit(jax.grad(lambda p: jnp.sum(jnp.tanh(f(p, x)))))(without)
        assert jax.tree.structure(found) == jax.tree.structure(without)
        np.testing.assert_allclose(found["W"], whole["W"], rtol=1e-6)


def test_assignments_arrive_as_gradients_of_slots() -> None:
    program = handwritten.trace
    params = initialise(program, DENSE, jax.random.key(0))
    x = normal(1, (BATCH, 5))
    f = layer(program, DENSE)

    @jax.jit
    def step(params: Any) -> Any:
        _, results = jax.grad(lambda p, s: jnp.sum(f(p, x, slots=s)), (0, 1))(params, slots(program, params))
        return advanced(program, DENSE, params, results)

    outer = x.T @ jnp.ones((BATCH, CLASSES))
    once = step(params)
    np.testing.assert_allclose(once["T"], jnp.clip(outer, -1, 1), rtol=1e-5)
    twice = step(once)
    np.testing.assert_allclose(twice["T"], jnp.clip(0.5 * once["T"] + outer, -1, 1), rtol=1e-5)
    assert float(twice["n"]) == 2.0
    np.testing.assert_array_equal(twice["W"], params["W"])


def test_a_layer_that_nobody_asked_keeps_its_state() -> None:
    program = handwritten.trace
    params = initialise(program, DENSE, jax.random.key(0)) | {"T": jnp.full((5, CLASSES), 0.25)}
    nothing = slots(program, params)
    np.testing.assert_array_equal(advanced(program, DENSE, params, nothing)["T"], params["T"])


def test_fresh_tensors_are_drawn_anew() -> None:
    program = handwritten.fresh_signs
    params = initialise(program, DENSE, jax.random.key(0))
    after = advanced(program, DENSE, params, key=jax.random.key(1))
    again = advanced(program, DENSE, params, key=jax.random.key(1))
    assert after["M"] is not None and not np.allclose(after["M"], params["M"])
    np.testing.assert_array_equal(after["M"], again["M"])
    with pytest.raises(UserError, match="key"):
        advanced(program, DENSE, params)


def test_initial_values_have_the_declared_spread_and_shape() -> None:
    conv = linear.Conv2d(8, 16, (3, 3), (1, 1), (1, 1), (1, 1), 1, (6, 6))
    made = initialise(handwritten.feedback_alignment, conv, jax.random.key(0))
    assert made["B"].shape == made["W"].shape == (3, 3, 8, 16)
    np.testing.assert_allclose(np.std(made["B"]), np.sqrt(1 / conv.fan_out), rtol=0.1)
    np.testing.assert_allclose(np.std(made["W"]), np.sqrt(1 / conv.fan_in), rtol=0.1)
    direct = initialise(handwritten.direct_feedback_alignment, conv, jax.random.key(0), classes=10)
    assert direct["B"].shape == (10, 6, 6, 8)
    with pytest.raises(UserError, match="classes"):
        initialise(handwritten.direct_feedback_alignment, conv, jax.random.key(0))


def test_layers_work_inside_scan_and_checkpoint() -> None:
    square = linear.Dense(5, 5)
    program = handwritten.feedback_alignment
    params = jax.vmap(lambda key: initialise(program, square, key))(jax.random.split(jax.random.key(0), 3))
    f, x = layer(program, square), normal(1, (BATCH, 5))

    def scanned(params: Any, x: Any) -> Any:
        body = jax.checkpoint(lambda v, p: (jnp.tanh(f(p, v)), None))
        return jnp.sum(jax.lax.scan(body, x, params)[0])

    def unrolled(params: Any, x: Any) -> Any:
        for k in range(3):
            x = jnp.tanh(f({name: value[k] for name, value in params.items()}, x))
        return jnp.sum(x)

    for a, b in zip(*(jax.tree.leaves(jax.grad(g, (0, 1))(params, x)) for g in (scanned, unrolled)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

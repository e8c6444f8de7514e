"""Rules as pure functions of one layer, in networks that are functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
from backends.jax import rules
from jax import Array

import ruledsl
import ruledsl_jax
from ruledsl.errors import UserError
from ruledsl_jax import Convolution, Dense, Embedding

HIDDEN, OUTPUT = Dense(6, 8), Dense(8, 3)
X = jnp.asarray(np.random.default_rng(0).normal(size=(12, 6)), jnp.float32)
LABELS = jnp.arange(12) % 3
RULES = [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule"]


def network(rule: Any, **parameters: float) -> tuple[Any, Any]:
    """Two layers and what they have; by number, what they compute."""
    common: dict[str, Any] = {"phi": jnp.tanh, "classes": 3, **parameters}
    layers = [
        ruledsl_jax.layer(rule, HIDDEN, sends=False, downstream=[OUTPUT], **common),
        ruledsl_jax.layer(rule, OUTPUT, **common),
    ]
    return layers, [layer.init(number) for number, layer in enumerate(layers)]


def loss(layers: Any, held: Any, x: Array, labels: Array, **told: Any) -> Array:
    binding = layers[0].part.binding
    hidden, output = layers
    zeros = hidden.perturbations([HIDDEN, OUTPUT], x) if binding.dense else ()
    u, zero, zeros = found(binding, hidden.apply(held[0], x, zeros=zeros, **told))
    logits, more, _ = found(binding, output.apply(held[1], jnp.tanh(u), zeros=zeros, **told))
    logits = logits + zero + more
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()


def found(binding: Any, result: Any) -> tuple[Any, Any, Any]:
    """u, a zero for the output, zeros for layers downstream."""
    u, *more = result if binding.direct or binding.dense else (result,)
    return u, more[0] if binding.direct else 0.0, more[-1] if binding.dense else ()


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_a_set_of_pure_functions(rule: str) -> None:
    layers, held = network(rule)
    binding = layers[0].part.binding
    told: dict[str, Any] = {"target": jax.nn.one_hot(LABELS, 3)} if "target" in binding.reads else {}
    told |= dict.fromkeys(binding.clocked, 0.5)

    @jax.jit
    def step(held: Any, key: Array) -> Any:
        value, gradients = jax.value_and_grad(lambda held: loss(layers, held, X, LABELS, **told))(held)
        moved = []
        for index, (layer, own, gradient) in enumerate(zip(layers, held, gradients, strict=True)):
            params = jax.tree.map(lambda p, g: p - 0.02 * g, own.params, gradient.params)
            own = layer.advance(own._replace(params=params), gradient, key=jax.random.fold_in(key, index), **told)
            for each in binding.driven:
                brought, own = layer.drive(each.phase, own, key, 12, **told)
                assert brought.keys() <= {"align", "task"}
            moved.append(own)
        return moved, value

    values = []
    for number in range(20):
        after, value = step(held, jax.random.key(number))
        assert jax.tree.structure(after) == jax.tree.structure(held)
        held = after
        values.append(float(value))
    assert np.isfinite(values).all()
    assert values[-1] < values[0] or rule in ("oja", "oja_subspace")


def test_backpropagation_is_what_calculus_says() -> None:
    layers, held = network("backprop")

    def plain(held: Any) -> Array:
        logits = jnp.tanh(X @ held[0].params.W + held[0].params.b) @ held[1].params.W + held[1].params.b
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), LABELS[:, None], 1).mean()

    ours, theirs = jax.grad(lambda held: loss(layers, held, X, LABELS))(held), jax.grad(plain)(held)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_assigned_state_moves_with_advance() -> None:
    layer = ruledsl_jax.layer(rules.trace, Dense(6, 3))
    held = layer.init(0)
    gradients = jax.grad(lambda held: layer.apply(held, X).sum())(held)
    after = layer.advance(held, gradients)
    np.testing.assert_allclose(after.state.T, jnp.broadcast_to(X.sum(0)[:, None], (6, 3)).clip(-1, 1), rtol=1e-5)
    assert float(after.state.n) == 1.0
    with pytest.raises(UserError, match="trace reads changes, which was not given"):
        layer.advance(held)


def test_functions_are_at_home_under_vmap_and_scan() -> None:
    layer = ruledsl_jax.layer("feedback_alignment", Convolution(2, 4, (3, 3), (8, 8)))
    many = jax.vmap(layer.init)(jax.random.split(jax.random.key(0), 5))
    x = jnp.ones((3, 8, 8, 2))
    assert jax.vmap(layer.apply, (0, None))(many, x).shape == (5, 3, 6, 6, 4)
    one = ruledsl_jax.layer("kolen_pollack", Dense(6, 6))
    stack = jax.vmap(one.init)(jax.random.split(jax.random.key(0), 4))
    through = jax.grad(lambda stack: jax.lax.scan(lambda x, own: (one.apply(own, x), None), X, stack)[0].sum())(stack)
    assert through.params.B.shape == (4, 6, 6)


def test_parameters_can_be_told_anew() -> None:
    slow, fast = (ruledsl_jax.layer("kolen_pollack", Dense(6, 3), decay=decay) for decay in (0.0, 0.5))
    held = slow.init(0)
    gradient = jax.grad(lambda held, layer, **told: layer.apply(held, X, **told).sum())
    told, given = gradient(held, slow, decay=0.5), gradient(held, fast)
    np.testing.assert_allclose(told.params.W, given.params.W, rtol=1e-6)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("no linear map", lambda: ruledsl_jax.layer("usf", (6, 8))),  # type: ignore[arg-type]
        ("no linear map", lambda: ruledsl_jax.layer("usf", Dense)),  # type: ignore[arg-type]
        ("no learning rule", lambda: ruledsl_jax.layer("manhattan_1", HIDDEN)),
        ("has no parameter `dekay`", lambda: ruledsl_jax.layer("kolen_pollack", HIDDEN, dekay=0.1)),
        ("number of classes is unknown", lambda: ruledsl_jax.layer("direct_feedback_alignment", HIDDEN)),
        ("no activation was given", lambda: ruledsl_jax.layer(rules.gated, HIDDEN)),
        ("its input is indices", lambda: ruledsl_jax.layer("oja", Embedding(5, 4))),
        ("reads no `deacy`", lambda: ruledsl_jax.layer("kolen_pollack", HIDDEN).apply(None, X, deacy=1)),  # type: ignore[arg-type]
        ("no phase `mirrow`", lambda: ruledsl_jax.layer("weight_mirror", HIDDEN).drive("mirrow", None, 0, 4)),  # type: ignore[arg-type]
        (
            r"drtp reads target, which was not given",
            lambda: (own := ruledsl_jax.layer("drtp", HIDDEN, classes=3)).apply(own.init(0), X),
        ),
        (
            r"reads delta\[k\], and 0 zeros were given for 2 layers",
            lambda: network("dense_feedback_alignment")[0][0].apply(None, X),
        ),
    ],
)
def test_wrong_calls_are_messages(message: str, call: Any) -> None:
    with pytest.raises(UserError, match=message):
        call()

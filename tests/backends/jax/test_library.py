"""Rules of the library, compiled, teach a Flax NNX network; the whole way from text to pseudo-gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("flax")

import jax
from flax import nnx
from jax import numpy as jnp

import ruledsl
from ruledsl_jax import TAUGHT, advance, convert, observe

BATCH, CLASSES = 5, 3


class Small(nnx.Module):
    """A strided convolution and two dense layers."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 4, (3, 3), strides=2, rngs=rngs)
        self.hidden = nnx.Linear(16, 8, rngs=rngs)
        self.output = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.tanh(self.conv(x)).reshape(x.shape[0], -1)
        return self.output(jnp.tanh(self.hidden(x)))  # type: ignore[no-any-return]


def loss(net: Any, x: jax.Array) -> jax.Array:
    chosen = jnp.arange(BATCH)[:, None] % CLASSES
    return -jnp.take_along_axis(jax.nn.log_softmax(net(x)), chosen, 1).mean()


def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 4, 4, 2)), jnp.float32)


@nnx.jit
def learn(net: Any, x: jax.Array) -> Any:
    observe(net, target=jnp.arange(BATCH) % CLASSES, lr=0.1)
    gradients = nnx.grad(loss, argnums=nnx.DiffState(0, TAUGHT))(net, x)
    advance(net, gradients)
    return gradients


@pytest.mark.parametrize(
    "name",
    ["backprop", "feedback_alignment", "usf_sn", "brsf", "kolen_pollack", "direct_feedback_alignment", "drtp", "oja"],
)
def test_library_rule_gives_every_layer_a_finite_update(name: str) -> None:
    net = convert(Small(), ruledsl.load(name), example=images(), activations=dict.fromkeys(LAYERS, "tanh"))
    before = {layer: np.asarray(getattr(net, layer).kernel[...]) for layer in LAYERS}
    gradients = learn(net, images())
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradients))
    for layer in LAYERS:
        moved = np.any(before[layer] != np.asarray(getattr(net, layer).kernel[...]))
        assert moved or np.any(np.asarray(gradients[layer]["kernel"][...]))


LAYERS = ("conv", "hidden", "output")


def test_rules_are_found_by_name_and_take_parameters() -> None:
    strong, weak = (convert(Small(), "kolen_pollack", decay=decay) for decay in (1.0, 0.0))
    difference = jax.tree.map(lambda a, b: a - b, nnx.grad(loss)(strong, images()), nnx.grad(loss)(weak, images()))
    kernel = strong.hidden.kernel[...]
    np.testing.assert_allclose(difference["hidden"]["kernel"][...], kernel, rtol=1e-3, atol=1e-5)

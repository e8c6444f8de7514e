"""A rule in Equinox: a module that holds what the layer has, and calls the rule's pure functions.

Needs equinox: pip install equinox
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import ruledsl_jax
from ruledsl_jax import Dense


class RuleLinear(eqx.Module):
    """A dense layer that follows a rule."""

    rule: Any = eqx.field(static=True)
    held: Any

    def __init__(self, rule: str, inputs: int, outputs: int, key: jax.Array, **options: Any) -> None:
        self.rule = ruledsl_jax.layer(rule, Dense(inputs, outputs), **options)
        self.held = self.rule.init(key)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, inputs] -> [batch, outputs]"""
        return self.rule.apply(self.held, x)  # type: ignore[no-any-return]


class Net(eqx.Module):
    """Two of them."""

    hidden: RuleLinear
    output: RuleLinear

    def __init__(self, key: jax.Array) -> None:
        one, two = jax.random.split(key)
        self.hidden = RuleLinear("weight_mirror", 64, 50, one, sends=False)
        self.output = RuleLinear("weight_mirror", 50, 10, two)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, 64] -> [batch, 10]"""
        return self.output(jax.nn.relu(self.hidden(x)))


def learnt(net: Net) -> Any:
    """What the optimizer moves."""
    return net.hidden.held.params, net.output.held.params


optimizer = optax.sgd(0.1, momentum=0.9)


@eqx.filter_jit
def step(net: Net, moments: Any, x: jax.Array, t: jax.Array, key: jax.Array) -> tuple[Net, Any]:
    """The task, and then the mirror: noise drives the output layer, whose B learns from what its W makes of it."""
    loss = lambda net: optax.softmax_cross_entropy_with_integer_labels(net(x), t).mean()  # noqa: E731
    gradients = eqx.filter_grad(loss)(net)
    updates, moments = optimizer.update(learnt(gradients), moments, learnt(net))
    net = eqx.tree_at(learnt, net, optax.apply_updates(learnt(net), updates))
    _, mirrored = net.output.rule.drive("mirror", net.output.held, key, len(x))
    return eqx.tree_at(lambda net: net.output.held, net, mirrored), moments


if __name__ == "__main__":
    digits = load_digits()
    x, t = jnp.asarray(digits.images.reshape(-1, 64) / 16), jnp.asarray(digits.target)
    net, key = Net(jax.random.key(0)), jax.random.key(1)
    moments = optimizer.init(learnt(net))
    for epoch in range(21):
        if epoch % 5 == 0:
            W, B = net.output.held.params.W.ravel(), net.output.held.state.B.ravel()
            cosine = W @ B / jnp.linalg.norm(W) / jnp.linalg.norm(B)
            print(f"epoch {epoch:2}: angle between W and B {jnp.degrees(jnp.arccos(cosine)):.0f} degrees")
        for start in range(0, 1500, 50):
            key, own = jax.random.split(key)
            net, moments = step(net, moments, x[start : start + 50], t[start : start + 50], own)
    print(f"{(net(x[1500:]).argmax(1) == t[1500:]).mean():.1%} of the images that it has not seen are right")

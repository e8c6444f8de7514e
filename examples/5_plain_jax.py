"""A rule in plain JAX: a network that is a function, an optimizer of optax, one `jit` around the step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from ruledsl_jax import Dense, layer

# The first layer sends to nobody. What a layer has is a tree of arrays, which `init` makes.
layers = [layer("kolen_pollack", Dense(64, 50), sends=False), layer("kolen_pollack", Dense(50, 10))]
optimizer = optax.adam(1e-3)


def loss(held, x, t):  # type: ignore[no-untyped-def]
    """Mean cross-entropy."""
    hidden = jax.nn.relu(layers[0].apply(held[0], x))
    logits = layers[1].apply(held[1], hidden)
    return optax.softmax_cross_entropy_with_integer_labels(logits, t).mean()


@jax.jit
def step(held, moments, x, t):  # type: ignore[no-untyped-def]
    """One step: an optimizer moves `params`, and `advance` does what the rule does between two steps."""
    value, gradients = jax.value_and_grad(loss)(held, x, t)
    params = [own.params for own in held]
    updates, moments = optimizer.update([each.params for each in gradients], moments, params)
    params = optax.apply_updates(params, updates)
    moved = [own._replace(params=new) for own, new in zip(held, params, strict=True)]
    held = [one.advance(own, each) for one, own, each in zip(layers, moved, gradients, strict=True)]
    return held, moments, value


def angle(held):  # type: ignore[no-untyped-def]
    """Between the weights of the output layer and those that its errors go back by, in degrees."""
    W, B = held[1].params.W.ravel(), held[1].params.B.ravel()
    return jnp.degrees(jnp.arccos(W @ B / jnp.linalg.norm(W) / jnp.linalg.norm(B)))


if __name__ == "__main__":
    digits = load_digits()
    x, t = jnp.asarray(digits.images.reshape(-1, 64) / 16), jnp.asarray(digits.target)
    held = [one.init(number) for number, one in enumerate(layers)]
    moments = optimizer.init([own.params for own in held])
    for epoch in range(61):
        if epoch % 20 == 0:
            print(f"epoch {epoch:2}: loss {loss(held, x, t):.3f}, angle between W and B {angle(held):.0f} degrees")
        for start in range(0, 1500, 50):
            held, moments, _ = step(held, moments, x[start : start + 50], t[start : start + 50])
    right = jnp.argmax(layers[1].apply(held[1], jax.nn.relu(layers[0].apply(held[0], x[1500:]))), 1) == t[1500:]
    print(f"{right.mean():.1%} of the images that it has not seen are right")

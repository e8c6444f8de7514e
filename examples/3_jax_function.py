"""The emitted JAX module: pure functions, at home under `jit`, `grad` and `vmap`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits

import ruledsl
from ruledsl_jax import Dense

rule = ruledsl.load("feedback_alignment").compile("jax").module  # print(rule.__program__.source) shows it
hidden, output = Dense(64, 50), Dense(50, 10)


def loss(params, state, x, t):  # type: ignore[no-untyped-def]
    """Mean cross-entropy. The derivative of each layer is what the rule says, not what calculus says."""
    u = rule.apply(hidden, params[0], state[0], x)
    logits = rule.apply(output, params[1], state[1], jax.nn.relu(u))
    return -jax.nn.log_softmax(logits)[jnp.arange(len(t)), t].mean()


@jax.jit
def train_step(params, state, x, t):  # type: ignore[no-untyped-def]
    """One step of gradient descent along the rule's pseudo-gradients."""
    value, gradients = jax.value_and_grad(loss)(params, state, x, t)
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradients), value


if __name__ == "__main__":
    digits = load_digits()
    x, t = jnp.asarray(digits.images.reshape(-1, 64) / 16), jnp.asarray(digits.target)
    one, two = jax.random.split(jax.random.key(0))
    made = [rule.init(hidden, one, sends=False), rule.init(output, two)]  # the first layer sends to nobody
    params, state = [p for p, _ in made], [s for _, s in made]

    delta = jnp.ones((3, 10))
    sent = rule.send(layer=output, B=state[1].B, delta=delta)
    print(f"send, called by itself: {delta.shape} -> {sent.shape}")

    gradients = jax.vmap(jax.grad(loss), in_axes=(None, None, 0, 0))(params, state, x[:4, None], t[:4, None])
    print(f"pseudo-gradients of single examples by vmap: {gradients[0].W.shape}")

    for step in range(301):
        params, value = train_step(params, state, x[:1500], t[:1500])
        if step % 100 == 0:
            print(f"step {step:3}: loss {value:.3f}")

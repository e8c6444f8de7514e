"""The emitted JAX functions: pure, and at home under `jit`, `grad` and `vmap`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits

import ruledsl
from ruledsl_jax.layer import layer
from ruledsl_jax.linear import Dense

program = ruledsl.load("feedback_alignment").compile("jax")
math = program.module  # the emitted functions: init_B, send, grad_W, grad_b

hidden_map, output_map = Dense(64, 50), Dense(50, 10)
hidden, output = layer(program, hidden_map), layer(program, output_map)


def start(key: jax.Array, linear: Dense) -> dict[str, jax.Array]:
    """W: [in, out] and b: [out] as usual, B as the rule says."""
    w, b = jax.random.split(key)
    W = jax.random.normal(w, linear.kernel_shape) / jnp.sqrt(linear.fan_in)
    B = math.init_B(shape=linear.kernel_shape, key=b, fan_out=linear.fan_out)
    return {"W": W, "b": jnp.zeros(linear.kernel_shape[-1]), "B": B}


def loss(params: dict[str, dict[str, jax.Array]], x: jax.Array, t: jax.Array) -> jax.Array:
    """Mean cross-entropy. The derivative of each layer is what the rule says, not what calculus says."""
    logits = output(params["output"], jax.nn.relu(hidden(params["hidden"], x)))
    return -jax.nn.log_softmax(logits)[jnp.arange(len(t)), t].mean()


@jax.jit
def train_step(params: dict[str, dict[str, jax.Array]], x: jax.Array, t: jax.Array):  # type: ignore[no-untyped-def]
    """One step of gradient descent along the rule's pseudo-gradients."""
    value, gradients = jax.value_and_grad(loss)(params, x, t)
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradients), value


if __name__ == "__main__":
    digits = load_digits()
    x, t = jnp.asarray(digits.images.reshape(-1, 64) / 16), jnp.asarray(digits.target)
    one, two = jax.random.split(jax.random.key(0))
    params = {"hidden": start(one, hidden_map), "output": start(two, output_map)}

    delta = jnp.ones((3, 50))
    sent = math.send(layer=hidden_map, B=params["hidden"]["B"], delta=delta)
    print(f"send, called by itself: {delta.shape} -> {sent.shape}")

    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, x[:4, None], t[:4, None])
    print(f"pseudo-gradients of single examples by vmap: {gradients['hidden']['W'].shape}")

    for step in range(301):
        params, value = train_step(params, x[:1500], t[:1500])
        if step % 100 == 0:
            print(f"step {step:3}: loss {value:.3f}")

"""A rule in a Flax network: `convert` changes its layers in place, and `nnx.grad` gives what the rule says."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

from ruledsl_jax import TAUGHT, advance, convert, optimizers


class Net(nnx.Module):
    """A network as anybody would write it."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.fc1 = nnx.Linear(256, 64, rngs=rngs)
        self.fc2 = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):  # type: ignore[no-untyped-def]
        """[batch, 8, 8, 1] -> [batch, 10]"""
        x = nnx.max_pool(nnx.relu(self.conv(x)), (2, 2), (2, 2))
        return self.fc2(nnx.relu(self.fc1(x.reshape(len(x), -1))))


def loss(net, x, t):  # type: ignore[no-untyped-def]
    """Mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(net(x), t).mean()


@nnx.jit
def step(net, opt, x, t):  # type: ignore[no-untyped-def]
    """One step. The phase of the network is static: each phase is a program of its own."""
    value, gradients = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, TAUGHT))(net, x, t)
    opt.update(net, gradients)  # an optimizer for each that the rule names
    advance(net, gradients, opt)  # `<-`, `fresh`, `after step`, the phases that see no batch
    return value


if __name__ == "__main__":
    digits = load_digits()
    x, t = jnp.asarray(digits.images[..., None] / 16), jnp.asarray(digits.target)
    # Errors go from the output to every layer directly; the maps that bring them learn too.
    net = convert(Net(nnx.Rngs(0)), "direct_kolen_pollack", example=x[:50], seed=0)
    print(net.ruledsl)
    opt = optimizers(net, task=optax.adam(1e-3))
    for epoch in range(21):
        if epoch % 5 == 0:
            print(f"epoch {epoch:2}: loss {loss(net, x, t):.3f}")
        for start in range(0, 1500, 50):
            step(net, opt, x[start : start + 50], t[start : start + 50])
    print(f"{(net(x[1500:]).argmax(1) == t[1500:]).mean():.1%} of the images that it has not seen are right")

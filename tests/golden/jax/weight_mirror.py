"""Weight mirrors (weight_mirror).

Source: Akrout et al. 2019, Algorithm 1, eqs. 3-7 and 21

Locality: local; pool(batch) -> B.

eta_B    mirroring rate
decay_B  mirroring weight decay

Made by ruledsl 0.1.0 from rule text 01ded747f7044736.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_jax.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import math

import jax
import jax.numpy as jnp


def init_B(shape, key, fan_in):
    """The first value of B: normal(0, sqrt(2 / fan_in))."""
    return math.sqrt(2 / fan_in) * jax.random.normal(key, shape)


def send(layer, B, delta):
    """The error for the neurons that feed this layer: B @ delta."""
    return layer.adjoint(B, delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)


def drive_x_mirror(shape, key):
    """The activity that stands in for x in this phase: normal(0, 1)."""
    return jax.random.normal(key, shape)


def next_B_mirror(layer, W, B, b, x, decay_B=0.5, eta_B=0.1):
    """The next value of B: (1 - decay_B) * B + eta_B * outer(z - mean(z, batch), x, mean=all).T."""
    z = jax.nn.relu(layer.apply(W, x, b))
    return (1 - decay_B) * B + eta_B * layer.outer(z - jnp.mean(z, axis=0, keepdims=True), x, mean="all")

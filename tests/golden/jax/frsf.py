"""Fixed random magnitude, sign-concordant feedback (frsf).

Source: Liao et al. 2015, section 2, setting 3

Locality: nonlocal; sign(W) -> send.

Made by ruledsl 0.1.0 from rule text bcc72072b7bfcdc5.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_jax.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import jax
import jax.numpy as jnp


def init_M(shape, key):
    """The first value of M: uniform(0, 1)."""
    return jax.random.uniform(key, shape, minval=0.0, maxval=1.0)


def send(layer, W, M, delta):
    """The error for the neurons that feed this layer: M * sign(W.T) @ delta."""
    return layer.adjoint(M * jnp.sign(W), delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)

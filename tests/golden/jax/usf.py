"""Uniform sign-concordant feedback (usf).

Source: Liao et al. 2015, section 2, setting 1

Locality: nonlocal; sign(W) -> send.

Made by ruledsl 0.1.0 from rule text 14aa57fb42d2bb98.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_jax.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import jax.numpy as jnp


def send(layer, W, delta):
    """The error for the neurons that feed this layer: sign(W.T) @ delta."""
    return layer.adjoint(jnp.sign(W), delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)

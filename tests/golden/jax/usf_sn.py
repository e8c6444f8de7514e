"""Sign-concordant feedback, strict normalisation (usf_sn).

Source: Moskovitz et al. 2018, eq. 5

Locality: nonlocal; norm(W) -> send, sign(W) -> send.

Made by ruledsl 0.1.0 from rule text 6b1bd1eca398954a.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_jax.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import jax.numpy as jnp


def send(layer, W, delta):
    """The error for the neurons that feed this layer: norm(W) / norm(sign(W)) * (sign(W.T) @ delta)."""
    sign = jnp.sign(W)
    return jnp.sqrt(jnp.sum(jnp.square(W))) / jnp.sqrt(jnp.sum(jnp.square(sign))) * layer.adjoint(sign, delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)

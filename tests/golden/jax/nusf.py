"""Normalised uniform sign-concordant feedback (nusf).

Source: Liao et al. 2015, section 5.3 (NuSF)

Locality: nonlocal; sign(W) -> send.

Made by ruledsl 0.1.0 from rule text f9de8e907abd9db3.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_jax.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import jax.numpy as jnp


def send(layer, W, delta, fan_in):
    """The error for the neurons that feed this layer: sign(W.T) @ delta / fan_in."""
    return layer.adjoint(jnp.sign(W), delta) / fan_in


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)

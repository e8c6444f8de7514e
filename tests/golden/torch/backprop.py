"""Backpropagation (backprop).

Source: Rumelhart, Hinton & Williams 1986

Locality: nonlocal; reverse(W) -> send.

Made by ruledsl 0.1.0 from rule text 63dc8c47f4a67a93.

Activities are [batch, units] or [batch, channels, height, width]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_torch.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""


def send(layer, W, delta):
    """The error for the neurons that feed this layer: W.T @ delta."""
    return layer.adjoint(W, delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)

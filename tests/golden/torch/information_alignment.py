"""Information alignment (information_alignment).

Source: Kunin et al. 2020, R_IA; section B.1.4

Locality: local.

Compiled with fo_bias = True, fo_relu = True, fo_bwmc = False, fo_fwmc = False, fo_fwl2n = False,
bo_bias = False, bo_relu = False, bo_fwmc = False, bo_fwl2n = False, bi_bwmc = False, bi_fwmc =
False, bi_fwl2n = False, use_null = True, delay = 1.

sigma  standard deviation of the noise
alpha  weight of amp
beta   weight of decay
gamma  weight of null

Made by ruledsl 0.1.0 from rule text 90d056f44c20ea28.

Activities are [batch, units] or [batch, channels, height, width]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_torch.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import math

import torch


def init_B(shape, fan_out, generator=None):
    """The first value of B: normal(0, sqrt(1 / fan_out))."""
    return torch.empty(shape).normal_(0.0, math.sqrt(1 / fan_out), generator=generator)


def send(layer, B, delta):
    """The error for the neurons that feed this layer: B @ delta."""
    return layer.adjoint(B, delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)


def drive_x_align(shape, sigma=1, generator=None):
    """The activity that stands in for x in this phase: normal(0, sigma)."""
    return torch.empty(shape).normal_(0.0, sigma, generator=generator)


def grad_B_align(layer, W, B, b, x, alpha=0.002, beta=0.001, gamma=1e-06):
    """The pseudo-gradient of B: outer(f_rectified, 2 * gamma * (B @ f_rectified) - alpha * x,
        mean=batch).T + 2 * beta * B.
    """
    f_rectified = torch.relu(layer.apply(W, x, b))
    return (
        layer.outer(f_rectified, 2 * gamma * layer.adjoint(B, f_rectified) - alpha * x, mean="batch")
        + 2 * beta * B
    )

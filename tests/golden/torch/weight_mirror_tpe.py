"""Weight mirrors, found by search (weight_mirror_tpe).

Source: Kunin et al. 2020, Table 5, column 1; section B.1.1

Locality: local; pool(batch) -> B.

Compiled with fo_bias = True, fo_relu = True, fo_bwmc = True, fo_fwmc = False, fo_fwl2n = False,
bo_bias = False, bo_relu = False, bo_fwmc = False, bo_fwl2n = False, bi_bwmc = True, bi_fwmc =
False, bi_fwl2n = False, use_null = False, delay = 2.

sigma  standard deviation of the noise
alpha  weight of amp
beta   weight of decay
gamma  weight of null

Made by ruledsl 0.1.0 from rule text a2530e747ffb3e5a.

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


def drive_x_align(shape, sigma=0.6905, generator=None):
    """The activity that stands in for x in this phase: normal(0, sigma)."""
    return torch.empty(shape).normal_(0.0, sigma, generator=generator)


def grad_B_align(layer, W, B, b, x, alpha=0.44319780999999997, beta=0.0283):
    """The pseudo-gradient of B: 2 * beta * B - alpha * outer(f_centered, x_centered, mean=batch).T."""
    f_rectified = torch.relu(layer.apply(W, x, b))
    f_centered = f_rectified - f_rectified.mean(0, keepdim=True)
    x_centered = x - x.mean(0, keepdim=True)
    return 2 * beta * B - alpha * layer.outer(f_centered, x_centered, mean="batch")

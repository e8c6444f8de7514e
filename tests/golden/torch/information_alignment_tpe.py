"""Information alignment, found by search (information_alignment_tpe).

Source: Kunin et al. 2020, Table 5, column 4

Locality: nonlocal; pool(batch) -> B, pool(units) -> B, reverse(B) -> B.

Compiled with fo_bias = True, fo_relu = True, fo_bwmc = True, fo_fwmc = True, fo_fwl2n = False,
bo_bias = True, bo_relu = False, bo_fwmc = True, bo_fwl2n = True, bi_bwmc = False, bi_fwmc = False,
bi_fwl2n = False, use_null = True, delay = 1.

sigma  standard deviation of the noise
alpha  weight of amp
beta   weight of decay
gamma  weight of null

Made by ruledsl 0.1.0 from rule text 7e8f67cdce3682ff.

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


def drive_x_align(shape, sigma=0.8176, generator=None):
    """The activity that stands in for x in this phase: normal(0, sigma)."""
    return torch.empty(shape).normal_(0.0, sigma, generator=generator)


def grad_B_align(layer, W, B, b, x, batch_size, alpha=1032.7692877, beta=7.999, gamma=3.161e-06):
    """The pseudo-gradient of B: derived, see below."""
    projected = layer.apply(W, x)
    f_rectified = torch.relu(projected + layer.spread(b))
    f_centered = f_rectified - f_rectified.mean(0, keepdim=True)
    f_contrasted = f_centered - f_centered.mean(1, keepdim=True)
    h_linear = layer.apply(B, x, b)
    h_contrasted = h_linear - h_linear.mean(1, keepdim=True)
    l2_norm = torch.linalg.vector_norm(h_contrasted, dim=1, keepdim=True).clamp(min=1e-6)
    ratio = f_contrasted / l2_norm
    ratio_2 = h_contrasted / l2_norm
    difference = (
        torch.where(
            l2_norm > 1e-06,
            alpha * projected.shape[1] / batch_size * ((ratio * ratio_2).mean(1, keepdim=True) * ratio_2),
            0,
        )
        - alpha / batch_size * ratio
    )
    return (
        2 * gamma * layer.outer(f_contrasted, layer.adjoint(B, f_contrasted), mean="batch")
        + 2 * beta * B
        + layer.outer(difference - difference.mean(1, keepdim=True), x)
    )
